//! The spec as a JSON Schema (draft 7), which editors check and complete TOML with.
//!
//! Derived from [`schema::KEYS`] and the settings that the shipped architectures declare; nothing is said twice. It knows
//! less than the decoder: rules between keys and everything that needs a model are not in it. Must not read specs.

use serde_json::{Map, Value as Json, json};

use super::schema::{self, Default, Interval, Key, Kind, LARGEST_RANK, SECTIONS};
use super::shipped;
use crate::diagnostics::Sources;
use crate::language::architecture::{Architecture, ConfigKind};

/// The schema of a spec.
///
/// A spec that extends another inherits what it does not say, so keys are required only without `extends`. `[model]` is
/// checked where `architecture` is a shipped one.
pub fn json_schema() -> Json {
    let mut properties = section("");
    properties.insert("model".into(), json!({ "type": "object" }));
    let mut alone = Map::new();
    for name in SECTIONS.iter().filter(|name| !name.is_empty() && !name.contains('.')) {
        if *name == "model" {
            continue;
        }
        let mut keys = section(name);
        for inner in SECTIONS.iter().filter_map(|inner| inner.strip_prefix(&format!("{name}."))) {
            let entries = format!("{name}.{inner}");
            let mut entry = table(section(&entries));
            entry["required"] = required(&entries).into();
            keys.insert(inner.to_owned(), json!({ "type": "array", "items": entry }));
        }
        let keys = table(keys);
        let value = match *name {
            "cola" => json!({ "anyOf": [keys, { "const": false }] }),
            _ => keys,
        };
        properties.insert((*name).to_owned(), value);
        let mut needed = Map::new();
        let names = required(name);
        if !names.is_empty() {
            needed.insert("required".into(), names.into());
        }
        for key in schema::keys_of(name) {
            if let Default::RequiredUnless(other) = key.default {
                let other = other.rsplit('.').next().unwrap_or(other);
                let one = [key.name, other].map(|name| json!({ "required": [name] }));
                needed.insert("oneOf".into(), one.to_vec().into());
            }
        }
        if !needed.is_empty() {
            alone.insert((*name).to_owned(), needed.into());
        }
    }
    // `[cola]` is the one section with required keys that may be absent.
    let mut names = required("");
    names.extend(alone.keys().filter(|name| *name != "cola").cloned());
    let mut rules = vec![json!({
        "if": { "required": ["extends"] },
        "else": { "required": names, "properties": alone },
    })];
    rules.extend(shipped::architectures().iter().filter_map(|(name, text)| {
        let settings = model(name, text)?;
        Some(json!({
            "if": { "properties": { "architecture": { "const": name } }, "required": ["architecture"] },
            "then": { "properties": { "model": settings } },
        }))
    }));
    let mut schema = table(properties);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "spec of colac".into();
    schema["allOf"] = rules.into();
    schema
}

/// A table with these keys and no others.
fn table(properties: Map<String, Json>) -> Json {
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// The keys of a section.
fn section(name: &str) -> Map<String, Json> {
    schema::keys_of(name).map(|key| (key.name.to_owned(), property(key))).collect()
}

fn required(section: &str) -> Vec<String> {
    let needed = |key: &&Key| matches!(key.default, Default::Required);
    schema::keys_of(section).filter(needed).map(|key| key.name.to_owned()).collect()
}

fn property(key: &Key) -> Json {
    let text = || json!({ "type": "string", "minLength": 1 });
    let texts = |least: u32| json!({ "anyOf": [text(), { "type": "array", "items": text(), "minItems": least }] });
    let mut property = match key.kind {
        Kind::Text | Kind::Activation => text(),
        Kind::Integer(low, i64::MAX) => json!({ "type": "integer", "minimum": low }),
        Kind::Integer(low, high) => integer(low, high),
        Kind::Number(interval) => number(interval),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Memory => json!({ "type": "string", "pattern": MEMORY_PATTERN }),
        Kind::Name(names) => json!({ "enum": names }),
        Kind::Selectors => texts((key.name == "targets").into()),
        Kind::Paths | Kind::Texts => texts(0),
        Kind::Line => json!({ "type": "string" }),
        Kind::Switches(names) => json!({ "anyOf": [
            { "type": "boolean" },
            { "type": "array", "items": { "enum": names } },
        ] }),
        Kind::Rank => json!({ "anyOf": [integer(1, LARGEST_RANK), text()] }),
    };
    property["description"] = format!("{}; {}", key.kind, described(key.default)).into();
    if let Default::Value(value) = key.default {
        property["default"] = toml_value(value);
    }
    property
}

/// Sizes as [`super::parse_bytes`] reads them, as far as an expression can say it.
const MEMORY_PATTERN: &str = "^(device|[0-9_.]+ ?([KMGTkmgt][Ii]?)?[Bb]?)$";

fn described(default: Default) -> String {
    match default {
        Default::Value(value) => format!("default {value}"),
        other => other.to_string(),
    }
}

fn integer(low: i64, high: i64) -> Json {
    json!({ "type": "integer", "minimum": low, "maximum": high })
}

fn number(interval: Interval) -> Json {
    let mut number = json!({ "type": "number" });
    let low = if interval.low_included { "minimum" } else { "exclusiveMinimum" };
    number[low] = interval.low.into();
    if interval.high.is_finite() {
        let high = if interval.high_included { "maximum" } else { "exclusiveMaximum" };
        number[high] = interval.high.into();
    }
    number
}

/// A default of the table as JSON.
fn toml_value(text: &str) -> Json {
    let mut sources = Sources::default();
    let source = sources.add("default", text);
    let value = crate::toml_tree::parse_value(source, 0, super::codes::SYNTAX, &mut sources);
    value.expect("the defaults of the table are TOML, which a test checks").value.to_json()
}

/// The settings of a shipped architecture; `None` if it does not parse, which its own tests say.
fn model(name: &str, text: &'static str) -> Option<Json> {
    let mut sources = Sources::default();
    let source = sources.add(name, text);
    let architecture = Architecture::parse(source, &mut sources).ok()?;
    let expression =
        |kind: &str| json!({ "anyOf": [{ "type": kind }, { "type": "string", "minLength": 1 }] });
    let settings = architecture.config.iter().map(|entry| {
        let mut setting = match &entry.kind {
            ConfigKind::Integer => expression("integer"),
            ConfigKind::Number => expression("number"),
            ConfigKind::Boolean => expression("boolean"),
            ConfigKind::OneOf(names) => json!({ "enum": names }),
        };
        let default = if entry.default.is_some() { "" } else { "; required" };
        setting["description"] = format!("{}{default}", entry.kind.describe()).into();
        (entry.name.clone(), setting)
    });
    Some(table(settings.collect()))
}
