//! Every error and warning of the passes and of compiling has a case in a folder of `tests/cases/` ([`AREAS`]),
//! compared as a user sees it.
//!
//! A case is a spec named after its code, `CODE.toml` or `CODE-VARIANT.toml`. Leading lines that start with `#!` are not
//! part of it: `#! --dump PASS` asks for the graph after that pass. Paths in a case start at the folder of the crate.

mod common;

use std::collections::BTreeSet;

use colac_compiler::compile::{self, Dump, Request, compile};
use colac_compiler::diagnostics::{Diagnostics, Severity, Sources};
use colac_compiler::graph::PrintOptions;
use colac_compiler::passes;
use colac_compiler::spec::SpecInput;

/// The folders, each named as the first part of its codes.
const AREAS: [&str; 3] = ["cola", "recompute", "compile"];

/// Codes that no spec leads to. Lowering never makes a value without a derivative, and a broken invariant is a bug: both
/// are reached from graphs made by hand only (`passes.rs`).
const NOT_OF_USERS: [&str; 2] = ["autodiff::no_derivative", "compile::bug"];

/// Whether a case compiles, and everything that is said about it.
fn run_case(area: &str, name: &str) -> (bool, Diagnostics, Sources) {
    let case = common::read(area, name);
    let mut dump = None;
    for (word, argument) in case.directives {
        match word.as_str() {
            "--dump" => dump = Some(Dump { pass: argument, options: PrintOptions::default() }),
            other => panic!("unknown directive {other} in {name}"),
        }
    }
    let input = SpecInput::Text { name: format!("{name}.toml"), text: case.text };
    let mut sources = Sources::default();
    match compile(Request { input, settings: Vec::new(), full_rank: false, dump }, &mut sources) {
        Ok(compiled) => (true, compiled.warnings, sources),
        Err(diagnostics) => (false, diagnostics, sources),
    }
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for area in AREAS {
        for name in common::names(area) {
            let (compiles, diagnostics, sources) = run_case(area, &name);
            let code = format!("{area}::{}", name.split('-').next().unwrap());
            let text = common::render(diagnostics.iter(), &sources);
            assert!(
                diagnostics.iter().any(|d| d.code == code),
                "{name} does not report {code}:\n{text}"
            );
            assert_eq!(
                compiles,
                diagnostics.iter().all(|d| d.severity == Severity::Warning),
                "{name}"
            );
            for diagnostic in diagnostics.iter() {
                common::check_wording(&name, diagnostic);
            }
            insta::with_settings!({
                snapshot_path => common::folder(area),
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, {
                insta::assert_snapshot!(name.clone(), text);
            });
        }
    }
}

#[test]
fn codes_and_cases_are_the_same() {
    let codes: Vec<&str> =
        passes::codes::ALL.iter().chain(&compile::CODES).map(|(code, _)| *code).collect();
    let cases = |area: &str| -> Vec<String> {
        let plain = common::names(area).into_iter().filter(|name| !name.contains('-'));
        plain.map(|name| format!("{area}::{name}")).collect()
    };
    let covered: BTreeSet<String> = AREAS.into_iter().flat_map(cases).collect();
    let unique: BTreeSet<String> =
        codes.iter().filter(|code| !NOT_OF_USERS.contains(code)).map(ToString::to_string).collect();
    assert_eq!(unique.len() + NOT_OF_USERS.len(), codes.len(), "a code stands twice in the tables");
    assert_eq!(unique, covered, "every code needs a case and every case a code");
}

#[test]
fn warnings_do_not_stop() {
    assert!(run_case("cola", "rank_does_not_pay").0);
    assert!(!run_case("cola", "selects_nothing").0);
}
