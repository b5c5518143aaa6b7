//! `docs/errors.md` says what every code means, with an example and how to mend it.
//!
//! The page is made of the code tables, as the program lists them, and of the snapshots of the cases in `tests/cases/`.
//! After a change that is meant: `INSTA_UPDATE=always cargo test --test errors`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;

use serde_json::Value;

/// Areas in the order of the page: prefix of the codes, folder of the cases, heading and what they are about.
const AREAS: &[(&str, &str, &str, &str)] = &[
    (
        "spec",
        "spec",
        "The spec",
        "What can be wrong with a spec by itself, in the order in which it is checked.",
    ),
    (
        "language",
        "language",
        "Architecture files",
        "Expressions, selectors, activations, and files in the layer language.",
    ),
    (
        "lower",
        "language",
        "Spec and architecture together",
        "What shows when the settings of a spec meet an architecture.",
    ),
    ("cola", "cola", "CoLA", "The section `[cola]` and the linears of the model."),
    ("autodiff", "", "Derivatives", "What training asks of a model beyond evaluating it."),
    (
        "recompute",
        "recompute",
        "Recompute",
        "The section `[recompute]`: policies, their exceptions, and memory to fit into.",
    ),
    ("compile", "compile", "Compiling", "The compiler as a whole."),
    (
        "device",
        "device",
        "Device profiles",
        "What can be wrong with a profile that `--device` names (`docs/device-profiles.md`).",
    ),
    (
        "data",
        "data",
        "Data",
        "What `colac train --dry-run` finds out about texts, token shards and tokenizers.",
    ),
    (
        "train",
        "train",
        "The run",
        "What `colac train --dry-run` finds out about the machine and the run folder.",
    ),
];

const OPENING: &str = "\
# Errors and warnings

Every message about a spec, an architecture or a run has a code, the place that is wrong, the reason, and what to do.
`colac explain CODE` prints the entry of a code. Errors (× or x) stop the command; warnings (⚠ or !) do not, unless `--deny-warnings` is given.
All mistakes that can be seen at once are reported at once.

This page is made from the code tables and the cases in `tests/cases/`; a test keeps it equal to them.
Errors of the surroundings, such as a file that cannot be read in the middle of a run, are one line without a code that names the file and the way out.
";

/// Codes without a case, and why: what a user cannot reach has no example.
const UNREACHED: &[(&str, &str)] = &[
    (
        "autodiff::no_derivative",
        "No architecture leads here: lowering makes no value without a derivative. Report it together with the architecture.",
    ),
    ("compile::bug", "No spec should lead here. Report it together with the spec."),
];

fn colac(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_colac")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Codes with their meanings, as the program knows them.
fn codes() -> Vec<(String, String)> {
    let list: Vec<Value> = serde_json::from_str(&colac(&["explain", "--json"])).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter().map(|entry| (text(&entry["code"]), text(&entry["meaning"]))).collect()
}

/// The first report of a code in the snapshot of its case.
fn example(folder: &str, code: &str) -> String {
    let (_, name) = code.split_once("::").unwrap();
    let path = common::repository(&format!("tests/cases/{folder}/{name}.snap"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, body) = text.split_once("\n---\n").unwrap();
    let is_code = |line: &&str| {
        line.split_once("::").is_some_and(|(area, what)| {
            let word = |text: &str| {
                text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
            };
            word(area) && word(what)
        })
    };
    let lines = body.lines().skip_while(|line| *line != code).skip(1);
    let report: Vec<&str> = lines.take_while(|line| !is_code(line)).collect();
    let report = report.join("\n");
    let report = report.trim_matches('\n').to_owned();
    assert!(!report.is_empty(), "{} has no report of {code}", path.display());
    report
}

/// The help of a report as one line.
fn help(report: &str) -> String {
    let mut lines = report.lines().skip_while(|line| !line.trim_start().starts_with("help: "));
    let first = lines.next().unwrap_or_else(|| panic!("no help in\n{report}"));
    let mut help = first.trim_start().trim_start_matches("help: ").to_owned();
    for line in lines.take_while(|line| line.starts_with("        ")) {
        write!(help, " {}", line.trim()).unwrap();
    }
    help
}

fn page() -> String {
    let codes = codes();
    let mut page = OPENING.to_owned();
    let mut done = 0;
    for (area, folder, heading, about) in AREAS {
        let of_area = codes.iter().filter(|(code, _)| code.split("::").next() == Some(*area));
        write!(page, "\n## {heading}\n\n{about}\n").unwrap();
        for (code, meaning) in of_area {
            done += 1;
            let meaning = meaning.trim().trim_end_matches('.');
            let mut letters = meaning.chars();
            let first = letters.next().unwrap().to_uppercase();
            write!(page, "\n### `{code}`\n\n{first}{}.\n", letters.as_str()).unwrap();
            match UNREACHED.iter().find(|(unreached, _)| unreached == code) {
                Some((_, why)) => write!(page, "\n{why}\n").unwrap(),
                None => {
                    let example = example(folder, code);
                    write!(page, "\n```text\n{example}\n```\n\nTo mend it: {}.\n", help(&example))
                        .unwrap();
                }
            }
        }
    }
    assert_eq!(done, codes.len(), "a code has an area that the page does not know");
    page
}

#[test]
fn the_page_is_made_of_the_tables_and_the_cases() {
    let path = common::repository("docs/errors.md");
    let page = page();
    if std::env::var("INSTA_UPDATE").as_deref() == Ok("always") {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap();
    assert!(
        there == page,
        "docs/errors.md is not what the codes say: run INSTA_UPDATE=always cargo test --test errors"
    );
}

#[test]
fn there_are_many_codes_and_each_is_explained() {
    let codes = codes();
    let unique: BTreeSet<_> = codes.iter().map(|(code, _)| code).collect();
    assert_eq!(unique.len(), codes.len(), "a code stands twice");
    assert!(codes.len() >= 40);
    let page = std::fs::read_to_string(common::repository("docs/errors.md")).unwrap();
    for (code, _) in &codes {
        assert!(page.contains(&format!("\n### `{code}`\n")), "{code} is not on the page");
    }
    let whole = colac(&["explain", "spec::unknown_key"]);
    assert!(whole.contains("To mend it") && !whole.contains("spec::missing_section"), "{whole}");
    assert_eq!(
        colac(&["explain", "unknown_section"]),
        colac(&["explain", "spec::unknown_section"])
    );
    assert!(colac(&["explain"]).lines().count() == codes.len());
}
