//! Every error of the layer language and of lowering has a case in `tests/cases/language/`, compared as a user sees it.
//!
//! A case is an architecture named after its code, `CODE.toml` or `CODE-VARIANT.toml`. Leading lines that start with
//! `#!` are not part of it: `#! model KEY = VALUE` gives a setting of the spec, `#! architecture NAME` makes the spec
//! name that instead of the case.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

mod common;

use std::collections::BTreeSet;

use colac_compiler::diagnostics::{Diagnostics, Sources};
use colac_compiler::language::activation::Activation;
use colac_compiler::language::architecture::Architecture;
use colac_compiler::language::config::Config;
use colac_compiler::language::selector::Selector;
use colac_compiler::lower::{self, Batch};
use colac_compiler::spec::{Spec, SpecInput};
use colac_compiler::{language, lower as lowering};

/// The folder of the cases.
const AREA: &str = "language";

/// Everything that is wrong with a case.
fn run_case(name: &str) -> (Diagnostics, Sources) {
    let case = common::read(AREA, name);
    let mut model = String::new();
    let mut architecture = None;
    for (word, argument) in case.directives {
        match word.as_str() {
            "model" => model.push_str(&format!("{argument}\n")),
            "architecture" => architecture = Some(argument),
            other => panic!("unknown directive {other} in {name}"),
        }
    }
    let spec = format!(
        "name = \"case\"\narchitecture = \"{}\"\n\n[model]\n{model}\n[train]\nsequence_length = 16\nmicro_batch = 2\n\
         steps = 1\n\n[optimizer]\nlearning_rate = 0.001\n",
        architecture.as_deref().unwrap_or("case.toml"),
    );
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "spec.toml".into(), text: spec };
    let (mut spec, _) =
        Spec::load(input, &[], false, &mut sources).expect("the spec itself is right");
    if architecture.is_some() {
        spec.folder = Some("folder".into());
        return (lower::model(&spec, &mut sources).expect_err("a case is wrong"), sources);
    }
    let source = sources.add(format!("{name}.toml"), case.text);
    let lowered = Architecture::parse(source, &mut sources).and_then(|architecture| {
        let config =
            Config::resolve(&architecture, &lower::settings(&spec.model), spec.model_section)?;
        let place = spec.place("train.sequence_length");
        lower::lower(&architecture, &config, Batch { rows: 2, sequence_length: 16, place })
    });
    (lowered.expect_err(name), sources)
}

/// What follows `language::` or `lower::` in every code.
fn codes() -> Vec<&'static str> {
    let all = language::codes::ALL.iter().chain(lowering::codes::ALL);
    all.map(|(code, _)| code.split_once("::").unwrap().1).collect()
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for name in common::names(AREA) {
        let (diagnostics, sources) = run_case(&name);
        let wanted = name.split('-').next().unwrap();
        let found = diagnostics.iter().any(|d| d.code.split_once("::").unwrap().1 == wanted);
        assert!(found, "{name} reports\n{}", common::render(diagnostics.iter(), &sources));
        for diagnostic in diagnostics.iter() {
            common::check_wording(&name, diagnostic);
            assert!(!diagnostic.labels.is_empty(), "{name}: {} points nowhere", diagnostic.code);
        }
        insta::with_settings!({
            snapshot_path => common::folder(AREA),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name.clone(), common::render(diagnostics.iter(), &sources));
        });
    }
}

#[test]
fn codes_and_cases_are_the_same() {
    let codes = codes();
    let unique: BTreeSet<_> = codes.iter().map(ToString::to_string).collect();
    assert_eq!(unique.len(), codes.len(), "a code stands twice in the tables");
    let plain: BTreeSet<_> =
        common::names(AREA).into_iter().filter(|name| !name.contains('-')).collect();
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
        text.push_str(&common::render(diagnostics.iter(), &sources));
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
                common::render(diagnostics.iter(), &sources);
            }
            Ok(())
        })
        .unwrap();
}
