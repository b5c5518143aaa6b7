//! Architecture files: TOML sections around a body in the layer language.
//!
//! Owns which sections and keys an architecture has and what their values must be. Must not know specs; what `[config]`
//! is worth for one model is decided in [`crate::language::config`].

use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span};
use crate::language::check;
use crate::language::codes;
use crate::language::document::{self, table, text, unknown_key, wrong_value};
use crate::language::expression::{Expression, Value};
use crate::language::huggingface::HuggingFace;
use crate::language::syntax::Body;
use crate::language::weights::WeightRule;
use crate::toml_tree::{Node, Table, Tree};

/// The version of the language that this compiler reads.
pub const LANGUAGE_VERSION: i64 = 1;

/// More settings than this are a mistake; derived ones are resolved by recursion.
const MAX_SETTINGS: usize = 512;

/// The top-level keys and sections.
const KEYS: [&str; 8] =
    ["language", "about", "objective", "config", "check", "huggingface", "weights", "body"];

/// What a model is trained for; it names the inputs a model may declare and the labels that come with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Predict the next token: inputs `tokens: ids[batch, seq]`, one label per position, mean cross entropy.
    NextToken,
}

impl Objective {
    /// Every objective with its name in files.
    pub const ALL: [(&str, Objective); 1] = [("next-token", Objective::NextToken)];

    /// The inputs it supplies.
    pub fn inputs(self) -> &'static [SuppliedInput] {
        match self {
            Objective::NextToken => {
                &[SuppliedInput { name: "tokens", kind: "ids", axes: &["batch", "seq"] }]
            }
        }
    }
}

/// An input that an objective supplies.
#[derive(Clone, Copy, Debug)]
pub struct SuppliedInput {
    /// Its name.
    pub name: &'static str,
    /// What its elements are.
    pub kind: &'static str,
    /// Its axes.
    pub axes: &'static [&'static str],
}

/// What a setting may be.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigKind {
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// One of these texts.
    OneOf(Vec<String>),
}

impl ConfigKind {
    /// With an article, for messages.
    pub fn describe(&self) -> String {
        match self {
            ConfigKind::Integer => "a whole number".into(),
            ConfigKind::Number => "a number".into(),
            ConfigKind::Boolean => "true or false".into(),
            ConfigKind::OneOf(texts) => {
                format!(
                    "one of {}",
                    texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ")
                )
            }
        }
    }
}

/// What a setting is worth when a spec does not give it.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigDefault {
    /// Fixed.
    Value(Value),
    /// Computed from other settings.
    Expression(Expression),
}

/// One setting that the architecture has.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEntry {
    /// Its name, as in `[model]` of a spec.
    pub name: String,
    /// Where it is declared: name and default.
    pub span: Span,
    /// What it may be.
    pub kind: ConfigKind,
    /// `None` for a required setting.
    pub default: Option<ConfigDefault>,
}

/// A condition on the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Must be true.
    pub condition: Expression,
    /// Why.
    pub reason: String,
}

/// A parsed architecture in which every name is known.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// The file.
    pub source: SourceId,
    /// One line for people.
    pub about: String,
    /// What it is trained for.
    pub objective: Objective,
    /// Where that is said.
    pub objective_span: Span,
    /// Settings in the order declared, required ones first as listed.
    pub config: Vec<ConfigEntry>,
    /// Conditions in the order written.
    pub checks: Vec<Check>,
    /// How a `config.json` is written.
    pub huggingface: HuggingFace,
    /// Names of tensors in checkpoints; the first rule that matches wins.
    pub weights: Vec<WeightRule>,
    /// What the model computes.
    pub body: Body,
}

impl Architecture {
    /// Reads and checks the architecture in a source; texts with escapes become sources of their own.
    ///
    /// # Errors
    /// Everything that is wrong with the file by itself, in one collection.
    pub fn parse(source: SourceId, sources: &mut Sources) -> Result<Architecture, Diagnostics> {
        match Architecture::read(source, sources) {
            (Some(architecture), diagnostics) if !diagnostics.has_errors() => Ok(architecture),
            (_, diagnostics) => Err(diagnostics),
        }
    }

    /// Reads and checks the architecture in a source, and gives it with everything that is wrong with it wherever that
    /// lies in what its body computes: what it declares can then be relied on, its settings among it.
    pub fn read(source: SourceId, sources: &mut Sources) -> (Option<Architecture>, Diagnostics) {
        let root = match document::parse(source, sources) {
            Ok(root) => root,
            Err(diagnostics) => return (None, diagnostics),
        };
        let mut reader = Reader { source, diagnostics: Diagnostics::default() };
        if let Err(diagnostics) = reader.version(&root) {
            return (None, diagnostics);
        }
        let architecture = reader.architecture(&root);
        let mut diagnostics = reader.diagnostics;
        let is_declared = !diagnostics.has_errors();
        if let Some(architecture) = &architecture {
            diagnostics.extend(check::check(architecture));
        }
        (architecture.filter(|_| is_declared), diagnostics)
    }

    /// The declaration of a setting.
    pub fn entry(&self, name: &str) -> Option<&ConfigEntry> {
        self.config.iter().find(|entry| entry.name == name)
    }

    /// The names of all settings.
    pub fn config_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.config.iter().map(|entry| entry.name.as_str())
    }
}

struct Reader {
    source: SourceId,
    diagnostics: Diagnostics,
}

impl Reader {
    /// Keeps what is there and reports what is wrong.
    fn keep<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.diagnostics.push(diagnostic)).ok()
    }

    fn start_of_file(&self) -> Span {
        Span::new(self.source, 0..0)
    }

    /// Nothing else is worth reading in a file of another language.
    fn version(&self, root: &Table) -> Result<(), Diagnostics> {
        let Some(entry) = root.get("language") else {
            return Err(self.missing("language", "language = 1").into());
        };
        match &entry.node.value {
            Tree::Integer(LANGUAGE_VERSION) => Ok(()),
            _ => Err(Diagnostic::error(
                codes::VERSION,
                "the file is written in a language that this version does not read",
            )
            .at(entry.node.span, format!("this version reads language {LANGUAGE_VERSION}"))
            .help(format!("write `language = {LANGUAGE_VERSION}`, or use a newer version"))
            .into()),
        }
    }

    fn missing(&self, key: &str, example: &str) -> Diagnostic {
        Diagnostic::error(codes::MISSING_KEY, format!("an architecture needs `{key}`"))
            .at(self.start_of_file(), "not in this file")
            .help(format!("add `{example}`"))
    }

    fn architecture(&mut self, root: &Table) -> Option<Architecture> {
        for entry in root.0.iter().filter(|entry| !KEYS.contains(&entry.key.as_str())) {
            self.diagnostics.push(unknown_key(entry, "an architecture", &KEYS));
        }
        let mut required = |key: &str, example: &str| {
            let found = root.get(key);
            if found.is_none() {
                let missing = self.missing(key, example);
                self.diagnostics.push(missing);
            }
            found
        };
        let about = required("about", "about = \"one line\"");
        let objective = required("objective", "objective = \"next-token\"");
        let config = required("config", "[config]");
        let body = required("body", "[body]");
        let about =
            about.and_then(|entry| self.keep(text(&entry.node)).map(|(text, _)| text.to_owned()));
        let objective_span = objective.map(|entry| entry.span());
        let objective = objective.and_then(|entry| self.objective(&entry.node));
        let config = config.and_then(|entry| self.config(&entry.node));
        let checks = root.get("check").map_or(Some(Vec::new()), |entry| self.checks(&entry.node));
        let weights =
            root.get("weights").map_or(Some(Vec::new()), |entry| self.weights(&entry.node));
        let huggingface = match root.get("huggingface") {
            Some(entry) => self.keep(HuggingFace::read(&entry.node)),
            None => Some(HuggingFace::default()),
        };
        let body = body.and_then(|entry| self.body(&entry.node));
        Some(Architecture {
            source: self.source,
            about: about?,
            objective: objective?,
            objective_span: objective_span?,
            config: config?,
            checks: checks?,
            huggingface: huggingface?,
            weights: weights?,
            body: body?,
        })
    }

    fn objective(&mut self, node: &Node) -> Option<Objective> {
        let (name, _) = self.keep(text(node))?;
        let known = Objective::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, objective)| *objective);
        if known.is_none() {
            let names = Objective::ALL.map(|(name, _)| format!("`{name}`")).join(", ");
            let diagnostic =
                Diagnostic::error(codes::OBJECTIVE, format!("there is no objective `{name}`"));
            self.diagnostics.push(diagnostic.at(node.span, "unknown").help(format!("use {names}")));
        }
        known
    }

    fn config(&mut self, node: &Node) -> Option<Vec<ConfigEntry>> {
        let mut config: Vec<ConfigEntry> = Vec::new();
        for entry in &self.keep(table(node))?.0 {
            if entry.key == "required" {
                let Tree::List(names) = &entry.node.value else {
                    self.diagnostics.push(wrong_value(&entry.node, "a list of names"));
                    continue;
                };
                for name in names {
                    if let Some((text, _)) = self.keep(text(name)) {
                        let kind = ConfigKind::Integer;
                        config.push(ConfigEntry {
                            name: text.to_owned(),
                            span: name.span,
                            kind,
                            default: None,
                        });
                    }
                }
                continue;
            }
            // A wrong value is reported once; its name is known all the same.
            let (kind, default) = self.keep(config_value(&entry.node)).unzip();
            let kind = kind.unwrap_or(ConfigKind::Integer);
            config.push(ConfigEntry { name: entry.key.clone(), span: entry.span(), kind, default });
        }
        if config.len() > MAX_SETTINGS {
            let message = format!(
                "an architecture has at most {MAX_SETTINGS} settings, not {}",
                config.len()
            );
            self.diagnostics.push(
                Diagnostic::error(codes::WRONG_VALUE, message)
                    .at(node.span, "too many")
                    .help("declare fewer settings"),
            );
            return None;
        }
        for (index, entry) in config.iter().enumerate() {
            if let Some(first) = config[..index].iter().find(|first| first.name == entry.name) {
                self.diagnostics.push(
                    Diagnostic::error(
                        codes::DUPLICATE,
                        format!("`{}` is declared twice", entry.name),
                    )
                    .at(entry.span, "second")
                    .at(first.span, "first")
                    .help("a setting is either required or has a default: take one of them away"),
                );
            }
        }
        self.resolve_kinds(&mut config);
        Some(config)
    }

    /// Finds the kinds of derived settings, each from those it reads.
    fn resolve_kinds(&mut self, config: &mut [ConfigEntry]) {
        let derived =
            |entry: &ConfigEntry| matches!(entry.default, Some(ConfigDefault::Expression(_)));
        let names: Vec<String> = config.iter().map(|entry| entry.name.clone()).collect();
        let mut kinds: Vec<Option<ConfigKind>> =
            config.iter().map(|entry| (!derived(entry)).then(|| entry.kind.clone())).collect();
        for index in 0..config.len() {
            let Some(ConfigDefault::Expression(expression)) = &config[index].default else {
                continue;
            };
            if let Err(unknown) = expression.check_names(names.iter().map(String::as_str)) {
                self.diagnostics.push(unknown);
                kinds[index] = Some(ConfigKind::Integer);
            }
        }
        // Each round finds at least one, or all that is left goes in circles.
        loop {
            let find = |name: &str| {
                names.iter().position(|known| known == name).and_then(|at| kinds[at].clone())
            };
            let found = config.iter().enumerate().find_map(|(index, entry)| match &entry.default {
                Some(ConfigDefault::Expression(expression)) if kinds[index].is_none() => {
                    expression.kind(&find).map(|kind| (index, kind))
                }
                _ => None,
            });
            let Some((index, kind)) = found else { break };
            config[index].kind = kind.clone();
            kinds[index] = Some(kind);
        }
        let circular = |name: &str| {
            names.iter().position(|known| known == name).filter(|&at| kinds[at].is_none())
        };
        let Some(start) = kinds.iter().position(Option::is_none) else { return };
        let mut circle = vec![start];
        loop {
            let Some(ConfigDefault::Expression(expression)) =
                &config[circle[circle.len() - 1]].default
            else {
                return;
            };
            let Some(next) = expression.names().iter().find_map(|name| circular(&name.text)) else {
                return;
            };
            if let Some(begin) = circle.iter().position(|&at| at == next) {
                circle.drain(..begin);
                break;
            }
            circle.push(next);
        }
        let path = circle
            .iter()
            .chain(circle.first())
            .map(|&at| format!("`{}`", names[at]))
            .collect::<Vec<_>>();
        let mut diagnostic = Diagnostic::error(
            codes::CYCLE,
            format!("settings are computed from each other: {}", path.join(" from ")),
        )
        .help("give one of them a value of its own, or make it required");
        for &at in &circle {
            diagnostic = diagnostic.at(config[at].span, "computed from another of them");
        }
        self.diagnostics.push(diagnostic);
    }

    fn checks(&mut self, node: &Node) -> Option<Vec<Check>> {
        let mut checks = Vec::new();
        for entry in &self.keep(table(node))?.0 {
            let condition =
                Expression::parse(&entry.key, entry.key_text.source, entry.key_text.start as usize);
            let reason = text(&entry.node).map(|(reason, _)| reason.to_owned());
            if let (Some(condition), Some(reason)) = (self.keep(condition), self.keep(reason)) {
                checks.push(Check { condition, reason });
            }
        }
        Some(checks)
    }

    fn weights(&mut self, node: &Node) -> Option<Vec<WeightRule>> {
        let entries = self.keep(table(node))?;
        Some(entries.0.iter().filter_map(|entry| self.keep(WeightRule::read(entry))).collect())
    }

    fn body(&mut self, node: &Node) -> Option<Body> {
        let entries = self.keep(table(node))?;
        for entry in entries.0.iter().filter(|entry| entry.key != "text") {
            self.diagnostics.push(unknown_key(entry, "`[body]`", &["text"]));
        }
        let Some(entry) = entries.get("text") else {
            self.diagnostics.push(
                Diagnostic::error(codes::MISSING_KEY, "`[body]` needs `text`")
                    .at(node.span, "no text in here")
                    .help("write text = '''…''' with the body between the quotes"),
            );
            return None;
        };
        let (text, span) = self.keep(text(&entry.node))?;
        if span.source != self.source {
            self.diagnostics.push(
                Diagnostic::error(
                    codes::BODY_QUOTES,
                    "the body has escapes, so its places would be wrong in messages",
                )
                .at(entry.key_span, "this text")
                .help("write the body between ''' and ''', where a backslash is only a backslash"),
            );
            return None;
        }
        match crate::language::body::parse(text, self.source, span.start as usize) {
            Ok(body) => Some(body),
            Err(errors) => {
                self.diagnostics.extend(errors);
                None
            }
        }
    }
}

/// Kind and default of a setting.
fn config_value(node: &Node) -> Result<(ConfigKind, ConfigDefault), Diagnostic> {
    Ok(match &node.value {
        Tree::Text(text, span) => {
            // The kind is found once all settings are known.
            (
                ConfigKind::Integer,
                ConfigDefault::Expression(Expression::parse(
                    text,
                    span.source,
                    span.start as usize,
                )?),
            )
        }
        Tree::Table(entries) => {
            for entry in &entries.0 {
                if !["one_of", "default"].contains(&entry.key.as_str()) {
                    return Err(unknown_key(entry, "a choice", &["one_of", "default"]));
                }
            }
            let find = |key: &str| entries.get(key).map(|entry| &entry.node);
            let (Some(one_of), Some(default)) = (find("one_of"), find("default")) else {
                return Err(Diagnostic::error(
                    codes::MISSING_KEY,
                    "a choice needs `one_of` and `default`",
                )
                .at(node.span, "this choice")
                .help("write { one_of = [\"a\", \"b\"], default = \"a\" }"));
            };
            let Tree::List(texts) = &one_of.value else {
                return Err(wrong_value(one_of, "a list of texts"));
            };
            let texts = texts
                .iter()
                .map(|node| Ok(text(node)?.0.to_owned()))
                .collect::<Result<Vec<_>, _>>()?;
            let chosen = text(default)?.0.to_owned();
            if !texts.contains(&chosen) {
                return Err(Diagnostic::error(
                    codes::WRONG_VALUE,
                    format!("the default \"{chosen}\" is not one of the choices"),
                )
                .at(default.span, "not a choice")
                .at(one_of.span, "the choices")
                .help("make it one of the choices"));
            }
            (ConfigKind::OneOf(texts), ConfigDefault::Value(Value::Text(chosen)))
        }
        Tree::Integer(number) => {
            (ConfigKind::Integer, ConfigDefault::Value(Value::Integer(*number)))
        }
        Tree::Float(number) => (ConfigKind::Number, ConfigDefault::Value(Value::Float(*number))),
        Tree::Boolean(truth) => (ConfigKind::Boolean, ConfigDefault::Value(Value::Boolean(*truth))),
        Tree::HugeInteger(_) | Tree::Datetime(_) | Tree::List(_) => {
            return Err(wrong_value(node, "a number, true, false, an expression or a choice"));
        }
    })
}
