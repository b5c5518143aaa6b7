//! Specs as a user meets them: shipped ones, settings of the command line, defaults, and texts nobody foresaw.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::fmt::Write as _;
use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostics, Rendered, Sources};
use colac_compiler::language::expression::Value;
use colac_compiler::spec::schema::{Default, KEYS, Kind, SECTIONS};
use colac_compiler::spec::{RankSource, Spec, SpecInput, shipped};
use colac_plan::recipe::{LossNormalization, ScheduleKind};
use proptest::prelude::*;

const SMALL: &str = r#"name = "small"
architecture = "decoder"

[model]
hidden_size = 128
rms_norm_eps = 1e-5
tied = true
hidden_act = "gelu"

[cola]
rank = "hidden_size / 4"
bypass = "layers.*.mlp.act_fn"

[[cola.override]]
targets = ["layers.0.**", "layers.1.**"]
rank = 64

[train]
sequence_length = 128
micro_batch = 8
steps = 1_000

[optimizer]
learning_rate = 0.006
"#;

fn load(text: &str, settings: &[&str], full_rank: bool) -> Result<(Spec, Sources), String> {
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "small.toml".into(), text: text.into() };
    let settings: Vec<String> = settings.iter().map(|setting| setting.to_string()).collect();
    match Spec::load(input, &settings, full_rank, &mut sources) {
        Ok((spec, warnings)) => {
            render(&warnings, &sources);
            Ok((spec, sources))
        }
        Err(errors) => Err(render(&errors, &sources)),
    }
}

fn render(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let handler =
        miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    let mut text = String::new();
    for diagnostic in diagnostics.iter() {
        for label in &diagnostic.labels {
            // Slicing panics for a span outside its source or inside a character.
            sources.slice(label.span);
        }
        handler.render_report(&mut text, &Rendered::new(diagnostic, sources)).unwrap();
    }
    text
}

fn model_value(spec: &Spec, key: &str) -> Value {
    spec.model.iter().find(|setting| setting.key.value == key).unwrap().value.value.clone()
}

fn repository_file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compares with `tests/cases/NAME.snap`.
fn assert_golden(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => repository_file("tests/cases"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name.to_owned(), text);
    });
}

#[test]
fn defaults_are_those_of_the_published_recipe() {
    let (spec, _) = load(SMALL, &[], false).unwrap();
    let recipe = &spec.recipe;
    assert_eq!(
        (recipe.sequence_length, recipe.micro_batch, recipe.global_batch, recipe.seed),
        (128, 8, 8, 42)
    );
    assert_eq!(recipe.loss_normalization, LossNormalization::GlobalToken);
    assert_eq!((recipe.schedule.kind, recipe.schedule.steps), (ScheduleKind::Cosine, 1000));
    assert_eq!((recipe.schedule.warmup_steps, recipe.schedule.final_factor), (0, 0.1));
    let optimizer = &recipe.optimizer;
    assert_eq!((optimizer.beta1, optimizer.beta2, optimizer.epsilon), (0.9, 0.999, 1e-8));
    assert_eq!(
        (optimizer.weight_decay, optimizer.clip_norm, optimizer.decay_all),
        (0.01, 0.5, true)
    );
    assert_eq!((recipe.evaluation.batch, recipe.evaluation.reference_batch), (8, 8));
    assert!(recipe.data.train.is_empty() && recipe.data.tokenizer.is_none());
    let cola = spec.cola.unwrap();
    assert_eq!(cola.activation.text(), "silu");
    assert!(cola.targets.iter().any(|target| target.matches("layers.0.mlp.up_proj")));
    assert_eq!(cola.overrides.len(), 1);
    assert!(matches!(cola.overrides[0].rank.as_ref().unwrap().value, RankSource::Integer(64)));
}

#[test]
fn places_point_at_what_was_written() {
    let (spec, sources) = load(SMALL, &["train.steps=7"], false).unwrap();
    assert_eq!(sources.slice(spec.place("train.micro_batch").unwrap()), "8");
    let steps = spec.place("train.steps").unwrap();
    assert_eq!((sources.get(steps.source).name.as_str(), sources.slice(steps)), ("--set", "7"));
    assert_eq!(spec.place("train.seed"), None);
    assert_eq!(sources.slice(spec.model_section), "model");
    let activation = spec.model.iter().find(|setting| setting.key.value == "hidden_act").unwrap();
    assert_eq!(sources.slice(activation.key.span), "hidden_act");
    assert_eq!(sources.slice(activation.value.span), "\"gelu\"");
    assert_eq!(sources.slice(activation.text_span), "gelu");
    assert_eq!(sources.slice(spec.cola.unwrap().bypass[0].span()), "layers.*.mlp.act_fn");
}

#[test]
fn texts_are_found_inside_every_kind_of_quotes() {
    for quoted in [
        "\"gelu\"",
        "'gelu'",
        "\"\"\"gelu\"\"\"",
        "'''\ngelu'''",
        "\"\"\"\ngelu\"\"\"",
        "\"g\\u0065lu\"",
    ] {
        let (spec, sources) = load(&SMALL.replace("\"gelu\"", quoted), &[], false).unwrap();
        let setting = spec.model.iter().find(|setting| setting.key.value == "hidden_act").unwrap();
        assert_eq!(sources.slice(setting.text_span), "gelu", "{quoted}");
        // Only where escapes shift positions does the text need a source of its own.
        assert_eq!(setting.text_span.source == spec.source, !quoted.contains('\\'), "{quoted}");
    }
}

#[test]
fn settings_replace_and_insert() {
    let settings = [
        "name=other",
        "model.hidden_size=256",
        "model.new_key = 2.5",
        "cola.rank=hidden_size/8",
        "cola.activation=x * sigmoid(1.7 * x)",
        "train.seed=1",
        "train.seed=0x10",
        "data.train=[\"a\", 'b']",
        "data.validation=books/validation",
    ];
    let (spec, sources) = load(SMALL, &settings, false).unwrap();
    assert_eq!(spec.name.value, "other");
    assert_eq!(model_value(&spec, "hidden_size"), Value::Integer(256));
    assert_eq!(model_value(&spec, "new_key"), Value::Float(2.5));
    assert_eq!(spec.recipe.seed, 16, "the later setting holds");
    assert_eq!(spec.recipe.data.train, ["a", "b"]);
    assert_eq!(spec.recipe.data.validation, ["books/validation"]);
    let cola = spec.cola.unwrap();
    assert_eq!(sources.slice(cola.activation.span()), "x * sigmoid(1.7 * x)");
    let names = |name: &str| (name == "hidden_size").then_some(Value::Integer(256));
    assert_eq!(cola.rank.evaluate(&names).unwrap(), 32);
}

#[test]
fn errors_in_a_setting_point_into_it() {
    let report = load(SMALL, &["cola.rank=hidden_size / "], false).unwrap_err();
    assert!(report.contains("[--set:1:"), "{report}");
    let report = load(SMALL, &["cola.targets=layers..x"], false).unwrap_err();
    assert!(report.contains("[--set:1:"), "{report}");
}

#[test]
fn several_settings_that_are_wrong_are_reported_together_with_the_spec() {
    let report =
        load(&SMALL.replace("steps", "stepz"), &["train", "optimizer.beta1=2"], false).unwrap_err();
    for code in
        ["spec::invalid_setting", "spec::unknown_key", "spec::missing_key", "spec::out_of_range"]
    {
        assert!(report.contains(code), "{code} is missing in\n{report}");
    }
}

#[test]
fn full_rank_drops_cola_after_checking_it() {
    let (spec, _) = load(SMALL, &[], true).unwrap();
    assert!(spec.cola.is_none() && spec.full_rank);
    assert!(!spec.resolved.contains("cola"), "{}", spec.resolved);
    let report = load(&SMALL.replace("bypass", "bypas"), &[], true).unwrap_err();
    assert!(report.contains("spec::unknown_key"), "{report}");
}

#[test]
fn a_setting_turns_a_dense_spec_into_cola() {
    let (dense, _) = SMALL.split_once("[cola]").unwrap();
    let (_, train) = SMALL.split_once("[train]").unwrap();
    let text = format!("{dense}[train]{train}");
    assert!(load(&text, &[], false).unwrap().0.cola.is_none());
    assert!(load(&text, &["cola.rank=16"], false).unwrap().0.cola.is_some());
}

#[test]
fn the_resolved_spec_is_the_same_spec() {
    let settings = ["schedule.kind=constant", "optimizer.weight_decay=0"];
    let (spec, _) = load(SMALL, &settings, false).unwrap();
    let (again, _) = load(&spec.resolved, &[], false).unwrap();
    assert_eq!(again.resolved, spec.resolved);
    assert_eq!(again.recipe, spec.recipe);
    let written_otherwise = SMALL
        .replace("[[cola.override]]", "# a comment\n[[cola.override]]")
        .replace("1_000", "1000");
    assert_eq!(load(&written_otherwise, &settings, false).unwrap().0.resolved, spec.resolved);
    assert_golden("resolved_spec", &load(SMALL, &[], false).unwrap().0.resolved);
}

#[test]
fn shipped_specs_are_right_and_resolve_to_themselves() {
    let mut summary = String::new();
    assert!(!shipped::specs().is_empty());
    for (name, text) in shipped::specs() {
        for full_rank in [false, true] {
            let mut sources = Sources::default();
            let (spec, warnings) =
                Spec::load(SpecInput::from_argument(name), &[], full_rank, &mut sources).unwrap();
            assert!(warnings.is_empty());
            assert_eq!(spec.name.value, *name, "a shipped spec has the name of its file");
            assert_eq!(spec.text.as_ref(), *text);
            assert_eq!(spec.cola.is_none(), full_rank);
            let (again, _) = load(&spec.resolved, &[], false).unwrap();
            assert_eq!((again.resolved, again.recipe), (spec.resolved.clone(), spec.recipe));
            if !full_rank {
                writeln!(summary, "{}", spec.resolved).unwrap();
            }
        }
    }
    // The recipes as they are in force, for comparison with the published ones.
    assert_golden("shipped_specs", &summary);
}

#[test]
fn every_key_stands_in_the_documentation_as_the_table_has_it() {
    let page = std::fs::read_to_string(repository_file("docs/spec.md")).unwrap();
    for section in SECTIONS.iter().copied() {
        let heading = match section {
            "" => "## Top level".to_owned(),
            list if list.contains('.') => format!("### `[[{section}]]`"),
            section => format!("## `[{section}]`"),
        };
        let (_, text) = page
            .split_once(&format!("{heading}\n"))
            .unwrap_or_else(|| panic!("no heading {heading}"));
        let text = text.split("\n#").next().unwrap();
        let mut rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        for key in KEYS.iter().filter(|key| key.section == section) {
            let row = format!("| `{}` | {} | {} | ", key.name, key.kind, key.default);
            let at =
                rows.iter().position(|line| line.starts_with(&row) && line.len() > row.len() + 10);
            rows.remove(at.unwrap_or_else(|| panic!("docs/spec.md lacks the row\n{row}")));
        }
        assert!(rows.is_empty(), "docs/spec.md has keys that specs have not: {rows:?}");
    }
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let page = std::fs::read_to_string(repository_file("docs/spec.md")).unwrap();
    let mut examples =
        page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).peekable();
    assert!(examples.peek().is_some());
    for example in examples {
        load(example, &[], false).unwrap_or_else(|report| panic!("{report}"));
    }
}

#[test]
fn defaults_of_other_keys_name_keys() {
    for key in KEYS {
        if let Default::SameAs(other) = key.default {
            assert!(KEYS.iter().any(|key| key.path() == other), "{other}");
        }
        if let Kind::Integer(low, high) = key.kind {
            assert!(
                0 <= low && low <= high,
                "{}: integers of a spec are never negative",
                key.path()
            );
        }
    }
}

proptest! {
    /// Whatever becomes of a spec's text, it is read or refused with places that can be shown.
    #[test]
    fn damaged_specs_are_read_or_refused(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0usize..4, "\\PC{0,3}|[\\[\\]\"'=.\n\\\\é{}]"), 1..6),
    ) {
        let mut text: Vec<char> = SMALL.chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.chars());
            prop_assume!(!text.is_empty());
        }
        let text: String = text.into_iter().collect();
        if let Err(report) = load(&text, &[], false) {
            prop_assert!(!report.is_empty());
        }
    }

    /// The same for arguments of `--set`.
    #[test]
    fn arbitrary_settings_are_applied_or_refused(setting in "(train|cola|model|name)?[.]?\\PC{0,4}=?[\\PC\n]{0,8}") {
        if let Err(report) = load(SMALL, &[&setting], false) {
            prop_assert!(!report.is_empty());
        }
    }

    /// Every kind of value under every key.
    #[test]
    fn any_value_under_any_key_is_taken_or_refused(
        key in proptest::sample::select(KEYS.iter().map(|key| key.path()).collect::<Vec<_>>()),
        value in proptest::sample::select(vec![
            "0", "-1", "1", "7", "9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e400",
            "nan", "-inf", "0.5", "1e-300", "true", "\"\"", "\"\\u0000\"", "[]", "[[]]", "{}", "[{}]", "1979-05-27",
            "\"f32\"", "constant", "warmup-stable-decay", "**", "é", "\"\"\"\n\"\"\"",
        ]),
    ) {
        if let Err(report) = load(SMALL, &[&format!("{key}={value}")], false) {
            prop_assert!(!report.is_empty());
        }
    }
}

#[test]
fn an_empty_text_is_refused_with_everything_it_lacks() {
    for text in ["", "\n", "# nothing\n"] {
        let report = load(text, &[], false).unwrap_err();
        for missing in ["`name`", "`architecture`", "`[train]`", "`[optimizer]`"] {
            assert!(report.contains(missing), "{missing} is not missed in\n{report}");
        }
    }
}

#[test]
fn a_spec_file_knows_its_folder() {
    let path = std::env::temp_dir().join(format!("colac-spec-{}.toml", std::process::id()));
    std::fs::write(&path, SMALL).unwrap();
    let mut sources = Sources::default();
    let loaded =
        Spec::load(SpecInput::from_argument(path.to_str().unwrap()), &[], false, &mut sources);
    std::fs::write(&path, b"name = \"\xff\"").unwrap();
    let damaged = Spec::load(SpecInput::Path(path.clone()), &[], false, &mut sources);
    std::fs::remove_file(&path).unwrap();
    let (spec, _) = loaded.unwrap();
    assert_eq!(spec.folder.as_deref(), path.parent());
    let Err(errors) = damaged else { panic!("a file that is not UTF-8 was read") };
    assert!(errors.iter().all(|error| error.code == "spec::unreadable"));
}
