//! Every error of the layer language and of lowering has a case in `tests/cases/language/`, compared as a user sees it.
//!
//! A case is an architecture named after its code, `CODE.toml` or `CODE-VARIANT.toml`. Leading lines that start with
//! `#!` are not part of it: `#! model KEY = VALUE` gives a setting of the spec, `#! architecture NAME` makes the spec
//! name that instead of the case.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostics, Rendered, Sources};
use colac_compiler::language::activation::Activation;
use colac_compiler::language::architecture::Architecture;
use colac_compiler::language::config::Config;
use colac_compiler::language::selector::Selector;
use colac_compiler::lower::{self, Batch};
use colac_compiler::spec::{Spec, SpecInput};
use colac_compiler::{language, lower as lowering};

fn cases_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/language")
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

/// Everything that is wrong with a case.
fn run_case(name: &str) -> (Diagnostics, Sources) {
    let text = std::fs::read_to_string(cases_folder().join(format!("{name}.toml"))).unwrap();
    let mut model = String::new();
    let mut architecture = None;
    let mut rest = text.as_str();
    while let Some(after) = rest.strip_prefix("#! ") {
        let (line, next) = after.split_once('\n').expect("a directive ends its line");
        match line.split_once(' ').expect("a directive has an argument") {
            ("model", setting) => model.push_str(&format!("{setting}\n")),
            ("architecture", named) => architecture = Some(named),
            (other, _) => panic!("unknown directive {other} in {name}"),
        }
        rest = next;
    }
    let spec = format!(
        "name = \"case\"\narchitecture = \"{}\"\n\n[model]\n{model}\n[train]\nsequence_length = 16\nmicro_batch = 2\n\
         steps = 1\n\n[optimizer]\nlearning_rate = 0.001\n",
        architecture.unwrap_or("case.toml"),
    );
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "spec.toml".into(), text: spec };
    let (mut spec, _) =
        Spec::load(input, &[], false, &mut sources).expect("the spec itself is right");
    if architecture.is_some() {
        spec.folder = Some("folder".into());
        return (lower::model(&spec, &mut sources).expect_err("a case is wrong"), sources);
    }
    let source = sources.add(format!("{name}.toml"), rest);
    let lowered = Architecture::parse(source, &mut sources).and_then(|architecture| {
        let config = Config::resolve(&architecture, &lower::settings(&spec), spec.model_section)?;
        lower::lower(&architecture, &config, Batch { rows: 2, sequence_length: 16 })
    });
    (lowered.expect_err(name), sources)
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

/// What follows `language::` or `lower::` in every code.
fn codes() -> Vec<&'static str> {
    let all = language::codes::ALL.iter().chain(lowering::codes::ALL);
    all.map(|(code, _)| code.split_once("::").unwrap().1).collect()
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for name in case_names() {
        let (diagnostics, sources) = run_case(&name);
        let wanted = name.split('-').next().unwrap();
        let found = diagnostics.iter().any(|d| d.code.split_once("::").unwrap().1 == wanted);
        assert!(found, "{name} reports\n{}", render(&diagnostics, &sources));
        for diagnostic in diagnostics.iter() {
            assert!(diagnostic.help.is_some(), "{name}: {} has no help", diagnostic.code);
            assert!(!diagnostic.labels.is_empty(), "{name}: {} points nowhere", diagnostic.code);
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
    let codes = codes();
    let unique: BTreeSet<_> = codes.iter().map(ToString::to_string).collect();
    assert_eq!(unique.len(), codes.len(), "a code stands twice in the tables");
    let plain: BTreeSet<_> = case_names().into_iter().filter(|name| !name.contains('-')).collect();
    assert_eq!(
        unique, plain,
        "every code needs tests/cases/language/CODE.toml and every case a code"
    );
}

#[test]
fn selectors_and_formulas_explain_themselves() {
    let mut text = String::new();
    let mut wrong = |written: &str, parse: &dyn Fn(&str, &mut Sources) -> Diagnostics| {
        let mut sources = Sources::default();
        let diagnostics = parse(written, &mut sources);
        text.push_str(&render(&diagnostics, &sources));
    };
    for selector in ["", "layers..mlp", "layers.***", "layers.{a,b", "layers.a|b", ".a", "a**.b"] {
        wrong(selector, &|written, sources| {
            let source = sources.add("selector", written);
            Selector::parse(written, source, 0).expect_err("is no selector").into()
        });
    }
    for formula in [
        "sillu",
        "x * y",
        "x if true else 1",
        "sigmoid(x, x)",
        "foo(x)",
        "x *",
        "a: tanh(x)",
        "\"x\"",
    ] {
        wrong(formula, &|written, sources| {
            let source = sources.add("activation", written);
            Activation::parse(written, source, 0).expect_err("is no activation").into()
        });
    }
    insta::assert_snapshot!(text);
}

#[test]
fn no_text_makes_the_parser_panic() {
    use proptest::prelude::*;
    let words = prop::sample::select(vec![
        "model(tokens: ids[batch, seq]) {",
        "}",
        "{",
        "(",
        ")",
        "x",
        "=",
        "x =",
        "repeat layers[n] {",
        "return",
        "linear(",
        "a:",
        "a.b:",
        ",",
        "+",
        "-",
        "*",
        "/",
        "not",
        "if",
        "else",
        "block f(x) {",
        "init",
        "use",
        "for",
        "1",
        "2.5",
        "'t'",
        "\n",
        "#",
        "é",
        "window(",
        "[",
        "]",
        "and",
        "**",
        "99999999999999999999",
    ]);
    let mut runner = prop::test_runner::TestRunner::deterministic();
    runner
        .run(&prop::collection::vec(words, 0..40), |words| {
            let body = words.join(" ");
            let text = format!(
                "language = 1\nabout = \"a\"\nobjective = \"next-token\"\n[config]\nn = 2\n[body]\ntext = '''\n{body}\n'''"
            );
            let mut sources = Sources::default();
            let source = sources.add("random.toml", text);
            if let Err(diagnostics) = Architecture::parse(source, &mut sources) {
                render(&diagnostics, &sources);
            }
            Ok(())
        })
        .unwrap();
}
