//! The names of a model's tensors in checkpoints: rules from paths to names.
//!
//! Owns the section `[weights]`. Must not know which paths a model has or which parameters stand under them.

use crate::diagnostics::{Diagnostic, Span, nearest};
use crate::language::codes;
use crate::language::document::{text, unknown_key, wrong_value};
use crate::language::selector::Selector;
use crate::toml_tree::{Entry, Node, Tree};

/// Order of the two axes of a matrix in a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`, as in memory.
    #[default]
    OutIn,
    /// `[in, out]`.
    InOut,
}

/// What paths that a pattern selects are called in a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightRule {
    /// The paths it speaks of.
    pub pattern: Selector,
    /// The name; stars stand for what the stars of the pattern stood for. `None` keeps the path.
    pub tensor: Option<String>,
    /// Order of axes of matrices.
    pub layout: Layout,
    /// The linears that the alternatives of the pattern select lie in one tensor, side by side along their outputs, in
    /// the order of the alternatives.
    pub join: bool,
}

impl WeightRule {
    /// Reads one entry of the section.
    pub(crate) fn read(entry: &Entry) -> Result<WeightRule, Diagnostic> {
        let pattern =
            Selector::parse(&entry.key, entry.key_text.source, entry.key_text.start as usize)?;
        let (mut tensor, mut layout, mut join) = (None, Layout::default(), None);
        match &entry.node.value {
            Tree::Table(entries) => {
                for part in &entries.0 {
                    match part.key.as_str() {
                        "tensor" => tensor = Some(template(&part.node, &pattern)?),
                        "layout" => layout = read_layout(&part.node)?,
                        "join" => join = Some(read_join(&part.node)?),
                        _ => {
                            return Err(unknown_key(
                                part,
                                "a rule for weights",
                                &["tensor", "layout", "join"],
                            ));
                        }
                    }
                }
            }
            _ => tensor = Some(template(&entry.node, &pattern)?),
        }
        if let Some(span) = join {
            let wrong = |reason: &str, help: &str| {
                Err(Diagnostic::error(codes::WEIGHTS, "these linears cannot be joined")
                    .at(span, reason)
                    .at(pattern.span(), "for these paths")
                    .help(help))
            };
            if tensor.is_none() {
                let help =
                    "add `tensor = \"…\"` with the name of the tensor that holds all of them";
                return wrong("joined in a tensor without a name", help);
            }
            if pattern.alternatives().len() < 2 {
                let help = "write the linears between braces, in the order in which they lie in the tensor: `{q,k,v}`";
                return wrong("one pattern alone", help);
            }
        }
        Ok(WeightRule { pattern, tensor, layout, join: join.is_some() })
    }

    /// The name in a checkpoint for a path, if the rule speaks of it.
    pub fn tensor_name(&self, path: &str) -> Option<String> {
        self.place(path).map(|(name, _)| name)
    }

    /// The name in a checkpoint for a path and the alternative of the pattern that selects it, if the rule speaks of it.
    pub(crate) fn place(&self, path: &str) -> Option<(String, usize)> {
        let (alternative, captures) = self.pattern.matching_alternative(path)?;
        Some((self.fill(path, captures), alternative))
    }

    fn fill(&self, path: &str, captures: Vec<String>) -> String {
        let mut captures = captures.into_iter();
        let Some(tensor) = &self.tensor else { return path.to_owned() };
        let mut segments = Vec::new();
        for segment in tensor.split('.') {
            if segment == "**" {
                // Any number of segments may be none at all.
                segments.extend(captures.next().filter(|captured| !captured.is_empty()));
                continue;
            }
            let mut pieces = segment.split('*');
            let mut name = pieces.next().unwrap_or_default().to_owned();
            for piece in pieces {
                name.push_str(&captures.next().unwrap_or_default());
                name.push_str(piece);
            }
            segments.push(name);
        }
        segments.join(".")
    }
}

/// The stars of a name or pattern, in order, `**` as one.
fn stars(text: &str) -> Vec<&str> {
    text.split('.')
        .flat_map(|segment| {
            if segment == "**" { vec!["**"] } else { vec!["*"; segment.matches('*').count()] }
        })
        .collect()
}

fn template(node: &Node, pattern: &Selector) -> Result<String, Diagnostic> {
    let (name, _) = text(node)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '*');
    let wrong = |span: Span, reason: &str, help: &str| {
        Err(Diagnostic::error(codes::WEIGHTS, format!("`{name}` cannot name tensors"))
            .at(span, reason)
            .at(pattern.span(), "for these paths")
            .help(help))
    };
    if name.is_empty() || !name.chars().all(legal) || name.split('.').any(str::is_empty) {
        return wrong(
            node.span,
            "not a name",
            "write segments between dots, with the stars of the pattern",
        );
    }
    let wanted = stars(name);
    if pattern.wildcards().iter().any(|found| *found != wanted) {
        let help = "write the same stars in the same order as in the pattern";
        return wrong(node.span, "its stars are not those of the pattern", help);
    }
    Ok(name.to_owned())
}

/// The place of the only value that `join` may have: along the outputs of linears.
fn read_join(node: &Node) -> Result<Span, Diagnostic> {
    match text(node) {
        Ok(("out", _)) => Ok(node.span),
        Ok((written, _)) => Err(Diagnostic::error(
            codes::WEIGHTS,
            format!("weights cannot be joined along \"{written}\""),
        )
        .at(node.span, "unknown axis")
        .help("write \"out\": linears of one input are joined along their outputs")),
        Err(_) => Err(wrong_value(node, "\"out\"")),
    }
}

fn read_layout(node: &Node) -> Result<Layout, Diagnostic> {
    let layouts = [("out,in", Layout::OutIn), ("in,out", Layout::InOut)];
    let Ok((written, _)) = text(node) else {
        return Err(wrong_value(node, "\"out,in\" or \"in,out\""));
    };
    layouts.into_iter().find(|(name, _)| *name == written).map(|(_, layout)| layout).ok_or_else(
        || {
            let near = nearest(written, layouts.map(|(name, _)| name)).unwrap_or("out,in");
            Diagnostic::error(codes::WEIGHTS, format!("there is no layout \"{written}\""))
                .at(node.span, "unknown layout")
                .help(format!("write \"{near}\""))
        },
    )
}
