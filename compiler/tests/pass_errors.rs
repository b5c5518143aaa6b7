//! Every error and warning of the passes and of compiling has a case in `tests/cases/cola/` or `tests/cases/compile/`,
//! compared as a user sees it.
//!
//! A case is a spec named after its code, `CODE.toml` or `CODE-VARIANT.toml`. Leading lines that start with `#!` are not
//! part of it: `#! --dump PASS` asks for the graph after that pass. Paths in a case start at the folder of the crate.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use colac_compiler::compile::{self, Dump, Request, compile};
use colac_compiler::diagnostics::{Diagnostics, Rendered, Severity, Sources};
use colac_compiler::graph::PrintOptions;
use colac_compiler::passes;
use colac_compiler::spec::SpecInput;

/// Codes that no spec leads to. Lowering never makes a value without a derivative, and a broken invariant is a bug: both
/// are reached from graphs made by hand only (`passes.rs`).
const NOT_OF_USERS: [&str; 2] = ["autodiff::no_derivative", "compile::bug"];

fn folder(area: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(area)
}

/// File stems of all cases of an area, ordered.
fn case_names(area: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder(area)).expect("the cases are part of the repository");
    let paths = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let mut names: Vec<_> =
        paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Whether a case compiles, and everything that is said about it.
fn run_case(area: &str, name: &str) -> (bool, Diagnostics, Sources) {
    let text = std::fs::read_to_string(folder(area).join(format!("{name}.toml"))).unwrap();
    let mut dump = None;
    let mut rest = text.as_str();
    while let Some(after) = rest.strip_prefix("#! ") {
        let (line, next) = after.split_once('\n').expect("a directive ends its line");
        match line.split_once(' ').expect("a directive has an argument") {
            ("--dump", pass) => {
                dump = Some(Dump { pass: pass.into(), options: PrintOptions::default() })
            }
            (other, _) => panic!("unknown directive {other} in {name}"),
        }
        rest = next;
    }
    let input = SpecInput::Text { name: format!("{name}.toml"), text: rest.to_owned() };
    let mut sources = Sources::default();
    match compile(Request { input, settings: Vec::new(), full_rank: false, dump }, &mut sources) {
        Ok(compiled) => (true, compiled.warnings, sources),
        Err(diagnostics) => (false, diagnostics, sources),
    }
}

fn render(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let handler =
        miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    let mut text = String::new();
    for diagnostic in diagnostics.iter() {
        handler.render_report(&mut text, &Rendered::new(diagnostic, sources)).unwrap();
        text.push('\n');
    }
    // Lines of miette's frame end in spaces; snapshots are easier to review without them.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for area in ["cola", "compile"] {
        for name in case_names(area) {
            let (compiles, diagnostics, sources) = run_case(area, &name);
            let code = format!("{area}::{}", name.split('-').next().unwrap());
            let text = render(&diagnostics, &sources);
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
                assert!(diagnostic.help.is_some(), "{name}: {} has no help", diagnostic.code);
                assert!(
                    !diagnostic.message.ends_with('.'),
                    "{name}: {} ends with a full stop",
                    diagnostic.code
                );
            }
            insta::with_settings!({
                snapshot_path => folder(area),
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
        let plain = case_names(area).into_iter().filter(|name| !name.contains('-'));
        plain.map(|name| format!("{area}::{name}")).collect()
    };
    let covered: BTreeSet<String> = cases("cola").into_iter().chain(cases("compile")).collect();
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
