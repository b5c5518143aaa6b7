//! What stands under `examples/` works as it stands: the commands of its pages, from the root of the repository.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use std::path::Path;
use std::process::{Command, Stdio};

use fixture::Fixture;
use serde_json::Value;

/// What a command prints: standard output, then what went to standard error.
fn colac(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_colac"))
        .args(arguments)
        .current_dir(common::repository("."))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    if output.status.success() { Ok(out + &err) } else { Err(err) }
}

/// The mean losses of a run's updates.
fn losses(run: &Path) -> Vec<f64> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let updates = records.filter(|record| record["kind"] == "train");
    updates.filter_map(|record| record["loss"].as_f64()).collect()
}

/// The architecture of a user's own trains for some steps from its files, dense and in CoLA form; and weights go from
/// one run into another.
#[test]
fn the_architecture_of_a_user_trains_as_it_stands() {
    let spec = "examples/own-architecture/duet-nano.toml";
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let untrained = 4096f64.ln();
    // A tenth of the text is enough for the second and third run.
    let short = ["--data", "examples/corpus/validation", "--set", "evaluation.tokens=1000"];
    let dense = [&["--full-rank"][..], &short].concat();
    for (name, more) in [("cola", &[][..]), ("dense", &dense)] {
        let run = text(name);
        let mut arguments = vec!["train", spec, "--out", &run, "--steps", "4"];
        arguments.extend(more);
        // The warm-up is longer than this run; without it four steps already show.
        arguments.extend(["--set", "schedule.warmup_steps=0"]);
        colac(&arguments).unwrap_or_else(|error| panic!("{error}"));
        let losses = losses(&path(name));
        assert_eq!(losses.len(), 4, "{name}: {losses:?}");
        assert!((losses[0] - untrained).abs() < 0.5, "{name} starts at {}", losses[0]);
        assert!(losses[3] < losses[0] - 0.3, "{name}: {losses:?}");
    }

    let weights = text("dense/checkpoints/step-000004");
    let run = text("again");
    let again = ["train", spec, "--out", &run, "--steps", "1", "--init-from", &weights];
    let again = [&again[..], &dense].concat();
    colac(&again).unwrap_or_else(|error| panic!("{error}"));
    // The first update of the spec's own schedule has rate 0: the weights are those of the other run.
    let model = |name: &str| Fixture::open(&path(&format!("{name}/model.safetensors")));
    let (old, new) =
        (model("dense/checkpoints/step-000004"), model("again/checkpoints/step-000001"));
    assert!(old.names().count() > 50);
    for name in old.names() {
        assert_eq!(old.get(name), new.get(name), "{name}");
    }

    let run = text("other");
    let other = ["train", spec, "--out", &run, "--init-from", &weights];
    let error = colac(&[&other[..], &short].concat()).unwrap_err();
    for piece in [
        "it lacks 84 tensors of the plan: ",
        ".cola_a",
        "and 76 more",
        "it has 42 tensors that the plan has not",
    ] {
        assert!(error.contains(piece), "{piece}: {error}");
    }
}
