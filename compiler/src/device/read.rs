//! TOML to a profile, with everything that is wrong.
//!
//! Owns the keys, their types and ranges. Must not know where the text came from.

use colac_plan::DType;
use colac_plan::profile::{
    Attainable, AttentionRate, Basis, DeviceKind, Evidence, Figure, Product, ProductRate,
    ProductShape, Profile, StreamRate,
};

use super::{FORMAT, codes};
use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span, did_you_mean};
use crate::toml_tree::{self, Entry, Node, Table, Tree};

/// Names of operations that may have a bandwidth of their own: those that are neither products nor attention.
pub(super) const OPERATIONS: [&str; 18] = [
    "embedding",
    "embedding_backward",
    "rms_norm",
    "rms_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "dropout",
    "row_sum",
    "softmax",
    "rope",
    "pointwise",
    "column_sum",
    "gradient_norm",
    "adamw",
    "slice",
    "concat",
    "shift",
    "sum",
];

/// How numbers may be stored.
const DTYPES: [(&str, DType); 2] = [("f32", DType::F32), ("bf16", DType::Bf16)];

/// The largest rate that is taken for one, in billions a second: a thousand times the fastest device there is.
const LARGEST: f64 = 1e9;

/// Reads a profile.
///
/// # Errors
/// Everything that is wrong with it. The text is registered in `sources` under `name` either way.
pub fn read(
    name: impl Into<String>,
    text: &str,
    sources: &mut Sources,
) -> Result<Profile, Diagnostics> {
    let source = sources.add(name, text);
    let table = toml_tree::parse(source, codes::SYNTAX, sources)?;
    let whole = Span::new(source, 0..text.find('\n').unwrap_or(text.len()));
    let mut reader = Reader { source, diagnostics: Diagnostics::default(), used: Vec::new() };
    let profile = reader.profile(&table, whole);
    match profile {
        Some(profile) if !reader.diagnostics.has_errors() => Ok(profile),
        _ => Err(reader.diagnostics),
    }
}

struct Reader {
    source: SourceId,
    diagnostics: Diagnostics,
    /// Each basis that a figure named, and where first.
    used: Vec<(Basis, Span)>,
}

impl Reader {
    fn profile(&mut self, table: &Table, whole: Span) -> Option<Profile> {
        const KEYS: [&str; 17] = [
            "format",
            "name",
            "device",
            "kind",
            "threads",
            "memory",
            "reserved",
            "overhead",
            "arithmetic",
            "functions",
            "attainable",
            "products",
            "attention",
            "streams",
            "measured",
            "assumed",
            "data_sheet",
        ];
        let format = self.integer(table, "format", whole, 1..=i64::MAX)?;
        if format != FORMAT {
            let span = table.get("format").map_or(whole, Entry::span);
            let message = format!("the profile has format {format}, and this colac reads {FORMAT}");
            let help = "write the profile again with `colac calibrate`, or update colac";
            self.push(codes::FORMAT, message, span, "another format", help);
            return None;
        }
        self.check_keys(table, &KEYS);
        let name = self.text(table, "name", whole);
        let device = self.text(table, "device", whole);
        let kind = self.word(
            table,
            "kind",
            whole,
            &[("cpu", DeviceKind::Cpu), ("cuda", DeviceKind::Cuda)],
        );
        let threads = match table.get("threads") {
            Some(_) => Some(self.integer(table, "threads", whole, 1..=65_536)? as u32),
            None => None,
        };
        let memory = match table.get("memory") {
            Some(_) => Some(self.figure(table, "memory", "bytes", whole)?),
            None => None,
        };
        let reserved = self.figure(table, "reserved", "bytes", whole);
        let overhead = self.figure(table, "overhead", "nanoseconds", whole);
        let arithmetic = self.figure(table, "arithmetic", "gigaelements", whole);
        let functions = self.figure(table, "functions", "gigaelements", whole);
        let attainable = self.attainable(table);
        let products = self.list(table, "products", whole, true, Reader::product);
        let attention = self.list(table, "attention", whole, false, Reader::attention);
        let streams = self.list(table, "streams", whole, true, Reader::stream);
        if streams.iter().all(|rate| rate.operation.is_some()) && !streams.is_empty() {
            let span = table.get("streams").map_or(whole, |entry| entry.key_span);
            let help = "add a [[streams]] table without `operation`: it counts for all that have none of their own";
            self.push(
                codes::MISSING_KEY,
                "no bandwidth holds for all operations",
                span,
                "each names an operation",
                help,
            );
        }
        let evidence = self.evidence(table);
        self.check_evidence(&evidence);
        Some(Profile {
            name: name?,
            device: device?,
            kind: kind?,
            threads,
            memory,
            reserved: reserved?,
            overhead: overhead?,
            arithmetic: arithmetic?,
            functions: functions?,
            products,
            attention,
            streams,
            attainable,
            evidence,
        })
    }

    fn push(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        span: Span,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.push(Diagnostic::error(code, message).at(span, label).help(help));
    }

    fn check_keys(&mut self, table: &Table, known: &[&str]) {
        for entry in &table.0 {
            if !known.contains(&entry.key.as_str()) {
                let help = did_you_mean(&entry.key, known.iter().copied(), || {
                    format!("remove it; known here are {}", known.join(", "))
                });
                let message = format!("a profile has no key `{}` here", entry.key);
                self.push(codes::UNKNOWN_KEY, message, entry.key_span, "unknown", help);
            }
        }
    }

    /// The value of a key; reports its absence. `place` is where the key should be.
    fn value<'t>(&mut self, table: &'t Table, key: &str, place: Span) -> Option<&'t Node> {
        let found = table.get(key).map(|entry| &entry.node);
        if found.is_none() {
            let help = format!("add `{key}`; docs/device-profiles.md shows a whole profile");
            self.push(codes::MISSING_KEY, format!("`{key}` is missing"), place, "in here", help);
        }
        found
    }

    fn wrong(&mut self, node: &Node, key: &str, wanted: &str) {
        let message = format!("`{key}` is not {wanted}");
        let help = format!("write {wanted}");
        self.push(codes::WRONG_VALUE, message, node.span, node.type_name(), help);
    }

    fn text(&mut self, table: &Table, key: &str, place: Span) -> Option<String> {
        let node = self.value(table, key, place)?;
        match &node.value {
            Tree::Text(text, _) if !text.trim().is_empty() => Some(text.clone()),
            _ => {
                self.wrong(node, key, "a text in quotes");
                None
            }
        }
    }

    fn word<T: Copy>(
        &mut self,
        table: &Table,
        key: &str,
        place: Span,
        words: &[(&str, T)],
    ) -> Option<T> {
        let node = self.value(table, key, place)?;
        let found = match &node.value {
            Tree::Text(text, _) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        if found.is_none() {
            let names: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.wrong(node, key, &format!("one of {}", names.join(", ")));
        }
        found.map(|(_, meaning)| *meaning)
    }

    fn integer(
        &mut self,
        table: &Table,
        key: &str,
        place: Span,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let node = self.value(table, key, place)?;
        match node.value {
            Tree::Integer(number) if range.contains(&number) => Some(number),
            _ => {
                self.wrong(node, key, &format!("a whole number from {} up", range.start()));
                None
            }
        }
    }

    /// A positive extent, if the key is there.
    fn extent(&mut self, table: &Table, key: &str) -> Option<u64> {
        let span = table.get(key)?.span();
        self.integer(table, key, span, 1..=1 << 40).map(|number| number as u64)
    }

    /// A table `{ unit = …, how = … }`.
    fn figure(&mut self, table: &Table, key: &str, unit: &str, place: Span) -> Option<Figure> {
        let node = self.value(table, key, place)?;
        match &node.value {
            Tree::Table(inner) => {
                self.check_keys(inner, &[unit, "how"]);
                self.rate(inner, unit, node.span)
            }
            _ => {
                self.wrong(
                    node,
                    key,
                    &format!("a table such as {{ {unit} = 1, how = \"measured\" }}"),
                );
                None
            }
        }
    }

    /// A number in its unit with how it is known. Units that begin with `giga` count in billions.
    fn rate(&mut self, table: &Table, unit: &str, place: Span) -> Option<Figure> {
        let value = self.value(table, unit, place).and_then(|node| {
            let number = match node.value {
                Tree::Integer(number) => Some(number as f64),
                Tree::Float(number) => Some(number),
                _ => None,
            };
            let is_rate = unit.starts_with("giga");
            let fits = |number: f64| match is_rate {
                true => (1e-6..=LARGEST).contains(&number),
                false => (0.0..=1e15).contains(&number) && number.fract() == 0.0,
            };
            match number.filter(|&number| fits(number)) {
                Some(number) if is_rate => Some((number * 1e9).round() as u64),
                Some(number) => Some(number as u64),
                None => {
                    let wanted =
                        if is_rate { "a number above 0" } else { "a whole number from 0 up" };
                    self.wrong(node, unit, wanted);
                    None
                }
            }
        });
        let words = Basis::ALL.map(|basis| (basis.name(), basis));
        let basis = self.word(table, "how", place, &words);
        if let (Some(basis), Some(entry)) = (basis, table.get("how"))
            && !self.used.iter().any(|(used, _)| *used == basis)
        {
            self.used.push((basis, entry.node.span));
        }
        Some(Figure::new(value?, basis?))
    }

    /// The tables of a list, as far as they are in order.
    fn list<T>(
        &mut self,
        table: &Table,
        key: &str,
        place: Span,
        required: bool,
        read: fn(&mut Reader, &Table, Span) -> Option<T>,
    ) -> Vec<T> {
        let nodes = match table.get(key).map(|entry| &entry.node) {
            Some(Node { value: Tree::List(nodes), .. }) => nodes,
            Some(node) => {
                self.wrong(node, key, &format!("a list of [[{key}]] tables"));
                return Vec::new();
            }
            None if required => {
                self.value(table, key, place);
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let mut all = Vec::new();
        for node in nodes {
            match &node.value {
                Tree::Table(inner) => {
                    // A table under a header has no brackets of its own: its first line stands for it.
                    let place = inner.0.first().map_or(node.span, Entry::span);
                    all.extend(read(self, inner, place));
                }
                _ => self.wrong(node, key, &format!("a list of [[{key}]] tables")),
            }
        }
        if required && nodes.is_empty() {
            let span = table.get(key).map_or(place, Entry::span);
            let help = format!("add at least one [[{key}]] table");
            self.push(codes::MISSING_KEY, format!("`{key}` is empty"), span, "nothing here", help);
        }
        all
    }

    fn product(&mut self, table: &Table, place: Span) -> Option<ProductRate> {
        self.check_keys(
            table,
            &["product", "dtype", "rows", "columns", "inner", "gigaflops", "how"],
        );
        let words = Product::ALL.map(|product| (product.name(), product));
        let product = match table.get("product") {
            Some(_) => Some(self.word(table, "product", place, &words)?),
            None => None,
        };
        let dtype = self.word(table, "dtype", place, &DTYPES);
        let extents = ["rows", "columns", "inner"].map(|key| self.extent(table, key));
        let written = ["rows", "columns", "inner"].map(|key| table.get(key).is_some());
        let shape = match (extents, written) {
            ([Some(rows), Some(columns), Some(inner)], _) => {
                Some(ProductShape { rows, columns, inner })
            }
            (_, [false, false, false]) => None,
            (_, [true, true, true]) => return None,
            _ => {
                let help = "write all of `rows`, `columns` and `inner`, or none: then the rate holds for all shapes";
                self.push(codes::MISSING_KEY, "a shape is not complete", place, "in here", help);
                return None;
            }
        };
        let rate = self.rate(table, "gigaflops", place);
        Some(ProductRate { product, dtype: dtype?, shape, rate: rate? })
    }

    fn attention(&mut self, table: &Table, place: Span) -> Option<AttentionRate> {
        self.check_keys(table, &["direction", "dtype", "sequence", "head_dim", "gigaflops", "how"]);
        let backward =
            self.word(table, "direction", place, &[("forward", false), ("backward", true)]);
        let dtype = self.word(table, "dtype", place, &DTYPES);
        let (sequence, head_dim) = (self.extent(table, "sequence"), self.extent(table, "head_dim"));
        let rate = self.rate(table, "gigaflops", place);
        Some(AttentionRate { backward: backward?, dtype: dtype?, sequence, head_dim, rate: rate? })
    }

    fn stream(&mut self, table: &Table, place: Span) -> Option<StreamRate> {
        self.check_keys(table, &["operation", "bytes", "gigabytes", "how"]);
        let operation = match table.get("operation") {
            Some(_) => {
                let words = OPERATIONS.map(|name| (name, name));
                Some(self.word(table, "operation", place, &words)?.to_owned())
            }
            None => None,
        };
        let bytes = self.extent(table, "bytes");
        let rate = self.rate(table, "gigabytes", place);
        Some(StreamRate { operation, bytes, rate: rate? })
    }

    fn attainable(&mut self, table: &Table) -> Option<Attainable> {
        let entry = table.get("attainable")?;
        let Tree::Table(inner) = &entry.node.value else {
            self.wrong(
                &entry.node,
                "attainable",
                "a table with `products`, `attention`, `streams`",
            );
            return None;
        };
        self.check_keys(inner, &["products", "attention", "streams"]);
        let [products, attention, streams] = ["products", "attention", "streams"]
            .map(|key| self.integer(inner, key, entry.key_span, 1..=100));
        let percent = |number: Option<i64>| number.map(|number| number as u64);
        Some(Attainable {
            products: percent(products)?,
            attention: percent(attention)?,
            streams: percent(streams)?,
        })
    }

    fn evidence(&mut self, table: &Table) -> Vec<Evidence> {
        let mut all = Vec::new();
        for basis in Basis::ALL {
            let section = basis.name().replace(' ', "_");
            let Some(entry) = table.get(&section) else { continue };
            let Tree::Table(inner) = &entry.node.value else {
                self.wrong(&entry.node, &section, "a table of texts");
                continue;
            };
            let mut facts = Vec::new();
            for fact in &inner.0 {
                match &fact.node.value {
                    Tree::Text(text, _) => facts.push((fact.key.clone(), text.clone())),
                    _ => self.wrong(&fact.node, &fact.key, "a text in quotes"),
                }
            }
            all.push(Evidence { basis, facts });
        }
        all
    }

    fn check_evidence(&mut self, evidence: &[Evidence]) {
        for (basis, span) in std::mem::take(&mut self.used) {
            if evidence.iter().any(|e| e.basis == basis && !e.facts.is_empty()) {
                continue;
            }
            let section = basis.name().replace(' ', "_");
            let example = match basis {
                Basis::Measured => "date, command and machine",
                Basis::Assumed => "the reason",
                Basis::DataSheet => "document and date",
            };
            debug_assert_eq!(span.source, self.source);
            self.push(
                codes::NO_EVIDENCE,
                format!("a figure is `{basis}`, and nothing says where that comes from"),
                span,
                "said here",
                format!("add a section [{section}] with {example}"),
            );
        }
    }
}
