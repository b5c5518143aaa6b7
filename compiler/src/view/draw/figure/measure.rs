//! Sizes of what a figure shows.
//!
//! Owns the scale of widths and the guess of how wide a text is. Must not know where things stand.

use super::block::{Block, Item, Shape};

/// Points on paper for each element of a width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale(pub(super) f64);

impl Default for Scale {
    fn default() -> Scale {
        Scale(0.1)
    }
}

/// Linears are at most so wide.
const WIDEST: f64 = 300.0;
/// The narrowest end of a linear is drawn so wide, if the widest allows it.
const NARROWEST: f64 = 92.0;
/// Height of a linear.
pub(super) const LINEAR: f64 = 62.0;

impl Scale {
    /// One scale for all linears of a block.
    pub(super) fn of(block: &Block) -> Scale {
        let mut widths = Vec::new();
        collect(block, &mut widths);
        let widest = widths.iter().copied().max().unwrap_or(1).max(1) as f64;
        let narrowest = widths.iter().copied().min().unwrap_or(1).max(1) as f64;
        Scale((NARROWEST / narrowest).min(WIDEST / widest))
    }

    /// A width on paper.
    pub(super) fn of_width(self, width: u64) -> f64 {
        self.0 * width as f64
    }
}

fn collect(block: &Block, widths: &mut Vec<u64>) {
    for item in &block.items {
        match &item.shape {
            Shape::Pair { inputs, outputs, .. } | Shape::Dense { inputs, outputs } => {
                widths.extend([inputs, outputs]);
            }
            Shape::Frame(inner) => collect(inner, widths),
            _ => {}
        }
    }
}

/// How wide a text is, about: readers have fonts of their own.
pub(super) fn text(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.56
}

/// Width and height of a part that is no frame.
pub(super) fn size(item: &Item, scale: &Scale) -> (f64, f64) {
    match &item.shape {
        Shape::Port | Shape::Frame(_) => (0.0, 0.0),
        Shape::Bend => (0.0, 0.0),
        Shape::Sign(_) => (20.0, 20.0),
        Shape::Operation(_) => (text(&item.name, 12.0) + 22.0, 26.0),
        Shape::Card { note, .. } => {
            (text(&item.name, 12.0).max(text(note, 10.0)).max(96.0) + 28.0, 44.0)
        }
        Shape::Pair { inputs, outputs, .. } | Shape::Dense { inputs, outputs } => {
            (scale.of_width(*inputs.max(outputs)), LINEAR)
        }
    }
}
