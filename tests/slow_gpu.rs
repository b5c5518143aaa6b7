//! Whole commands on a GPU that is none: the driver, the compiler of kernels and the library of products are stand-ins
//! (tests/cuda/slow_gpu) that do nothing before they have to. What the program asks of NVIDIA's libraries, in which order,
//! and what it waits for, is what it would ask of real ones.
//!
//! Kernels on their own are held to the reference in the runtime's own tests.

mod command_line;
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use command_line::{Done, Folder};
use common::{repository, skip};
use serde_json::Value;

/// A folder whose commands find the slow GPU.
struct Slow {
    folder: Folder,
    libraries: PathBuf,
}

impl Slow {
    /// Nothing where there is no compiler.
    fn new(test: &str) -> Option<Slow> {
        let folder = Folder::with_data();
        let libraries = folder.path("libraries");
        fs::create_dir(&libraries).expect("the folder is ours");
        for (library, source) in [
            ("libcuda.so.1", "driver.cpp"),
            ("libnvrtc.so.13", "nvrtc.cpp"),
            ("libcublasLt.so.13", "cublaslt.cpp"),
        ] {
            let compiler = Command::new("g++")
                .args(["-std=c++20", "-O1", "-shared", "-fPIC", "-o"])
                .arg(libraries.join(library))
                .arg(format!("-Wl,-soname,{library}"))
                .arg(repository("tests/cuda/slow_gpu").join(source))
                .status();
            match compiler {
                Ok(status) => assert!(status.success(), "{source} does not compile"),
                Err(error) => {
                    skip(test, &format!("there is no g++, which builds the slow GPU: {error}"));
                    return None;
                }
            }
        }
        Some(Slow { folder, libraries })
    }

    /// Runs a command; with a seed above 0 the GPU gets on at random moments.
    fn run(&self, seed: u32, arguments: &[&str]) -> Done {
        let kernels = repository("target/shim");
        fs::create_dir_all(&kernels).expect("the build's folder can be written");
        let output = self
            .folder
            .command(arguments)
            .env("COLAC_CUDA_LIB_PATH", &self.libraries)
            .env("COLAC_CACHE", self.folder.path("cache"))
            .env("SLOW_GPU_SEED", seed.to_string())
            .env("SLOW_GPU_FOLDER", kernels)
            .env("SLOW_GPU_HEADER", repository("runtime/src/cuda/shim"))
            .output()
            .expect("the program was built");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let done =
            Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!done.err.contains("slow GPU:"), "{arguments:?}\n{}", done.err);
        done
    }

    /// Trains, with more options of the command, into a folder of that name.
    fn train(&self, seed: u32, run: &str, options: &[&str]) {
        let to = format!("runs/{run}");
        let command = ["train", "small.toml", "--device", "cuda", "--out", &to];
        self.run(seed, &[&command, options].concat()).succeeds();
    }

    fn checkpoint(&self, run: &str, step: u64) -> Vec<(PathBuf, Vec<u8>)> {
        contents(&self.folder.path(&format!("runs/{run}/checkpoints/step-{step:06}")))
    }

    /// Losses of training and of evaluations.
    fn losses(&self, run: &str) -> Vec<f64> {
        let log = fs::read_to_string(self.folder.path(&format!("runs/{run}/metrics.jsonl")));
        let log = log.expect("a run has a log");
        let records = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        records.filter_map(|record| record["loss"].as_f64()).collect()
    }
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a file").path())
        .map(|path| (path.file_name().expect("a name").into(), fs::read(&path).expect("a file")))
        .collect();
    files.sort();
    files
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found / expected - 1.0).abs() < tolerance, "{found}, not {expected}");
    }
}

#[test]
fn a_run_is_that_of_the_cpu_whenever_the_gpu_gets_on() {
    let Some(slow) = Slow::new("a_run_is_that_of_the_cpu_whenever_the_gpu_gets_on") else { return };
    slow.run(0, &["doctor", "--device", "cuda"]).succeeds().says(&[
        "slow GPU",
        "13.0",
        "this version has not run on a GPU",
    ]);
    for seed in [0, 1] {
        slow.train(seed, &format!("gpu-{seed}"), &[]);
    }
    for step in [4, 8] {
        let expected = slow.checkpoint("gpu-0", step);
        assert!(expected.iter().any(|(name, _)| name.ends_with("cuda-products.json")));
        assert!(slow.checkpoint("gpu-1", step) == expected, "at {step}");
    }
    let command = ["train", "small.toml", "--device", "cpu", "--out", "runs/cpu"];
    slow.run(0, &command).succeeds();
    let losses = slow.losses("gpu-0");
    near(&losses, &slow.losses("cpu"), 1e-4);
    assert!(losses.len() >= 10 && losses[losses.len() - 1] < losses[0], "{losses:?}");

    // What the run has learnt is measured and written alike.
    let [gpu, cpu] = ["cuda", "cpu"].map(|device| {
        let measured = slow.run(5, &["eval", "runs/gpu-0", "--device", device, "--json"]);
        let loss = measured.succeeds().json()["loss"].as_f64().expect("a number");
        let write = ["generate", "runs/gpu-0", "--device", device, "--prompt", "She was"];
        let options = ["--temperature", "0", "--max-tokens", "8"];
        (loss, slow.run(6, &[write.as_slice(), &options].concat()).succeeds().out)
    });
    near(&[gpu.0], &[cpu.0], 1e-5);
    assert_eq!(gpu.1, cpu.1);

    // A run that was stopped and goes on has the same checkpoints, and so has one on the choices of a checkpoint.
    slow.train(2, "resumed", &["--steps", "4"]);
    fs::remove_file(slow.folder.path("runs/resumed/cuda-products.json")).expect("it is there");
    slow.train(3, "resumed", &["--resume"]);
    assert!(slow.checkpoint("resumed", 8) == slow.checkpoint("gpu-0", 8));
}

/// Products that were chosen for a run are taken again, whatever would be chosen now.
#[test]
fn a_run_keeps_its_products() {
    let Some(slow) = Slow::new("a_run_keeps_its_products") else { return };
    slow.train(0, "run", &["--steps", "4"]);
    // The algorithms that add up from the other end, which nobody would choose by himself.
    let choices = "runs/run/cuda-products.json";
    let text = String::from_utf8(slow.folder.read(choices)).expect("UTF-8");
    let others = text.replace("[7,", "[8,").replace("[\n    7,", "[\n    8,");
    assert_ne!(others, text, "{text}");
    fs::write(slow.folder.path(choices), &others).expect("the folder is ours");
    slow.train(0, "run", &["--resume"]);
    assert_eq!(String::from_utf8(slow.folder.read(choices)).expect("UTF-8"), others);
    slow.train(0, "straight", &[]);
    assert!(slow.checkpoint("run", 8) != slow.checkpoint("straight", 8));
    near(&slow.losses("run"), &slow.losses("straight"), 1e-5);
}
