//! Runs as they are lived with: stopped by signals and by the clock, in use, out of room, looked at in TensorBoard.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod common;
#[path = "common/workplace.rs"]
mod workplace;

use std::fs;
use std::process::{Child, Command, Output};

use colac_runtime::train::checkpoint;
use colac_runtime::train::tensorboard::record::{Event, Reader};
use colac_runtime::train::tensorboard::{TRAIN_TAGS, VALIDATION_TAGS, files};
use serde_json::Value;
use workplace::Workplace;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    output
}

/// A run that does not end by itself, after its first few steps.
fn endless(workplace: &Workplace, run: &str) -> Child {
    let steps = "train.steps=1000000";
    let arguments =
        ["train", "small.toml", "--out", run, "--set", steps, "--set", "checkpoint.every=0"];
    let mut child = workplace.command(&arguments).spawn().unwrap();
    let log = workplace.path(run).join("metrics.jsonl");
    while fs::metadata(&log).map_or(0, |metadata| metadata.len()) < 400 {
        assert!(child.try_wait().unwrap().is_none(), "ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let killed = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

fn sessions(workplace: &Workplace, run: &str) -> Value {
    let bytes = fs::read(workplace.path(run).join("run.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[cfg(unix)]
#[test]
fn signals_finish_the_step_and_save() {
    let workplace = Workplace::with_data();
    for (name, run) in [("-TERM", "term"), ("-USR1", "usr1")] {
        let child = endless(&workplace, run);

        // Nothing is saved yet, and whoever wants to go on is told that the run is in use.
        let held = workplace.run(&["train", run, "--resume"]);
        assert_eq!(held.status.code(), Some(1));
        assert!(err(&held).contains(&format!("{run} is in use by another run")), "{}", err(&held));

        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let said = err(&output);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted after step"), "{said}");
        let go_on = said.lines().find_map(|line| line.strip_prefix("go on with: "));
        assert!(go_on.unwrap().ends_with(&format!("train {run} --resume")), "{said}");
        let step = checkpoint::list(&workplace.path(run)).unwrap().last().unwrap().0;

        let record = sessions(&workplace, run);
        let session = &record["sessions"][0];
        assert_eq!(
            (&session["outcome"], &session["to_step"]),
            (&"interrupted".into(), &step.into())
        );
    }
}

#[test]
fn a_run_out_of_time_is_saved_and_goes_on() {
    let workplace = Workplace::with_data();
    let arguments = ["train", "small.toml", "--out", "run", "--max-hours", "0.000001"];
    let output = workplace.run(&arguments);
    let said = err(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("out of time after step 0; saved run/checkpoints/step-000000"), "{said}");
    assert!(said.contains("train run --resume --max-hours 0.000001"), "{said}");
    succeeds(workplace.run(&["train", "run", "--resume", "--steps", "6", "--max-hours", "10"]));
    for (steps, step) in [("5", 6), ("6", 6)] {
        let output = succeeds(workplace.run(&["train", "run", "--resume", "--steps", steps]));
        let expected = format!("nothing to do: the run in run is at step {step}");
        assert!(err(&output).contains(&expected), "{}", err(&output));
        assert_eq!(out(&output), "");
    }
    let record = sessions(&workplace, "run");
    let outcomes: Vec<&Value> =
        record["sessions"].as_array().unwrap().iter().map(|session| &session["outcome"]).collect();
    assert_eq!(outcomes, ["out of time", "stopped"]);
    for wrong in ["0", "-1", "nan", "inf", "soon"] {
        let output = workplace.run(&["train", "small.toml", "--max-hours", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}

/// A limit on the size of files, as `ulimit -f` sets it: the same to a program as a full disk.
#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_is_one_line() {
    let workplace = Workplace::with_data();
    // Wide enough for its weights to be larger than all else in the folder.
    let wide = ["--set", "model.hidden_size=128", "--steps", "2"];
    succeeds(workplace.run(&[&["train", "small.toml", "--out", "run"][..], &wide].concat()));
    let program = env!("CARGO_BIN_EXE_colac");
    // Blocks of 512 or 1024 bytes: enough for the plan and the log, too little for the weights.
    let limited = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -f 500; exec '{program}' train run --resume --no-tensorboard"),
        ])
        .current_dir(workplace.folder())
        .output()
        .unwrap();
    let said = err(&limited);
    assert_eq!(limited.status.code(), Some(1), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(errors[0].contains("there is no room to write run/checkpoints/"), "{said}");
    let names: Vec<_> = fs::read_dir(workplace.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("step"))
        .collect();
    assert_eq!(names, ["step-000002"]);
    assert!(
        sessions(&workplace, "run")["sessions"][1]["outcome"]
            .as_str()
            .unwrap()
            .starts_with("error: ")
    );
    succeeds(workplace.run(&["train", "run", "--resume"]));
}

#[test]
fn the_record_says_what_was_run_and_where() {
    let workplace = Workplace::with_data();
    succeeds(workplace.run(&[
        "train",
        "small.toml",
        "--out",
        "run",
        "--steps",
        "2",
        "--threads",
        "1",
    ]));
    let record = sessions(&workplace, "run");
    assert_eq!((&record["name"], &record["form"]), (&"small".into(), &"cola".into()));
    let spec = fs::read_to_string(workplace.path("run/spec.toml")).unwrap();
    assert_eq!(record["spec"], spec.as_str());
    for hash in ["model", "numerics", "file"] {
        assert_eq!(record["hashes"][hash].as_str().unwrap().len(), 64, "{hash}");
    }
    let session = &record["sessions"][0];
    let words = session["command"].as_array().unwrap();
    assert_eq!(
        words[1..],
        ["train", "small.toml", "--out", "run", "--steps", "2", "--threads", "1"]
    );
    assert_eq!((&session["from_step"], &session["to_step"]), (&0.into(), &2.into()));
    assert_eq!(session["threads"], 1);
    assert_eq!(session["colac_version"], env!("CARGO_PKG_VERSION"));
    assert!(session["machine"]["cores"].as_u64().unwrap() > 0);
    let state = fs::read(workplace.path("run/checkpoints/step-000002/state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["data"], session["data"]);
    assert_eq!(state["numerics_hash"], record["hashes"]["numerics"]);
    let (started, stopped) = (&session["started"], &session["stopped"]);
    assert!(started.as_str().unwrap() <= stopped.as_str().unwrap());
}

/// A learning rate so high that the first evaluation stays the best.
#[test]
fn the_best_checkpoint_stays_and_is_found() {
    let workplace = Workplace::with_data();
    let settings = [
        "--set",
        "checkpoint.every=2",
        "--set",
        "checkpoint.keep=1",
        "--set",
        "evaluation.every=2",
        "--set",
        "optimizer.learning_rate=2",
        "--set",
        "schedule.warmup_steps=8",
        "--set",
        "schedule.kind=constant",
    ];
    succeeds(workplace.run(&[&["train", "small.toml", "--out", "run"][..], &settings].concat()));
    let run = workplace.path("run");
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let evaluations: Vec<(u64, f64)> = records
        .filter(|record| record["kind"] == "evaluation")
        .map(|record| (record["step"].as_u64().unwrap(), record["loss"].as_f64().unwrap()))
        .collect();
    let best = evaluations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_ne!(best.0, 8, "the last should not be the best: {evaluations:?}");
    let left: Vec<u64> =
        checkpoint::list(&run).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(left, [best.0, 8]);

    let eval = |arguments: &[&str]| -> Value {
        let output = workplace.run(&[&["eval", "run", "--json"][..], arguments].concat());
        serde_json::from_str(&out(&succeeds(output))).unwrap()
    };
    let found = eval(&["--best"]);
    assert_eq!(found["loss"], best.1);
    assert_eq!(found["checkpoint"], format!("run/checkpoints/step-{:06}", best.0));
    assert_eq!(eval(&[])["checkpoint"], "run/checkpoints/step-000008");
    let generate = ["generate", "run", "--max-tokens", "4", "--temperature", "0"];
    let by_flag = out(&succeeds(workplace.run(&[&generate[..], &["--best"]].concat())));
    let named = found["checkpoint"].as_str().unwrap();
    let by_name = [&generate[..], &["--checkpoint", named]].concat();
    assert_eq!(by_flag, out(&succeeds(workplace.run(&by_name))));
    let refused = workplace.run(&["eval", named, "--best"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("--best chooses among the checkpoints of a run"));
}

/// Step and value of every scalar with this tag, in the order of the files.
fn shown(workplace: &Workplace, run: &str, tag: &str) -> Vec<(u64, f32)> {
    let mut found = Vec::new();
    for path in files(&workplace.path(run)).unwrap() {
        for stamped in Reader::new(&fs::read(path).unwrap()) {
            if let Event::Scalars(scalars) = stamped.event {
                let scalar = scalars.iter().find(|(found, _)| found == tag);
                found.extend(scalar.map(|(_, value)| (stamped.step, *value)));
            }
        }
    }
    found
}

fn python() -> String {
    std::env::var("COLAC_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Reads a folder with TensorBoard's own reader: tag → [[step, value], …].
const READER: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
tags = events.Tags()['scalars']
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags}))
";

/// Why TensorBoard cannot be asked, if it cannot.
fn missing_reader() -> Option<String> {
    let python = python();
    let import = "import tensorboard.backend.event_processing.event_accumulator";
    match Command::new(&python).args(["-c", import]).output() {
        Err(error) => Some(format!("{python} cannot be started: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = err(&output);
            let last = said.lines().last().unwrap_or("it says nothing");
            Some(format!(
                "{python} cannot import tensorboard ({last}); COLAC_PYTHON names another Python"
            ))
        }
    }
}

#[test]
fn tensorboard_shows_every_step_once() {
    let workplace = Workplace::with_data();
    let saves = ["--set", "checkpoint.every=3", "--set", "train.steps=10"];
    let run = [&["train", "small.toml", "--out", "run"][..], &saves].concat();
    succeeds(workplace.run(&[&run[..], &["--steps", "5"]].concat()));
    // As if it had been killed after step 5: that checkpoint is gone, what was shown is not.
    fs::remove_dir_all(workplace.path("run/checkpoints/step-000005")).unwrap();
    succeeds(workplace.run(&["train", "run", "--resume"]));
    let without =
        [&["train", "small.toml", "--out", "none", "--no-tensorboard"][..], &saves].concat();
    succeeds(workplace.run(&[&without[..], &["--steps", "2"]].concat()));
    assert!(files(&workplace.path("none")).unwrap().is_empty());

    let text = fs::read_to_string(workplace.path("run/metrics.jsonl")).unwrap();
    let records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged = |kind: &str, field: &str| -> Vec<(u64, f32)> {
        let of_kind = records.iter().filter(|record| record["kind"] == kind);
        of_kind.map(|r| (r["step"].as_u64().unwrap(), r[field].as_f64().unwrap() as f32)).collect()
    };
    let train = ["loss", "learning_rate", "grad_norm", "tokens_per_second"];
    let evaluation = ["loss", "perplexity", "bits_per_byte"];
    let fields = train.map(|field| ("train", field)).into_iter();
    let fields = fields.chain(evaluation.map(|field| ("evaluation", field)));
    let tags: Vec<&str> = TRAIN_TAGS.into_iter().chain(VALIDATION_TAGS).collect();
    for ((kind, field), tag) in fields.clone().zip(&tags) {
        assert_eq!(shown(&workplace, "run", tag), logged(kind, field), "{tag}");
    }
    assert_eq!(shown(&workplace, "run", TRAIN_TAGS[0]).len(), 10);
    assert_eq!(files(&workplace.path("run")).unwrap().len(), 2);

    if let Some(reason) = missing_reader() {
        common::skip("tensorboard_shows_every_step_once (TensorBoard's own reader)", &reason);
        return;
    }
    let folder = workplace.path("run");
    let output = Command::new(python()).args(["-c", READER]).arg(folder).output().unwrap();
    let read: Value = serde_json::from_str(&out(&succeeds(output))).unwrap();
    for ((kind, field), tag) in fields.zip(&tags) {
        let values: Vec<(u64, f32)> = read[tag]
            .as_array()
            .unwrap_or_else(|| panic!("{tag} is not there: {read}"))
            .iter()
            .map(|pair| (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap() as f32))
            .collect();
        assert_eq!(values, logged(kind, field), "{tag}");
    }
    assert_eq!(read.as_object().unwrap().len(), tags.len());
}

/// Memory got scarce, or plenty: a run goes on under another recompute policy and without joined operations, and its
/// losses and weights are those of a run that was never stopped.
#[test]
fn a_run_goes_on_under_another_policy() {
    let workplace = Workplace::with_data();
    let train = |run: &str, more: &[&str]| {
        let arguments = [&["train", "small.toml", "--out", run], more].concat();
        succeeds(workplace.run(&arguments))
    };
    train("whole", &[]);
    train("parted", &["--steps", "4", "--set", "recompute.policy=none"]);
    let other = ["--set", "recompute.policy=cola-m", "--set", "compiler.fuse=false"];
    train("parted", &[&["--resume"][..], &other].concat());
    let file = |run: &str, name: &str| {
        let folder = workplace.path(run);
        fs::read(checkpoint::latest(&folder).unwrap().join(name)).unwrap()
    };
    for name in ["model.safetensors", "optimizer.safetensors"] {
        assert!(file("whole", name) == file("parted", name), "{name} has other bytes");
    }
}
