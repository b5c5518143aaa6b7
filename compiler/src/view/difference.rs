//! Two plans beside each other: what changed, in the words of the spec.
//!
//! Owns which differences are told and under which names; the field names are stable. Reads plans only, and of the spec
//! that a plan carries nothing but its keys and values. Must not know which settings there are.

use std::collections::BTreeMap;

use colac_plan::Plan;
use colac_plan::hash;
use colac_plan::plan::{Decision, LinearReport};
use serde::Serialize;

use super::inspection::Flops;
use super::text::pattern;
use super::{Inspection, MemoryReport};

/// What differs between two plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The first plan.
    pub from: Side,
    /// The second.
    pub to: Side,
    /// Whether weights of one fit the other.
    pub same_model: bool,
    /// Whether both train to the same numbers.
    pub same_numerics: bool,
    /// Settings with different values, defaults included.
    pub settings: Vec<Setting>,
    /// Trained tensors that only one has, or that have another shape; equal ones of repeated layers folded.
    pub parameters: Vec<ParameterChange>,
    /// Linears with another decision; equal ones of repeated layers folded.
    pub linears: Vec<LinearChange>,
    /// Categories of memory with different bytes, and `total`.
    pub memory: Vec<BytesChange>,
    /// Kinds of operations that are not equally many.
    pub operations: Vec<OperationChange>,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Name of the spec.
    pub name: String,
    /// `cola` or `full-rank`.
    pub form: &'static str,
    /// Trained numbers.
    pub parameters: u64,
    /// FLOPs for each token.
    pub flops_per_token: Flops,
    /// Bytes of all segments.
    pub memory: u64,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As `--set` takes it: `cola.rank`.
    pub key: String,
    /// Its value in the first, as TOML; none where it has no such setting.
    pub from: Option<String>,
    /// In the second.
    pub to: Option<String>,
}

/// Trained tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterChange {
    /// Path, with `*` for the numbers of layers.
    pub path: String,
    /// How many tensors.
    pub count: usize,
    /// Shape in the first, if it has them.
    pub from: Option<String>,
    /// Shape in the second.
    pub to: Option<String>,
}

/// Linears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinearChange {
    /// Path, with `*` for the numbers of layers.
    pub path: String,
    /// How many.
    pub count: usize,
    /// What became of them in the first, if it has them.
    pub from: Option<String>,
    /// In the second.
    pub to: Option<String>,
}

/// Bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BytesChange {
    /// As [`MemoryReport`] names it.
    pub name: &'static str,
    /// In the first.
    pub from: u64,
    /// In the second.
    pub to: u64,
}

/// Operations of one kind in one part of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperationChange {
    /// Name of the program.
    pub program: &'static str,
    /// Path of the repeat, with `*` for the number of the layer; `rest` for what lies outside.
    pub block: String,
    /// Printed name.
    pub op: &'static str,
    /// How many there are in the first.
    pub from: usize,
    /// In the second.
    pub to: usize,
}

impl Difference {
    /// Whether nothing differs that is told.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
            && self.parameters.is_empty()
            && self.linears.is_empty()
            && self.memory.is_empty()
            && self.operations.is_empty()
    }

    /// Compares two plans.
    pub fn new(from: &Plan, to: &Plan) -> Difference {
        Difference {
            from: Side::of(from),
            to: Side::of(to),
            same_model: hash::model(from) == hash::model(to),
            same_numerics: hash::numerics(from) == hash::numerics(to),
            settings: settings(from, to),
            parameters: parameters(from, to),
            linears: linears(from, to),
            memory: memory(from, to),
            operations: operations(from, to),
        }
    }
}

impl Side {
    fn of(plan: &Plan) -> Side {
        Side {
            name: plan.name.clone(),
            form: plan.form.name(),
            parameters: plan.parameter_count(),
            flops_per_token: Inspection::new(plan).flops_per_token,
            memory: plan.total_bytes(),
        }
    }
}

/// Keys of both maps with the values of each, where they differ.
fn changed<K: Ord + Clone, V: PartialEq + Clone>(
    from: &BTreeMap<K, V>,
    to: &BTreeMap<K, V>,
) -> Vec<(K, Option<V>, Option<V>)> {
    let keys = from.keys().chain(to.keys().filter(|key| !from.contains_key(key)));
    let mut rows: Vec<_> = keys
        .map(|key| (key.clone(), from.get(key).cloned(), to.get(key).cloned()))
        .filter(|(_, from, to)| from != to)
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn settings(from: &Plan, to: &Plan) -> Vec<Setting> {
    let flat = |plan: &Plan| {
        let mut values = BTreeMap::new();
        let table = plan.origin.resolved_spec.parse::<toml::Table>().unwrap_or_default();
        flatten(&toml::Value::Table(table), String::new(), &mut values);
        values
    };
    let rows = changed(&flat(from), &flat(to));
    rows.into_iter().map(|(key, from, to)| Setting { key, from, to }).collect()
}

/// Values by dotted path; entries of lists of tables by their position.
fn flatten(value: &toml::Value, path: String, values: &mut BTreeMap<String, String>) {
    let below = |key: &str| match path.is_empty() {
        true => key.to_owned(),
        false => format!("{path}.{key}"),
    };
    match value {
        toml::Value::Table(table) => {
            table.iter().for_each(|(key, value)| flatten(value, below(key), values));
        }
        toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
            for (index, value) in list.iter().enumerate() {
                flatten(value, below(&index.to_string()), values);
            }
        }
        value => {
            values.insert(path, value.to_string());
        }
    }
}

fn parameters(from: &Plan, to: &Plan) -> Vec<ParameterChange> {
    let shapes = |plan: &Plan| -> BTreeMap<String, String> {
        let shape = |p: &colac_plan::parameter::Parameter| plan.tensor(p.tensor).ty.to_string();
        plan.parameters.iter().map(|p| (p.path.clone(), shape(p))).collect()
    };
    let folded = fold(changed(&shapes(from), &shapes(to)));
    let change = |((path, from, to), count)| ParameterChange { path, count, from, to };
    folded.into_iter().map(change).collect()
}

fn linears(from: &Plan, to: &Plan) -> Vec<LinearChange> {
    let decisions = |plan: &Plan| -> BTreeMap<String, String> {
        plan.linears.iter().map(|linear| (linear.path.clone(), decision(linear))).collect()
    };
    let folded = fold(changed(&decisions(from), &decisions(to)));
    let change = |((path, from, to), count)| LinearChange { path, count, from, to };
    folded.into_iter().map(change).collect()
}

fn decision(linear: &LinearReport) -> String {
    let (inputs, outputs) = (linear.inputs, linear.outputs);
    match &linear.decision {
        Decision::Rewritten { rank, activation } => {
            format!("{inputs} → {rank} → {outputs} with {activation}")
        }
        Decision::KeptDense { .. } => format!("{inputs} → {outputs} dense"),
    }
}

type Change = (String, Option<String>, Option<String>);

/// Equal changes of repeated layers as one, with their number.
fn fold(changes: Vec<Change>) -> Vec<(Change, usize)> {
    let mut rows: Vec<(Change, usize)> = Vec::new();
    for (path, from, to) in changes {
        let change = (pattern(&path), from, to);
        match rows.iter_mut().find(|(other, _)| *other == change) {
            Some((_, count)) => *count += 1,
            None => rows.push((change, 1)),
        }
    }
    rows
}

fn memory(from: &Plan, to: &Plan) -> Vec<BytesChange> {
    let (from, to) = (MemoryReport::new(from), MemoryReport::new(to));
    let mut names: Vec<&'static str> = from.categories.iter().map(|c| c.name).collect();
    names.extend(to.categories.iter().map(|c| c.name).filter(|name| from.category(name) == 0));
    let mut rows: Vec<BytesChange> = Vec::new();
    for name in names {
        let row = BytesChange { name, from: from.category(name), to: to.category(name) };
        if row.from != row.to && !rows.contains(&row) {
            rows.push(row);
        }
    }
    if from.total != to.total {
        rows.push(BytesChange { name: "total", from: from.total, to: to.total });
    }
    rows
}

fn operations(from: &Plan, to: &Plan) -> Vec<OperationChange> {
    let counts = |plan: &Plan| {
        let mut counts: BTreeMap<(&'static str, String, &'static str), usize> = BTreeMap::new();
        for program in &plan.programs {
            for operation in &program.operations {
                let scope = operation.scope.map(|scope| pattern(&plan.scopes[scope as usize]));
                let block = scope.unwrap_or_else(|| "rest".to_owned());
                *counts.entry((program.kind.name(), block, operation.op.name())).or_default() += 1;
            }
        }
        counts
    };
    let change = |((program, block, op), from, to): (_, Option<usize>, Option<usize>)| {
        let (from, to) = (from.unwrap_or(0), to.unwrap_or(0));
        OperationChange { program, block, op, from, to }
    };
    changed(&counts(from), &counts(to)).into_iter().map(change).collect()
}
