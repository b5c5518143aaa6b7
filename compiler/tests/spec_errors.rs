//! Every error code of the spec stage has a case in `tests/cases/spec/`, and each case is compared as a user sees it.
//!
//! A case is a spec named after its code, `CODE.toml` or `CODE-VARIANT.toml`. Leading lines that start with `#!` are
//! not part of it: `#! --set …` passes a setting, `#! load …` names another input than the file itself, with paths
//! that start at the folder of the crate, and `#! fill N` adds N characters of comment.

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostic, Diagnostics, Severity, Sources};
use colac_compiler::language::expression::Value;
use colac_compiler::spec::codes;
use colac_compiler::spec::{Spec, SpecInput};

/// The folder of the cases.
const AREA: &str = "spec";

/// Loads a case and returns what was reported.
fn run_case(name: &str) -> (Vec<Diagnostic>, Sources) {
    let case = common::read(AREA, name);
    let mut settings = Vec::new();
    let mut text = case.text;
    let mut other = None;
    for (word, argument) in case.directives {
        match word.as_str() {
            "--set" => settings.push(argument),
            "fill" => text.push_str(&"#".repeat(argument.parse().expect("a number of characters"))),
            "load" => other = Some(SpecInput::from_argument(&argument)),
            other => panic!("unknown directive {other} in {name}"),
        }
    }
    let input = other.unwrap_or(SpecInput::Text { name: format!("{name}.toml"), text });
    let mut sources = Sources::default();
    let mut found = Diagnostics::default();
    match Spec::load(input, &settings, false, &mut sources) {
        Err(errors) => {
            assert!(errors.has_errors(), "{name}: refused without an error");
            found.extend(errors);
        }
        Ok((spec, warnings)) => {
            assert!(!warnings.has_errors(), "{name}: accepted with an error");
            found.extend(warnings);
            let lookup = |key: &str| -> Option<Value> {
                Some(
                    spec.model.iter().find(|setting| setting.key.value == key)?.value.value.clone(),
                )
            };
            if let Some(Err(error)) = spec.cola.as_ref().map(|cola| cola.rank.evaluate(&lookup)) {
                found.push(error);
            }
        }
    }
    (found.iter().cloned().collect(), sources)
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for name in common::names(AREA) {
        let (diagnostics, sources) = run_case(&name);
        let code = format!("spec::{}", name.split('-').next().unwrap());
        assert!(diagnostics.iter().any(|d| d.code == code), "{name} does not report {code}");
        for diagnostic in &diagnostics {
            common::check_wording(&name, diagnostic);
        }
        insta::with_settings!({
            snapshot_path => common::folder(AREA),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name.clone(), common::render(&diagnostics, &sources));
        });
    }
}

#[test]
fn codes_and_cases_are_the_same() {
    let codes: BTreeSet<_> = codes::ALL
        .iter()
        .map(|(code, _)| code.strip_prefix("spec::").unwrap().to_owned())
        .collect();
    assert_eq!(codes.len(), codes::ALL.len(), "a code stands twice in the table");
    let plain: BTreeSet<_> =
        common::names(AREA).into_iter().filter(|name| !name.contains('-')).collect();
    assert_eq!(codes, plain, "every code needs tests/cases/spec/CODE.toml and every case a code");
}

#[test]
fn codes_are_written_in_their_table_only() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/spec");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().is_some_and(|name| name == "codes.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("\"spec::"), "{} makes a code of its own", path.display());
    }
}

#[test]
fn warnings_do_not_stop_and_errors_do() {
    let (diagnostics, _) = run_case("unused_key-setting");
    assert!(diagnostics.iter().all(|d| d.severity == Severity::Warning));
    let (diagnostics, _) = run_case("unused_key");
    assert!(diagnostics.iter().all(|d| d.severity == Severity::Error));
}
