//! `docs/plan-format.md` names every field and alternative of the file, in the order in which they are written.

#![allow(clippy::unwrap_used, reason = "a test may fail where it unwraps")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Files whose serialized types make up a plan.
const SOURCES: [&str; 9] = [
    "plan.rs",
    "tensor.rs",
    "shape.rs",
    "dtype.rs",
    "parameter.rs",
    "program.rs",
    "op/mod.rs",
    "pointwise.rs",
    "recipe.rs",
];

/// Fields and alternatives of every serialized type, in order; fields of alternatives follow their alternative.
fn defined() -> BTreeMap<String, Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut types = BTreeMap::new();
    for source in SOURCES {
        let text = fs::read_to_string(folder.join(source)).unwrap();
        let mut serialized = false;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.starts_with("#[derive") {
                serialized = line.contains("Serialize");
            }
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let &["pub", "struct" | "enum", name, ..] = words.as_slice() else { continue };
            // Two types have this name; the document tells them apart as the code does.
            let name = if source == "pointwise.rs" && name == "Program" {
                "pointwise::Program"
            } else {
                name
            };
            let mut names = Vec::new();
            if line.ends_with('{') {
                for line in lines.by_ref().take_while(|line| *line != "}") {
                    let code = line.trim();
                    let is_name = code.starts_with(|c: char| c.is_alphabetic());
                    if is_name {
                        let code = code.strip_prefix("pub ").unwrap_or(code);
                        names.push(
                            code.split(|c: char| !c.is_alphanumeric() && c != '_')
                                .next()
                                .unwrap()
                                .to_owned(),
                        );
                    }
                }
            }
            if std::mem::take(&mut serialized) {
                types.insert(name.to_owned(), names);
            }
        }
    }
    types
}

/// The text of each section of the document that is about a type.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/plan-format.md");
    let text = fs::read_to_string(path).unwrap();
    let mut sections = BTreeMap::new();
    for section in text.split("\n### `").skip(1) {
        let (name, rest) = section.split_once("`\n").unwrap();
        let rest = rest.split("\n## ").next().unwrap();
        sections.insert(name.to_owned(), rest.to_owned());
    }
    sections
}

/// What a section's table lists: the name of each row, and before the meaning the fields that an alternative has.
fn listed(section: &str) -> Vec<String> {
    let mut names = Vec::new();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    for (number, row) in rows.enumerate() {
        let cells: Vec<&str> = row.split(" | ").collect();
        let quoted = |text: &str| text.split('`').nth(1).unwrap().to_owned();
        if let Ok(stated) = cells[0].trim_start_matches("| ").parse::<usize>() {
            assert_eq!(stated, number, "{row}");
            names.push(quoted(cells[1]));
            for held in cells[2].split("; ").filter(|held| held.contains("`: ")) {
                names.push(quoted(held));
            }
        } else {
            names.push(quoted(cells[0]));
        }
    }
    names
}

#[test]
fn every_field_is_documented_in_order() {
    let (defined, documented) = (defined(), documented());
    assert!(defined.len() > 40 && defined["Op"].len() > 16, "the sources were read");
    let names = |types: Vec<&String>| types.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(defined.keys().collect()), names(documented.keys().collect()));
    for (name, fields) in &defined {
        assert_eq!(*fields, listed(&documented[name]), "{name}");
    }
}
