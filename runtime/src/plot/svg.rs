//! The figure as one SVG.
//!
//! Owns its layout, colours and text. Must not know where logs come from.
//!
//! Colours are those of Okabe and Ito, which people of every colour vision tell apart, made a little darker for small
//! text; from the seventh group on they repeat with dashed lines, and each group is named at the end of its line. The
//! picture follows the reader's light or dark theme where the viewer does.

use std::fmt::Write;

use crate::plot::curve::{smoothed, thinned};
use crate::plot::labels::{shortened, spread, width};
use crate::plot::log::Update;
use crate::plot::scale::{FLOP_UNITS, Scale, TIME_UNITS, TickFormat, seconds_of, unit};
use crate::plot::{Options, Run, SIGNATURE, XAxis, escaped, groups};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 68.0;
const RIGHT_WITHOUT_LABELS: f64 = 24.0;
/// Gap between panels, which holds the title of the lower one.
const GAP: f64 = 40.0;
const TEXT: f64 = 12.0;

/// Groups with a colour of their own; must be the number of `.c0`, `.c1`, ... in [`STYLE`].
pub(super) const COLORS: usize = 6;

/// Everything that has a colour. Light first, then what differs on dark ground.
pub(super) const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;font-size:12px;fill:#4b5563}
.paper{fill:#ffffff}.title{font-size:18px;font-weight:600;fill:#111827}.panel{font-size:13px;font-weight:600;fill:#111827}.note{font-size:12px;font-weight:400;fill:#4b5563}
.number{font-variant-numeric:tabular-nums}.grid{stroke:#e5e7eb;stroke-width:1}.axis{stroke:#9ca3af;stroke-width:1}
path{fill:none;stroke-linejoin:round;stroke-linecap:round}.raw{stroke-width:1;opacity:.25}.line{stroke-width:2}
.held{stroke-width:1.5;stroke-dasharray:1 4}.dot{stroke:#ffffff;stroke-width:1.5}.lost{stroke-width:1.5}.lead{stroke-width:1;opacity:.6}
.name{font-weight:600}.d1 .line{stroke-dasharray:7 4}.d2 .line{stroke-dasharray:2 4}.key{stroke:#4b5563}.keydot{fill:#4b5563}
.c0{stroke:#0072b2}.c1{stroke:#d55e00}.c2{stroke:#009e73}.c3{stroke:#cc79a7}.c4{stroke:#b07d00}.c5{stroke:#56b4e9}
.f0{fill:#0072b2}.f1{fill:#d55e00}.f2{fill:#009e73}.f3{fill:#cc79a7}.f4{fill:#b07d00}.f5{fill:#56b4e9}
.t0{fill:#00568a}.t1{fill:#a34700}.t2{fill:#006b4e}.t3{fill:#96446f}.t4{fill:#7a5600}.t5{fill:#1f6a99}
@media (prefers-color-scheme:dark){text,.note{fill:#a3adbb}.paper{fill:#12161c}.title,.panel{fill:#f0f3f6}.grid{stroke:#262d37}
.axis{stroke:#566170}.dot{stroke:#12161c}.raw{opacity:.35}.key{stroke:#a3adbb}.keydot{fill:#a3adbb}
.c0{stroke:#4aa8e0}.c1{stroke:#ff8a4c}.c2{stroke:#2fc79a}.c3{stroke:#e59ac4}.c4{stroke:#f2b632}.c5{stroke:#9bd6f7}
.f0,.t0{fill:#4aa8e0}.f1,.t1{fill:#ff8a4c}.f2,.t2{fill:#2fc79a}.f3,.t3{fill:#e59ac4}.f4,.t4{fill:#f2b632}.f5,.t5{fill:#9bd6f7}}
@media print{text{fill:#333333}.paper{fill:none}}
";

/// One of the panels.
struct Panel {
    title: &'static str,
    unit: &'static str,
    height: f64,
    value: fn(&Update) -> Option<f64>,
    /// Whether the axis begins at 0.
    from_zero: bool,
    /// Whether every update is drawn faintly behind a smoothed line.
    is_smoothed: bool,
    scale: PanelScale,
}

#[derive(Clone, Copy, PartialEq)]
enum PanelScale {
    Linear,
    /// Logarithmic if the options say so.
    AsAsked,
    /// Logarithmic also where a spike would flatten the rest.
    AsNeeded,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Loss",
        unit: "nats per token",
        height: 330.0,
        value: |update| update.loss,
        from_zero: false,
        is_smoothed: true,
        scale: PanelScale::AsAsked,
    },
    Panel {
        title: "Learning rate",
        unit: "",
        height: 90.0,
        value: |update| update.learning_rate,
        from_zero: true,
        is_smoothed: false,
        scale: PanelScale::Linear,
    },
    Panel {
        title: "Gradient norm",
        unit: "before clipping",
        height: 110.0,
        value: |update| update.gradient_norm,
        from_zero: true,
        is_smoothed: true,
        scale: PanelScale::AsNeeded,
    },
    Panel {
        title: "Speed",
        unit: "tokens a second",
        height: 110.0,
        value: |update| update.tokens_per_second,
        from_zero: true,
        is_smoothed: true,
        scale: PanelScale::Linear,
    },
];

/// How the x axis counts: the values of a run, and how they are written.
struct Horizontal {
    axis: XAxis,
    divisor: f64,
    label: String,
}

impl Horizontal {
    fn new(axis: XAxis, runs: &[Run]) -> Horizontal {
        let largest = runs
            .iter()
            .filter_map(|run| {
                let last = run.log.updates.last()?;
                at(axis, run, last.step, last.tokens, last.seconds)
            })
            .fold(0.0, f64::max);
        let (divisor, label) = match axis {
            XAxis::Steps => (1.0, "steps".to_owned()),
            XAxis::Tokens => (1.0, "training tokens".to_owned()),
            XAxis::Flops => {
                let (size, name) = unit(largest, FLOP_UNITS);
                (size, format!("training compute ({name})"))
            }
            XAxis::Seconds => {
                let (_, name) = unit(largest, TIME_UNITS);
                (seconds_of(name), format!("training time ({name})"))
            }
        };
        Horizontal { axis, divisor, label }
    }

    fn of_update(&self, run: &Run, update: &Update) -> Option<f64> {
        Some(at(self.axis, run, update.step, update.tokens, update.seconds)? / self.divisor)
    }
}

/// Where a moment of a run stands on an axis.
fn at(axis: XAxis, run: &Run, step: u64, tokens: u64, seconds: f64) -> Option<f64> {
    match axis {
        XAxis::Steps => Some(step as f64),
        XAxis::Tokens => Some(tokens as f64),
        XAxis::Flops => Some(step as f64 * run.flops_per_step? as f64),
        XAxis::Seconds => Some(seconds),
    }
}

/// Draws runs.
pub fn svg(runs: &[Run], options: &Options) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(text, "{SIGNATURE}");
    text + &figure(runs, options)
}

/// The SVG element alone, as a page embeds it.
pub(super) fn figure(runs: &[Run], options: &Options) -> String {
    Figure::new(runs, options).draw()
}

struct Figure<'a> {
    runs: &'a [Run],
    options: &'a Options,
    groups: Vec<&'a str>,
    horizontal: Horizontal,
    /// Right end of the panels.
    right: f64,
    span: f64,
    out: String,
}

impl<'a> Figure<'a> {
    fn new(runs: &'a [Run], options: &'a Options) -> Figure<'a> {
        let groups = groups(runs);
        let widest = groups.iter().map(|name| width(&label(name), TEXT)).fold(0.0, f64::max);
        let right = match groups.len() {
            0 | 1 => WIDTH - RIGHT_WITHOUT_LABELS,
            _ => WIDTH - widest - 34.0,
        };
        let horizontal = Horizontal::new(options.x, runs);
        let span = options.span(runs);
        Figure { runs, options, groups, horizontal, right, span, out: String::new() }
    }

    fn draw(mut self) -> String {
        let panels: f64 = PANELS.iter().map(|panel| panel.height + GAP).sum();
        let top = if self.options.title.is_empty() { 16.0 } else { 44.0 };
        let height = top + panels + 46.0;
        let _ = write!(
            self.out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"figure-title figure-text\">\n\
             <title id=\"figure-title\">{}</title>\n<desc id=\"figure-text\">{}</desc>\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
            escaped(if self.options.title.is_empty() { "Training" } else { &self.options.title }),
            escaped(&self.description()),
        );
        if !self.options.title.is_empty() {
            let title = shortened(&self.options.title, 18.0, WIDTH - LEFT - 24.0);
            self.text("title", LEFT, 28.0, "start", &title);
        }
        let x = self.x_scale();
        let mut y = top + GAP - 12.0;
        for (index, panel) in PANELS.iter().enumerate() {
            self.panel(panel, &x, y, index == 0);
            y += panel.height + GAP;
        }
        self.x_axis(&x, y - GAP);
        self.out.push_str("</svg>\n");
        self.out
    }

    /// What the figure shows, for those who cannot see it.
    fn description(&self) -> String {
        let mut text = format!(
            "Loss, learning rate, gradient norm and tokens a second over {}.",
            self.horizontal.label
        );
        for run in self.runs {
            let _ = write!(text, " {}:", run.name);
            let last = run.log.updates.last();
            match last.and_then(|last| Some((last.step, last.loss?))) {
                Some((step, loss)) => {
                    let _ = write!(text, " training loss {loss:.4} at step {step}");
                }
                None => text.push_str(" no loss"),
            }
            if let Some(loss) = final_validation(run) {
                let _ = write!(text, ", validation loss {loss:.4}");
            }
            text.push('.');
        }
        text
    }

    fn x_scale(&self) -> Scale {
        let values = || {
            self.runs.iter().flat_map(|run| {
                run.log.updates.iter().filter_map(|update| self.horizontal.of_update(run, update))
            })
        };
        let high = values().fold(0.0, f64::max);
        let low = match self.options.log_x {
            true => values().filter(|&x| x > 0.0).fold(high, f64::min),
            false => 0.0,
        };
        Scale::new(low, high, self.options.log_x, (LEFT, self.right))
    }

    fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let anchor = match anchor {
            "start" => String::new(),
            other => format!(" text-anchor=\"{other}\""),
        };
        let _ = writeln!(
            self.out,
            "<text class=\"{class}\" x=\"{}\" y=\"{}\"{anchor}>{}</text>",
            number(x),
            number(y),
            escaped(text)
        );
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.out,
            "<line class=\"{class}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>",
            number(from.0),
            number(from.1),
            number(to.0),
            number(to.1)
        );
    }

    fn x_axis(&mut self, x: &Scale, bottom: f64) {
        let ticks = x.ticks(7);
        let format = TickFormat::of(x, &ticks);
        for tick in ticks {
            if let Some(place) = x.place(tick) {
                self.text("number", place, bottom + 18.0, "middle", &format.write(tick));
            }
        }
        let scale = if x.is_log() { ", logarithmic" } else { "" };
        let label = format!("{}{scale}", self.horizontal.label);
        self.text("", f64::midpoint(LEFT, self.right), bottom + 38.0, "middle", &label);
    }

    fn y_scale(&self, panel: &Panel, top: f64) -> Option<Scale> {
        let is_loss = panel.scale == PanelScale::AsAsked;
        let mut values: Vec<f64> = Vec::new();
        for run in self.runs {
            values.extend(run.log.updates.iter().filter_map(panel.value));
            if is_loss {
                values.extend(run.log.evaluations.iter().filter_map(|e| e.loss));
            }
        }
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (&low, &high) = (values.first()?, values.last()?);
        let median = values[values.len() / 2];
        let is_log = low > 0.0
            && match panel.scale {
                PanelScale::Linear => false,
                PanelScale::AsAsked => self.options.log_y,
                PanelScale::AsNeeded => self.options.log_y || high > 20.0 * median,
            };
        let bottom = top + panel.height;
        if is_log {
            let reach = ((high.ln() - low.ln()) * 0.04).exp().max(1.000_001);
            let high = (high * reach).min(f64::MAX);
            return Some(Scale::new(low / reach, high, true, (bottom, top)));
        }
        let low = if panel.from_zero { low.min(0.0) } else { low };
        let reach = (high - low) * 0.05;
        let below = if panel.from_zero { 0.0 } else { reach };
        Some(Scale::new(low - below, high + reach, false, (bottom, top)))
    }

    fn panel(&mut self, panel: &Panel, x: &Scale, top: f64, is_main: bool) {
        let bottom = top + panel.height;
        let y = self.y_scale(panel, top);
        let mut note = panel.unit.to_owned();
        if y.as_ref().is_some_and(Scale::is_log) {
            note += if note.is_empty() { "logarithmic" } else { ", logarithmic" };
        }
        let _ = writeln!(
            self.out,
            "<text class=\"panel\" x=\"{LEFT}\" y=\"{}\">{}<tspan class=\"note\" dx=\"12\">{note}</tspan></text>",
            number(top - 10.0),
            panel.title
        );
        for place in x.ticks(7).into_iter().filter_map(|tick| x.place(tick)) {
            self.line("grid", (place, top), (place, bottom));
        }
        let Some(y) = y else {
            self.line("axis", (LEFT, bottom), (self.right, bottom));
            let middle = f64::midpoint(LEFT, self.right);
            self.text("", middle, f64::midpoint(top, bottom), "middle", "nothing was logged");
            return;
        };
        let ticks = y.ticks((panel.height / 40.0).round().max(4.0) as usize);
        let format = TickFormat::of(&y, &ticks);
        for tick in ticks {
            let Some(place) = y.place(tick) else { continue };
            self.line("grid", (LEFT, place), (self.right, place));
            self.text("number", LEFT - 8.0, place + 4.0, "end", &format.write(tick));
        }
        self.line("axis", (LEFT, bottom), (self.right, bottom));
        // All faint lines lie below all strong ones.
        if panel.is_smoothed && self.span > 1.0 {
            for run in self.runs {
                let values: Vec<_> = run.log.updates.iter().map(panel.value).collect();
                self.curve("raw", run, &values, x, &y);
            }
        }
        for run in self.runs {
            let mut values: Vec<_> = run.log.updates.iter().map(panel.value).collect();
            self.lost(run, &values, x, bottom);
            if panel.is_smoothed {
                values = smoothed(&values, self.span);
            }
            self.curve("line", run, &values, x, &y);
        }
        if is_main {
            for run in self.runs {
                self.validation(run, x, &y);
            }
            self.key(top - 10.0);
            self.names(panel, x, &y, (top, bottom));
        }
    }

    /// The class of a run's colour, with the given prefix, and of its dashes.
    fn style(&self, run: &Run) -> (usize, usize) {
        let group = self.groups.iter().position(|&group| group == run.group).unwrap_or(0);
        (group % COLORS, (group / COLORS).min(2))
    }

    fn curve(&mut self, class: &str, run: &Run, values: &[Option<f64>], x: &Scale, y: &Scale) {
        let points = run.log.updates.iter().zip(values).map(|(update, value)| {
            let value = value.filter(|value| value.is_finite())?;
            Some((x.place(self.horizontal.of_update(run, update)?)?, y.place(value)?))
        });
        let path = path(&thinned(points));
        if path.is_empty() {
            return;
        }
        let (color, dashes) = self.style(run);
        let _ = writeln!(
            self.out,
            "<g class=\"d{dashes}\"><path class=\"{class} c{color}\" d=\"{path}\"/></g>"
        );
    }

    /// Marks updates whose value is missing: not finite, or of a batch without labels.
    fn lost(&mut self, run: &Run, values: &[Option<f64>], x: &Scale, bottom: f64) {
        let updates = run.log.updates.iter().zip(values);
        let places = updates.filter(|(_, value)| value.is_none()).filter_map(|(update, _)| {
            x.place(self.horizontal.of_update(run, update)?).map(|place| Some((place, bottom)))
        });
        let pieces = thinned(places);
        let mut marks = String::new();
        for (place, bottom) in pieces.into_iter().flatten() {
            let _ = write!(marks, "M{} {}v-7", number(place), number(bottom));
        }
        if !marks.is_empty() {
            let (color, _) = self.style(run);
            let _ = writeln!(self.out, "<path class=\"lost c{color}\" d=\"{marks}\"/>");
        }
    }

    /// Where the evaluations of a run lie.
    fn evaluations(&self, run: &Run, x: &Scale, y: &Scale) -> Vec<(f64, f64)> {
        let evaluations = run.log.evaluations.iter();
        let places = evaluations.filter_map(|e| {
            let here = at(self.horizontal.axis, run, e.step, e.tokens, e.seconds)?;
            Some((x.place(here / self.horizontal.divisor)?, y.place(e.loss?)?))
        });
        places.collect()
    }

    fn validation(&mut self, run: &Run, x: &Scale, y: &Scale) {
        let points = self.evaluations(run, x, y);
        let (color, _) = self.style(run);
        let line = path(&thinned(points.iter().copied().map(Some)));
        if points.len() > 1 {
            let _ = writeln!(self.out, "<path class=\"held c{color}\" d=\"{line}\"/>");
        }
        // So many dots that they touch would be a thick line.
        let most = ((self.right - LEFT) / 12.0) as usize;
        let every = points.len().div_ceil(most.max(1)).max(1);
        for (index, (x, y)) in points.iter().enumerate() {
            if (points.len() - 1 - index).is_multiple_of(every) {
                let (x, y) = (number(*x), number(*y));
                let _ = writeln!(
                    self.out,
                    "<circle class=\"dot f{color}\" cx=\"{x}\" cy=\"{y}\" r=\"3.5\"/>"
                );
            }
        }
    }

    /// What the kinds of lines mean, at the right end above the loss.
    fn key(&mut self, y: f64) {
        let has_validation = self.runs.iter().any(|run| !run.log.evaluations.is_empty());
        let training = match self.span > 1.0 {
            true => format!("training, smoothed over {} updates", number(self.span)),
            false => "training".to_owned(),
        };
        let mut right = self.right;
        if has_validation {
            self.text("", right, y, "end", "validation");
            right -= width("validation", TEXT) + 18.0;
            let (x, y) = (number(right), number(y - 4.0));
            let _ =
                writeln!(self.out, "<circle class=\"keydot\" cx=\"{x}\" cy=\"{y}\" r=\"3.5\"/>");
            right -= 18.0;
        }
        self.text("", right, y, "end", &training);
        right -= width(&training, TEXT) + 16.0;
        let _ = writeln!(
            self.out,
            "<path class=\"line key\" d=\"M{} {}h18\"/>",
            number(right - 18.0),
            number(y - 4.0)
        );
    }

    /// The names of groups at the ends of their lines, with the mean of their last validation losses.
    fn names(&mut self, panel: &Panel, x: &Scale, y: &Scale, (top, bottom): (f64, f64)) {
        if self.groups.len() < 2 {
            return;
        }
        let mut ends = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            let runs: Vec<&Run> = self.runs.iter().filter(|run| run.group == *group).collect();
            let mut places: Vec<(f64, f64)> =
                runs.iter().filter_map(|run| self.evaluations(run, x, y).pop()).collect();
            if places.is_empty() {
                places = runs.iter().filter_map(|run| self.end(panel, run, x, y)).collect();
            }
            let losses: Vec<f64> = runs.iter().filter_map(|run| final_validation(run)).collect();
            let count = places.len() as f64;
            if places.is_empty() {
                continue;
            }
            let mean = places.iter().map(|place| place.1).sum::<f64>() / count;
            let furthest = places.iter().map(|place| place.0).fold(LEFT, f64::max);
            let loss =
                (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64);
            ends.push((index, (furthest, mean), loss));
        }
        let wanted: Vec<f64> = ends.iter().map(|(_, place, _)| place.1).collect();
        let places = spread(&wanted, 30.0, top + 8.0, bottom - 8.0);
        for ((index, end, loss), place) in ends.into_iter().zip(places) {
            let color = index % COLORS;
            let x = self.right + 20.0;
            let _ = writeln!(
                self.out,
                "<path class=\"lead c{color}\" d=\"M{} {}L{} {}\"/>",
                number(end.0 + 6.0),
                number(end.1),
                number(x - 5.0),
                number(place)
            );
            let name = label(self.groups[index]);
            self.text(&format!("name t{color}"), x, place + 1.0, "start", &name);
            if let Some(loss) = loss {
                self.text("number", x, place + 15.0, "start", &format!("{loss:.3}"));
            }
        }
    }

    /// The end of a run's training loss.
    fn end(&self, panel: &Panel, run: &Run, x: &Scale, y: &Scale) -> Option<(f64, f64)> {
        let values: Vec<_> = run.log.updates.iter().map(panel.value).collect();
        let values = smoothed(&values, self.span);
        let (index, value) =
            values.iter().enumerate().rev().find_map(|(i, value)| Some((i, (*value)?)))?;
        let here = self.horizontal.of_update(run, &run.log.updates[index])?;
        Some((x.place(here)?, y.place(value)?))
    }
}

fn final_validation(run: &Run) -> Option<f64> {
    run.log.evaluations.iter().rev().find_map(|evaluation| evaluation.loss)
}

/// A group's name as it stands at the end of its line.
fn label(name: &str) -> String {
    shortened(name, TEXT, 170.0)
}

/// The pieces of a line as path data, a point for a piece of one point. Each point is given relative to the one before
/// as it was written, so that rounding does not add up; what lies within a tenth of a pixel of a straight line is left
/// out.
fn path(pieces: &[Vec<(f64, f64)>]) -> String {
    let mut data = String::new();
    for piece in pieces {
        let tenths = |(x, y): (f64, f64)| ((x * 10.0).round() as i64, (y * 10.0).round() as i64);
        let points: Vec<(i64, i64)> = piece.iter().map(|&point| tenths(point)).collect();
        let Some((&first, rest)) = points.split_first() else { continue };
        let _ = write!(data, "M{} {}", tenth(first.0), tenth(first.1));
        let mut last = first;
        // Points that a straight line from `last` to the newest of them stands for.
        let mut held: Vec<(i64, i64)> = Vec::new();
        for &point in rest {
            let is_straight = held.iter().all(|&middle| is_on_line(last, middle, point));
            if (!is_straight || held.len() == MOST_HELD)
                && let Some(&corner) = held.last()
            {
                relative(&mut data, last, corner);
                last = corner;
                held.clear();
            }
            held.push(point);
        }
        match held.last() {
            Some(&point) => relative(&mut data, last, point),
            None => data.push_str("h0"),
        }
    }
    data
}

/// Most points that one straight line stands for: each new one is compared with all of them.
const MOST_HELD: usize = 64;

fn relative(data: &mut String, from: (i64, i64), to: (i64, i64)) {
    let (x, y) = (tenth(to.0 - from.0), tenth(to.1 - from.1));
    let space = if y.starts_with('-') { "" } else { " " };
    let _ = write!(data, "l{x}{space}{y}");
}

/// Whether a point may be left out of a line: it lies between its neighbours, and at most a tenth beside their line.
fn is_on_line(from: (i64, i64), middle: (i64, i64), to: (i64, i64)) -> bool {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mx, my) = (middle.0 - from.0, middle.1 - from.1);
    let along = mx * dx + my * dy;
    let square = dx * dx + dy * dy;
    let beside = mx * dy - my * dx;
    (0..=square).contains(&along) && beside * beside <= square
}

/// A number of tenths, as short as may be.
fn tenth(value: i64) -> String {
    number(value as f64 / 10.0)
}

/// A coordinate with one decimal, which is enough for the eye and the same on every machine.
fn number(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    // No minus before a zero.
    format!("{}", rounded + 0.0)
}
