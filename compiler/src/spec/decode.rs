//! From the tree of a spec to typed values, collecting every mistake.
//!
//! Owns defaults, the search for unknown and missing keys, and the order of messages. Must not know rules between
//! keys: those stand with the sections ([`super::recipe`], [`super::cola`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::check;
use super::cola::{Cola, Rank, RankSource};
use super::compiler::Compiler;
use super::names::{missing_key, unknown_key, unknown_section};
use super::recompute::Recompute;
use super::resolved::{Origin, Resolution};
use super::schema::{self, Default, Key};
use super::spanned::Spanned;
use super::{
    ArchitectureName, BatchSize, ModelSection, ModelSetting, Outline, Precision, Spec, codes,
    inherit, recipe,
};
use crate::diagnostics::{Diagnostic, Diagnostics, Severity, SourceId, Sources, Span};
use crate::language::activation::Activation;
use crate::language::expression::{Expression, Value};
use crate::language::selector::Selector;
use crate::toml_tree::{self, Entry, Node, Table, Tree};

/// What is known of a spec besides its tree.
pub(super) struct File {
    /// The files of the spec, itself first.
    pub(super) files: Vec<inherit::File>,
    /// The texts of all of them.
    pub(super) text: Arc<str>,
    pub(super) full_rank: bool,
}

/// Decodes a whole spec, and beside it the parts that are right by themselves; mistakes go to `diagnostics`, ordered by
/// their place.
pub(super) fn spec(
    root: &Table,
    file: File,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> (Option<Spec>, Outline) {
    let source = file.files[0].source;
    let own = |entry: &&Entry| entry.key_span.source == source;
    let start = root.0.iter().filter(own).map(|entry| entry.key_span).min();
    let start = start.unwrap_or(Span::new(source, 0..0));
    let defaults = defaults(sources);
    let mut decoder = Decoder {
        root,
        start,
        defaults,
        found: Vec::new(),
        files: file.files.iter().map(|file| file.source).collect(),
        resolved: Resolution::default(),
        values: BTreeMap::new(),
        places: BTreeMap::new(),
        outline: Outline::default(),
    };
    let spec = decoder.spec(file);
    let outline = std::mem::take(&mut decoder.outline);
    let mut found = decoder.found;
    found.sort_by_key(|diagnostic| diagnostic.labels.first().map(|label| label.span));
    for diagnostic in found {
        diagnostics.push(diagnostic);
    }
    (spec, outline)
}

/// The defaults of [`schema`] as a tree with places of its own, so that a selector or an activation that nobody wrote
/// can still be pointed at.
fn defaults(sources: &mut Sources) -> Table {
    let mut text = String::new();
    for section in schema::SECTIONS {
        for key in schema::keys_of(section) {
            if let Default::Value(value) = key.default {
                text.push_str(&format!("{}={value}\n", key.path()));
            }
        }
    }
    let source = sources.add("default", text);
    toml_tree::parse(source, codes::SYNTAX, sources)
        .expect("the defaults of the table are TOML, which a test checks")
}

/// A section of the spec while it is decoded.
pub(super) struct Section<'t> {
    /// As in [`schema::SECTIONS`].
    name: &'static str,
    /// Position, for the tables of a list.
    index: Option<usize>,
    /// `None` if the section is absent or not a table; whatever had to be said of that was said.
    table: Option<&'t Table>,
    /// Where missing keys are reported.
    pub(super) header: Span,
}

impl Section<'_> {
    /// Whether the section is there.
    pub(super) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the key is written.
    pub(super) fn has(&self, name: &str) -> bool {
        self.key_span(name).is_some()
    }

    /// Where the key is written.
    pub(super) fn key_span(&self, name: &str) -> Option<Span> {
        Some(self.table?.get(name)?.key_span)
    }
}

/// Reads values and keeps what went wrong.
pub(super) struct Decoder<'t> {
    root: &'t Table,
    /// Where an absent section is reported.
    start: Span,
    defaults: Table,
    found: Vec<Diagnostic>,
    /// The files of the spec, itself first.
    files: Vec<SourceId>,
    resolved: Resolution,
    /// Checked values by path, for keys whose default is another key.
    values: BTreeMap<String, Node>,
    /// Places of the keys that were written.
    places: BTreeMap<String, Span>,
    /// The parts that are right so far.
    outline: Outline,
}

impl<'t> Decoder<'t> {
    fn spec(&mut self, file: File) -> Option<Spec> {
        self.unknown_keys();
        let top = Section { name: "", index: None, table: Some(self.root), header: self.start };
        let name = self.text(&top, "name");
        if let Some(name) = &name {
            self.check_name(name);
        }
        let architecture = self.text(&top, "architecture");
        let model_section = self.section("model");
        let model = self.model(&model_section);
        let cola = match self.root.get("cola").map(|entry| &entry.node.value) {
            None | Some(Tree::Boolean(false)) => Some(None),
            Some(_) => {
                let section = self.section("cola");
                Cola::decode(self, &section).map(Some)
            }
        };
        let recompute = self.section("recompute");
        let recompute = Recompute::decode(self, &recompute);
        let train = self.section("train");
        let precision = self.precision(&train);
        let recipe = recipe::decode(self, &train);
        let compiler = self.section("compiler");
        let compiler = Compiler::decode(self, &compiler);
        if file.full_rank {
            self.resolved.drop_section("cola");
        }
        let cola = cola.map(|cola| cola.filter(|_| !file.full_rank));
        let folder = architecture.as_ref().and_then(|architecture| {
            let written_in = file.files.iter().find(|f| f.source == architecture.span.source);
            written_in.unwrap_or(&file.files[0]).folder.clone()
        });
        if self.found.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            let name = architecture.clone();
            self.outline.architecture =
                name.map(|name| ArchitectureName { name, folder: folder.clone(), text: None });
            self.outline.model = model
                .clone()
                .filter(|_| self.is_section_or_absent("model"))
                .map(|settings| ModelSection { settings, header: model_section.header });
            self.outline.batch = self.batch();
            // A misspelt key there would have selected other linears.
            let is_whole = !self.outline.unknown_keys.iter().any(|key| key.starts_with("cola."));
            self.outline.cola = cola.clone().flatten().filter(|_| is_whole);
        }
        let (cola, architecture) = (cola?, architecture?);
        let (horizon, phases, recipe) = recipe?;
        Some(Spec {
            name: name?,
            architecture,
            model: model?,
            model_section: model_section.header,
            cola,
            full_rank: file.full_rank,
            recompute: recompute?,
            precision: precision?,
            horizon,
            recipe,
            compiler: compiler?,
            source: file.files[0].source,
            text: file.text,
            resolved: self.resolved.to_string(),
            resolution: std::mem::take(&mut self.resolved),
            folder,
            architecture_text: None,
            places: std::mem::take(&mut self.places),
            phases,
        })
    }

    /// Whether a section is either absent or a table, so that what it says is known.
    fn is_section_or_absent(&self, name: &str) -> bool {
        self.root.get(name).is_none_or(|entry| matches!(entry.node.value, Tree::Table(_)))
    }

    /// The size of a batch, where the length of a row is right. How many rows there are changes no shape that could be
    /// wrong, so one stands for a number that is not known.
    fn batch(&self) -> Option<BatchSize> {
        let count = |key: &str| match self.values.get(key)?.value {
            Tree::Integer(number) => u32::try_from(number).ok(),
            _ => None,
        };
        Some(BatchSize {
            micro_batch: count("train.micro_batch").unwrap_or(1),
            sequence_length: count("train.sequence_length")?,
            place: self.places.get("train.sequence_length").copied(),
        })
    }

    /// How far a place is from the command line: 0 for a `--set` or a default, 1 for the spec itself, 2 for what it
    /// extends, and so on.
    pub(super) fn distance(&self, span: Span) -> usize {
        self.files.iter().position(|&file| file == span.source).map_or(0, |at| at + 1)
    }

    /// Keeps a mistake.
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// A section by name. Reports a section that is not a table, and one that is absent although it has required keys.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'t> {
        let absent = Section { name, index: None, table: None, header: self.start };
        let Some(entry) = self.root.get(name) else {
            let required: Vec<_> = schema::keys_of(name)
                .filter(|key| matches!(key.default, Default::Required | Default::RequiredUnless(_)))
                .collect();
            if !required.is_empty() {
                let keys: Vec<_> = required.iter().map(|key| format!("`{}`", key.name)).collect();
                self.report(
                    Diagnostic::error(
                        codes::MISSING_SECTION,
                        format!("the section `[{name}]` is missing"),
                    )
                    .at(self.start, "in this spec")
                    .help(format!("add `[{name}]` with {}", keys.join(", "))),
                );
            }
            return absent;
        };
        match &entry.node.value {
            Tree::Table(table) => {
                Section { name, index: None, table: Some(table), header: entry.key_span }
            }
            other => {
                let message = format!("`{name}` must be a section");
                let off = match name {
                    "cola" => ", or `cola = false` for the dense model",
                    _ => "",
                };
                self.report(
                    Diagnostic::error(codes::WRONG_TYPE, message)
                        .at(entry.node.span, format!("this is {}", other.type_name()))
                        .help(format!("write `[{name}]` and its keys on the lines below{off}")),
                );
                absent
            }
        }
    }

    /// The tables of a list `[[section.name]]`.
    pub(super) fn tables(&mut self, section: &Section<'t>, name: &str) -> Vec<Section<'t>> {
        let path = format!("{}.{name}", section.name);
        let Some(path) = schema::SECTIONS.iter().find(|section| **section == path) else {
            return Vec::new();
        };
        let Some(entry) = section.table.and_then(|table| table.get(name)) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        let wrong = |node: &Node| {
            Diagnostic::error(codes::WRONG_TYPE, format!("`{path}` must be a list of tables"))
                .at(node.span, format!("this is {}", node.value.type_name()))
                .help(format!("write `[[{path}]]` for each entry and its keys on the lines below"))
        };
        let Tree::List(nodes) = &entry.node.value else {
            self.report(wrong(&entry.node));
            return tables;
        };
        for (index, node) in nodes.iter().enumerate() {
            match &node.value {
                Tree::Table(table) => {
                    tables.push(Section {
                        name: path,
                        index: Some(index),
                        table: Some(table),
                        header: node.span,
                    });
                }
                _ => self.report(wrong(node)),
            }
        }
        tables
    }

    /// The checked value of a key: written, or by default. `None` if it is absent without default, or wrong; what is
    /// wrong was then reported.
    fn value(&mut self, section: &Section<'_>, name: &'static str) -> Option<Node> {
        let key = schema::key(section.name, name).expect("only keys of the table are decoded");
        let (node, origin) = match section.table.and_then(|table| table.get(name)) {
            Some(entry) => {
                if section.index.is_none() {
                    self.places.insert(key.path(), entry.node.span);
                }
                (entry.node.clone(), Origin::Written(entry.node.span))
            }
            None => match key.default {
                Default::Value(_) => (self.default(key)?, Origin::Default),
                Default::SameAs(other) => (self.values.get(other)?.clone(), Origin::SameAs(other)),
                Default::Absent(_) | Default::RequiredUnless(_) => return None,
                Default::Required => {
                    if section.table.is_some() {
                        self.report(missing_key(key, section.header));
                    }
                    return None;
                }
            },
        };
        match check(key, node) {
            Ok(node) => {
                self.resolved.set(section.name, section.index, name, &node.value, origin);
                self.values.insert(key.path(), node.clone());
                Some(node)
            }
            Err(diagnostic) => {
                self.report(diagnostic);
                None
            }
        }
    }

    fn default(&self, key: &Key) -> Option<Node> {
        let mut table = &self.defaults;
        for part in key.section.split('.').filter(|part| !part.is_empty()) {
            match &table.get(part)?.node.value {
                Tree::Table(inner) => table = inner,
                _ => return None,
            }
        }
        Some(table.get(key.name)?.node.clone())
    }

    /// The checked value of a key whose kind in [`schema`] is one that `read` takes.
    fn single<T>(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
        read: impl FnOnce(Tree) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let node = self.value(section, name)?;
        Some(Spanned::new(read(node.value)?, node.span))
    }

    /// A text key.
    pub(super) fn text(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Spanned<String>> {
        self.single(section, name, |value| match value {
            Tree::Text(text, _) => Some(text),
            _ => None,
        })
    }

    /// A whole number; its range in [`schema`] has no negative numbers.
    pub(super) fn integer(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Spanned<u64>> {
        self.single(section, name, |value| match value {
            Tree::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        })
    }

    /// A whole number whose range in [`schema`] fits 32 bits.
    pub(super) fn count(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Spanned<u32>> {
        let number = self.integer(section, name)?;
        Some(Spanned::new(u32::try_from(number.value).ok()?, number.span))
    }

    /// A number.
    pub(super) fn number(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Spanned<f64>> {
        self.single(section, name, |value| match value {
            Tree::Float(number) => Some(number),
            _ => None,
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Spanned<bool>> {
        self.single(section, name, |value| match value {
            Tree::Boolean(flag) => Some(flag),
            _ => None,
        })
    }

    /// Which of some names are switched on; `all` are those that [`schema`] gives the key.
    pub(super) fn switches(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
        all: &[&str],
    ) -> Option<Vec<String>> {
        let node = self.value(section, name)?;
        Some(match node.value {
            Tree::Boolean(true) => all.iter().map(|&name| name.to_owned()).collect(),
            Tree::Boolean(false) => Vec::new(),
            _ => texts(node).into_iter().map(|(text, _)| text).collect(),
        })
    }

    /// One path or text, or several.
    pub(super) fn paths(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Vec<String>> {
        Some(texts(self.value(section, name)?).into_iter().map(|(text, _)| text).collect())
    }

    /// One selector or several, parsed; every one that is wrong is reported.
    pub(super) fn selectors(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Vec<Selector>> {
        let texts = texts(self.value(section, name)?);
        let parsed: Vec<_> = texts
            .into_iter()
            .map(|(text, span)| {
                self.parsed(Selector::parse(&text, span.source, span.start as usize))
            })
            .collect();
        parsed.into_iter().collect()
    }

    /// A rank: a number, or an expression, parsed.
    pub(super) fn rank(&mut self, section: &Section<'_>, name: &'static str) -> Option<Rank> {
        let node = self.value(section, name)?;
        let value = match node.value {
            Tree::Integer(rank) => RankSource::Integer(u32::try_from(rank).ok()?),
            Tree::Text(text, inner) => {
                let expression = Expression::parse(&text, inner.source, inner.start as usize);
                RankSource::Expression(self.parsed(expression)?)
            }
            _ => return None,
        };
        Some(Spanned::new(value, node.span))
    }

    /// An activation's name or formula, parsed.
    pub(super) fn activation(
        &mut self,
        section: &Section<'_>,
        name: &'static str,
    ) -> Option<Activation> {
        match self.value(section, name)?.value {
            Tree::Text(text, inner) => {
                let activation = Activation::parse(&text, inner.source, inner.start as usize);
                self.parsed(activation)
            }
            _ => None,
        }
    }

    fn parsed<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.report(diagnostic)).ok()
    }

    /// Takes a key out of the resolved spec, because it has no effect there.
    pub(super) fn forget(&mut self, section: &Section<'_>, name: &str) {
        self.resolved.forget(section.name, name);
    }

    /// Takes a list of tables out of the resolved spec.
    pub(super) fn forget_tables(&mut self, section: &'static str) {
        self.resolved.drop_tables(section);
    }

    fn precision(&mut self, train: &Section<'_>) -> Option<Spanned<Precision>> {
        let written = self.text(train, "precision")?;
        // The schema has refused other names.
        let precision = Precision::named(&written.value)?;
        Some(written.map(|_| precision))
    }

    fn check_name(&mut self, name: &Spanned<String>) {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let text = &name.value;
        if text.chars().all(good)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.len() <= 100
        {
            return;
        }
        self.report(
            Diagnostic::error(
                codes::BAD_NAME,
                "the name cannot name a folder, which a run's results need",
            )
            .at(name.span, "not a portable folder name")
            .help("use up to 100 letters, digits, `-`, `_`, `.`, and begin with a letter or digit"),
        );
    }

    /// The settings of `[model]`; `None` if any has a type that no setting can have.
    fn model(&mut self, section: &Section<'_>) -> Option<Vec<ModelSetting>> {
        let mut settings = Vec::new();
        let mut complete = true;
        for entry in section.table.map(|table| table.0.as_slice()).unwrap_or_default() {
            match model_setting(entry) {
                Ok(setting) => {
                    self.places.insert(format!("model.{}", entry.key), entry.node.span);
                    let origin = Origin::Written(entry.node.span);
                    self.resolved.set("model", None, &entry.key, &entry.node.value, origin);
                    settings.push(setting);
                }
                Err(diagnostic) => {
                    self.report(diagnostic);
                    complete = false;
                }
            }
        }
        complete.then_some(settings)
    }

    /// Reports every key and section that no spec has.
    fn unknown_keys(&mut self) {
        let root = self.root;
        for entry in &root.0 {
            if schema::key("", &entry.key).is_some() {
                continue;
            }
            match (schema::SECTIONS.contains(&entry.key.as_str()), &entry.node.value) {
                (true, Tree::Table(table)) if entry.key != "model" => {
                    self.unknown_in(&entry.key, table)
                }
                (true, _) => {}
                (false, Tree::Table(table)) => {
                    let keys = table.0.iter().map(|inner| format!("{}.{}", entry.key, inner.key));
                    self.outline.unknown_keys.extend(keys);
                    self.report(unknown_section(entry));
                }
                (false, _) => {
                    self.outline.unknown_keys.push(entry.key.clone());
                    self.report(unknown_key("", entry));
                }
            }
        }
    }

    fn unknown_in(&mut self, section: &str, table: &Table) {
        for entry in &table.0 {
            let inner = format!("{section}.{}", entry.key);
            if schema::key(section, &entry.key).is_some() {
                continue;
            }
            if !schema::SECTIONS.contains(&inner.as_str()) {
                self.outline.unknown_keys.push(inner);
                self.report(unknown_key(section, entry));
                continue;
            }
            if let Tree::List(nodes) = &entry.node.value {
                for node in nodes {
                    if let Tree::Table(table) = &node.value {
                        self.unknown_in(&inner, table);
                    }
                }
            }
        }
    }
}

/// The texts of a checked value that is one text or a list of texts, with the bytes of each.
fn texts(node: Node) -> Vec<(String, Span)> {
    let nodes = match node.value {
        Tree::List(nodes) => nodes,
        _ => vec![node],
    };
    let text = |node: Node| match node.value {
        Tree::Text(text, inner) => Some((text, inner)),
        _ => None,
    };
    nodes.into_iter().filter_map(text).collect()
}

/// A setting of `[model]`: a single number, text or truth value.
fn model_setting(entry: &Entry) -> Result<ModelSetting, Diagnostic> {
    let (value, text_span) = match &entry.node.value {
        Tree::Text(text, inner) => (Value::Text(text.clone()), *inner),
        Tree::Integer(number) => (Value::Integer(*number), entry.node.span),
        Tree::Float(number) => (Value::Float(*number), entry.node.span),
        Tree::Boolean(flag) => (Value::Boolean(*flag), entry.node.span),
        Tree::HugeInteger(_) => {
            return Err(Diagnostic::error(
                codes::OUT_OF_RANGE,
                format!("`model.{}` is too large", entry.key),
            )
            .at(entry.node.span, "this does not fit into 64 bits")
            .help("write a smaller number"));
        }
        other @ (Tree::Datetime(_) | Tree::List(_) | Tree::Table(_)) => {
            let message = format!("`model.{}` must be a number, a text, true or false", entry.key);
            return Err(Diagnostic::error(codes::WRONG_TYPE, message)
                .at(entry.node.span, format!("this is {}", other.type_name()))
                .help("write one value; settings of a model have no parts"));
        }
    };
    Ok(ModelSetting {
        key: Spanned::new(entry.key.clone(), entry.key_span),
        value: Spanned::new(value, entry.node.span),
        text_span,
    })
}
