//! The JSON Schema of specs takes every spec that ships, and refuses what the compiler refuses.
//!
//! Validated by a reader of its own: the schema uses a dozen words of draft 7, and one that is not known here fails.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use colac_compiler::spec::json_schema::json_schema;
use colac_compiler::spec::schema::{KEYS, SECTIONS};
use colac_compiler::spec::shipped;
use serde_json::{Value, json};

/// What is wrong with a value; nothing if it fits.
fn faults(schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let mut found = Vec::new();
    let rules = schema.as_object().unwrap();
    let fits = |schema: &Value| faults(schema, value, place).is_empty();
    macro_rules! fault {
        ($holds:expr, $what:expr $(,)?) => {
            if !$holds {
                found.push(format!("{place}: {}", $what));
            }
        };
    }
    for (word, rule) in rules {
        match word.as_str() {
            "$schema" | "title" | "description" | "default" | "then" | "else" => {}
            "type" => {
                let holds = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64(),
                    "number" => value.is_number(),
                    other => panic!("unknown type {other}"),
                };
                fault!(holds, format!("is not of type {rule}"));
            }
            "enum" => fault!(rule.as_array().unwrap().contains(value), "is none of the names"),
            "const" => fault!(rule == value, "is not the constant"),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                let (Some(number), limit) = (value.as_f64(), rule.as_f64().unwrap()) else {
                    continue;
                };
                let holds = match word.as_str() {
                    "minimum" => number >= limit,
                    "maximum" => number <= limit,
                    "exclusiveMinimum" => number > limit,
                    _ => number < limit,
                };
                fault!(holds, format!("violates {word} {rule}"));
            }
            "minLength" => {
                let length = value.as_str().map_or(u64::MAX, |text| text.chars().count() as u64);
                fault!(length >= rule.as_u64().unwrap(), "is too short");
            }
            "minItems" => {
                let length = value.as_array().map_or(u64::MAX, |list| list.len() as u64);
                fault!(length >= rule.as_u64().unwrap(), "has too few items");
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(rule, item, &format!("{place}[{index}]")));
                }
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        found.extend(faults(rule, value, &format!("{place}.{key}")));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = rules["properties"].as_object().unwrap();
                for key in value.as_object().into_iter().flatten().map(|(key, _)| key) {
                    let holds = known.contains_key(key);
                    if !holds {
                        found.push(format!("{place}: has no key {key}"));
                    }
                }
            }
            "required" => {
                let Some(object) = value.as_object() else { continue };
                for key in rule.as_array().unwrap() {
                    if !object.contains_key(key.as_str().unwrap()) {
                        found.push(format!("{place}: lacks {key}"));
                    }
                }
            }
            "anyOf" => fault!(rule.as_array().unwrap().iter().any(fits), "fits no alternative"),
            "oneOf" => {
                let count = rule.as_array().unwrap().iter().filter(|rule| fits(rule)).count();
                fault!(
                    value.as_object().is_none() || count == 1,
                    "does not fit exactly one alternative",
                );
            }
            "allOf" => {
                for rule in rule.as_array().unwrap() {
                    found.extend(faults(rule, value, place));
                }
            }
            "if" => {
                let branch = if fits(rule) { "then" } else { "else" };
                if let Some(branch) = rules.get(branch) {
                    found.extend(faults(branch, value, place));
                }
            }
            other => panic!("the schema uses {other}, which this test does not know"),
        }
    }
    found
}

fn spec(text: &str) -> Value {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

#[test]
fn shipped_specs_fit() {
    let schema = json_schema();
    for (name, text) in shipped::specs() {
        assert_eq!(faults(&schema, &spec(text), name), Vec::<String>::new());
    }
    // A spec that extends another needs nothing else, and one that does not needs what it needs.
    assert!(faults(&schema, &json!({ "extends": "x" }), "").is_empty());
    let missing = faults(&schema, &json!({}), "").join("\n");
    for key in ["name", "architecture", "train", "optimizer"] {
        assert!(missing.contains(&format!("lacks \"{key}\"")), "{missing}");
    }
    assert!(!missing.contains("cola"), "{missing}");
}

#[test]
fn what_is_wrong_does_not_fit() {
    let schema = json_schema();
    let (_, text) = shipped::specs()[0];
    let good = spec(text);
    let wrong = |path: &str, value: Value| {
        let mut spec = good.clone();
        let (section, key) = path.rsplit_once('/').unwrap();
        let place = spec.pointer_mut(section).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => place.remove(key),
            value => place.insert(key.to_owned(), value),
        };
        faults(&schema, &spec, "spec")
    };
    for (path, value) in [
        ("/train/steps", json!(0)),
        ("/train/steps", json!(1.5)),
        ("/train/steps", json!("many")),
        ("/train/steps", Value::Null),
        ("/train/tokens_per_parameter", json!(20)),
        ("/train/micro_batch", Value::Null),
        ("/train/lenght", json!(1)),
        ("/optimizer/beta1", json!(1.0)),
        ("/optimizer/learning_rate", json!(0)),
        ("/optimizer/decay", json!("some")),
        ("/cola/targets", json!([])),
        ("/cola/rank", json!(0)),
        ("/cola/override", json!([{ "rank": 4 }])),
        ("/cola", json!(true)),
        ("/model/hiden_size", json!(4)),
        ("/model/hidden_size", json!([4])),
        ("/model/hidden_act", json!("swish")),
        ("/model/vocab_size", json!(true)),
        ("/schedul", json!({})),
        ("/name", json!("")),
    ] {
        assert!(!wrong(path, value.clone()).is_empty(), "{path} = {value} fits");
    }
    for (path, value) in [
        ("/cola", json!(false)),
        ("/cola", Value::Null),
        ("/cola/rank", json!("hidden_size / 8")),
        ("/cola/override", json!([{ "targets": "layers.0.**", "rank": 4 }])),
        ("/model/hidden_size", json!("2 * num_attention_heads")),
    ] {
        assert_eq!(wrong(path, value.clone()), Vec::<String>::new(), "{path} = {value}");
    }
}

#[test]
fn every_key_is_in_the_schema() {
    let schema = json_schema();
    for key in KEYS {
        let mut place = &schema;
        for part in key.section.split('.').filter(|part| !part.is_empty()) {
            place = &place["properties"][part];
            // `[cola]` may be false instead, and the entries of a list are its items.
            place = place.pointer("/anyOf/0").unwrap_or(place);
            place = place.get("items").unwrap_or(place);
        }
        assert!(place["properties"][key.name].is_object(), "{} is not there", key.path());
    }
    for section in SECTIONS.iter().filter(|name| !name.is_empty() && !name.contains('.')) {
        assert!(schema["properties"][*section].is_object(), "{section}");
    }
}
