//! Bytes alive over a program as one SVG.
//!
//! Owns its layout. Must not know plans: it is given numbers and words.

use std::fmt::Write;

use crate::plot::scale::Scale;
use crate::plot::svg::STYLE;
use crate::plot::{SIGNATURE, escaped};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 60.0;

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryCurve {
    /// Above the figure.
    pub title: String,
    /// Under the title.
    pub note: String,
    /// During each operation, bytes kept for the backward pass.
    pub kept: Vec<u64>,
    /// During each operation, other bytes.
    pub transient: Vec<u64>,
    /// Runs of operations with a name: name, position of the first, how many.
    pub phases: Vec<(String, usize, usize)>,
    /// The fullest operation and what is said about it.
    pub peak: Option<(usize, String)>,
    /// Bytes of the arena, drawn as a line.
    pub arena: u64,
}

/// The figure.
pub fn memory_svg(curve: &MemoryCurve) -> String {
    let count = curve.kept.len().max(1);
    let all: Vec<u64> = curve.kept.iter().zip(&curve.transient).map(|(a, b)| a + b).collect();
    let most = all.iter().copied().max().unwrap_or(0).max(curve.arena).max(1) as f64;
    let (unit, name) = binary_unit(most);
    let x = Scale::new(0.0, count as f64, false, (LEFT, WIDTH - RIGHT));
    let y = Scale::new(0.0, most * 1.05 / unit, false, (HEIGHT - BOTTOM, TOP));
    let at = |scale: &Scale, value: f64| scale.place(value).unwrap_or(0.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n{SIGNATURE}\n<title>{}</title>\n<style>{STYLE}</style>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
        escaped(&curve.title)
    );
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"{LEFT}\" y=\"26\">{}</text>",
        escaped(&curve.title)
    );
    let _ =
        writeln!(svg, "<text class=\"note\" x=\"{LEFT}\" y=\"46\">{}</text>", escaped(&curve.note));
    for tick in y.ticks(6) {
        let place = at(&y, tick);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{place:.1}\" x2=\"{:.1}\" y2=\"{place:.1}\"/><text class=\"number\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick} {name}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            place + 4.0
        );
    }
    let zero = vec![0; curve.kept.len()];
    for (class, upper, lower) in [("f5", &all, &curve.kept), ("f0", &curve.kept, &zero)] {
        let _ = writeln!(
            svg,
            "<polygon class=\"{class}\" points=\"{}\"/>",
            steps(upper, lower, |column, bytes| {
                (at(&x, column as f64), at(&y, bytes as f64 / unit))
            })
        );
    }
    let arena = at(&y, curve.arena as f64 / unit);
    let _ = writeln!(
        svg,
        "<line class=\"key\" stroke-dasharray=\"6 4\" x1=\"{LEFT}\" y1=\"{arena:.1}\" x2=\"{:.1}\" y2=\"{arena:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">arena</text>",
        WIDTH - RIGHT,
        WIDTH - RIGHT,
        arena - 5.0
    );
    for (phase, first, length) in &curve.phases {
        let (start, end) = (at(&x, *first as f64), at(&x, (first + length) as f64));
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{start:.1}\" y1=\"{:.1}\" x2=\"{start:.1}\" y2=\"{:.1}\"/>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 8.0
        );
        // Letters of this size are about 7 wide.
        if end - start > 7.0 * phase.chars().count() as f64 {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                f64::midpoint(start, end),
                HEIGHT - BOTTOM + 18.0,
                escaped(phase)
            );
        }
    }
    if let Some((operation, words)) = &curve.peak {
        let place = at(&x, *operation as f64 + 0.5);
        let anchor = if place > WIDTH / 2.0 { "end" } else { "start" };
        let _ = writeln!(
            svg,
            "<line class=\"key\" x1=\"{place:.1}\" y1=\"{TOP}\" x2=\"{place:.1}\" y2=\"{:.1}\"/><text class=\"name\" x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            HEIGHT - BOTTOM,
            TOP - 4.0,
            escaped(words)
        );
    }
    let legend = HEIGHT - 14.0;
    let _ = writeln!(
        svg,
        "<rect class=\"f0\" x=\"{LEFT}\" y=\"{:.1}\" width=\"12\" height=\"12\"/><text x=\"{:.1}\" y=\"{legend}\">kept for backward</text><rect class=\"f5\" x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\"/><text x=\"{:.1}\" y=\"{legend}\">transient</text>\n</svg>",
        legend - 10.0,
        LEFT + 18.0,
        LEFT + 150.0,
        legend - 10.0,
        LEFT + 168.0
    );
    svg
}

/// The outline of the bytes between two curves, a step for each operation.
fn steps(upper: &[u64], lower: &[u64], place: impl Fn(usize, u64) -> (f64, f64)) -> String {
    let mut points = String::new();
    let mut add = |column: usize, bytes: u64| {
        let (x, y) = place(column, bytes);
        let _ = write!(points, "{x:.1},{y:.1} ");
    };
    for (column, &bytes) in upper.iter().enumerate() {
        add(column, bytes);
        add(column + 1, bytes);
    }
    for (column, &bytes) in lower.iter().enumerate().rev() {
        add(column + 1, bytes);
        add(column, bytes);
    }
    points.trim_end().to_owned()
}

/// The largest binary unit that leaves at least 1, and its name.
fn binary_unit(most: f64) -> (f64, &'static str) {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fitting = units.into_iter().find(|(size, _)| most >= *size as f64);
    fitting.map_or((1.0, "B"), |(size, name)| (size as f64, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_whole() {
        let curve = MemoryCurve {
            title: "a < b".into(),
            note: String::new(),
            kept: vec![0, 4096, 4096],
            transient: vec![2048, 0, 1024],
            phases: vec![("forward".into(), 0, 2), ("backward".into(), 2, 1)],
            peak: Some((2, "operation 2".into())),
            arena: 6144,
        };
        let svg = memory_svg(&curve);
        assert!(svg.contains(SIGNATURE) && svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("operation 2") && svg.contains("KiB") && svg.contains("backward"));
        // Two corners for each operation and curve.
        let points = |class: &str| {
            let start = svg.find(&format!("<polygon class=\"{class}\"")).unwrap_or(svg.len());
            svg[start..].split('"').nth(3).map_or(0, |points| points.split(' ').count())
        };
        assert_eq!((points("f0"), points("f5")), (12, 12));
        assert!(!memory_svg(&MemoryCurve::default()).contains("NaN"));
    }
}
