//! `extends`, `tokens_per_parameter` and the resolved spec, over shipped specs and files in a folder of their own.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::path::PathBuf;

use colac_compiler::compile::{Request, compile, resolve};
use colac_compiler::diagnostics::{Diagnostics, Rendered, Severity, Sources};
use colac_compiler::language::expression::Value;
use colac_compiler::spec::{Horizon, RankSource, Spec, SpecInput, shipped};
use colac_compiler::view::Inspection;
use colac_plan::{Plan, hash};

/// A folder with files, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Folder {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        for (file, text) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Folder(folder)
    }

    fn load(&self, file: &str, settings: &[&str]) -> (Spec, Diagnostics, Sources) {
        let mut sources = Sources::default();
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let input = SpecInput::Path(self.0.join(file));
        let loaded = Spec::load(input, &settings, false, &mut sources);
        let (spec, warnings) =
            loaded.unwrap_or_else(|errors| panic!("{}", rendered(&errors, &sources)));
        (spec, warnings, sources)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn rendered(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none());
    let mut text = String::new();
    for diagnostic in diagnostics.iter() {
        handler.render_report(&mut text, &Rendered::new(diagnostic, sources)).unwrap();
    }
    text
}

fn plan(input: SpecInput, settings: &[&str], full_rank: bool) -> Plan {
    let mut sources = Sources::default();
    let settings = settings.iter().map(ToString::to_string).collect();
    let request = Request { input, settings, full_rank, dump: None };
    match compile(request, &mut sources) {
        Ok(compiled) => compiled.plan,
        Err(errors) => panic!("{}", rendered(&errors, &sources)),
    }
}

fn text(text: impl Into<String>) -> SpecInput {
    SpecInput::Text { name: "text.toml".into(), text: text.into() }
}

/// The smallest of the shipped specs.
fn smallest() -> &'static str {
    let size = |text: &str| -> u64 {
        let number = text.split("hidden_size = ").nth(1).unwrap().split('\n').next().unwrap();
        number.trim().parse().unwrap()
    };
    shipped::specs().iter().min_by_key(|(_, text)| size(text)).unwrap().0
}

const BASE: &str = r#"
name = "base"
architecture = "decoder.toml"

[model]
hidden_size = 64
heads = 4

[cola]
rank = "hidden_size / 4"
targets = ["a.**", "b.**"]

[[cola.override]]
targets = "a.x"
rank = 8

[train]
sequence_length = 32
micro_batch = 4
steps = 100

[optimizer]
learning_rate = 0.006
weight_decay = 0.1

[schedule]
kind = "warmup-stable-decay"
decay_steps = 10
"#;

#[test]
fn a_chain_is_joined_key_by_key_and_keeps_every_place() {
    let folder = Folder::new(
        "chain",
        &[
            ("deep/base.toml", BASE),
            (
                "middle.toml",
                "extends = \"deep/base.toml\"\nname = \"middle\"\n[model]\nheads = 8\n[cola]\ntargets = \"**\"\n",
            ),
            (
                "top.toml",
                "# The top.\nextends = \"./middle.toml\"\n[model]\nlayers = 2\n[train]\nsteps = 50\n",
            ),
        ],
    );
    let (spec, warnings, sources) = folder.load("top.toml", &["optimizer.weight_decay=0.2"]);
    assert!(warnings.is_empty());
    assert_eq!(spec.name.value, "middle");
    let settings: Vec<_> = spec
        .model
        .iter()
        .map(|setting| (setting.key.value.as_str(), setting.value.value.clone()))
        .collect();
    let expected = [("hidden_size", 64), ("heads", 8), ("layers", 2)];
    assert_eq!(settings, expected.map(|(key, number)| (key, Value::Integer(number))));
    assert_eq!((spec.recipe.schedule.steps, spec.recipe.optimizer.weight_decay), (50, 0.2));
    let cola = spec.cola.as_ref().unwrap();
    assert_eq!((cola.targets.len(), cola.overrides.len()), (1, 1));

    let name = |key: &str| {
        let span = spec.place(key).unwrap();
        let source = &sources.get(span.source).name;
        let file = PathBuf::from(source).file_name().unwrap().to_string_lossy().into_owned();
        (file, sources.slice(span).to_owned())
    };
    assert_eq!(name("model.hidden_size"), ("base.toml".into(), "64".into()));
    assert_eq!(name("model.heads"), ("middle.toml".into(), "8".into()));
    assert_eq!(name("train.steps"), ("top.toml".into(), "50".into()));
    assert_eq!(name("optimizer.weight_decay"), ("--set".into(), "0.2".into()));

    // The architecture's path starts where it is written.
    assert_eq!(spec.folder, Some(folder.0.join("./deep")));
    // The plan keeps every text under names that do not depend on the machine.
    let texts = spec.text.to_string();
    for piece in ["# The top.", "# extended: ./middle.toml", "# extended: deep/base.toml", BASE] {
        assert!(texts.contains(piece), "{piece} is not in\n{texts}");
    }
    assert!(!texts.contains(folder.0.to_str().unwrap()));
}

#[test]
fn sections_lists_and_overrides_are_switched_off() {
    let folder = Folder::new(
        "off",
        &[
            ("base.toml", BASE),
            ("dense.toml", "extends = \"base.toml\"\ncola = false\n"),
            ("again.toml", "extends = \"dense.toml\"\n[cola]\nrank = 3\n"),
            ("plain.toml", "extends = \"base.toml\"\n[cola]\noverride = []\n"),
            (
                "other.toml",
                "extends = \"base.toml\"\n[[cola.override]]\ntargets = \"b.y\"\nrank = 2\n",
            ),
            ("cosine.toml", "extends = \"base.toml\"\n[schedule]\nkind = \"cosine\"\n"),
        ],
    );
    let (dense, _, _) = folder.load("dense.toml", &[]);
    assert!(dense.cola.is_none() && !dense.full_rank && !dense.resolved.contains("cola"));
    let (again, _, _) = folder.load("again.toml", &[]);
    let again = again.cola.unwrap();
    assert!(matches!(again.rank.value, RankSource::Integer(3)), "nothing comes back with it");
    assert!(again.overrides.is_empty());
    assert!(folder.load("plain.toml", &[]).0.cola.unwrap().overrides.is_empty());
    let (other, _, _) = folder.load("other.toml", &[]);
    let overrides = other.cola.unwrap().overrides;
    assert_eq!(overrides.len(), 1, "the list is replaced");
    assert!(overrides[0].targets[0].matches("b.y"));
    // The inherited decay has no effect any more, and nobody has to say so.
    let (cosine, warnings, _) = folder.load("cosine.toml", &[]);
    assert!(warnings.is_empty() && !cosine.resolved.contains("decay_steps"));
    // In one file and on the command line it would be noticed.
    assert!(!folder.load("base.toml", &["schedule.kind=linear"]).1.is_empty());
    assert!(folder.load("base.toml", &["cola=false"]).0.cola.is_none());
}

#[test]
fn the_nearer_length_of_a_run_holds() {
    let folder = Folder::new(
        "length",
        &[
            ("base.toml", BASE),
            ("ratio.toml", "extends = \"base.toml\"\n[train]\ntokens_per_parameter = 20\n"),
            (
                "steps.toml",
                "extends = \"ratio.toml\"\n[train]\nsteps = 7\n[schedule]\nkind = \"cosine\"\n",
            ),
        ],
    );
    let (ratio, _, _) = folder.load("ratio.toml", &[]);
    assert!(matches!(ratio.horizon, Horizon::TokensPerParameter(ratio) if ratio.value == 20.0));
    assert!(ratio.resolved.contains("tokens_per_parameter = 20.0\n"));
    assert!(!ratio.resolved.contains("\nsteps = "), "{}", ratio.resolved);
    let (steps, _, _) = folder.load("steps.toml", &[]);
    assert!(matches!(steps.horizon, Horizon::Steps(steps) if steps.value == 7));
    let (set, _, _) = folder.load("steps.toml", &["train.tokens_per_parameter=1"]);
    assert!(matches!(set.horizon, Horizon::TokensPerParameter(_)));
}

#[test]
fn a_ratio_gives_both_forms_the_same_steps() {
    let spec = || SpecInput::from_argument(smallest());
    let settings = ["train.tokens_per_parameter=3", "schedule.warmup_steps=1"];
    let cola = plan(spec(), &settings, false);
    let dense = plan(spec(), &settings, true);
    let recipe = &cola.recipe;
    let tokens = u64::from(recipe.global_batch) * u64::from(recipe.sequence_length);
    assert!(cola.parameter_count() < dense.parameter_count());
    let steps = (3 * dense.parameter_count()).div_ceil(tokens);
    assert_eq!(recipe.schedule.steps, steps);
    assert_eq!(dense.recipe.schedule.steps, steps);
    // The plan's own spec says the steps, so that its recipe can be overridden without compiling.
    assert!(cola.origin.resolved_spec.contains(&format!("\nsteps = {steps}\n")));
    for plan in [&cola, &dense] {
        let inspection = Inspection::new(plan);
        assert_eq!(inspection.parameters.full_rank, dense.parameter_count());
        let ratio = inspection.batch.tokens_per_parameter;
        assert!((3.0..3.0 * 1.01).contains(&ratio), "{ratio}");
    }
    let mut sources = Sources::default();
    let wrong = |ratio: &str, sources: &mut Sources| {
        let settings = vec![format!("train.tokens_per_parameter={ratio}")];
        resolve(spec(), &settings, false, sources).unwrap_err()
    };
    let too_long = wrong("1e300", &mut sources);
    assert!(too_long.iter().any(|d| d.code == "spec::out_of_range"));
    let too_short = wrong("0.001", &mut sources);
    assert!(too_short.iter().any(|d| d.code == "spec::schedule_exceeds_steps"));
    assert!(rendered(&too_short, &sources).contains("0.001"), "points at the ratio");
}

/// The counts of a plan and of the graph from which the steps follow agree for every shipped spec.
#[test]
fn inspection_knows_the_full_rank_size_of_every_shipped_spec() {
    for (name, _) in shipped::specs() {
        let of = |full_rank| {
            Inspection::new(&plan(SpecInput::from_argument(name), &[], full_rank)).parameters
        };
        let (cola, dense) = (of(false), of(true));
        assert_eq!((cola.full_rank, dense.full_rank), (dense.total, dense.total), "{name}");
    }
}

#[test]
fn resolved_specs_are_complete_and_train_the_same() {
    for (name, _) in shipped::specs() {
        for settings in [vec![], vec!["train.tokens_per_parameter=20".to_owned()]] {
            let mut sources = Sources::default();
            let input = SpecInput::from_argument(name);
            let (resolution, warnings) =
                resolve(input.clone(), &settings, false, &mut sources).unwrap();
            assert!(warnings.iter().all(|d| d.severity == Severity::Warning));
            let annotated = resolution.annotated(&sources);
            let written: Vec<&str> = settings.iter().map(String::as_str).collect();
            let (first, second) =
                (plan(input, &written, false), plan(text(&*annotated), &[], false));
            assert_eq!(hash::model(&first), hash::model(&second), "{name}");
            assert_eq!(hash::numerics(&first), hash::numerics(&second), "{name}");
            assert_eq!(first.recipe, second.recipe);
            // Resolving what is resolved changes nothing.
            let (again, _) =
                resolve(text(resolution.to_string()), &[], false, &mut Sources::default()).unwrap();
            assert_eq!(again.to_string(), resolution.to_string());
        }
    }
}

#[test]
fn every_value_says_where_it_comes_from() {
    let name = smallest();
    let folder = Folder::new(
        "origins",
        &[("my.toml", &format!("extends = \"{name}\"\n\n[cola]\nrank = 16\n"))],
    );
    let mut sources = Sources::default();
    let input = SpecInput::Path(folder.0.join("my.toml"));
    let settings = ["train.tokens_per_parameter=5".to_owned(), "name=mine".to_owned()];
    let (resolution, _) = resolve(input, &settings, false, &mut sources).unwrap();
    let annotated = resolution.annotated(&sources);
    let origin = |key: &str| {
        let line = annotated.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        line.split_once("  # ").unwrap().1.to_owned()
    };
    assert!(origin("rank").ends_with("my.toml:4"), "{}", origin("rank"));
    assert!(origin("hidden_size").starts_with(&format!("{name} (built in):")));
    assert_eq!(origin("name"), "--set");
    assert_eq!(origin("beta1"), "default");
    assert_eq!(origin("reference_batch"), "default: that of train.micro_batch");
    assert!(origin("steps").starts_with("5 tokens for each of "), "{}", origin("steps"));
    assert!(origin("head_dim").starts_with("default of the architecture, "));

    let json = resolution.json(&sources);
    assert_eq!(json["values"]["cola"]["rank"], 16);
    assert_eq!(json["values"]["name"], "mine");
    assert_eq!(json["origins"]["name"], "--set");
    assert_eq!(json["origins"]["optimizer.beta1"], "default");
    let (with_overrides, _) = {
        let text_of =
            format!("extends = \"{name}\"\n[[cola.override]]\ntargets = \"**.0.**\"\nrank = 4\n");
        resolve(text(text_of), &[], false, &mut sources).unwrap()
    };
    let json = with_overrides.json(&sources);
    assert_eq!(json["values"]["cola"]["override"][0]["rank"], 4);
    assert_eq!(json["origins"]["cola.override.0.rank"], "text.toml:4");
}
