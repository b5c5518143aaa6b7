//! What the compiler makes of every shipped spec, as committed files, and what holds for any spec.
//!
//! `tests/cases/golden/SPEC/` holds for two layers of each shipped spec the graph after `cola` and after `autodiff`, for
//! one of each architecture after `fuse`, and the report of the whole model. They are snapshots: after a change that is meant, run with `INSTA_UPDATE=always` and
//! review the difference.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use colac_compiler::compile::{Compiled, Dump, Request, compile};
use colac_compiler::diagnostics::{Diagnostics, Rendered, Sources};
use colac_compiler::graph::PrintOptions;
use colac_compiler::lower;
use colac_compiler::spec::{Spec, SpecInput, shipped};
use colac_compiler::view::{Inspection, text};
use colac_plan::parameter::Role;
use colac_plan::plan::Decision;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fn rendered(diagnostics: &Diagnostics, sources: &Sources) -> String {
    diagnostics
        .iter()
        .map(|d| format!("{:?}\n", miette::Report::new(Rendered::new(d, sources))))
        .collect()
}

fn compiled(spec: &str, settings: &[String], dump: Option<&str>) -> Compiled {
    let mut sources = Sources::default();
    let request = Request {
        input: SpecInput::from_argument(spec),
        settings: settings.to_vec(),
        full_rank: false,
        dump: dump.map(|pass| Dump { pass: pass.into(), options: PrintOptions { turns: Some(2) } }),
    };
    compile(request, &mut sources).unwrap_or_else(|errors| {
        panic!("{spec} with {settings:?}:\n{}", rendered(&errors, &sources))
    })
}

fn assert_golden(spec: &str, what: &str, text: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/golden").join(spec);
    insta::with_settings!({
        snapshot_path => folder,
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(what, text);
    });
}

#[test]
fn graphs_of_shipped_specs_are_as_committed() {
    for (spec, _) in shipped::specs() {
        for pass in ["cola", "autodiff"] {
            assert_golden(spec, pass, &compiled(spec, &[], Some(pass)).dump.unwrap());
        }
    }
    // What is joined depends on the architecture and not on sizes.
    for (spec, _) in shipped::specs().iter().filter(|(name, _)| name.ends_with("-nano")) {
        assert_golden(spec, "fuse", &compiled(spec, &[], Some("fuse")).dump.unwrap());
    }
}

/// The hashes of model and numerics are part of it: where one changes, checkpoints of older plans no longer fit, and
/// since the file is the same on every machine, so is the plan.
#[test]
fn reports_of_shipped_specs_are_as_committed() {
    for (spec, _) in shipped::specs() {
        let report = text::report(&Inspection::new(&compiled(spec, &[], None).plan));
        // The hash of the file depends on the version of the compiler, too, and on comments.
        let lines = report.lines().filter(|line| !line.starts_with("file "));
        assert_golden(
            spec,
            "report",
            &lines.map(|line| format!("{}\n", line.trim_end())).collect::<String>(),
        );
    }
}

/// Every golden file belongs to a shipped spec.
#[test]
fn no_golden_file_is_left_over() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/golden");
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let specs: BTreeSet<String> =
        shipped::specs().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.collect::<BTreeSet<_>>(), specs);
}

/// Sizes of a small model, and numbers from which selectors are drawn.
#[derive(Clone, Debug)]
struct Small {
    heads: u64,
    sharing: u64,
    head_dim: u64,
    intermediate: u64,
    layers: u64,
    vocabulary: u64,
    sequence: u64,
    rows: (u64, u64),
    rank: String,
    activation: String,
    /// Bit `i` selects linear `i`.
    targets: u64,
    bypass: bool,
}

fn small() -> impl Strategy<Value = Small> {
    let heads = (1u64..=3, 1u64..=3, 1u64..=4)
        .prop_map(|(groups, sharing, half)| (groups * sharing, sharing, 2 * half));
    let sizes = (1u64..=24, 1u64..=3, 2u64..=40, 2u64..=12, (1u64..=3, 1u64..=4));
    let rank = prop_oneof![
        (1u64..=9).prop_map(|rank| rank.to_string()),
        Just("\"hidden_size / 2\"".to_owned()),
        Just("\"min(in_features, out_features)\"".to_owned()),
    ];
    let activation =
        prop::sample::select(vec!["silu", "identity", "gelu", "relu2", "x * sigmoid(1.7 * x)"]);
    let cola = (rank, activation.prop_map(str::to_owned), any::<u64>(), any::<bool>());
    (heads, sizes, cola).prop_map(|(heads, sizes, cola)| Small {
        heads: heads.0,
        sharing: heads.1,
        head_dim: heads.2,
        intermediate: sizes.0,
        layers: sizes.1,
        vocabulary: sizes.2,
        sequence: sizes.3,
        rows: sizes.4,
        rank: cola.0,
        activation: cola.1,
        targets: cola.2,
        bypass: cola.3,
    })
}

/// The settings of a small model without those that the spec's architecture does not have.
fn settings(spec: &str, small: &Small) -> Vec<String> {
    let mut sources = Sources::default();
    let (spec, _) = Spec::load(SpecInput::from_argument(spec), &[], false, &mut sources).unwrap();
    let known = lower::model(&spec, &mut sources).unwrap().config;
    let model = [
        ("hidden_size", small.heads * small.head_dim),
        ("num_attention_heads", small.heads),
        ("num_key_value_heads", small.heads / small.sharing),
        ("intermediate_size", small.intermediate),
        ("num_hidden_layers", small.layers),
        ("vocab_size", small.vocabulary),
    ];
    let model = model.iter().filter(|(name, _)| known.get(name).is_some());
    let mut settings: Vec<String> =
        model.map(|(name, value)| format!("model.{name}={value}")).collect();
    settings.push(format!("train.sequence_length={}", small.sequence));
    settings.push(format!("train.micro_batch={}", small.rows.0));
    settings.push(format!("train.global_batch={}", 2 * small.rows.0));
    settings.push(format!("evaluation.batch={}", small.rows.1));
    settings.push(format!("cola.rank={}", small.rank));
    settings.push(format!("cola.activation=\"{}\"", small.activation));
    settings.push("cola.bypass=[]".into());
    settings
}

/// Paths of the nonlinearities that may be bypassed.
fn nonlinearities(spec: &str, settings: &[String]) -> Vec<String> {
    let mut sources = Sources::default();
    let (spec, _) =
        Spec::load(SpecInput::from_argument(spec), settings, false, &mut sources).unwrap();
    let graph = lower::model(&spec, &mut sources).unwrap().graph;
    graph.bypassable.iter().map(|&id| graph.node(id).origin.path.clone()).collect()
}

/// One shipped spec of every architecture.
fn architectures() -> Vec<&'static str> {
    let mut sources = Sources::default();
    let mut seen = BTreeSet::new();
    let architecture = |name: &str, sources: &mut Sources| {
        Spec::load(SpecInput::from_argument(name), &[], false, sources)
            .unwrap()
            .0
            .architecture
            .value
    };
    shipped::specs()
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| seen.insert(architecture(name, &mut sources)))
        .collect()
}

fn rewritten(compiled: &Compiled) -> Vec<(String, u64)> {
    let linears = compiled.plan.linears.iter();
    linears
        .filter_map(|l| match l.decision {
            Decision::Rewritten { rank, .. } => {
                Some((l.path.clone(), rank * (l.inputs + l.outputs)))
            }
            Decision::KeptDense { .. } => None,
        })
        .collect()
}

/// `compile` verifies the graph after every pass and the plan at the end; here for whatever sizes and selectors. What is
/// selected is what is rewritten, and equal requests give equal bytes.
#[test]
fn any_small_model_compiles_to_a_plan_that_holds() {
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    for spec in architectures() {
        runner
            .run(&small(), |small| {
                let mut settings = settings(spec, &small);
                let all = rewritten(&compiled(spec, &settings, None));
                let mut chosen: Vec<(String, u64)> = Vec::new();
                for (i, linear) in all.iter().enumerate() {
                    if small.targets >> (i % 64) & 1 == 1
                        || (i + 1 == all.len() && chosen.is_empty())
                    {
                        chosen.push(linear.clone());
                    }
                }
                let list = |paths: &[String]| {
                    format!(
                        "[{}]",
                        paths.iter().map(|p| format!("{p:?}")).collect::<Vec<_>>().join(", ")
                    )
                };
                let targets: Vec<String> = chosen.iter().map(|(path, _)| path.clone()).collect();
                settings.push(format!("cola.targets={}", list(&targets)));
                if small.bypass {
                    settings
                        .push(format!("cola.bypass={}", list(&nonlinearities(spec, &settings))));
                }
                let first = compiled(spec, &settings, None);
                prop_assert_eq!(&rewritten(&first), &chosen);
                let elements = |role: Role| -> u64 {
                    let parameters = first.plan.parameters.iter().filter(|p| p.role == role);
                    parameters.map(|p| first.plan.tensor(p.tensor).ty.shape.elements()).sum()
                };
                let low_rank = elements(Role::LowRankDown) + elements(Role::LowRankUp);
                prop_assert_eq!(
                    low_rank,
                    chosen.iter().map(|(_, parameters)| parameters).sum::<u64>()
                );
                let bytes = colac_plan::file::write(&first.plan).unwrap();
                let second =
                    colac_plan::file::write(&compiled(spec, &settings, None).plan).unwrap();
                prop_assert!(bytes == second, "equal requests give different bytes");
                let read = colac_plan::file::read(&bytes).unwrap();
                prop_assert!(read == first.plan, "a plan is not what was written");
                prop_assert!(colac_plan::verify::verify(&read).is_ok());
                Ok(())
            })
            .unwrap();
    }
}
