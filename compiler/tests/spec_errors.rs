//! Every error code of the spec stage has a case in `tests/cases/spec/`, and each case is compared as a user sees it.
//!
//! A case is a spec named after its code, `CODE.toml` or `CODE-VARIANT.toml`. Leading lines that start with `#!` are
//! not part of it: `#! --set …` passes a setting, `#! load …` names another input than the file itself.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostic, Diagnostics, Rendered, Severity, Sources};
use colac_compiler::language::expression::Value;
use colac_compiler::spec::codes;
use colac_compiler::spec::{Spec, SpecInput};

fn cases_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/spec")
}

/// File stems of all cases, ordered.
fn case_names() -> Vec<String> {
    let files = std::fs::read_dir(cases_folder()).expect("the cases are part of the repository");
    let paths = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let mut names: Vec<_> =
        paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Loads a case and returns what was reported.
fn run_case(name: &str) -> (Vec<Diagnostic>, Sources) {
    let text = std::fs::read_to_string(cases_folder().join(format!("{name}.toml"))).unwrap();
    let mut settings = Vec::new();
    let mut input = None;
    let mut rest = text.as_str();
    while let Some(after) = rest.strip_prefix("#! ") {
        let (line, next) = after.split_once('\n').expect("a directive ends its line");
        match line.split_once(' ').expect("a directive has an argument") {
            ("--set", setting) => settings.push(setting.to_owned()),
            ("load", argument) => input = Some(SpecInput::from_argument(argument)),
            (other, _) => panic!("unknown directive {other} in {name}"),
        }
        rest = next;
    }
    let input =
        input.unwrap_or(SpecInput::Text { name: format!("{name}.toml"), text: rest.to_owned() });
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

fn render(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let handler =
        miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    let mut text = String::new();
    for diagnostic in diagnostics {
        handler.render_report(&mut text, &Rendered::new(diagnostic, sources)).unwrap();
        text.push('\n');
    }
    // Lines of miette's frame end in spaces; snapshots are easier to review without them.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for name in case_names() {
        let (diagnostics, sources) = run_case(&name);
        let code = format!("spec::{}", name.split('-').next().unwrap());
        assert!(diagnostics.iter().any(|d| d.code == code), "{name} does not report {code}");
        for diagnostic in &diagnostics {
            assert!(diagnostic.help.is_some(), "{name}: {} has no help", diagnostic.code);
            assert!(
                !diagnostic.message.ends_with('.'),
                "{name}: {} ends with a full stop",
                diagnostic.code
            );
        }
        insta::with_settings!({
            snapshot_path => cases_folder(),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name.clone(), render(&diagnostics, &sources));
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
    let plain: BTreeSet<_> = case_names().into_iter().filter(|name| !name.contains('-')).collect();
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
