//! Dropout; arXiv 1207.0580.

use super::value::Value;
use crate::host::random::philox4x32;

/// Elements that survive, divided by the share of those that do; element by element as [`colac_plan::Op::Dropout`] says.
pub(super) fn forward(x: &Value, draw: &Value, probability: f64, key: u64) -> Vec<f64> {
    let word = |index: usize| draw.elements[index] as i32 as u32;
    let key = [word(0) ^ key as u32, word(1) ^ (key >> 32) as u32];
    let threshold = (probability * 4_294_967_296.0).floor() as u64;
    let element = |(index, x): (usize, &f64)| {
        let block = index as u64 / 4;
        let counter = [block as u32, (block >> 32) as u32, word(2), word(3)];
        let drawn = philox4x32(key, counter)[index % 4];
        if u64::from(drawn) < threshold { 0.0 } else { x / (1.0 - probability) }
    };
    x.elements.iter().enumerate().map(element).collect()
}
