//! The commands that look at plans and machines, as a user meets them: inspect, diff, fit, calibrate and bench.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod command_line;
mod common;

use std::fs;

use serde_json::Value;

use crate::command_line::Folder;

/// A folder whose profiles are its own, so that those of whoever runs the tests do not matter.
fn folder() -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("configuration")).unwrap();
    folder
}

fn run(folder: &Folder, arguments: &[&str]) -> crate::command_line::Done {
    let mut command = folder.command(arguments);
    command.env("COLAC_CONFIG_DIR", folder.path("configuration"));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let done = crate::command_line::Done {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    assert!(!done.err.contains("bug in colac"), "{arguments:?}\n{}", done.err);
    done
}

fn sum(values: &Value, field: &str) -> u64 {
    values.as_array().unwrap().iter().map(|value| value[field].as_u64().unwrap()).sum()
}

#[test]
fn inspect_says_where_the_memory_goes() {
    let folder = folder();
    run(&folder, &["inspect", "llama-nano"]).succeeds().says(&[
        "memory by category",
        "kept for backward",
        "bytes moved",
        "peak of activations",
        "line ",
        "recompute policies",
        "none (this plan)",
        "cola-m",
        "colac calibrate",
    ]);
    run(&folder, &["inspect", "llama-nano", "--device", "h200"])
        .succeeds()
        .says(&["(data sheet)", "NVIDIA H200"]);
    run(&folder, &["inspect", "llama-nano", "--timeline"])
        .succeeds()
        .says(&["█ kept for backward", "▲ operation"]);
    let json = run(&folder, &["inspect", "llama-nano", "--timeline", "--json"]).succeeds().json();
    let total = json["memory"]["total"].as_u64().unwrap();
    assert_eq!(sum(&json["memory_report"]["categories"], "bytes"), total);
    let peak = &json["memory_report"]["peak"];
    assert_eq!(sum(&peak["tensors"], "bytes"), peak["bytes"].as_u64().unwrap());
    assert_eq!(peak["bytes"], json["memory"]["activations_lower_bound"]);
    for path in [
        "/memory_report/bytes_moved/recompute",
        "/memory_report/peak/operation/line",
        "/memory_report/peak/tensors/0/since/op",
        "/policies/0/recompute_flops_per_token",
        "/timeline/kept_bytes/0",
        "/flops_per_token/recompute",
    ] {
        assert!(json.pointer(path).is_some(), "no {path}");
    }
}

#[test]
fn a_timeline_is_drawn_and_replaces_only_pictures() {
    let folder = folder();
    run(&folder, &["inspect", "llama-nano", "--timeline", "memory.svg"]).succeeds();
    let svg = String::from_utf8(folder.read("memory.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("forward_backward")
    );
    run(&folder, &["inspect", "llama-nano", "--timeline", "memory.svg"]).succeeds();
    fs::write(folder.path("notes.svg"), "mine").unwrap();
    folder.fails(
        &["inspect", "llama-nano", "--timeline", "notes.svg"],
        &["was not drawn by colac", "help: "],
    );
    folder.fails(
        &["inspect", "llama-nano", "--timeline", "memory.png"],
        &["not named as an SVG", "help: "],
    );
    assert_eq!(folder.read("notes.svg"), b"mine");
}

#[test]
fn diff_speaks_the_users_language() {
    let folder = folder();
    run(&folder, &["diff", "llama-nano", "llama-nano"])
        .succeeds()
        .says(&["the same model, the same training"]);
    run(&folder, &["compile", "llama-nano", "-o", "plan.bin"]).succeeds();
    run(&folder, &["diff", "plan.bin", "llama-nano", "--set-to", "cola.rank=8"])
        .succeeds()
        .says(&["cola.rank", "→ 8", "settings", "linears", "parameters", "memory"]);
    let json = run(&folder, &["diff", "llama-nano", "llama-nano", "--full-rank-to", "--json"])
        .succeeds()
        .json();
    assert_eq!(json["from"]["form"], "cola");
    assert_eq!(json["to"]["form"], "full-rank");
    assert_eq!(json["same_model"], false);
    assert!(!json["operations"].as_array().unwrap().is_empty());
    folder.fails(&["diff", "llama-nano", "absent.bin"], &["absent.bin does not exist"]);
}

#[test]
fn fit_lists_what_fits_and_says_what_is_missing() {
    let folder = folder();
    run(&folder, &["fit", "llama-nano", "--device", "rtx-4090"]).succeeds().says(&[
        "data sheet",
        "left for its context",
        "tokens/s",
        "whole job",
        "best: --set train.micro_batch=",
    ]);
    run(&folder, &["fit", "llama-nano", "--memory", "1MiB"]).succeeds().says(&[
        "nothing fits",
        "The least is",
        "most of it is",
        "alone take",
    ]);
    let arguments = ["fit", "llama-nano", "--device", "h100", "--memory", "61MiB", "--json"];
    let arguments = [&arguments[..], &["--set", "train.precision=bf16"]].concat();
    let json = run(&folder, &arguments).succeeds().json();
    assert_eq!(json["budget_bytes"], 61 << 20);
    assert_eq!(json["device"], "h100");
    let rows = json["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["total_bytes"].as_u64().unwrap() <= 61 << 20));
    assert!(rows.iter().all(|row| row["basis"] == "data sheet"));
    assert_eq!(json["attention"], "own");
    let bytes = |row: &Value, name: &str| row[name].as_u64().unwrap();
    for row in rows {
        let ids = 128 * bytes(row, "micro_batch");
        // Their order; and two batches with tokens, labels and orders on their way, or those of an evaluation.
        let least = (12 + 2 * (4 + 4 + 12)) * ids;
        assert!((least..least + (64 << 10)).contains(&bytes(row, "beside_bytes")), "{row}");
    }
    // cuDNN's workspace is known without cuDNN.
    let asked = [&arguments[..], &["--attention", "cudnn"]].concat();
    let json = run(&folder, &asked).succeeds().json();
    assert_eq!(json["attention"], "cudnn");
    let counted = json["rows"].as_array().unwrap();
    assert!(!counted.is_empty() && counted.len() < rows.len());
    for row in counted {
        let rows = bytes(row, "micro_batch");
        // Two bytes for each pair of the 128 positions of a row, in two heads.
        assert!(bytes(row, "beside_bytes") > 2 * rows * 2 * 128 * 128, "{row}");
        assert!(bytes(row, "total_bytes") + bytes(row, "beside_bytes") <= 61 << 20, "{row}");
    }
    folder.fails(&["fit", "llama-nano"], &["how much memory", "help: add --device"]);
    folder.fails(
        &["fit", "llama-nano", "--memory", "1GiB", "--micro-batches", "7"],
        &["a micro-batch of 7 does not divide the global batch", "help: write some of 1, "],
    );
    folder.fails(
        &["fit", "llama-nano", "--memory", "1GiB", "--policies", "all"],
        &["no recompute policy `all`", "help: write some of none,"],
    );
    assert_eq!(run(&folder, &["fit", "llama-nano", "--memory", "lots"]).code, Some(2));
    run(&folder, &["fit", "llama-nano", "--device", "h300"]).says(&["did you mean `h100`?"]);
}

#[test]
fn a_wrong_profile_is_one_clear_error_in_place() {
    let folder = folder();
    let text = fs::read_to_string(common::repository("specs/devices/h100.toml")).unwrap();
    fs::write(folder.path("mine.toml"), text.replace("gigabytes = ", "gigabyte = ")).unwrap();
    let done = run(&folder, &["fit", "llama-nano", "--device", "./mine.toml"]).says(&[
        "device::unknown_key",
        "mine.toml:",
        "did you mean `gigabytes`?",
    ]);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
}

#[test]
fn bench_measures_a_plan_without_data() {
    let folder = folder();
    let arguments = [
        "bench",
        "llama-nano",
        "--steps",
        "2",
        "--warmup",
        "1",
        "--set",
        "train.global_batch=2",
        "--set",
        "train.micro_batch=1",
    ];
    run(&folder, &arguments).succeeds().says(&[
        "tokens/s",
        "middle half",
        "of one large product",
        "by the plan",
        "resident minus plan",
    ]);
    let more = [&arguments[..], &["--profile", "--trace", "trace.json", "--json"]].concat();
    let json = run(&folder, &more).succeeds().json();
    assert!(json["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(json["step_seconds"]["count"], 2);
    let kinds = json["kinds"].as_array().unwrap();
    let shares: f64 = kinds.iter().map(|row| row["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert_eq!(sum(&json["kinds"], "flops"), json["flops_per_step"].as_u64().unwrap());
    assert_eq!(sum(&json["operations"], "bytes"), json["bytes_per_step"].as_u64().unwrap());
    // What operations take is within a step, and most of it.
    let seconds: f64 = kinds.iter().map(|row| row["seconds"].as_f64().unwrap()).sum();
    assert!(seconds > 0.0);
    assert!(json["memory"]["plan_bytes"].as_u64().unwrap() > 0);
    let trace: Value = serde_json::from_slice(&folder.read("trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let plan = common::plan("llama-nano", &["train.global_batch=2", "train.micro_batch=1"], false);
    let operations = |kind| plan.program(kind).operations.len();
    let expected = 2 * operations(colac_plan::ProgramKind::ForwardBackward)
        + operations(colac_plan::ProgramKind::Update);
    assert_eq!(events.len(), expected, "two micro-batches and an update");
    let mut last = 0.0;
    for event in events {
        assert_eq!(event["ph"], "X");
        let (start, duration) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        assert!(start >= last && duration >= 0.0, "operations follow each other");
        last = start + duration - 0.002;
    }
}

#[test]
fn calibrate_writes_a_profile_that_predicts() {
    let folder = folder();
    let arguments = ["calibrate", "--threads", "1", "--patience", "0.001"];
    run(&folder, &arguments).succeeds().says(&["attention forward", "adamw", "profile  "]);
    let written = folder.read("configuration/devices/cpu.toml");
    let text = String::from_utf8(written).unwrap();
    for piece in ["[measured]", "date = ", "command = ", "threads = 1", "how = \"measured\""] {
        assert!(text.contains(piece), "no {piece}");
    }
    let done = run(&folder, &["inspect", "llama-nano"]).succeeds();
    let done = done.says(&["steps on cpu, "]);
    assert!(!done.out.contains("data sheet"), "{}", done.out);
    let arguments = ["bench", "llama-nano", "--steps", "1", "--set", "train.global_batch=1"];
    let arguments = [&arguments[..], &["--set", "train.micro_batch=1", "--threads", "1"]].concat();
    run(&folder, &arguments).succeeds().says(&["predicted", "from profile cpu"]);
    // A file that is no profile stays.
    fs::write(folder.path("other.toml"), "a = 1\n").unwrap();
    folder.fails(
        &["calibrate", "-o", "other.toml", "--patience", "0.001"],
        &["exists and is no profile", "help: "],
    );
    assert_eq!(folder.read("other.toml"), b"a = 1\n");
}

/// Without a GPU the command says so, measures nothing and writes nothing.
#[test]
fn a_gpu_that_is_not_there_is_not_calibrated() {
    let folder = folder();
    let done = run(&folder, &["calibrate", "--device", "cuda:63", "-o", "gpu.toml"]);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.starts_with("error: ") && done.out.is_empty(), "{}", done.err);
    assert!(!folder.path("gpu.toml").exists());
}
