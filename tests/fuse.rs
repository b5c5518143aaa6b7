//! Joining operations changes no bit: every rule alone, all of them and none give the same losses, weights, evaluations
//! and logits, in every form of a model, for any number of threads, and in f64.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use colac_compiler::spec::RecomputePolicy;
use colac_plan::pointwise::Instruction;
use colac_plan::{Op, Plan, ProgramKind, Segment};
use colac_runtime::cpu::{ArenaPlacement, CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::reference::ReferenceExecutor;
use colac_runtime::train::rows::TrainingRows;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;

/// Nothing, every rule alone, what one rule makes possible for another, and all.
const RULES: [&str; 10] = [
    "false",
    "[\"vertical\"]",
    "[\"remake\"]",
    "[\"horizontal\"]",
    "[\"norm\"]",
    "[\"norm-backward\"]",
    "[\"attention-backward\"]",
    "[\"remake\", \"vertical\"]",
    "[\"norm\", \"norm-backward\"]",
    "true",
];

/// Odd widths, grouped heads, a last tile that is not full.
const SMALL: &[&str] = &[
    "model.vocab_size=101",
    "model.hidden_size=48",
    "model.intermediate_size=86",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=4",
    "cola.rank=12",
    "train.sequence_length=21",
    "train.micro_batch=2",
    "train.global_batch=4",
    "train.steps=50",
    "schedule.warmup_steps=4",
    "optimizer.learning_rate=0.004",
    "evaluation.batch=3",
];

fn plan(spec: &str, rules: &str, full_rank: bool, further: &[&str]) -> Arc<Plan> {
    let fuse = format!("compiler.fuse={rules}");
    let settings: Vec<&str> = SMALL.iter().chain(further).copied().chain([fuse.as_str()]).collect();
    common::plan(spec, &settings, full_rank)
}

fn rows(plan: &Plan) -> FixedRows {
    FixedRows::patterned(24, plan.recipe.sequence_length as usize, plan.vocab_size as u32, 11)
}

/// Losses of some updates, weights after them, and what these give in evaluation and as logits; all as bits.
#[derive(Debug, PartialEq)]
struct Found {
    losses: Vec<u64>,
    weights: Vec<u32>,
    evaluation: Vec<u32>,
    logits: Vec<u32>,
}

fn found(plan: &Arc<Plan>, executor: &mut dyn Executor, updates: u64) -> Found {
    initialize(executor);
    let (mut trainer, mut rows) = (Trainer::new(plan).expect("right batches"), rows(plan));
    let mut losses = Vec::new();
    for update in 0..updates {
        let report = trainer.step(executor, &mut rows, update).expect("the step runs");
        losses.push(report.loss.expect("labels").to_bits());
    }
    let read = |executor: &dyn Executor, tensor| {
        let mut values = vec![0.0; plan.tensor(tensor).ty.shape.elements() as usize];
        executor.read_f32(tensor, &mut values);
        values.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    let weights = read(executor, plan.roles.parameters);
    let sequence = plan.recipe.sequence_length as usize;
    let elements = plan.recipe.evaluation.batch as usize * sequence;
    let (mut tokens, mut labels) = (vec![0; elements], vec![0; elements]);
    rows.fill(5, &mut tokens, &mut labels).expect("rows in memory");
    executor.write_i32(plan.roles.evaluate.tokens, &tokens);
    executor.write_i32(plan.roles.evaluate.labels, &labels);
    executor.run(ProgramKind::Evaluate, true);
    let evaluation = read(executor, plan.roles.evaluate_loss);
    executor.write_i32(plan.roles.logits_tokens, &tokens[..sequence]);
    executor.run(ProgramKind::Logits, true);
    let logits = read(executor, plan.roles.logits);
    Found { losses, weights, evaluation, logits }
}

fn on_cpu(plan: &Arc<Plan>, options: CpuOptions, updates: u64) -> Found {
    let mut executor = CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs f32 plans");
    found(plan, &mut executor, updates)
}

fn threads(threads: usize) -> CpuOptions {
    CpuOptions { threads, ..CpuOptions::default() }
}

/// How many operations of each kind a program has.
fn kinds(plan: &Plan, program: ProgramKind) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for operation in &plan.program(program).operations {
        *kinds.entry(operation.op.name()).or_default() += 1;
    }
    kinds
}

/// The two architectures with what differs between them.
const MODELS: [(&str, &[&str]); 2] = [
    ("llama-nano", &["model.num_key_value_heads=2"]),
    ("gpt2-nano", &["model.residual_dropout=0.1"]),
];

#[test]
fn no_rule_changes_a_bit_of_fifty_steps() {
    for (spec, further) in MODELS {
        for full_rank in [false, true] {
            let unfused = plan(spec, RULES[0], full_rank, further);
            let expected = on_cpu(&unfused, threads(1), 50);
            let (first, last) = (expected.losses[0], expected.losses[49]);
            assert!(f64::from_bits(last) < f64::from_bits(first) - 0.5, "{spec} learns");
            for rules in &RULES[1..] {
                let plan = plan(spec, rules, full_rank, further);
                let what = format!("{spec}, full_rank={full_rank}, fuse={rules}");
                let arena = |plan: &Plan| plan.bytes(Segment::Activations);
                assert!(arena(&plan) <= arena(&unfused), "{what}: a larger arena");
                assert!(on_cpu(&plan, threads(1), 50) == expected, "{what}: other bits");
            }
            let all = plan(spec, "true", full_rank, further);
            assert!(on_cpu(&all, threads(3), 50) == expected, "{spec}: three threads");
        }
    }
}

/// A value that was stored between two parts is rounded where they are one.
#[test]
fn no_rule_changes_a_bit_of_sixteen_bits() {
    for (spec, further) in MODELS {
        for (precision, full_rank) in [("bf16", false), ("bf16", true), ("bf16-pure", false)] {
            let precision = format!("train.precision={precision}");
            let further: Vec<&str> = further.iter().copied().chain([precision.as_str()]).collect();
            let unfused = plan(spec, RULES[0], full_rank, &further);
            let expected = on_cpu(&unfused, threads(2), 50);
            for rules in &RULES[1..] {
                let plan = plan(spec, rules, full_rank, &further);
                let what = format!("{spec}, {precision}, full_rank={full_rank}, fuse={rules}");
                assert!(on_cpu(&plan, threads(2), 50) == expected, "{what}: other bits");
            }
            let rounds = |plan: &Plan| {
                let operations = &plan.program(ProgramKind::ForwardBackward).operations;
                let round = |i: &Instruction| matches!(i, Instruction::Round(..));
                operations.iter().any(|o| match &o.op {
                    Op::Pointwise { program } => program.instructions.iter().any(round),
                    _ => false,
                })
            };
            assert!(rounds(&plan(spec, "true", full_rank, &further)), "{spec}: nothing is rounded");
        }
    }
}

/// What the backward pass makes again is joined with what it makes then; and still nothing changes.
#[test]
fn no_rule_changes_a_bit_of_what_is_made_again() {
    let mut across = 0;
    for (spec, further) in MODELS {
        for policy in RecomputePolicy::ALL.into_iter().skip(1) {
            let policy = format!("recompute.policy={}", policy.name());
            let further: Vec<&str> = further.iter().copied().chain([policy.as_str()]).collect();
            let unfused = plan(spec, RULES[0], false, &further);
            let expected = on_cpu(&unfused, threads(2), 50);
            for rules in &RULES[1..] {
                let plan = plan(spec, rules, false, &further);
                let what = format!("{spec}, {policy}, fuse={rules}");
                let arena = |plan: &Plan| plan.bytes(Segment::Activations);
                assert!(arena(&plan) <= arena(&unfused), "{what}: a larger arena");
                assert!(on_cpu(&plan, threads(2), 50) == expected, "{what}: other bits");
                let again = |plan: &Plan| {
                    let operations = &plan.program(ProgramKind::ForwardBackward).operations;
                    let pointwise = |o: &&colac_plan::Operation| {
                        matches!(o.op, Op::Pointwise { .. })
                            && matches!(o.phase, colac_plan::program::Phase::Recompute(_))
                    };
                    operations.iter().filter(pointwise).count()
                };
                across += usize::from(again(&plan) < again(&unfused));
            }
        }
    }
    assert!(across > 4, "programs of recompute regions are hardly ever joined: {across}");
}

/// Every activation is overwritten after its last planned use, and the arena ends at a protected page.
#[test]
fn joined_operations_stay_inside_their_planned_bytes_and_lives() {
    for (spec, further) in MODELS {
        for full_rank in [false, true] {
            let plan = plan(spec, "true", full_rank, further);
            let guarded = CpuOptions {
                threads: 2,
                checking: true,
                arena: ArenaPlacement::BeforeProtectedPage,
            };
            assert!(on_cpu(&plan, guarded, 3) == on_cpu(&plan, threads(2), 3), "{spec}");
        }
    }
}

#[test]
fn the_reference_gives_the_same_in_f64() {
    for (spec, further) in MODELS {
        for full_rank in [false, true] {
            let run = |rules: &str| {
                let plan = plan(spec, rules, full_rank, further);
                let mut executor = ReferenceExecutor::new(Arc::clone(&plan));
                found(&plan, &mut executor, 2)
            };
            let expected = run(RULES[0]);
            for rules in &RULES[1..] {
                assert!(run(rules) == expected, "{spec}, full_rank={full_rank}, fuse={rules}");
            }
        }
    }
}

/// What the rules are for: fewer operations, fewer bytes moved, fewer bytes kept.
#[test]
fn joined_programs_read_and_write_less() {
    let bytes = |plan: &Plan| {
        let operations = &plan.program(ProgramKind::ForwardBackward).operations;
        let cost = |o: &colac_plan::Operation| {
            let types = |ids: &[colac_plan::TensorId]| -> Vec<colac_plan::TensorType> {
                ids.iter().map(|&id| plan.tensor(id).ty.clone()).collect()
            };
            let (read, made) = (types(&o.operands), types(&o.results));
            let (read, made): (Vec<_>, Vec<_>) = (read.iter().collect(), made.iter().collect());
            match o.op {
                Op::Pointwise { .. }
                | Op::RmsNorm { .. }
                | Op::RmsNormBackward { .. }
                | Op::LayerNorm { .. }
                | Op::LayerNormBackward { .. } => o.op.cost(&read, &made).bytes,
                _ => 0,
            }
        };
        operations.iter().map(cost).sum::<u64>()
    };
    for (spec, further) in MODELS {
        let (none, all) = (plan(spec, "false", true, further), plan(spec, "true", true, further));
        let (before, after) = (bytes(&none), bytes(&all));
        assert!(10 * after < 9 * before, "{spec}: {after} bytes against {before}");
        let arena = |plan: &Plan| plan.bytes(Segment::Activations);
        assert!(arena(&all) <= arena(&none), "{spec}");
        let training = ProgramKind::ForwardBackward;
        assert!(kinds(&all, training)["pointwise"] < kinds(&none, training)["pointwise"], "{spec}");
    }
    // Gradients are turned back where they are made; in gpt2 nothing is turned.
    for ((spec, further), turned) in MODELS.into_iter().zip([4, 0]) {
        let (none, all) = (plan(spec, "false", true, further), plan(spec, "true", true, further));
        let ropes = |plan: &Plan| {
            let kinds = kinds(plan, ProgramKind::ForwardBackward);
            kinds.get("rope").copied().unwrap_or(0)
        };
        assert_eq!((ropes(&none), ropes(&all)), (2 * turned, turned), "{spec}");
    }
    // A gate before its activation is enough for the backward pass: the activation itself is not kept.
    let (spec, further) = MODELS[0];
    let (none, all) = (plan(spec, "false", true, further), plan(spec, "true", true, further));
    let arena = |plan: &Plan| plan.bytes(Segment::Activations);
    assert!(arena(&all) < arena(&none), "{} bytes against {}", arena(&all), arena(&none));
}

/// Published models in small and models of every operation, each with all rules against none.
#[test]
fn foreign_architectures_keep_their_bits() {
    let mut joined: BTreeMap<&str, usize> = BTreeMap::new();
    for folder in ["architectures", "operations"] {
        let path = common::repository("tests/cases").join(folder);
        let mut names: Vec<String> = std::fs::read_dir(path)
            .expect("the folder of the cases")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
            .filter(|name| name != "spec")
            .collect();
        names.sort();
        assert!(names.len() >= 3, "{folder}: {names:?}");
        let spec = format!("tests/cases/{folder}/spec.toml");
        for name in names {
            let plan = |rules: &str, full_rank| {
                let architecture = format!("architecture=./{name}.toml");
                let fuse = format!("compiler.fuse={rules}");
                common::plan_of_file(&spec, &[&architecture, &fuse], full_rank)
            };
            for full_rank in [false, true] {
                let none = plan(RULES[0], full_rank);
                let expected = on_cpu(&none, threads(2), 4);
                for rules in RULES.iter().skip(1) {
                    let fused = plan(rules, full_rank);
                    let program = |plan: &Plan| plan.program(ProgramKind::ForwardBackward).clone();
                    if program(&fused) == program(&none) {
                        continue;
                    }
                    *joined.entry(rules).or_default() += 1;
                    let what = format!("{name}, full_rank={full_rank}, fuse={rules}");
                    assert!(on_cpu(&fused, threads(2), 4) == expected, "{what}");
                }
            }
        }
    }
    // Two rules need what another one makes, or something that is made again.
    let dependent = ["[\"remake\"]", "[\"horizontal\"]"];
    for rules in RULES.iter().skip(1).filter(|rules| !dependent.contains(rules)) {
        let places = joined.get(rules).copied().unwrap_or(0);
        assert!(places > 20, "{rules} hardly ever joins anything: {joined:?}");
    }
}

/// A block of random formulas over products and norms, as an architecture.
fn random_architecture(seed: u64) -> String {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut names: Vec<String> = ["x", "u", "v"].map(str::to_owned).to_vec();
    let mut lines = String::new();
    for i in 0..9 {
        let (a, b) = (names[next(names.len())].clone(), names[next(names.len())].clone());
        let made = match next(10) {
            0 | 1 => format!("{a} + {b}"),
            2 | 3 => format!("{a} * {b}"),
            4 => format!("silu({a})"),
            5 => format!("sigmoid({a}) * {b}"),
            6 => format!("tanh({a}) - 0.5 * {b}"),
            7 => format!("max({a}, {b})"),
            8 => format!("n{i}: rms_norm({a} + {b}, 1e-3)"),
            _ => format!("l{i}: linear({a}, hidden_size, bias = true)"),
        };
        lines.push_str(&format!("  t{i} = {made}\n"));
        names.push(format!("t{i}"));
    }
    let sum = names.join(" + ");
    format!(
        r#"language = 1
about = "random formulas"
objective = "next-token"

[config]
vocab_size = 41
hidden_size = 18
initializer_range = 0.2

[body]
text = '''
use normal(0, initializer_range) for linear, embedding
use normal(0, 0.1) for bias

model(tokens: ids[batch, seq]) {{
  x = embed: embedding(tokens, vocab_size, hidden_size)
  repeat layers[2] {{
    x = x + mix: mixed(norm: rms_norm(x, 1e-5))
  }}
  return head: linear(final: rms_norm(x, 1e-5), vocab_size, cola = never)
}}

block mixed(x) {{
  u = up: linear(x, hidden_size)
  v = gate: linear(x, hidden_size)
{lines}  return down: linear(tanh({sum}), hidden_size)
}}
'''
"#
    )
}

#[test]
fn random_formulas_keep_their_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(common::repository("tests/cases/architectures/spec.toml"));
    let spec = folder.path().join("spec.toml");
    let own = text.expect("the spec of the cases").replace("./olmo-2.toml", "./random.toml");
    std::fs::write(&spec, own).expect("a file in the folder");
    let spec = spec.to_str().expect("the path is UTF-8");
    let mut joined = 0;
    for seed in 0..40 {
        let architecture = random_architecture(seed);
        std::fs::write(folder.path().join("random.toml"), &architecture).expect("a file");
        let policy = ["none", "cola-m", "block"][seed as usize % 3];
        let run = |fuse: bool| {
            let settings = [format!("compiler.fuse={fuse}"), format!("recompute.policy={policy}")];
            let settings = settings.each_ref().map(String::as_str);
            let plan = common::plan(spec, &settings, seed % 2 == 1);
            let operations = plan.program(ProgramKind::ForwardBackward).operations.len();
            (on_cpu(&plan, threads(2), 3), operations)
        };
        let ((expected, before), (found, after)) = (run(false), run(true));
        assert!(found == expected, "seed {seed}, {policy}:\n{architecture}");
        joined += before - after;
    }
    assert!(joined > 400, "{joined} operations were joined");
}
