//! The CUDA runtime where there is no GPU: kernels of shipped specs compiled, a model trained on the kernels' sources on
//! the CPU, and what is said where driver or GPU are missing.
//!
//! Every operation on its own is held to the reference in the runtime's own tests. What needs a GPU is in tests/gpu.

mod command_line;
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use colac_plan::op::Mask;
use colac_plan::{Plan, ProgramKind};
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::cuda::assembly::{self, Assembled, Kernels};
use colac_runtime::cuda::described::{DescribedGpu, Joined};
use colac_runtime::cuda::{self, AttentionKernels, BesidePlan, shim};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::train::trainer::{Trainer, Turn};
use command_line::Folder;
use common::{FixedRows, skip};

const SPECS: [&str; 9] = [
    "llama-nano",
    "llama-tiny",
    "llama-60m",
    "llama-130m",
    "llama-350m",
    "llama-1b",
    "llama-7b",
    "gpt2-nano",
    "gpt2-small",
];

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

/// Every shipped spec at its own sizes, in both forms and every precision, and with micro-batches small and large.
fn at_real_sizes() -> Vec<Arc<Plan>> {
    let mut plans = Vec::new();
    for spec in SPECS {
        for full_rank in [false, true] {
            for precision in ["f32", "bf16", "bf16-pure"] {
                let precision = format!("train.precision={precision}");
                plans.push(common::plan(spec, &[&precision], full_rank));
            }
        }
        for sizes in [
            ["train.global_batch=512", "train.micro_batch=8"],
            ["train.global_batch=512", "train.micro_batch=256"],
        ] {
            plans.push(common::plan(spec, &sizes, false));
        }
        plans.push(common::plan(spec, &["recompute.policy=cola-m"], false));
    }
    plans
}

/// A kernel that no operation of the suite runs would be held to nothing.
#[test]
fn the_suite_runs_every_variant_of_shipped_specs() {
    let shipped = Kernels::of(at_real_sizes()).expect("launches fit their kernels").variants();
    let suite = Kernels::of_conformance().expect("launches fit their kernels").variants();
    let missing: Vec<&String> = shipped.difference(&suite).collect();
    assert!(missing.is_empty(), "{} of {}: {missing:#?}", missing.len(), shipped.len());
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

/// Losses of five updates, and the bits of all weights after them. `ahead` says whether the gradient of an update is
/// begun before the loss of the one before is fetched.
fn train(plan: &Arc<Plan>, executor: &mut dyn Executor, ahead: bool) -> (Vec<f64>, Vec<u32>) {
    initialize(executor);
    let mut trainer = Trainer::new(plan).expect("right batches");
    let sequence = plan.recipe.sequence_length as usize;
    // The rows of one update, again and again, so that five of them show that something is learned.
    let mut rows = FixedRows::patterned(4, sequence, plan.vocab_size as u32, 7);
    let step = |update| {
        let next = (ahead && update < 4).then(|| Turn::of(update + 1));
        let report = trainer.turn(executor, &mut rows, Turn::of(update), next);
        let report = report.expect("the step runs");
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
    for (precision, tolerance, intermediate, full_rank) in
        [("f32", 1e-5, 171, false), ("bf16", 0.02, 261, false), ("bf16", 0.02, 261, true)]
    {
        let settings = [
            format!("train.precision={precision}"),
            format!("model.intermediate_size={intermediate}"),
        ];
        let settings = [TINY, &[settings[0].as_str(), settings[1].as_str()]].concat();
        let plan = common::plan("llama-nano", &settings, full_rank);
        let on_shim = |plan: &Arc<Plan>, seed| {
            let mut executor = shim::executor(Arc::clone(plan), seed).expect("a verified plan");
            train(plan, &mut executor, seed == 1)
        };
        let trained = on_shim(&plan, 1);
        assert!(
            trained == on_shim(&plan, 2),
            "{precision}: bits depend on the order of threads, or on when losses are fetched"
        );
        // Attention turns gradients back, two in each of two layers, as rotations of their own do.
        let others = ["remake", "vertical", "horizontal", "norm", "norm-backward"];
        let others = format!("compiler.fuse={others:?}");
        let apart = common::plan("llama-nano", &[&settings[..], &[&others]].concat(), full_rank);
        let operations = |plan: &Plan| plan.program(ProgramKind::ForwardBackward).operations.len();
        assert_eq!(operations(&apart), operations(&plan) + 4);
        // On tiles, where that is no rotation of its own.
        let same = full_rank || precision == "f32" || trained == on_shim(&apart, 1);
        assert!(same, "{precision}: bits depend on what turns gradients back");
        let (losses, _) = trained;
        let mut cpu =
            CpuExecutor::new(Arc::clone(&plan), CpuOptions::default()).expect("the CPU runs it");
        let (expected, _) = train(&plan, &mut cpu, true);
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
    built(&place, "libcuda.so.1", "no_gpu.c", options).then_some(place)
}

/// Builds a library of `tests/cuda` in a folder; whether that was possible.
fn built(place: &Path, library: &str, source: &str, options: &[&str]) -> bool {
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(place.join(library))
        .arg(format!("-Wl,-soname,{library}"))
        .args(options)
        .arg(common::repository("tests/cuda").join(source))
        .status();
    compiler.is_ok_and(|status| status.success())
}

/// Exit code and both outputs of a command that finds libraries in a folder beside those of the system.
fn with_libraries(
    folder: &Folder,
    libraries: Option<&Path>,
    arguments: &[&str],
) -> (Option<i32>, String, String) {
    let mut command = folder.command(arguments);
    command.env_remove("COLAC_CUDA_LIB_PATH");
    if let Some(libraries) = libraries {
        command.env("COLAC_CUDA_LIB_PATH", libraries);
    }
    let output = command.output().expect("the program was built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What `doctor` and `train` say with libraries from a folder: the same line, with exit code 1 and nothing begun.
fn both_say(folder: &Folder, libraries: Option<&Path>, line: &str) {
    let run = |arguments: &[&str]| with_libraries(folder, libraries, arguments);
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

/// What `doctor` and `train` say of cuDNN with libraries from a folder: the same line.
fn both_say_of_cudnn(folder: &Folder, libraries: Option<&Path>, line: &str) {
    let run = |arguments: &[&str]| with_libraries(folder, libraries, arguments);
    let (_, out, _) = run(&["doctor", "--device", "cuda"]);
    let cudnn = out.lines().find(|line| line.starts_with("cuDNN ")).expect("a line for cuDNN");
    assert!(cudnn.contains(line) && cudnn.ends_with("; only --attention cudnn needs it"), "{out}");
    let asked = ["--device", "cuda", "--attention", "cudnn"];
    let (code, out, _) = run(&[&["doctor"], &asked[..]].concat());
    let cudnn = out.lines().find(|line| line.starts_with("cuDNN ")).expect("a line for cuDNN");
    assert_eq!(code, Some(1), "{out}");
    assert!(cudnn.contains(line) && !cudnn.contains("only"), "{out}");

    let (code, out, err) = run(&[&["train", "small.toml"], &asked[..]].concat());
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.starts_with(&format!("error: {line}")) && err.lines().count() == 1, "{err}");
    assert!(!folder.path("runs").exists(), "a run was begun");
}

#[test]
fn cudnn_is_missed_only_where_it_is_asked_for() {
    let folder = Folder::with_data();
    let mut command = folder.command(&["doctor", "--device", "cuda", "--json"]);
    let output = command.env_remove("COLAC_CUDA_LIB_PATH").output().expect("the program was built");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let libraries = report["gpu"]["libraries"].as_array().expect("a list");
    let cudnn = libraries.iter().find(|library| library["name"] == "cuDNN");
    let cudnn = cudnn.expect("cuDNN is looked for");
    assert_eq!(cudnn["needed"], false, "{report:#}");
    if cudnn["found"].get("Ok").is_some() {
        return skip("cudnn_is_missed_only_where_it_is_asked_for", "this machine has cuDNN");
    }
    both_say_of_cudnn(&folder, None, "cuDNN was not found: install it with `pip install");
}

#[test]
fn a_cudnn_that_is_too_old_says_so() {
    let folder = Folder::with_data();
    let place = folder.path("old-cudnn");
    std::fs::create_dir(&place).expect("the folder is ours");
    if !built(&place, "libcudnn.so.9", "old_cudnn.c", &[]) {
        let reason = "there is no C compiler to build a library with";
        return skip("a_cudnn_that_is_too_old_says_so", reason);
    }
    let path = place.join("libcudnn.so.9");
    let line = format!(
        "cuDNN 9.1.0 at {} is too old: 9.12.0 is needed; install it with `pip install",
        path.display()
    );
    both_say_of_cudnn(&folder, Some(&place), &line);
}

#[test]
fn cudnn_on_the_cpu_is_refused() {
    let folder = Folder::with_data();
    folder.fails(
        &["train", "small.toml", "--attention", "cudnn"],
        &["error: --attention cudnn needs a GPU: add --device cuda, or leave it out on the CPU"],
    );
    assert!(!folder.path("runs").exists(), "a run was begun");
}

/// Set where this program runs one of its tests with libraries for a machine without GPU.
const DESCRIBED: &str = "COLAC_TESTS_DESCRIBE_GPUS";

/// Every graph of attention is checked, gets an engine and is prepared, kernels compiled, for GPUs that are described.
///
/// In a process of its own: the driver and cuBLASLt are ones of `tests/cuda`, which other tests must not see.
#[test]
fn cudnn_prepares_attention_for_described_gpus() {
    const NAME: &str = "cudnn_prepares_attention_for_described_gpus";
    if std::env::var_os(DESCRIBED).is_some() {
        return prepare_attention_for_described_gpus();
    }
    let hint = "tests/cuda/install-cudnn and install-nvrtc do that for tests";
    if let Err(error) = cuda::check_attention(AttentionKernels::Cudnn) {
        return skip(NAME, &format!("{error} ({hint})"));
    }
    if let Err(error) = assembly::available() {
        return skip(NAME, &format!("{error} ({hint})"));
    }
    let folder = Folder::with_data();
    if has_driver(&folder) {
        return skip(
            NAME,
            "this machine has NVIDIA's driver: tests/gpu/accept.sh runs attention on it",
        );
    }
    let Some(place) = stub(&folder, "described", &[]) else {
        return skip(NAME, "there is no C compiler to build a driver with");
    };
    assert!(built(&place, "libcublasLt.so.13", "no_cublaslt.c", &[]), "as the driver");
    let mut libraries = vec![place];
    let others = std::env::var_os("COLAC_CUDA_LIB_PATH").unwrap_or_default();
    libraries.extend(std::env::split_paths(&others));
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", NAME, "--nocapture"])
        .env("COLAC_CUDA_LIB_PATH", std::env::join_paths(libraries).expect("no colon in a path"))
        .env(DESCRIBED, "1")
        .output()
        .expect("this program");
    let text = String::from_utf8_lossy;
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// What is said to fit before there is a GPU does fit: cuDNN never asks for more than is counted. Nor is more counted than
/// alignment takes, and rounding a sequence to the larger tiles of capability 9.
fn is_estimated(attention: &Joined, major: i32, estimate: Option<u64>, found: Option<u64>) {
    let Joined { batch, seq, heads, .. } = *attention;
    let (Some(estimate), Some(found)) = (estimate, found) else {
        assert_eq!(estimate, found, "{attention:?}");
        return;
    };
    let rounding = match major {
        8 => {
            let tiles = seq.next_multiple_of(128) - seq.next_multiple_of(64);
            2 * batch * heads * seq.next_multiple_of(64) * tiles
        }
        _ => 0,
    };
    assert!(found <= estimate, "{attention:?}: {found} of {estimate}");
    assert!(estimate <= found + rounding + 4096, "{attention:?}: {found} of {estimate}");
}

fn prepare_attention_for_described_gpus() {
    for (file, capability) in [("sm_80.json", (8, 0)), ("sm_90.json", (9, 0))] {
        let json = std::fs::read_to_string(common::repository("tests/cuda").join(file));
        let gpu = DescribedGpu::new(&json.expect("it is there"), capability);
        let gpu = gpu.expect("the library takes the description");

        // Plans as they are trained. Backward a bf16 number for each pair of a query and a key is stored.
        for (spec, full_rank, settings, pairs) in [
            ("llama-60m", false, &["train.micro_batch=16"][..], 16 * 8 * 256 * 256),
            ("llama-350m", true, &["train.micro_batch=8"], 8 * 16 * 256 * 256),
            ("llama-1b", false, &["train.sequence_length=2048", "train.micro_batch=1"], 32 << 22),
            (
                "llama-1b",
                false,
                &["train.micro_batch=2", "model.num_key_value_heads=8", "recompute.policy=cola-m"],
                2 * 32 * 256 * 256,
            ),
        ] {
            let settings = [settings, &["train.global_batch=16", "model.num_hidden_layers=2"]];
            let plan = common::plan(spec, &settings.concat(), full_rank);
            let estimate = BesidePlan::of(&plan, AttentionKernels::Cudnn).attention;
            let found = gpu.attention_of(plan).expect("prepared");
            assert_eq!(found.attention.own, 0, "{spec}: {found:?}");
            assert!(found.workspace <= estimate, "{spec}: {found:?} of {estimate}");
            assert!(estimate <= found.workspace + 4096, "{spec}: {found:?} of {estimate}");
            assert!(found.attention.library > 4, "{spec}: {found:?}");
            assert!(found.workspace >= 2 * pairs, "{spec}: {found:?}");
            assert!(found.workspace <= 3 * pairs + (1 << 20), "{spec}: {found:?}");
        }
        let f32_plan = common::plan("llama-nano", &["train.precision=f32"], false);
        assert_eq!(BesidePlan::of(&f32_plan, AttentionKernels::Cudnn).attention, 0);
        let found = gpu.attention_of(f32_plan).expect("prepared");
        assert_eq!((found.attention.library, found.workspace), (0, 0), "{found:?}");

        for dim in [32, 64, 128] {
            for (seq, groups, mask) in [
                (256, 8, Mask::Full),
                (256, 2, Mask::Window(100)),
                (2048, 8, Mask::Causal),
                (2048, 8, Mask::Window(1)),
                (2048, 1, Mask::Causal),
            ] {
                let attention = Joined { batch: 1, seq, heads: 8, groups, dim, mask };
                let found = gpu.workspaces(attention).expect("prepared");
                for (estimate, found) in gpu.estimates(attention).into_iter().zip(found) {
                    is_estimated(&attention, capability.0, estimate, found);
                }
                let [forward, backward] = found;
                let (forward, backward) = (forward.expect("taken"), backward.expect("taken"));
                assert!(forward <= 1 << 20, "{attention:?}: {forward}");
                assert!(backward >= 2 * 8 * seq * seq, "{attention:?}: {backward}");
            }
        }
        // Odd sequences, large batches, few and many heads: what an estimate may overlook.
        for [batch, seq, heads, groups, dim] in [
            [2, 2, 1, 1, 8],
            [3, 65, 4, 2, 24],
            [1, 300, 6, 6, 40],
            [7, 129, 12, 3, 96],
            [64, 256, 32, 32, 64],
            [5, 1000, 16, 4, 128],
            [300, 127, 8, 8, 16],
            [1, 4097, 2, 1, 120],
            [16, 2048, 32, 32, 64],
        ] {
            let attention = Joined { batch, seq, heads, groups, dim, mask: Mask::Causal };
            let found = gpu.workspaces(attention).expect("prepared");
            for (estimate, found) in gpu.estimates(attention).into_iter().zip(found) {
                is_estimated(&attention, capability.0, estimate, found);
            }
        }
        let single = Joined { batch: 1, seq: 1, heads: 8, groups: 8, dim: 64, mask: Mask::Causal };
        assert_eq!(gpu.workspaces(single).expect("refused"), [None, None]);

        // Samples without gaps in bf16 whose heads are multiples of eight wide; `doctor --verify --attention cudnn` runs them.
        let suite = gpu.attention_of_the_suite().expect("prepared");
        assert!(suite.attention.library >= 26, "{suite:?}");
        assert!(suite.attention.own >= 200, "{suite:?}");
    }
}
