//! A stage for Graphviz: boxes are clusters, values are edges.
//!
//! Owns the file's form. What goes from turn to turn of a fold is drawn dashed, from the end of a turn back to its
//! beginning. Inputs that no node reads are left out by nothing: every node of the stage is there.

use std::fmt::Write;

use super::{SIGNATURE, heading, inner};
use crate::view::picture::model::{BoxKind, Node, NodeKind, Picture, Stage, Use};
use crate::view::text::{count, grouped};

/// The file of a picture's first stage.
pub fn text(picture: &Picture, stage: &Stage) -> String {
    let title = quoted(&format!("{} ({}), {}", picture.name, picture.form, stage.name));
    let mut text = format!("// {SIGNATURE}\ndigraph {title} {{\n");
    text +=
        "  graph [rankdir=TB, fontname=\"Helvetica\", fontsize=11, labeljust=l, compound=true];\n";
    text += "  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=10];\n";
    text += "  edge [color=\"#57606a\", arrowsize=0.6, fontname=\"Helvetica\", fontsize=8];\n";
    let label = match picture.note_on(stage) {
        Some(note) => {
            quoted(&format!("{} ({}), {}\n{note}", picture.name, picture.form, stage.name))
        }
        None => title,
    };
    let _ = writeln!(text, "  label={label};");
    cluster(stage, 0, 1, &mut text);
    for (index, node) in stage.nodes.iter().enumerate() {
        for operand in &node.operands {
            edges(stage, index, operand, &mut text);
        }
    }
    text += "}\n";
    text
}

fn cluster(stage: &Stage, around: usize, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    for (index, node) in stage.nodes.iter().enumerate().filter(|(_, n)| n.parent == around) {
        let _ = writeln!(text, "{indent}n{index} [{}];", attributes(stage, node));
    }
    for index in inner(stage, around) {
        let one = &stage.boxes[index];
        let _ = writeln!(text, "{indent}subgraph cluster_{index} {{");
        let mut label = heading(one);
        if one.total.parameters > 0 {
            let _ = write!(label, "\n{} parameters", grouped(one.total.parameters));
        }
        let style = match one.kind {
            BoxKind::Fold => "rounded,bold",
            BoxKind::Pair => "rounded,filled",
            _ => "rounded",
        };
        let fill = if one.kind == BoxKind::Pair { ", fillcolor=\"#ddf4ff\"" } else { "" };
        let tooltip = quoted(&one.path);
        let _ = writeln!(
            text,
            "{indent}  label={}; tooltip={tooltip}; graph [style=\"{style}\", color=\"#8c959f\"{fill}];",
            quoted(&label)
        );
        cluster(stage, index, depth + 1, text);
        let _ = writeln!(text, "{indent}}}");
    }
}

fn attributes(stage: &Stage, node: &Node) -> String {
    let mut label = node.label.clone();
    if node.label != node.op {
        let _ = write!(label, "\n{}", node.op);
    }
    if let Some(&first) = node.results.first() {
        let value = &stage.values[first];
        let _ = write!(label, "\n{} {}", value.dtype, value.shape);
    }
    if node.flops > 0 {
        let _ = write!(label, "\n{} FLOPs", count(node.flops as f64));
    }
    let (fill, shape) = match node.kind {
        NodeKind::Product => ("#b6e3ff", ""),
        NodeKind::Attention => ("#d8b9ff", ""),
        NodeKind::Norm => ("#fff8c5", ""),
        NodeKind::Pointwise => ("#dafbe1", ""),
        NodeKind::Embedding => ("#ffd8b5", ""),
        NodeKind::Loss => ("#ffcecb", ""),
        NodeKind::Memory | NodeKind::Optimizer => ("#eaeef2", ""),
        NodeKind::Input => ("#ffffff", ", shape=ellipse"),
        NodeKind::Parameter | NodeKind::Constant => ("#f6f8fa", ", shape=note"),
        NodeKind::View => ("#ffffff", ", style=\"rounded,dashed\""),
    };
    let kept = node.results.iter().any(|&value| stage.values[value].kept);
    let kept = if kept { ", penwidth=2.5" } else { "" };
    let mut tooltip = format!("{} ({})", node.path, node.phase);
    if let Some(detail) = &node.detail {
        let _ = write!(tooltip, "\n{detail}");
    }
    format!(
        "label={}, fillcolor=\"{fill}\"{shape}{kept}, tooltip={}",
        quoted(&label),
        quoted(&tooltip)
    )
}

fn edges(stage: &Stage, reader: usize, operand: &Use, text: &mut String) {
    let maker = stage.values[operand.value].node;
    match &operand.carried {
        None => {
            let _ = writeln!(text, "  n{maker} -> n{reader};");
        }
        Some(carried) => {
            let label = if carried.turn < 0 { "next turn" } else { "turn before" };
            let _ = writeln!(
                text,
                "  n{maker} -> n{reader} [style=dashed, constraint=false, label=\"{label}\"];"
            );
            edges(stage, reader, &carried.outside, text);
        }
    }
}

/// A text between quotes: Graphviz reads backslashes in labels as words of its own.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            // An ampersand may begin the name of a letter.
            '&' => quoted.push_str("&amp;"),
            c if c.is_control() => quoted.push('\u{fffd}'),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
