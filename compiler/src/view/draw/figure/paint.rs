//! A laid-out block as SVG.
//!
//! Owns shapes, colours and letters. Must not know where things stand: it is told.

use std::fmt::Write;

use super::super::escaped;
use super::block::{Item, Shape};
use super::layout::{HEADER, Laid, PADDING, Path, Placed};
use super::measure::{LINEAR, Scale};
use crate::view::picture::model::NodeKind;

/// Colours for paper, light and dark; text is text, in fonts that readers have.
pub(super) const STYLE: &str = "\
text { font: 12px ui-sans-serif, system-ui, \"Helvetica Neue\", Arial, sans-serif; fill: #1f2328; }
.s { font-size: 10px; fill: #57606a; } .t { font-size: 15px; font-weight: 600; } .m { text-anchor: middle; } .e { text-anchor: end; }
.h { font-weight: 600; fill: #57606a; }
.edge { fill: none; stroke: #57606a; stroke-width: 1.3; } .head { fill: #57606a; }
.frame { fill: #f6f8fa; stroke: #afb8c1; } .zoom { stroke: #afb8c1; stroke-dasharray: 3 3; fill: none; }
.pair { fill: #b6e3ff; stroke: #0969da; } .waist { fill: #0969da; } .dense { fill: #d0d7de; stroke: #57606a; }
.card { fill: #ffffff; stroke: #57606a; } .sign { fill: #ffffff; stroke: #57606a; stroke-width: 1.3; }
.norm { fill: #fff8c5; stroke: #9a6700; } .attention { fill: #eddeff; stroke: #8250df; } .pointwise { fill: #dafbe1; stroke: #1a7f37; }
.embedding { fill: #fff1e5; stroke: #bc4c00; } .loss { fill: #ffebe9; stroke: #cf222e; } .other { fill: #eaeef2; stroke: #57606a; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .s, .h { fill: #9198a1; }
.edge { stroke: #9198a1; } .head { fill: #9198a1; } .frame { fill: #151b23; stroke: #3d444d; } .zoom { stroke: #3d444d; }
.pair { fill: #0c2d6b; stroke: #4493f8; } .waist { fill: #4493f8; } .dense { fill: #3d444d; stroke: #9198a1; }
.card, .sign { fill: #0d1117; stroke: #9198a1; }
.norm { fill: #3b2300; stroke: #d29922; } .attention { fill: #2b1a4a; stroke: #ab7df8; } .pointwise { fill: #04260f; stroke: #3fb950; }
.embedding { fill: #3d1300; stroke: #db6d28; } .loss { fill: #4c0e12; stroke: #f85149; } .other { fill: #212830; stroke: #9198a1; }
}";

/// Draws a block with its upper left corner at a place.
pub(super) fn block(laid: &Laid, (x, y): (f64, f64), scale: &Scale, svg: &mut String) {
    // Frames lie below edges, and edges below parts.
    for placed in laid.placed.iter().filter(|placed| placed.inside.is_some()) {
        frame(placed, (x, y), scale, svg);
    }
    for path in &laid.paths {
        edge(path, (x, y), svg);
    }
    for placed in laid.placed.iter().filter(|placed| placed.inside.is_none()) {
        part(placed, (x + placed.x, y + placed.y), scale, svg);
    }
}

fn frame(placed: &Placed, (x, y): (f64, f64), scale: &Scale, svg: &mut String) {
    let Some(inside) = &placed.inside else { return };
    let (left, top) = (x + placed.x, y + placed.y);
    rectangle("frame", (left, top, placed.width, placed.height), 8.0, svg);
    label("h", (left + 10.0, top + 15.0), &placed.item.name, svg);
    let inset = (placed.width - inside.width - 2.0 * PADDING) / 2.0 + PADDING;
    let at = (left + inset, top + HEADER);
    block(inside, at, scale, svg);
    // What comes in and goes out crosses the frame.
    let (entry, exit) = (left + inset + inside.entry, left + inset + inside.exit);
    line((entry, top), (entry, top + HEADER), false, svg);
    line((exit, top + HEADER + inside.height), (exit, top + placed.height), false, svg);
}

fn part(placed: &Placed, (x, y): (f64, f64), scale: &Scale, svg: &mut String) {
    let (width, height) = (placed.width, placed.height);
    let center = x + width / 2.0;
    let Item { name, shape } = &placed.item;
    match shape {
        Shape::Port | Shape::Bend | Shape::Frame(_) => {}
        Shape::Sign(sign) => {
            let _ = writeln!(
                svg,
                "<circle class=\"sign\" cx=\"{}\" cy=\"{}\" r=\"10\"/>",
                round(center),
                round(y + 10.0)
            );
            label("m", (center, y + 14.0), &sign.to_string(), svg);
        }
        Shape::Operation(kind) => {
            rectangle(class(*kind), (x, y, width, height), 6.0, svg);
            label("m", (center, y + 17.0), name, svg);
        }
        Shape::Card { stacked, note } => {
            if *stacked {
                for behind in [8.0, 4.0] {
                    rectangle("card", (x + behind, y - behind, width, height), 6.0, svg);
                }
            }
            rectangle("card", (x, y, width, height), 6.0, svg);
            let middle = if note.is_empty() { y + 26.0 } else { y + 19.0 };
            label("m", (center, middle), name, svg);
            label("m s", (center, y + 34.0), note, svg);
        }
        Shape::Dense { inputs, outputs } => {
            let (top, bottom) = (scale.of_width(*inputs), scale.of_width(*outputs));
            let corners = [
                (center - top / 2.0, y),
                (center + top / 2.0, y),
                (center + bottom / 2.0, y + LINEAR),
                (center - bottom / 2.0, y + LINEAR),
            ];
            polygon("dense", &corners, svg);
            label("m", (center, y + 28.0), name, svg);
            label("m s", (center, y + 44.0), &format!("{inputs} → {outputs}"), svg);
        }
        Shape::Pair { inputs, rank, outputs, activation } => {
            let widths = [*inputs, *rank, *outputs].map(|width| scale.of_width(width) / 2.0);
            pair(name, (center, y), widths, svg);
            let beside = widths[1] + 4.0;
            label("s e", (center - beside, y + LINEAR / 2.0 + 3.5), activation, svg);
            label("s", (center + beside, y + LINEAR / 2.0 + 3.5), &rank.to_string(), svg);
            let ends = format!("{inputs} → {outputs}");
            label("m s", (center, y + LINEAR - 5.0), &ends, svg);
        }
    }
}

/// Two trapezoids and the waist between them, where the activation is.
fn pair(name: &str, (x, y): (f64, f64), [top, waist, bottom]: [f64; 3], svg: &mut String) {
    const ARM: f64 = (LINEAR - BAND) / 2.0;
    const BAND: f64 = 8.0;
    let down = [(x - top, y), (x + top, y), (x + waist, y + ARM), (x - waist, y + ARM)];
    let (low, end) = (y + ARM + BAND, y + LINEAR);
    let up = [(x - waist, low), (x + waist, low), (x + bottom, end), (x - bottom, end)];
    polygon("pair", &down, svg);
    polygon("pair", &up, svg);
    rectangle("waist", (x - waist, y + ARM, 2.0 * waist, BAND), 0.0, svg);
    label("m", (x, y + 13.0), name, svg);
}

/// An edge with rounded corners.
fn edge(path: &Path, (x, y): (f64, f64), svg: &mut String) {
    const RADIUS: f64 = 6.0;
    let corners: Vec<(f64, f64)> = path.corners.iter().map(|&(a, b)| (a + x, b + y)).collect();
    let Some((&first, rest)) = corners.split_first() else { return };
    let mut d = format!("M{} {}", round(first.0), round(first.1));
    for (i, &corner) in rest.iter().enumerate() {
        let before = corners[i];
        match rest.get(i + 1) {
            Some(&after) if turns(before, corner, after) => {
                let (from, to) = (towards(corner, before, RADIUS), towards(corner, after, RADIUS));
                let _ = write!(
                    d,
                    "L{} {}Q{} {} {} {}",
                    round(from.0),
                    round(from.1),
                    round(corner.0),
                    round(corner.1),
                    round(to.0),
                    round(to.1)
                );
            }
            Some(_) => {}
            None => {
                let _ = write!(d, "L{} {}", round(corner.0), round(corner.1));
            }
        }
    }
    let arrow = if path.arrow { " marker-end=\"url(#head)\"" } else { "" };
    let _ = writeln!(svg, "<path class=\"edge\" d=\"{d}\"{arrow}/>");
}

/// Whether three points are not on one line.
fn turns(a: (f64, f64), b: (f64, f64), c: (f64, f64)) -> bool {
    ((b.0 - a.0) * (c.1 - b.1) - (b.1 - a.1) * (c.0 - b.0)).abs() > 0.5
}

/// The point so far from a corner towards another point, but at most half of the way.
fn towards(corner: (f64, f64), other: (f64, f64), distance: f64) -> (f64, f64) {
    let (dx, dy) = (other.0 - corner.0, other.1 - corner.1);
    let length = dx.abs().max(dy.abs()).max(f64::MIN_POSITIVE);
    let part = (distance / length).min(0.5);
    (corner.0 + dx * part, corner.1 + dy * part)
}

pub(super) fn line(from: (f64, f64), to: (f64, f64), arrow: bool, svg: &mut String) {
    edge(&Path { corners: vec![from, to], arrow }, (0.0, 0.0), svg);
}

pub(super) fn rectangle(
    class: &str,
    (x, y, width, height): (f64, f64, f64, f64),
    radius: f64,
    svg: &mut String,
) {
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{radius}\"/>",
        round(x),
        round(y),
        round(width),
        round(height)
    );
}

pub(super) fn polygon(class: &str, corners: &[(f64, f64)], svg: &mut String) {
    let points: Vec<String> =
        corners.iter().map(|(x, y)| format!("{},{}", round(*x), round(*y))).collect();
    let _ = writeln!(svg, "<polygon class=\"{class}\" points=\"{}\"/>", points.join(" "));
}

pub(super) fn label(class: &str, (x, y): (f64, f64), text: &str, svg: &mut String) {
    if !text.is_empty() {
        let (x, y, text) = (round(x), round(y), escaped(text));
        let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>");
    }
}

fn class(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Norm => "norm",
        NodeKind::Attention => "attention",
        NodeKind::Pointwise => "pointwise",
        NodeKind::Embedding => "embedding",
        NodeKind::Loss => "loss",
        NodeKind::Product => "dense",
        NodeKind::Memory
        | NodeKind::Optimizer
        | NodeKind::Input
        | NodeKind::Parameter
        | NodeKind::Constant
        | NodeKind::View => "other",
    }
}

/// One digit behind the point is finer than paper.
fn round(number: f64) -> String {
    let tenths = (number * 10.0).round() / 10.0;
    // There is no other zero.
    format!("{}", if tenths == 0.0 { 0.0 } else { tenths })
}
