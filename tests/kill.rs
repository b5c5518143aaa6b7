//! A run that is killed again and again ends with the bytes of one that was not.
//!
//! `COLAC_KILLS` says how often; a few by default, 100 in `.ci/extended`.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod common;
#[path = "common/workplace.rs"]
mod workplace;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use colac_runtime::train::checkpoint;
use serde_json::Value;
use workplace::Workplace;

/// A run that saves after every step, evaluates after every fifth, and keeps two checkpoints and the best.
const SETTINGS: [&str; 10] = [
    "--set",
    "train.steps=40",
    "--set",
    "checkpoint.every=1",
    "--set",
    "checkpoint.keep=2",
    "--set",
    "evaluation.every=5",
    "--set",
    "evaluation.tokens=100",
];

fn start(workplace: &Workplace, run: &str) -> Child {
    let begun = !checkpoint::list(&workplace.path(run)).unwrap().is_empty();
    let arguments = match begun {
        true => vec!["train", run, "--resume"],
        false => [&["train", "small.toml", "--out", run][..], &SETTINGS].concat(),
    };
    let mut command = workplace.command(&arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The records without the field that depends on time.
fn log(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("tokens_per_second");
        record
    });
    records.collect()
}

/// What a run leaves behind.
struct Left {
    /// Name and bytes of every file of every checkpoint.
    files: Vec<(String, Vec<u8>)>,
    /// Records of the log, without speeds.
    log: Vec<Value>,
    /// Name of the best checkpoint.
    best: String,
}

fn result(run: &Path) -> Left {
    let mut files = Vec::new();
    for (_, path) in checkpoint::list(run).unwrap() {
        let mut entries: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            let name = entry.strip_prefix(run).unwrap().display().to_string();
            files.push((name, std::fs::read(&entry).unwrap()));
        }
    }
    let best = checkpoint::best(run).unwrap();
    Left { files, log: log(run), best: best.file_name().unwrap().to_string_lossy().into_owned() }
}

#[test]
fn a_run_that_is_killed_ends_as_one_that_is_not() {
    let kills: u32 = match std::env::var("COLAC_KILLS") {
        Ok(count) => count.parse().expect("COLAC_KILLS is a number"),
        Err(_) => 5,
    };
    let workplace = Workplace::with_data();
    let began = Instant::now();
    finish(start(&workplace, "whole"));
    let whole_time = began.elapsed();
    let expected = result(&workplace.path("whole"));
    assert_eq!(checkpoint::list(&workplace.path("whole")).unwrap().last().unwrap().0, 40);

    // The moments need not be the same every time: they only have to be anywhere.
    let mut state = u64::from(std::process::id());
    let (mut killed, mut runs, mut between) = (0, 1, 0);
    let mut run = "killed-1".to_owned();
    loop {
        let mut child = start(&workplace, &run);
        if killed < kills {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let part = (state >> 40) as f64 / (1u64 << 24) as f64;
            std::thread::sleep(whole_time.mul_f64(part * 0.6).max(Duration::from_millis(1)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
                let step = checkpoint::list(&workplace.path(&run)).unwrap().last().map(|c| c.0);
                between += u32::from(step.is_some_and(|step| (1..40).contains(&step)));
                continue;
            }
        }
        finish(child);
        let found = result(&workplace.path(&run));
        for ((name, bytes), (expected_name, expected_bytes)) in
            found.files.iter().zip(&expected.files)
        {
            assert!(name == expected_name && bytes == expected_bytes, "{run}: {name} differs");
        }
        assert_eq!(found.files.len(), expected.files.len(), "{run}");
        assert_eq!(found.log, expected.log, "{run}");
        assert_eq!(found.best, expected.best, "{run}");
        if killed >= kills {
            break;
        }
        runs += 1;
        run = format!("killed-{runs}");
    }
    println!(
        "{killed} kills over {runs} runs, {between} of them between the first and the last checkpoint"
    );
}
