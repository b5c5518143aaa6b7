//! Everything that can be wrong with a text before it is a spec: it is refused with a place that can be shown, and never
//! panics. What a user then sees of the most common ones is a snapshot.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use colac_compiler::compile::resolve;
use colac_compiler::diagnostics::{Diagnostic, Diagnostics, Rendered, Sources};
use colac_compiler::spec::{Spec, SpecInput, shipped};
use proptest::prelude::*;

/// A spec that is right.
const GOOD: &str = "name = \"case\"\narchitecture = \"decoder\"\n\n[model]\nhidden_size = 64\n\n[cola]\nrank = 8\n\n\
                    [train]\nsequence_length = 32\nmicro_batch = 2\nsteps = 10\n\n[optimizer]\nlearning_rate = 0.01\n";

/// A diagnostic as a user sees it, 100 columns wide.
fn drawn(diagnostic: &Diagnostic, sources: &Sources) -> String {
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let handler =
        miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    let mut drawn = String::new();
    handler.render_report(&mut drawn, &Rendered::new(diagnostic, sources)).unwrap();
    drawn.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The report on a text, with every span shown; nothing if the text is a spec.
fn report(text: &str, settings: &[String]) -> Option<String> {
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "case.toml".into(), text: text.into() };
    let loaded = Spec::load(input, settings, false, &mut sources);
    let report = |diagnostics: &Diagnostics| {
        let diagnostics: Vec<_> = diagnostics.iter().cloned().collect();
        for diagnostic in &diagnostics {
            for label in &diagnostic.labels {
                // Slicing panics for a span outside its source or inside a character.
                sources.slice(label.span);
            }
            assert!(diagnostic.help.is_some(), "{} has no help", diagnostic.code);
        }
        // More than this nobody reads; rendering each costs the length of the text.
        let drawn = diagnostics.iter().take(20).map(|diagnostic| drawn(diagnostic, &sources));
        drawn.collect::<String>()
    };
    match loaded {
        Ok((_, warnings)) => {
            report(&warnings);
            None
        }
        Err(errors) => {
            assert!(errors.has_errors());
            Some(report(&errors))
        }
    }
}

#[test]
fn forms_of_text_that_are_toml_are_taken() {
    for text in [
        GOOD.to_owned(),
        format!("\u{feff}{GOOD}"),
        GOOD.replace('\n', "\r\n"),
        GOOD.replace(" = ", "\t=\t"),
        GOOD.replace("steps = 10", "\"steps\" = 0x0A # \u{442}"),
        GOOD.replace("[train]\n", "[train]\n\n\n# ---\n"),
        format!("{}\n[data]\ntokenizer = \"\u{442}ok \u{1f600}.json\"\n", GOOD),
        GOOD.trim_end().to_owned(),
    ] {
        assert_eq!(report(&text, &[]), None, "{text}");
    }
}

#[test]
fn what_is_not_a_spec_is_refused_and_explained() {
    let line = |old: &str, new: &str| {
        assert!(GOOD.contains(old), "{old}");
        GOOD.replace(old, new)
    };
    let mut all = String::new();
    for (what, text) in [
        ("bent quotes", line("\"case\"", "\u{201c}case\u{201d}")),
        ("a Greek letter in a key", line("steps", "st\u{3b5}ps")),
        ("a Cyrillic letter in a quoted key", line("steps", "\"st\u{435}ps\"")),
        ("a space that is none", line("steps = 10", "steps\u{a0}= 10")),
        ("a key twice", line("steps = 10", "steps = 10\nsteps = 20")),
        ("a section twice", format!("{GOOD}\n[train]\nseed = 1\n")),
        ("a section as a list of tables", line("[train]", "[[train]]")),
        (
            "a list of tables as a section",
            format!("{GOOD}\n[cola.override]\nrank = 4\ntargets = \"**\"\n"),
        ),
        (
            "a section as a value",
            line("[optimizer]\nlearning_rate = 0.01", "[x]\n")
                .replace("architecture", "optimizer = 3\narchitecture"),
        ),
        (
            "an inline table with a wrong key",
            line("[optimizer]\nlearning_rate = 0.01\n", "")
                .replace("architecture", "optimizer = { learning_rat = 0.01 }\narchitecture"),
        ),
        (
            "an inline table over two lines",
            line("[optimizer]\nlearning_rate = 0.01\n", "").replace(
                "architecture",
                "optimizer = { learning_rate = 0.01,\n beta1 = }\narchitecture",
            ),
        ),
        ("a date for a number", line("10", "2024-05-01")),
        ("a time for a number", line("10", "10:30:00")),
        ("a list for a number", line("10", "[10]")),
        ("a number as a text", line("10", "\"10\"")),
        ("a truth value for a number", line("10", "true")),
        ("a fraction for a count", line("10", "10.5")),
        ("a whole number with an exponent", line("10", "1e4")),
        ("a negative number", line("10", "-10")),
        ("a number of more than 64 bits", line("10", "99999999999999999999")),
        ("not a number", line("0.01", "nan")),
        ("infinity", line("0.01", "+inf")),
        ("a number below the smallest", line("0.01", "1e-400")),
        ("a comma for the point", line("0.01", "0,01")),
        ("a leading zero", line("10", "010")),
        ("an empty text", line("\"case\"", "\"\"")),
        ("a text of spaces", line("\"case\"", "\"  \"")),
        ("a text over two lines", line("\"case\"", "\"ca\nse\"")),
        ("a word without quotes", line("\"case\"", "case")),
        ("a key without a value", line("steps = 10", "steps =")),
        ("a value without a key", line("steps = 10", "= 10")),
        ("a section without its bracket", line("[train]", "[train")),
        ("a colon", line("steps = 10", "steps: 10")),
        ("an unknown escape", line("\"case\"", "\"c\\ase\"")),
        ("a zero byte", line("\"case\"", "\"c\0ase\"")),
        ("another language", "{\"name\": \"case\"}".to_owned()),
        ("dotted keys into a value", line("steps = 10", "steps.a = 10")),
        ("an expression that ends too early", line("rank = 8", "rank = \"hidden_size /\"")),
        ("a rank of a foreign word", line("rank = 8", "rank = \"acht\u{43e}\" ")),
        ("an unclosed brace", line("rank = 8", "rank = 8\ntargets = \"layers.{0,1\"")),
        ("nothing in a list", line("rank = 8", "rank = 8\ntargets = []")),
        ("a list of other things", line("rank = 8", "rank = 8\ntargets = [1, \"**\"]")),
    ] {
        let report = report(&text, &[]).unwrap_or_else(|| panic!("{what} is taken:\n{text}"));
        all.push_str(&format!("==== {what}\n{report}"));
    }
    insta::assert_snapshot!(all);
}

/// Large and deep texts are refused in no time and without exhausting the stack, and what is shown of them is short.
#[test]
fn monstrous_texts_are_refused_in_a_few_lines() {
    let long = "x".repeat(500_000);
    let many: String = (0..20_000).map(|i| format!("key_{i} = {i}\n")).collect();
    let sections: String = (0..20_000).map(|i| format!("[s{i}]\n")).collect();
    for text in [
        format!("{GOOD}\n[data]\ntrain = {}\n", "[".repeat(100_000)),
        format!("{GOOD}\n[data]\ntrain = {}{}\n", "[".repeat(70), "]".repeat(70)),
        format!("{GOOD}\n[{}a]\n", "a.".repeat(100_000)),
        format!("{}\n{GOOD}", "a.".repeat(50).trim_end_matches('.').to_owned() + " = 1"),
        format!("{long} = 1\n{GOOD}"),
        GOOD.replace("\"case\"", &format!("\"{long}\"")),
        GOOD.replace("rank = 8", &format!("rank = \"{}\"", "1 + ".repeat(100_000))),
        GOOD.replace("rank = 8", &format!("rank = \"{}1\"", "(".repeat(100_000))),
        GOOD.replace("rank = 8", &format!("rank = \"{}1\"", "-".repeat(100_000))),
        GOOD.replace("rank = 8", &format!("rank = 8\ntargets = \"{}\"", "{".repeat(100_000))),
        GOOD.replace("rank = 8", &format!("rank = 8\nactivation = \"{}\"", "x * ".repeat(50_000))),
        GOOD.replace("rank = 8", &format!("rank = 8\ntargets = [{}]", "1, ".repeat(100_000))),
        GOOD.replace("10", &"9".repeat(400_000)),
        format!("{many}{GOOD}"),
        format!("{GOOD}{sections}"),
        format!("{GOOD}#{}", "y".repeat(10_000_000)),
    ] {
        let report = report(&text, &[]).expect("refused");
        assert!(report.len() < 60_000, "{} bytes are shown of\n{:.80}", report.len(), text);
        assert!(report.lines().all(|line| line.chars().count() < 1200), "{:.80}", text);
    }
}

#[test]
fn settings_that_are_none_are_refused() {
    for setting in [
        "",
        "=",
        "=1",
        "train",
        "train.",
        ".steps=1",
        "train..steps=1",
        "train.steps",
        "train.steps=",
        "train=1",
        "train.steps=[",
        "train.steps=\"",
        "train.steps.a=1",
        "name.x=1",
        "cola.override.0.rank=4",
        "tr\u{e4}in.steps=1",
        "train steps=1",
        "steps=5",
        "model=3",
        "extends=x",
        "train.steps=1\nseed=2",
        "train.steps=--1",
        "cola=true",
    ] {
        assert!(report(GOOD, &[setting.to_owned()]).is_some(), "--set {setting:?} is taken");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Shipped specs with a few characters changed compile or are refused, from the text to the low-rank graph.
    #[test]
    fn damaged_shipped_specs_never_panic(
        which in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec(
            (any::<proptest::sample::Index>(), 0usize..12, "[0-9]{0,3}|[\\[\\]\"'=.,{}*\n -]|\\PC|true|nan|-1|e9"),
            1..4,
        ),
    ) {
        // A large model is slow to lower; the sizes of the others are those of tests.
        let small = |text: &str| text.lines().any(|line| line == "num_hidden_layers = 4" || line == "num_hidden_layers = 6");
        let specs: Vec<_> = shipped::specs().iter().filter(|(_, text)| small(text)).collect();
        let mut text: Vec<char> = specs[which.index(specs.len())].1.chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.chars());
            prop_assume!(!text.is_empty());
        }
        let text: String = text.into_iter().collect();
        let mut sources = Sources::default();
        let input = SpecInput::Text { name: "damaged.toml".into(), text };
        match resolve(input, &[], false, &mut sources) {
            Ok((resolution, _)) => prop_assert!(!resolution.to_string().is_empty()),
            Err(errors) => {
                for diagnostic in errors.iter() {
                    let drawn = drawn(diagnostic, &sources);
                    prop_assert!(!drawn.is_empty());
                }
            }
        }
    }
}
