//! Whether a value is of the type and in the range that [`super::schema`] gives its key.
//!
//! Must not know sections or rules between keys.

use super::codes;
use super::schema::{Key, Kind, LARGEST_RANK};
use super::size::parse_bytes;
use crate::diagnostics::{Diagnostic, nearest};
use crate::toml_tree::{Node, Tree};

/// Checks a value against its key's kind; a whole number given for a number becomes a float.
pub(super) fn check(key: &Key, node: Node) -> Result<Node, Diagnostic> {
    let path = key.path();
    let wrong_type = |node: &Node| {
        let help = match (&key.kind, &node.value) {
            (Kind::Integer(..), Tree::Float(number))
                if number.fract() == 0.0 && number.abs() < 1e15 =>
            {
                format!("write it without fraction and exponent: `{} = {number}`", key.name)
            }
            _ => format!("give {}", key.kind),
        };
        Diagnostic::error(codes::WRONG_TYPE, format!("`{path}` takes another type of value"))
            .at(node.span, format!("this is {}", node.value.type_name()))
            .help(help)
    };
    let out_of_range = |node: &Node, fault: &str| {
        Diagnostic::error(codes::OUT_OF_RANGE, format!("`{path}` is out of range"))
            .at(node.span, fault)
            .help(format!("give {}", key.kind))
    };
    let empty = |node: &Node| {
        Diagnostic::error(codes::EMPTY, format!("`{path}` must not be empty"))
            .at(node.span, "nothing in it")
            .help(format!("give {}, or remove the key if it has a default", key.kind))
    };
    let within = |node: Node, low: i64, high: i64, number: i64| match number {
        _ if number < low => Err(out_of_range(&node, "too small")),
        _ if number > high => Err(out_of_range(&node, "too large")),
        _ => Ok(node),
    };
    let unknown_value = |node: &Node, names: &[&'static str], text: &str, otherwise: String| {
        let help = match nearest(text, names.iter().copied()) {
            Some(near) => format!("write \"{near}\""),
            None => otherwise,
        };
        Diagnostic::error(codes::UNKNOWN_VALUE, format!("`{path}` has no value \"{text}\""))
            .at(node.span, "not one of the names")
            .help(help)
    };
    match (&key.kind, &node.value) {
        (Kind::Integer(low, high), &Tree::Integer(number)) => within(node, *low, *high, number),
        (Kind::Rank, &Tree::Integer(number)) => within(node, 1, LARGEST_RANK, number),
        (Kind::Integer(..) | Kind::Rank, Tree::HugeInteger(_)) => {
            Err(out_of_range(&node, "does not fit 64 bits"))
        }
        (Kind::Number(interval), Tree::Integer(_) | Tree::Float(_) | Tree::HugeInteger(_)) => {
            let number = match &node.value {
                Tree::Integer(number) => *number as f64,
                Tree::Float(number) => *number,
                _ => f64::INFINITY,
            };
            match interval.contains(number) {
                true => Ok(Node { value: Tree::Float(number), span: node.span }),
                false if number.is_finite() && number <= interval.low => {
                    Err(out_of_range(&node, "too small"))
                }
                false if number.is_finite() => Err(out_of_range(&node, "too large")),
                false => Err(out_of_range(&node, "not a finite number")),
            }
        }
        (Kind::Boolean, Tree::Boolean(_)) => Ok(node),
        (Kind::Memory, Tree::Text(text, _)) => match parse_bytes(text) {
            _ if text == "device" => Ok(node),
            Ok(_) => Ok(node),
            Err(reason) => {
                Err(Diagnostic::error(codes::UNKNOWN_VALUE, format!("`{path}` is not a size"))
                    .at(node.span, reason)
                    .help(
                        "write a number with a unit, as in \"24 GiB\" or \"80 GB\", or \"device\"",
                    ))
            }
        },
        (Kind::Name(names), Tree::Text(text, _)) => match names.contains(&text.as_str()) {
            true => Ok(node),
            false => Err(unknown_value(&node, names, text, format!("write {}", key.kind))),
        },
        (Kind::Switches(_), Tree::Boolean(_)) => Ok(node),
        (Kind::Switches(names), Tree::List(nodes)) => {
            for inner in nodes {
                match &inner.value {
                    Tree::Text(text, _) if names.contains(&text.as_str()) => {}
                    Tree::Text(text, _) => {
                        let known = format!("write one of {}", names.join(", "));
                        return Err(unknown_value(inner, names, text, known));
                    }
                    _ => return Err(wrong_type(inner)),
                }
            }
            Ok(node)
        }
        (
            Kind::Text
            | Kind::Texts
            | Kind::Rank
            | Kind::Activation
            | Kind::Selectors
            | Kind::Paths,
            Tree::Text(text, _),
        ) => match text.trim().is_empty() {
            true => Err(empty(&node)),
            false => Ok(node),
        },
        (Kind::Line, Tree::Text(text, _)) => match text.contains(['\n', '\r']) {
            true => Err(out_of_range(&node, "a line end in it")),
            false => Ok(node),
        },
        (Kind::Selectors | Kind::Paths | Kind::Texts, Tree::List(nodes)) => {
            for inner in nodes {
                match &inner.value {
                    Tree::Text(text, _) if text.trim().is_empty() => return Err(empty(inner)),
                    Tree::Text(..) => {}
                    _ => return Err(wrong_type(inner)),
                }
            }
            match nodes.is_empty() && matches!(key.name, "targets" | "paths") {
                true => Err(empty(&node)),
                false => Ok(node),
            }
        }
        _ => Err(wrong_type(&node)),
    }
}
