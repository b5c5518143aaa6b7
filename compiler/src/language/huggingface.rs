//! What a Hugging Face `config.json` says about a model of an architecture.
//!
//! Owns the section `[huggingface]`: other names and values of settings, and what is said besides for each form. Must
//! not know where the file is written.

use serde_json::{Map, Value as Json};

use crate::diagnostics::{Diagnostic, did_you_mean};
use crate::language::codes;
use crate::language::config::Config;
use crate::language::document::{plain, table, text, unknown_key, wrong_value};
use crate::language::expression::{Expression, Names, Value};
use crate::toml_tree::{Entry, Node, Tree};

/// Names that expressions of this section may read besides the configuration.
///
/// `sequence_length`: tokens of a training row. In the CoLA form also `rank`: the rank if all pairs have the same, else
/// the largest, and `bypassed`: whether the spec's `bypass` names any node.
pub const EXPORT_NAMES: [&str; 3] = ["sequence_length", "rank", "bypassed"];

/// Whether linears are dense or pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Every linear is dense.
    FullRank,
    /// Linears are CoLA pairs.
    Cola,
}

/// A setting under another name or with other values.
#[derive(Clone, Debug, PartialEq)]
struct Renamed {
    /// Name in an architecture.
    setting: String,
    /// Where it is said, for messages.
    entry_span: crate::diagnostics::Span,
    /// Name in `config.json`.
    name: String,
    /// Texts and what they are called there.
    values: Vec<(String, String)>,
}

/// What a key of `config.json` says.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Literal(Json),
    Expression(Expression),
}

/// The section `[huggingface]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HuggingFace {
    renamed: Vec<Renamed>,
    full_rank: Option<Vec<(String, Said)>>,
    cola: Option<Vec<(String, Said)>>,
}

impl HuggingFace {
    /// Reads the section.
    pub(crate) fn read(node: &Node) -> Result<HuggingFace, Diagnostic> {
        let mut read = HuggingFace::default();
        for entry in &table(node)?.0 {
            match entry.key.as_str() {
                "full_rank" => read.full_rank = Some(said(&entry.node)?),
                "cola" => read.cola = Some(said(&entry.node)?),
                _ => read.renamed.push(renamed(entry)?),
            }
        }
        Ok(read)
    }

    /// Makes sure that renamed settings exist and expressions read known names.
    pub(crate) fn check<'a>(
        &self,
        settings: impl Iterator<Item = &'a str> + Clone,
    ) -> Vec<Diagnostic> {
        let mut wrong = Vec::new();
        for renamed in &self.renamed {
            if !settings.clone().any(|known| known == renamed.setting) {
                let help = did_you_mean(&renamed.setting, settings.clone(), || {
                    "declare it in `[config]`".to_owned()
                });
                let message = format!("`[config]` has no `{}` to rename", renamed.setting);
                wrong.push(
                    Diagnostic::error(codes::UNKNOWN_KEY, message)
                        .at(renamed.entry_span, "unknown")
                        .help(help),
                );
            }
        }
        let known = settings.chain(EXPORT_NAMES);
        for (_, said) in self.full_rank.iter().chain(&self.cola).flatten() {
            if let Said::Expression(expression) = said {
                wrong.extend(expression.check_names(known.clone()).err());
            }
        }
        wrong
    }

    /// What `config.json` says about a model: every setting under its name there, and what the form adds. `None` if
    /// the architecture says nothing about the form.
    ///
    /// `names` gives the values of [`EXPORT_NAMES`].
    ///
    /// # Errors
    /// An expression of the section that has no value.
    pub fn config_json(
        &self,
        config: &Config,
        form: Form,
        names: &Names<'_>,
    ) -> Result<Option<Map<String, Json>>, Diagnostic> {
        let said = match form {
            Form::FullRank => &self.full_rank,
            Form::Cola => &self.cola,
        };
        let Some(said) = said else { return Ok(None) };
        let mut json = Map::new();
        for (name, value) in config.iter() {
            let renamed = self.renamed.iter().find(|renamed| renamed.setting == name);
            let key = renamed.map_or(name, |renamed| &renamed.name);
            let known = value.as_text().and_then(|text| {
                renamed?
                    .values
                    .iter()
                    .find(|(here, _)| here == text)
                    .map(|(_, there)| Json::from(there.as_str()))
            });
            json.insert(key.to_owned(), known.unwrap_or_else(|| to_json(value)));
        }
        for (key, said) in said {
            let value = match said {
                Said::Literal(json) => json.clone(),
                Said::Expression(expression) => to_json(
                    &expression
                        .evaluate(&|name| config.get(name).cloned().or_else(|| names(name)))?,
                ),
            };
            json.insert(key.clone(), value);
        }
        Ok(Some(json))
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Boolean(truth) => Json::from(*truth),
        Value::Text(text) => Json::from(text.as_str()),
    }
}

/// `name = "other"`, or `name = { name = "other", values = { a = "b" } }`.
fn renamed(entry: &Entry) -> Result<Renamed, Diagnostic> {
    let setting = entry.key.clone();
    let mut renamed =
        Renamed { name: setting.clone(), setting, entry_span: entry.key_span, values: Vec::new() };
    let Tree::Table(parts) = &entry.node.value else {
        renamed.name = text(&entry.node)?.0.to_owned();
        return Ok(renamed);
    };
    for part in &parts.0 {
        match part.key.as_str() {
            "name" => renamed.name = text(&part.node)?.0.to_owned(),
            "values" => {
                for value in &table(&part.node)?.0 {
                    renamed.values.push((value.key.clone(), text(&value.node)?.0.to_owned()));
                }
            }
            _ => return Err(unknown_key(part, "a renamed setting", &["name", "values"])),
        }
    }
    Ok(renamed)
}

/// Literals, or `{ expression = "…" }`.
fn said(node: &Node) -> Result<Vec<(String, Said)>, Diagnostic> {
    let mut all = Vec::new();
    for entry in &table(node)?.0 {
        let said = match &entry.node.value {
            Tree::Table(parts) => {
                let [part] = parts.0.as_slice() else {
                    return Err(wrong_value(&entry.node, "{ expression = \"…\" }"));
                };
                if part.key != "expression" {
                    return Err(unknown_key(part, "a computed value", &["expression"]));
                }
                let (text, span) = text(&part.node)?;
                Said::Expression(Expression::parse(text, span.source, span.start as usize)?)
            }
            _ => Said::Literal(literal(&entry.node)?),
        };
        all.push((entry.key.clone(), said));
    }
    Ok(all)
}

fn literal(node: &Node) -> Result<Json, Diagnostic> {
    match &node.value {
        Tree::List(nodes) => {
            nodes.iter().map(literal).collect::<Result<Vec<_>, _>>().map(Json::from)
        }
        _ => plain(node)
            .map(|value| to_json(&value))
            .ok_or_else(|| wrong_value(node, "a number, text, truth value or list")),
    }
}
