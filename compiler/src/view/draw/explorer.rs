//! Pictures in the JSON of Google's model-explorer, so that a viewer that is there opens them.
//!
//! Owns the form of that file, which `docs/how-to/graph.md` describes and `tests/cases/graph/model-explorer.schema.json`
//! checks: a collection of graphs, one for each stage, whose nodes lie in nested namespaces. A namespace holds at most
//! [`LEVEL`] nodes, because the viewer lays out a level at a time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{SIGNATURE, heading};
use crate::view::picture::model::{Node, Picture, Stage, Use};

/// Most nodes directly in one namespace.
pub const LEVEL: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GraphNode<'a> {
    id: String,
    label: &'a str,
    namespace: String,
    attrs: Vec<Attribute>,
    incoming_edges: Vec<Edge>,
    outputs_metadata: Vec<Metadata>,
}

#[derive(Serialize)]
struct Attribute {
    key: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    source_node_id: String,
    source_node_output_id: String,
    target_node_input_id: String,
}

#[derive(Serialize)]
struct Metadata {
    id: String,
    attrs: Vec<Attribute>,
}

/// The file of a picture, one node a line.
pub fn json(picture: &Picture) -> String {
    let label = format!("{} ({}) {SIGNATURE}", picture.name, picture.form);
    let graphs: Vec<String> = picture.stages.iter().map(|stage| graph(picture, stage)).collect();
    format!("{{\"label\": {}, \"graphs\": [\n{}\n]}}\n", line(&label), graphs.join(",\n"))
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a picture has a JSON form")
}

fn graph(picture: &Picture, stage: &Stage) -> String {
    let namespaces = namespaces(stage);
    let mut groups: BTreeMap<String, BTreeMap<&'static str, String>> = BTreeMap::new();
    for (one, namespace) in stage.boxes.iter().zip(&namespaces) {
        let total = &one.total;
        let numbers = [
            ("parameters", total.parameters),
            ("forward FLOPs", total.forward),
            ("backward FLOPs", total.backward),
            ("recompute FLOPs", total.recompute),
            ("bytes moved", total.bytes),
            ("bytes kept", total.kept),
            ("instances", one.times),
        ];
        let mut attributes: BTreeMap<&'static str, String> =
            numbers.map(|(key, number)| (key, number.to_string())).into();
        attributes.insert("path", one.path.clone());
        if let Some(pair) = &one.pair {
            attributes.insert("rank", pair.rank.to_string());
            attributes.insert("activation", pair.activation.clone());
        }
        if let Some(reason) = &one.reason {
            attributes.insert("dense because", reason.clone());
        }
        groups.insert(namespace.clone(), attributes);
    }
    // The attributes of the whole graph stand under the empty namespace.
    let whole = groups.entry(String::new()).or_default();
    whole.insert("precision", picture.precision.to_owned());
    whole.insert("recompute", picture.recompute.clone());
    if let Some(note) = picture.note_on(stage) {
        whole.insert("note", note.to_owned());
    }
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    let mut held: BTreeMap<usize, usize> = BTreeMap::new();
    for node in &stage.nodes {
        *held.entry(node.parent).or_default() += 1;
    }
    let nodes = stage.nodes.iter().enumerate().map(|(index, node)| {
        let number = seen.entry(node.parent).or_default();
        let mut namespace = namespaces[node.parent].clone();
        if held[&node.parent] > LEVEL {
            let part = format!("part {}", *number / LEVEL + 1);
            namespace = joined(&namespace, &part);
        }
        *number += 1;
        line(&GraphNode {
            id: format!("n{index}"),
            label: &node.label,
            namespace,
            attrs: attributes(node),
            incoming_edges: edges(stage, node),
            outputs_metadata: outputs(stage, node),
        })
    });
    let nodes: Vec<String> = nodes.collect();
    format!(
        "{{\"id\": {}, \"nodes\": [\n{}\n],\n\"groupNodeAttributes\": {}}}",
        line(&stage.name),
        nodes.join(",\n"),
        line(&groups)
    )
}

/// The namespace of every box: what stands on it and on those around it.
fn namespaces(stage: &Stage) -> Vec<String> {
    let mut namespaces: Vec<String> = Vec::with_capacity(stage.boxes.len());
    for one in &stage.boxes {
        namespaces.push(match one.parent {
            None => String::new(),
            // A slash would begin another level.
            Some(parent) => joined(&namespaces[parent], &heading(one).replace('/', "∕")),
        });
    }
    namespaces
}

fn joined(around: &str, name: &str) -> String {
    if around.is_empty() { name.to_owned() } else { format!("{around}/{name}") }
}

fn attributes(node: &Node) -> Vec<Attribute> {
    let mut attributes = vec![
        Attribute { key: "op", value: node.op.to_owned() },
        Attribute { key: "kind", value: node.kind.name().to_owned() },
        Attribute { key: "path", value: node.path.clone() },
        Attribute { key: "phase", value: node.phase.to_owned() },
    ];
    let numbers = [
        ("FLOPs", node.flops),
        ("bytes moved", node.bytes),
        ("parameters", node.parameters),
        ("workspace bytes", node.workspace),
    ];
    let numbers = numbers.into_iter().filter(|(_, number)| *number > 0);
    attributes.extend(numbers.map(|(key, n)| Attribute { key, value: n.to_string() }));
    let known = [
        ("recompute region", node.region.map(|region| region.to_string())),
        ("program", node.program.map(str::to_owned)),
        ("position", node.position.map(|position| position.to_string())),
        ("made by", node.pass.map(str::to_owned)),
        ("architecture line", node.line.map(|line| line.to_string())),
        ("spec line", node.spec_line.map(|line| line.to_string())),
        ("detail", node.detail.clone()),
    ];
    let known = known.into_iter().filter_map(|(key, value)| Some(Attribute { key, value: value? }));
    attributes.extend(known);
    attributes
}

/// What a node reads. What comes from a neighbouring turn is not drawn: its reader shows what the end of the repeat
/// reads, since the viewer lays out no rings.
fn edges(stage: &Stage, node: &Node) -> Vec<Edge> {
    let edge = |(input, operand): (usize, &Use)| {
        let mut operand = operand;
        while let Some(carried) = &operand.carried {
            operand = &carried.outside;
        }
        let maker = stage.values[operand.value].node;
        let results = &stage.nodes[maker].results;
        let output = results.iter().position(|&value| value == operand.value).unwrap_or(0);
        Edge {
            source_node_id: format!("n{maker}"),
            source_node_output_id: output.to_string(),
            target_node_input_id: input.to_string(),
        }
    };
    node.operands.iter().enumerate().map(edge).collect()
}

fn outputs(stage: &Stage, node: &Node) -> Vec<Metadata> {
    let output = |(index, &value): (usize, &usize)| {
        let value = &stage.values[value];
        let mut attrs = vec![
            Attribute { key: "tensor_shape", value: format!("{} {}", value.dtype, value.shape) },
            Attribute { key: "name", value: value.name.clone() },
            Attribute { key: "bytes", value: value.bytes.to_string() },
        ];
        if value.kept {
            attrs.push(Attribute { key: "kept", value: "until the backward pass".to_owned() });
        }
        if let Some(segment) = value.segment {
            attrs.push(Attribute { key: "segment", value: segment.to_owned() });
        }
        if let Some(place) = value.places.first() {
            attrs.push(Attribute { key: "offset", value: place.0.to_string() });
            if let (Some(first), Some(last)) = (place.1, place.2) {
                attrs.push(Attribute { key: "life", value: format!("{first}–{last}") });
            }
        }
        Metadata { id: index.to_string(), attrs }
    };
    node.results.iter().enumerate().map(output).collect()
}
