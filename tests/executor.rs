//! What the CPU executor promises over whole training runs: it stays inside the planned bytes, reads nothing after its
//! planned life, gives the same bits for any number of threads, and goes on bit for bit after a resume.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use colac_plan::{Plan, Segment};
use colac_runtime::cpu::{ArenaPlacement, CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::train::observer::Silent;
use colac_runtime::train::options::{Options, Rows, Start};
use colac_runtime::train::run::train;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;

/// A model with every kind of shape that is awkward: grouped heads, a last tile that is not full, an odd width.
const SETTINGS: &[&str] = &[
    "model.vocab_size=203",
    "model.hidden_size=96",
    "model.intermediate_size=173",
    "model.num_hidden_layers=3",
    "model.num_attention_heads=6",
    "model.num_key_value_heads=2",
    "cola.rank=20",
    "train.sequence_length=75",
    "train.micro_batch=2",
    "train.global_batch=6",
    "train.steps=40",
    "schedule.warmup_steps=4",
    "optimizer.learning_rate=0.004",
    "evaluation.every=0",
    "checkpoint.every=20",
];

const PRECISIONS: [&str; 3] = ["f32", "bf16", "bf16-pure"];

fn small(full_rank: bool) -> Arc<Plan> {
    stored(full_rank, "f32")
}

fn stored(full_rank: bool, precision: &str) -> Arc<Plan> {
    let precision = format!("train.precision={precision}");
    common::plan("llama-nano", &[SETTINGS, &[&precision]].concat(), full_rank)
}

/// Both forms in every precision.
fn plans() -> impl Iterator<Item = (String, Arc<Plan>)> {
    let forms =
        PRECISIONS.into_iter().flat_map(|precision| [(precision, false), (precision, true)]);
    forms.map(|(precision, full_rank)| {
        (format!("{precision}, full_rank={full_rank}"), stored(full_rank, precision))
    })
}

fn rows(plan: &Plan) -> FixedRows {
    FixedRows::patterned(64, plan.recipe.sequence_length as usize, plan.vocab_size as u32, 7)
}

/// Losses of some updates and the bits of all weights after them.
fn run(plan: &Arc<Plan>, options: CpuOptions, updates: u64) -> (Vec<u64>, Vec<u32>) {
    let mut executor = CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs it");
    assert_eq!(executor.segment_bytes(), plan.total_bytes());
    initialize(&mut executor);
    let (mut trainer, mut rows) = (Trainer::new(plan).expect("right batches"), rows(plan));
    let mut losses = Vec::new();
    for update in 0..updates {
        let report = trainer.step(&mut executor, &mut rows, update).expect("the step runs");
        losses.push(report.loss.expect("labels").to_bits());
    }
    let mut weights = vec![0.0; plan.tensor(plan.roles.parameters).ty.shape.elements() as usize];
    executor.read_f32(plan.roles.parameters, &mut weights);
    (losses, weights.into_iter().map(f32::to_bits).collect())
}

/// The arena ends at a protected page, and in checking mode every activation is overwritten with signalling values
/// after its last planned use, workspace before each operation.
#[test]
fn nothing_outside_the_planned_bytes_and_lives() {
    for (what, plan) in plans() {
        assert!(plan.bytes(Segment::Activations) > 0);
        let plain = run(&plan, CpuOptions { threads: 2, ..CpuOptions::default() }, 4);
        let guarded =
            CpuOptions { threads: 2, checking: true, arena: ArenaPlacement::BeforeProtectedPage };
        assert_eq!(plain, run(&plan, guarded, 4), "{what}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for (what, plan) in plans() {
        let one = run(&plan, CpuOptions { threads: 1, ..CpuOptions::default() }, 5);
        for threads in [2, 3] {
            assert_eq!(
                one,
                run(&plan, CpuOptions { threads, ..CpuOptions::default() }, 5),
                "{what}, {threads} threads"
            );
        }
    }
}

/// Every file of a folder with its bytes, by path.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below").display().to_string();
                files.push((name, std::fs::read(&path).expect("readable")));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn forty_steps_are_twenty_and_twenty_after_a_resume() {
    for precision in PRECISIONS {
        halves_are_the_whole(&stored(false, precision));
    }
}

fn halves_are_the_whole(plan: &Arc<Plan>) {
    let part = |run_dir: &Path, start: Start, stop_at: Option<u64>, threads: usize| {
        let options = CpuOptions { threads, ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs it");
        let mut rows = rows(plan);
        let options = Options {
            run_dir: run_dir.to_path_buf(),
            start,
            stop_at,
            deadline: None,
            tensorboard: false,
            tokenizer_json: None,
        };
        let rows = Rows { training: &mut rows, validation: None };
        train(&mut executor, rows, &options, &AtomicBool::new(false), &mut Silent)
            .expect("the run ends well")
    };
    let (whole, parts) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    assert_eq!(part(whole.path(), Start::Fresh, None, 2).step, 40);
    assert_eq!(part(parts.path(), Start::Fresh, Some(20), 1).step, 20);
    assert_eq!(part(parts.path(), Start::Resume, None, 2).step, 40);
    let checkpoint = |run_dir: &Path| contents(&run_dir.join("checkpoints").join("step-000040"));
    let (one, other) = (checkpoint(whole.path()), checkpoint(parts.path()));
    assert!(one.iter().any(|(name, _)| name == "model.safetensors"));
    let names =
        |files: &[(String, Vec<u8>)]| files.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for ((name, a), (_, b)) in one.iter().zip(&other) {
        if name == "state.json" {
            continue;
        }
        assert!(a == b, "{name} differs");
    }
    let log = |run_dir: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(run_dir.join("metrics.jsonl")).expect("the log");
        let without_time = |line: &str| {
            let mut json: serde_json::Value = serde_json::from_str(line).expect("a record");
            json.as_object_mut().expect("an object").remove("tokens_per_second");
            json.to_string()
        };
        text.lines().map(without_time).collect()
    };
    assert_eq!(log(whole.path()), log(parts.path()));
}

/// A CoLA model and its dense form both learn the pattern of the rows.
#[test]
fn both_forms_learn() {
    for full_rank in [false, true] {
        let plan = small(full_rank);
        let (losses, _) = run(&plan, CpuOptions { threads: 2, ..CpuOptions::default() }, 40);
        let (first, last) = (f64::from_bits(losses[0]), f64::from_bits(losses[39]));
        assert!(last < first - 0.5, "full_rank={full_rank}: {first} to {last}");
    }
}
