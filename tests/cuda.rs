//! The CUDA runtime where there is no GPU: kernels of shipped specs compiled, a model trained on the kernels' sources on
//! the CPU, and what is said where driver or GPU are missing.
//!
//! Every operation on its own is held to the reference in the runtime's own tests. What needs a GPU is in tests/gpu.

mod command_line;
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use colac_plan::Plan;
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::cuda::assembly::{self, Assembled, Kernels};
use colac_runtime::cuda::shim;
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::train::trainer::Trainer;
use command_line::Folder;
use common::{FixedRows, skip};

/// Plans as people train them: forms, precisions and policies that need kernels of their own.
fn shipped() -> Vec<Arc<Plan>> {
    let plan = |spec, settings: &[&str], full_rank| common::plan(spec, settings, full_rank);
    vec![
        plan("llama-nano", &[], false),
        plan("llama-60m", &[], false),
        plan("llama-60m", &["train.precision=bf16-pure"], true),
        plan("llama-1b", &["recompute.policy=cola-m"], false),
        plan("gpt2-small", &["train.precision=bf16"], false),
    ]
}

/// A kernel that no operation of the suite runs would be held to nothing.
#[test]
fn the_suite_runs_every_kernel_of_shipped_specs() {
    let shipped = Kernels::of(shipped()).expect("launches fit their kernels").names();
    let suite = Kernels::of_conformance().expect("launches fit their kernels").names();
    let missing: Vec<&String> = shipped.difference(&suite).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What the conformance suite compiles is not compiled here again: the runtime's own tests do that.
#[test]
fn kernels_of_shipped_specs_compile_and_spill_nothing() {
    let kernels = Kernels::of(shipped()).expect("launches fit their kernels");
    assert!(kernels.of_file("attention_tiles").texts() > 0);
    if let Err(error) = assembly::available() {
        let reason = format!("{error} (tests/cuda/install-nvrtc does that for tests)");
        return skip("kernels_of_shipped_specs_compile_and_spill_nothing", &reason);
    }
    let kernels = kernels.without(&Kernels::of_conformance().expect("launches fit their kernels"));
    for architecture in ["sm_80", "sm_90"] {
        let assembled = kernels.assemble(architecture).expect("NVRTC takes every text");
        let spilling: Vec<&Assembled> = assembled.iter().filter(|k| k.spilled_bytes > 0).collect();
        assert!(spilling.is_empty(), "{spilling:#?}");
    }
}

const TINY: &[&str] = &[
    "model.vocab_size=97",
    "model.hidden_size=64",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=1",
    "cola.rank=20",
    "recompute.policy=cola-m",
    "train.sequence_length=40",
    "train.micro_batch=2",
    "train.global_batch=4",
    "train.steps=5",
    "schedule.warmup_steps=1",
    "optimizer.learning_rate=0.004",
    "evaluation.every=0",
];

/// Losses of five updates, and the bits of all weights after them.
fn train(plan: &Arc<Plan>, executor: &mut dyn Executor) -> (Vec<f64>, Vec<u32>) {
    initialize(executor);
    let mut trainer = Trainer::new(plan).expect("right batches");
    let sequence = plan.recipe.sequence_length as usize;
    // The rows of one update, again and again, so that five of them show that something is learned.
    let mut rows = FixedRows::patterned(4, sequence, plan.vocab_size as u32, 7);
    let step = |update| {
        let report = trainer.step(executor, &mut rows, update).expect("the step runs");
        report.loss.expect("labels")
    };
    let losses = (0..5).map(step).collect();
    let mut weights = vec![0.0; plan.tensor(plan.roles.parameters).ty.shape.elements() as usize];
    executor.read_f32(plan.roles.parameters, &mut weights);
    (losses, weights.into_iter().map(f32::to_bits).collect())
}

/// The launcher, the arguments and the kernels are those of a GPU. Whatever order threads run in, runs have equal bits.
#[test]
fn a_model_trains_on_the_kernels_as_on_the_cpu() {
    if let Some(missing) = shim::missing() {
        return skip("a_model_trains_on_the_kernels_as_on_the_cpu", missing);
    }
    // Rows of 171 lie without gaps, those of 261 are padded; a dense model has them side by side in wider rows, too.
    for (precision, tolerance, intermediate, full_rank) in [
        ("f32", 1e-5, 171, false),
        ("f32", 1e-5, 261, true),
        ("bf16", 0.02, 261, false),
        ("bf16", 0.02, 261, true),
    ] {
        let settings = [
            format!("train.precision={precision}"),
            format!("model.intermediate_size={intermediate}"),
        ];
        let settings = [TINY, &[settings[0].as_str(), settings[1].as_str()]].concat();
        let plan = common::plan("llama-nano", &settings, full_rank);
        let on_shim = |seed| {
            let mut executor = shim::executor(Arc::clone(&plan), seed).expect("a verified plan");
            train(&plan, &mut executor)
        };
        let (losses, weights) = on_shim(1);
        assert!(
            (losses.clone(), weights) == on_shim(2),
            "{precision}: bits depend on the order of threads"
        );
        let mut cpu =
            CpuExecutor::new(Arc::clone(&plan), CpuOptions::default()).expect("the CPU runs it");
        let (expected, _) = train(&plan, &mut cpu);
        assert!(losses[4] < losses[0], "{precision}: nothing was learned: {losses:?}");
        for (loss, expected) in losses.iter().zip(&expected) {
            let off = (loss / expected - 1.0).abs();
            assert!(off <= tolerance, "{precision}: {losses:?}, on the CPU {expected}");
        }
    }
}

/// Whether this machine has a driver of NVIDIA's, where these tests would say something else.
fn has_driver(folder: &Folder) -> bool {
    let output = folder.command(&["doctor", "--device", "cuda", "--json"]).output();
    let output = output.expect("the program was built");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let libraries = report["gpu"]["libraries"].as_array().expect("a list");
    let driver = libraries.iter().find(|library| library["name"] == "CUDA driver");
    driver.expect("the driver is asked for")["found"].get("Ok").is_some()
}

/// A driver that knows no GPU, in a folder of its own.
fn stub(folder: &Folder, name: &str, options: &[&str]) -> Option<PathBuf> {
    let place = folder.path(name);
    std::fs::create_dir(&place).expect("the folder is ours");
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
        .arg(place.join("libcuda.so.1"))
        .args(options)
        .arg(common::repository("tests/cuda/no_gpu.c"))
        .status();
    compiler.is_ok_and(|status| status.success()).then_some(place)
}

/// What `doctor` and `train` say with libraries from a folder: the same line, with exit code 1 and nothing begun.
fn both_say(folder: &Folder, libraries: Option<&Path>, line: &str) {
    let run = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        command.env_remove("COLAC_CUDA_LIB_PATH");
        if let Some(libraries) = libraries {
            command.env("COLAC_CUDA_LIB_PATH", libraries);
        }
        let output = command.output().expect("the program was built");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run(&["doctor", "--device", "cuda"]);
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    let gpu = out.lines().find(|line| line.starts_with("GPU 0 ")).expect("a line for the GPU");
    assert!(gpu.contains(&format!("cannot be used: {line}")), "{out}");

    let (code, out, err) = run(&["train", "small.toml", "--device", "cuda"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.starts_with(&format!("error: {line}")) && err.lines().count() == 1, "{err}");
    assert!(!folder.path("runs").exists(), "a run was begun");
}

#[test]
fn a_machine_without_driver_says_so() {
    let folder = Folder::with_data();
    if has_driver(&folder) {
        return skip("a_machine_without_driver_says_so", "this machine has NVIDIA's driver");
    }
    both_say(&folder, None, "CUDA driver was not found: install NVIDIA's driver");
    let done = folder.run(&["doctor"]).succeeds();
    assert!(done.out.contains("CUDA driver was not found"), "{}", done.out);
}

#[test]
fn a_driver_without_gpu_says_so() {
    let folder = Folder::with_data();
    if has_driver(&folder) {
        return skip("a_driver_without_gpu_says_so", "this machine has NVIDIA's driver");
    }
    let Some(place) = stub(&folder, "no-gpu", &[]) else {
        return skip(
            "a_driver_without_gpu_says_so",
            "there is no C compiler to build a driver with",
        );
    };
    both_say(&folder, Some(&place), "there is no GPU 0: the driver knows 0 of them");
}

/// cudarc ends the process at the first function that a driver lacks; colac asks before.
#[test]
fn a_driver_that_is_too_old_says_so() {
    let folder = Folder::with_data();
    if has_driver(&folder) {
        return skip("a_driver_that_is_too_old_says_so", "this machine has NVIDIA's driver");
    }
    let Some(place) = stub(&folder, "old", &["-DINCOMPLETE"]) else {
        let reason = "there is no C compiler to build a driver with";
        return skip("a_driver_that_is_too_old_says_so", reason);
    };
    let path = place.join("libcuda.so.1");
    let line = format!("CUDA driver at {} has no cuDeviceGetCount: install", path.display());
    both_say(&folder, Some(&place), &line);
}
