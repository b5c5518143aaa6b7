//! A figure fit for a paper: the model from tokens to loss, and one layer of it with its linears to scale.
//!
//! A low-rank pair is the narrow waist that it is: as wide as its input, its rank and its output. Owns what stands beside
//! what. Where the layers differ, the first group of them is shown large, unless one is asked for.

mod block;
mod layout;
mod measure;
mod paint;

use std::fmt::Write;

use self::block::{Depth, block};
use self::layout::{HEADER, Laid, PADDING, Placed, lay_out};
use self::measure::Scale;
use self::paint::{label, line, rectangle};
use super::{SIGNATURE, escaped, inner};
use crate::view::picture::model::{BoxKind, Picture, Stage};

/// Around everything.
const MARGIN: f64 = 16.0;
/// Below the title.
const TITLE: f64 = 34.0;
/// Between the model and its layer.
const BETWEEN: f64 = 56.0;
/// The arrow that comes in or goes out.
const LEAD: f64 = 26.0;

/// The figure of a stage.
pub fn svg(picture: &Picture, stage: &Stage) -> String {
    let mut body = String::new();
    let layer = large(stage);
    let (width, height) = match layer {
        Some(layer) => both(stage, layer, &mut body),
        None => alone(stage, 0, MARGIN, &mut body),
    };
    let form = match picture.form {
        "cola" => "CoLA",
        other => other,
    };
    let title = format!("{}, {form}", picture.name);
    let (width, height) = (width + MARGIN, height + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
         {SIGNATURE}\n<title>{}</title>\n<style>{}</style>\n\
         <defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" orient=\"auto\"><path class=\"head\" d=\"M0 0L8 4L0 8z\"/></marker></defs>\n",
        escaped(&title),
        paint::STYLE
    );
    label("t", (MARGIN, MARGIN + 14.0), &title, &mut svg);
    svg + &body + "</svg>\n"
}

/// The box that is shown large: of all layers, or groups of layers that are the same, that in which most is done.
fn large(stage: &Stage) -> Option<usize> {
    let is_layer =
        |index: &usize| matches!(stage.boxes[*index].kind, BoxKind::Fold | BoxKind::Turn);
    let mut candidates: Vec<usize> = (0..stage.boxes.len()).filter(is_layer).collect();
    candidates.retain(|&index| {
        let mut around = stage.boxes[index].parent;
        while let Some(outer) = around.filter(|outer| !is_layer(outer)) {
            around = stage.boxes[outer].parent;
        }
        around.is_none()
    });
    let size = |index: &usize| (stage.boxes[*index].total.operations, std::cmp::Reverse(*index));
    candidates.into_iter().max_by_key(size)
}

/// The model as cards, and beside it one of its layers.
fn both(stage: &Stage, layer: usize, svg: &mut String) -> (f64, f64) {
    let top = MARGIN + TITLE;
    // A model of one part would say nothing: a way in, the layer, a way out.
    let Some(cards) = block(stage, 0, Depth::Cards).filter(|cards| cards.items.len() > 3) else {
        return alone(stage, layer, MARGIN, svg);
    };
    let cards = lay_out(cards, &Scale::default());
    let name = &stage.boxes[layer];
    let shown = cards.placed.iter().find(|placed| {
        !placed.item.name.is_empty()
            && (placed.item.name.starts_with(&name.label) || placed.item.name == name.path)
    });
    let right = MARGIN + cards.width + BETWEEN;
    let mut drawing = String::new();
    let (width, height) = alone(stage, layer, right, &mut drawing);
    // The layer may be higher than the model: then the model stands in the middle.
    let model = cards.height + 2.0 * LEAD;
    let down = top + ((height - top - model) / 2.0).max(0.0);
    if let Some(shown) = shown {
        let Placed { x, y, width, height: tall, .. } = shown;
        let (x, y) = (MARGIN + x + width, down + LEAD + y);
        let _ = writeln!(
            svg,
            "<path class=\"zoom\" d=\"M{:.1} {:.1}L{right:.1} {top:.1}M{:.1} {:.1}L{right:.1} {:.1}\"/>",
            x + 8.0,
            y - 8.0,
            x,
            y + tall,
            height - 32.0
        );
    }
    ends(&cards, (MARGIN, down), ["tokens", "loss"], svg);
    paint::block(&cards, (MARGIN, down + LEAD), &Scale::default(), svg);
    svg.push_str(&drawing);
    (width, height.max(down + model))
}

/// One box in a frame of its own, with everything in it to scale; returns where it ends.
fn alone(stage: &Stage, index: usize, left: f64, svg: &mut String) -> (f64, f64) {
    let top = MARGIN + TITLE;
    let one = &stage.boxes[index];
    let around = match one.kind {
        BoxKind::Fold => inner(stage, index).next().unwrap_or(index),
        _ => index,
    };
    let Some(parts) = block(stage, around, Depth::All) else { return (left, top) };
    let scale = Scale::of(&parts);
    let laid = lay_out(parts, &scale);
    let (width, height) = (laid.width + 2.0 * PADDING, laid.height + HEADER + PADDING);
    rectangle("frame", (left, top, width, height), 8.0, svg);
    label("h", (left + 10.0, top + 16.0), &one.label, svg);
    let at = (left + PADDING, top + HEADER);
    line((at.0 + laid.entry, top - 10.0), (at.0 + laid.entry, at.1), false, svg);
    let end = at.1 + laid.height;
    line((at.0 + laid.exit, end), (at.0 + laid.exit, top + height + 12.0), true, svg);
    paint::block(&laid, at, &scale, svg);
    let below = top + height + 26.0;
    let bar = bar(stage, around, (left, below), &scale, svg);
    (left + width.max(bar), below + 6.0)
}

/// Names and arrows where a block begins and ends.
fn ends(laid: &Laid, (x, y): (f64, f64), [first, last]: [&str; 2], svg: &mut String) {
    label("m s", (x + laid.entry, y + 6.0), first, svg);
    line((x + laid.entry, y + 12.0), (x + laid.entry, y + LEAD), false, svg);
    let end = y + LEAD + laid.height;
    line((x + laid.exit, end), (x + laid.exit, end + LEAD - 8.0), true, svg);
    label("m s", (x + laid.exit, end + LEAD + 4.0), last, svg);
}

/// What a width on paper stands for; returns how wide that is written.
fn bar(stage: &Stage, around: usize, (x, y): (f64, f64), scale: &Scale, svg: &mut String) -> f64 {
    let widest = stage
        .boxes
        .iter()
        .enumerate()
        .filter(|(index, one)| one.pair.is_some() && is_in(stage, *index, around))
        .filter_map(|(_, one)| one.pair.as_ref())
        .map(|pair| pair.inputs.min(pair.outputs))
        .max();
    let Some(width) = widest else { return 0.0 };
    let drawn = scale.of_width(width);
    rectangle("waist", (x, y - 4.0, drawn, 3.0), 0.0, svg);
    let words = format!("{width} wide; widths are to scale, a waist is as wide as its rank");
    label("s", (x + drawn + 8.0, y), &words, svg);
    drawn + 8.0 + measure::text(&words, 10.0)
}

fn is_in(stage: &Stage, mut index: usize, around: usize) -> bool {
    loop {
        match stage.boxes[index].parent {
            _ if index == around => return true,
            Some(parent) => index = parent,
            None => return false,
        }
    }
}
