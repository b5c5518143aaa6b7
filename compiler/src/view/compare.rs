//! Two pictures side by side.
//!
//! Owns what counts as a difference of pictures, in the words of whoever looks at them. Must not know how it is drawn;
//! differences of plans in the words of a spec are those of [`super::difference`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::picture::Picture;
use super::picture::model::{Linear, Total};

/// Two pictures and what differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The first.
    pub a: Picture,
    /// The second.
    pub b: Picture,
    /// What differs: settings, linears, totals of the model, bytes.
    pub differences: Vec<Difference>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where in the model; empty for the model.
    pub path: String,
    /// What it is that differs.
    pub what: String,
    /// In the first.
    pub a: String,
    /// In the second.
    pub b: String,
}

impl Comparison {
    /// Compares two pictures of the same stages.
    pub fn new(a: Picture, b: Picture) -> Comparison {
        let mut differences = Differences::default();
        differences.settings(&a, &b);
        differences.linears(&a, &b);
        differences.totals(&a, &b);
        differences.memory(&a, &b);
        Comparison { a, b, differences: differences.0 }
    }
}

/// What a number of a total is called, and which it is.
type Number = (&'static str, fn(&Total) -> u64);

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, path: &str, what: &str, a: String, b: String) {
        if a != b {
            self.0.push(Difference { path: path.to_owned(), what: what.to_owned(), a, b });
        }
    }

    fn settings(&mut self, a: &Picture, b: &Picture) {
        self.add("", "form", a.form.to_owned(), b.form.to_owned());
        self.add("", "precision", a.precision.to_owned(), b.precision.to_owned());
        self.add("", "recompute", a.recompute.clone(), b.recompute.clone());
        self.add("", "micro-batch", a.micro_batch.to_string(), b.micro_batch.to_string());
        let lengths = [a, b].map(|picture| picture.sequence_length.to_string());
        let [a, b] = lengths;
        self.add("", "sequence length", a, b);
    }

    fn linears(&mut self, a: &Picture, b: &Picture) {
        let by_path = |picture: &Picture| -> BTreeMap<String, String> {
            picture.linears.iter().map(|linear| (linear.path.clone(), decision(linear))).collect()
        };
        let (old, new) = (by_path(a), by_path(b));
        let absent = || "absent".to_owned();
        let only_new = b.linears.iter().filter(|linear| !old.contains_key(&linear.path));
        for linear in a.linears.iter().chain(only_new) {
            let of = |side: &BTreeMap<String, String>| {
                side.get(&linear.path).cloned().unwrap_or_else(absent)
            };
            self.add(&linear.path, "linear", of(&old), of(&new));
        }
    }

    fn totals(&mut self, a: &Picture, b: &Picture) {
        let last = |picture: &Picture| picture.stages.last().map(|stage| stage.boxes[0].total);
        let (Some(old), Some(new)) = (last(a), last(b)) else { return };
        let numbers: [Number; 7] = [
            ("parameters", |total| total.parameters),
            ("forward FLOPs", |total| total.forward),
            ("backward FLOPs", |total| total.backward),
            ("recompute FLOPs", |total| total.recompute),
            ("bytes moved", |total| total.bytes),
            ("bytes kept", |total| total.kept),
            ("operations", |total| total.operations),
        ];
        for (what, number) in numbers {
            self.add("", what, number(&old).to_string(), number(&new).to_string());
        }
    }

    fn memory(&mut self, a: &Picture, b: &Picture) {
        let (Some(old), Some(new)) = (&a.memory, &b.memory) else { return };
        let of = |segments: &[(&'static str, u64)], name: &str| {
            segments.iter().find(|(other, _)| *other == name).map_or(0, |(_, bytes)| *bytes)
        };
        let only_new = new.segments.iter().filter(|(name, _)| of(&old.segments, name) == 0);
        for (name, _) in old.segments.iter().chain(only_new) {
            let bytes = [&old.segments, &new.segments].map(|side| of(side, name).to_string());
            let [a, b] = bytes;
            self.add("", &format!("bytes of {name}"), a, b);
        }
        self.add("", "bytes in all", old.total.to_string(), new.total.to_string());
    }
}

fn decision(linear: &Linear) -> String {
    let Linear { inputs, outputs, rank, activation, .. } = linear;
    match (rank, activation) {
        (Some(rank), Some(activation)) => {
            format!("{inputs} → {rank} → {outputs} with {activation}")
        }
        _ => format!("{inputs} → {outputs} dense"),
    }
}
