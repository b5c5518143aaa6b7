//! What recompute policies promise: they exchange memory for time and nothing else. Losses and weights keep their bits
//! under every policy, in checking mode too, and a model never needs more bytes for keeping less.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use colac_compiler::spec::RecomputePolicy;
use colac_plan::program::Phase;
use colac_plan::{Op, Plan, ProgramKind, Segment};
use colac_runtime::cpu::{ArenaPlacement, CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;

/// Awkward shapes: grouped heads, an odd width, rows that fill no tile; accumulation over three micro-batches.
const LLAMA: &[&str] = &[
    "model.vocab_size=203",
    "model.hidden_size=32",
    "model.intermediate_size=53",
    "model.num_hidden_layers=4",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "cola.rank=8",
    "train.sequence_length=19",
    "train.micro_batch=2",
    "train.global_batch=6",
    "train.steps=50",
    "schedule.warmup_steps=4",
    "optimizer.learning_rate=0.004",
    "evaluation.every=0",
];

/// Biases, learned positions, a tied head, and dropout, whose masks a clone has to draw again.
const GPT2: &[&str] = &[
    "model.vocab_size=203",
    "model.hidden_size=32",
    "model.num_hidden_layers=4",
    "model.num_attention_heads=4",
    "model.max_position_embeddings=19",
    "cola.rank=8",
    "train.sequence_length=19",
    "train.micro_batch=2",
    "train.global_batch=4",
    "train.steps=50",
    "schedule.warmup_steps=4",
    "optimizer.learning_rate=0.004",
    "evaluation.every=0",
];

/// The models, as pairs and dense.
const FORMS: [(&str, bool); 4] =
    [("llama-nano", false), ("llama-nano", true), ("gpt2-nano", false), ("gpt2-nano", true)];

fn plan(spec: &str, policy: &str, more: &[&str], full_rank: bool) -> Arc<Plan> {
    let settings = if spec == "gpt2-nano" { GPT2 } else { LLAMA };
    let policy = format!("recompute.policy={policy}");
    let settings: Vec<&str> =
        settings.iter().chain(more).copied().chain([policy.as_str()]).collect();
    common::plan(spec, &settings, full_rank)
}

/// The bits of the losses of some updates, and of all weights after them.
fn run(plan: &Arc<Plan>, options: CpuOptions, updates: u64) -> (Vec<u64>, Vec<u32>) {
    let mut executor = CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs the plan");
    initialize(&mut executor);
    let sequence = plan.recipe.sequence_length as usize;
    let mut rows = FixedRows::patterned(16, sequence, plan.vocab_size as u32, 7);
    let mut trainer = Trainer::new(plan).expect("right batches");
    let mut losses = Vec::new();
    for update in 0..updates {
        let report = trainer.step(&mut executor, &mut rows, update).expect("the step runs");
        losses.push(report.loss.expect("labels").to_bits());
    }
    let mut weights = Vec::new();
    for parameter in &plan.parameters {
        let elements = plan.tensor(parameter.tensor).ty.shape.elements() as usize;
        let mut values = vec![0.0; elements];
        executor.read_f32(parameter.tensor, &mut values);
        weights.extend(values.into_iter().map(f32::to_bits));
    }
    (losses, weights)
}

fn plain() -> CpuOptions {
    CpuOptions { threads: 2, ..CpuOptions::default() }
}

/// Operations of the training program that make a value again.
fn clones(plan: &Plan) -> impl Iterator<Item = &colac_plan::Operation> {
    let operations = plan.program(ProgramKind::ForwardBackward).operations.iter();
    operations.filter(|operation| matches!(operation.phase, Phase::Recompute(_)))
}

#[test]
fn no_policy_changes_a_bit() {
    for (spec, full_rank) in FORMS {
        let kept = plan(spec, "none", &[], full_rank);
        assert_eq!(clones(&kept).count(), 0);
        let expected = run(&kept, plain(), 50);
        for policy in RecomputePolicy::ALL.into_iter().skip(1) {
            let segments: &[&str] = match policy {
                RecomputePolicy::Block | RecomputePolicy::ColaMPlus => {
                    &["recompute.segment=1", "recompute.segment=2", "recompute.segment=3"]
                }
                _ => &["train.steps=50"],
            };
            for segment in segments {
                let name = policy.name();
                let plan = plan(spec, name, &[segment], full_rank);
                assert!(clones(&plan).count() > 0, "{name} makes nothing again");
                assert!(
                    expected == run(&plan, plain(), 50),
                    "{spec}, full_rank={full_rank}: {name} with {segment} differs from none"
                );
                assert!(
                    plan.bytes(Segment::Activations) <= kept.bytes(Segment::Activations),
                    "{spec}, full_rank={full_rank}: {name} with {segment} needs more than none"
                );
            }
        }
    }
}

/// The arena ends at a protected page, and every activation is overwritten with signalling values after its last planned
/// use: a clone that reads what is gone, or a value that is used again too early, would show.
#[test]
fn clones_read_only_what_lives() {
    let guarded =
        CpuOptions { threads: 2, checking: true, arena: ArenaPlacement::BeforeProtectedPage };
    for spec in ["llama-nano", "gpt2-nano"] {
        for policy in RecomputePolicy::ALL {
            let plan = plan(spec, policy.name(), &[], false);
            assert_eq!(run(&plan, plain(), 3), run(&plan, guarded, 3), "{spec} {}", policy.name());
        }
    }
}

/// Architectures of others, with parallel blocks, norms behind, alternating windows, kept lists, latent attention.
#[test]
fn foreign_architectures_keep_their_bits() {
    let folder = common::repository("tests/cases/architectures");
    let entries = std::fs::read_dir(&folder).expect("the folder of the cases");
    let names: BTreeSet<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name != "spec.toml")
        .collect();
    for name in names {
        let compile = |policy: RecomputePolicy| {
            let (architecture, policy) =
                (format!("architecture=./{name}"), format!("recompute.policy={}", policy.name()));
            let settings = [architecture.as_str(), policy.as_str()];
            common::plan_of_file("tests/cases/architectures/spec.toml", &settings, false)
        };
        let expected = run(&compile(RecomputePolicy::None), plain(), 3);
        for policy in RecomputePolicy::ALL.into_iter().skip(1) {
            let plan = compile(policy);
            assert!(expected == run(&plan, plain(), 3), "{name}: {} differs", policy.name());
        }
    }
}

/// What each policy runs again, in a model whose blocks are known.
#[test]
fn policies_run_again_what_they_say() {
    let again = |policy: &str| -> BTreeSet<String> {
        let segment = if policy == "cola-m+" { "recompute.segment=4" } else { "train.steps=50" };
        let plan = plan("llama-nano", policy, &[segment, "compiler.group=false"], false);
        let own = clones(&plan).filter(|operation| operation.path.starts_with("layers.1."));
        own.filter(|o| matches!(o.op, Op::Linear | Op::Attention { .. }))
            .map(|operation| operation.path.trim_start_matches("layers.1.").to_owned())
            .collect()
    };
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(again("selective"), set(&[]));
    let ups = [
        "self_attn.q_proj.up",
        "self_attn.k_proj.up",
        "self_attn.v_proj.up",
        "self_attn",
        "mlp.gate_proj.up",
        "mlp.up_proj.up",
    ];
    assert_eq!(again("cola-m"), set(&ups));
    let streams = ["self_attn.o_proj.up", "mlp.down_proj.up"];
    assert_eq!(again("cola-m+"), set(&[ups.as_slice(), &streams].concat()));
    let downs = [
        "self_attn.q_proj.down",
        "self_attn.k_proj.down",
        "self_attn.v_proj.down",
        "self_attn.o_proj.down",
        "mlp.gate_proj.down",
        "mlp.up_proj.down",
        "mlp.down_proj.down",
    ];
    let whole = set(&[ups.as_slice(), &streams, &downs].concat());
    assert_eq!(again("cola-m-reference"), whole);
    let mut block = whole;
    block.remove("mlp.down_proj.up");
    assert_eq!(again("block"), block);
}

/// Layer 0 keeps everything, the others as the spec says.
#[test]
fn overrides_choose_for_parts_of_a_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mixed.toml");
    let text = "extends = \"llama-nano\"\nname = \"mixed\"\n[recompute]\npolicy = \"cola-m\"\n\
                [[recompute.override]]\ntargets = \"layers.0.**\"\npolicy = \"none\"\n";
    std::fs::write(&path, text).expect("written");
    let mixed = common::plan(path.to_str().expect("UTF-8"), LLAMA, false);
    assert!(clones(&mixed).all(|operation| !operation.path.starts_with("layers.0")));
    assert!(clones(&mixed).any(|operation| operation.path.starts_with("layers.1")));
    assert!(run(&mixed, plain(), 5) == run(&plan("llama-nano", "none", &[], false), plain(), 5));
}

/// Stored in bf16, a value that is made again is rounded as it was the first time.
#[test]
fn no_policy_changes_a_bit_in_bf16() {
    for precision in ["train.precision=bf16", "train.precision=bf16-pure"] {
        for (spec, full_rank) in FORMS {
            let expected = run(&plan(spec, "none", &[precision], full_rank), plain(), 50);
            for policy in RecomputePolicy::ALL.into_iter().skip(1) {
                let name = policy.name();
                let plan = plan(spec, name, &[precision], full_rank);
                let what = format!("{spec}, full_rank={full_rank}, {precision}: {name}");
                assert!(expected == run(&plan, plain(), 50), "{what} differs");
            }
        }
    }
}

/// What lives is chosen at random, part by part: the plan is sound, and the bits are those of keeping everything.
#[test]
fn random_choices_of_what_lives_change_no_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut state = 0x5eed_u64;
    let mut draw = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let parts = ["self_attn.**", "mlp.**", "*", "self_attn.{q_proj,o_proj}.**", "mlp.*.down", "**"];
    let expected = run(&plan("llama-nano", "none", &[], false), plain(), 3);
    let mut arenas = BTreeSet::new();
    for round in 0..16 {
        let policies = RecomputePolicy::ALL;
        let mut text = format!(
            "extends = \"llama-nano\"\nname = \"random\"\n[recompute]\npolicy = \"{}\"\n",
            policies[draw(policies.len())].name()
        );
        for _ in 0..1 + draw(5) {
            text.push_str(&format!(
                "[[recompute.override]]\ntargets = \"layers.{}.{}\"\npolicy = \"{}\"\n",
                ["0", "1", "2", "3", "*", "{0,2}"][draw(6)],
                parts[draw(parts.len())],
                policies[draw(policies.len())].name()
            ));
        }
        let path = folder.path().join(format!("{round}.toml"));
        std::fs::write(&path, &text).expect("written");
        let plan = common::plan(path.to_str().expect("UTF-8"), LLAMA, false);
        arenas.insert(plan.bytes(Segment::Activations));
        let options = CpuOptions { checking: round % 2 == 0, ..plain() };
        assert!(expected == run(&plan, options, 3), "this changes a bit:\n{text}");
    }
    assert!(arenas.len() > 6, "the choices are hardly different: {arenas:?}");
}
