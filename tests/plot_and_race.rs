//! `colac plot` and `colac race` as a user meets them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod command_line;
mod common;

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::command_line::Folder;

const SHORT: [&str; 4] = ["--steps", "6", "--set", "checkpoint.every=2"];

fn text(folder: &Folder, name: &str) -> String {
    String::from_utf8(folder.read(name)).unwrap()
}

#[test]
fn plot_draws_runs_and_replaces_nothing_else() {
    let folder = Folder::with_data();
    for (name, seed) in [("a", "1"), ("b", "2")] {
        folder.run(&["train", "small.toml", "--out", name, "--seed", seed]).succeeds();
    }
    let done = folder.run(&["plot", "a", "b"]).succeeds();
    assert_eq!(done.out, "plot.svg and plot.html: 2 runs\n");
    let (svg, page) = (text(&folder, "plot.svg"), text(&folder, "plot.html"));
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for name in ["a", "b"] {
        assert!(svg.contains(&format!(">{name}</text>")), "{name} has no label");
    }
    // The page holds what the log holds.
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let log = text(&folder, "b/metrics.jsonl");
    let logged = log.lines().filter_map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        (record["kind"] == "train").then(|| record["loss"].as_f64().unwrap())
    });
    let drawn = data["runs"][1]["loss"].as_array().unwrap();
    assert_eq!(drawn.len(), 8);
    for (logged, drawn) in logged.zip(drawn) {
        assert!((logged - drawn.as_f64().unwrap()).abs() < 1e-5 * logged);
    }
    let plan = folder.run(&["inspect", "small.toml", "--json"]).succeeds().json();
    let flops = plan["flops_per_token"]["total"].as_u64().unwrap() * 4 * 32;
    let drawn = data["runs"][0]["flops_per_step"].as_u64().unwrap();
    assert!(drawn.abs_diff(flops) * 1_000_000 < flops * 10, "{drawn} {flops}");

    // Drawn again is the same picture; other files stay.
    folder.run(&["plot", "a", "b"]).succeeds();
    assert_eq!(svg, text(&folder, "plot.svg"));
    for x in ["tokens", "flops", "seconds"] {
        let out = format!("{x}.svg");
        folder.run(&["plot", "a", "--x", x, "--log-x", "--log-y", "-o", &out]).succeeds();
        assert_ne!(svg, text(&folder, &out));
    }
    fs::write(folder.path("notes.html"), "my notes").unwrap();
    folder.fails(&["plot", "a", "-o", "notes.html"], &["notes.html exists", "not replaced"]);
    folder.fails(&["plot", "a", "-o", "plot.png"], &["plot.png", ".svg or .html"]);
    folder.fails(&["plot", "c"], &["c does not exist"]);
    folder.fails(&["plot", "small.toml"], &["small.toml is not the log of a run"]);
    fs::create_dir(folder.path("empty")).unwrap();
    folder.fails(&["plot", "empty"], &["no metrics.jsonl in empty"]);
    fs::copy(folder.path("a/metrics.jsonl"), folder.path("old.jsonl")).unwrap();
    folder.run(&["plot", "old.jsonl", "-o", "old.svg"]).succeeds();
    folder.fails(
        &["plot", "old.jsonl", "--x", "flops", "-o", "old.svg"],
        &["FLOPs of old.jsonl are not known", "--x steps"],
    );
}

/// The page's script, by its own test where there is a JavaScript engine.
#[test]
fn the_script_of_the_page_computes_what_the_picture_shows() {
    let script = common::repository("runtime/src/plot/page.js");
    let check = common::repository("tests/plot/check.js");
    match Command::new("node").arg(&check).arg(&script).output() {
        Err(_) => common::skip("the script of `colac plot`'s page", "there is no `node`"),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

fn race(folder: &Folder, more: &[&str]) -> Value {
    let arguments = [&["race", "small.toml", "--json", "--quiet"], more, &SHORT].concat();
    folder.run(&arguments).succeeds().json()
}

#[test]
fn a_race_compares_contenders_on_the_same_batches() {
    let folder = Folder::with_data();
    let both = ["--against", "full-rank", "--ranks", "4", "--seeds", "2"];
    let arguments = [&["race", "small.toml"][..], &both, &SHORT].concat();
    let done = folder.run(&arguments).succeeds().says(&[
        "small: 3 contenders, 2 seeds, stopped at equal tokens: 768 each",
        "run 1 of 6: cola, seed",
        "run 6 of 6: full-rank, seed",
        "95 % interval",
        "result  races/small/race.json",
    ]);
    assert!(done.out.contains("covers 0") || done.out.contains(" than full-rank"), "{}", done.out);

    let result: Value = serde_json::from_slice(&folder.read("races/small/race.json")).unwrap();
    assert_eq!(result["complete"], true);
    let contenders = result["contenders"].as_array().unwrap();
    let seeds: Vec<u64> =
        result["seeds"].as_array().unwrap().iter().map(|seed| seed.as_u64().unwrap()).collect();
    assert_eq!((contenders.len(), seeds.len()), (3, 2));
    assert_eq!(seeds[1], seeds[0] + 1);
    for (index, &seed) in seeds.iter().enumerate() {
        let state = |contender: &Value| -> Value {
            let run = contender["finishes"][index]["run"].as_str().unwrap();
            let state = format!("{run}/checkpoints/step-000006/state.json");
            serde_json::from_slice(&folder.read(&state)).unwrap()
        };
        let first = state(&contenders[0]);
        assert_eq!(first["seed"], seed);
        for contender in contenders {
            let state = state(contender);
            for field in ["data", "seed", "step", "tokens"] {
                assert_eq!(state[field], first[field], "{field} of {}", contender["name"]);
            }
            assert_eq!(contender["steps"], 6);
        }
    }
    // A contender is an ordinary run, and its result what `eval` finds.
    let run = contenders[2]["finishes"][1]["run"].as_str().unwrap();
    let evaluated = folder.run(&["eval", run, "--json"]).succeeds().json();
    assert_eq!(evaluated["loss"], contenders[2]["finishes"][1]["loss"]);
    assert_eq!(evaluated["form"], "full-rank");
    // The differences are those of the losses.
    let loss = |contender: usize, seed: usize| {
        contenders[contender]["finishes"][seed]["loss"].as_f64().unwrap()
    };
    let mean = ((loss(0, 0) - loss(2, 0)) + (loss(0, 1) - loss(2, 1))) / 2.0;
    let difference = &result["differences"][0];
    assert_eq!(
        (&difference["contender"], &result["reference"]),
        (&"cola".into(), &"full-rank".into())
    );
    assert!((difference["mean"].as_f64().unwrap() - mean).abs() < 1e-12);

    // What has ended is not run again; what is new is added.
    let log = "races/small/cola-seed-42/metrics.jsonl";
    let before = folder.read(log);
    let again = folder.run(&arguments).succeeds();
    assert!(!again.err.contains("run 1 of"), "{}", again.err);
    assert_eq!(again.out, done.out);
    let more = race(&folder, &["--against", "full-rank", "--ranks", "4", "--seeds", "3"]);
    assert_eq!(more["seeds"].as_array().unwrap().len(), 3);
    for (index, contender) in contenders.iter().enumerate() {
        let finishes = &more["contenders"][index]["finishes"];
        assert_eq!(finishes[0], contender["finishes"][0]);
        assert_eq!(finishes[1], contender["finishes"][1]);
    }
    assert_eq!(before, folder.read(log));

    // All validation data: the weights are evaluated again, not trained again.
    let whole = race(&folder, &["--against", "full-rank", "--tokens", "0"]);
    assert!(
        whole["contenders"][0]["finishes"][0]["evaluated_tokens"].as_u64()
            > contenders[0]["finishes"][0]["evaluated_tokens"].as_u64()
    );
    assert_eq!(whole["differences"][0]["verdict"], "one-pair");
    assert_eq!(whole["differences"][0]["interval"], Value::Null);
    assert_eq!(before, folder.read(log));
    assert!(text(&folder, "races/small/race.svg").contains(">full-rank</text>"));
    assert!(folder.run(&["plot", "races/small"]).succeeds().out.contains("9 runs"));

    let other = ["--against", "full-rank", "--set", "optimizer.learning_rate=0.02"];
    let done = folder
        .run(&[&["race", "small.toml"][..], &other].concat())
        .says(&["races/small/cola-seed-42 was trained with another recipe", "--out"]);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
}

/// At equal FLOPs the dense form does fewer steps, and its schedule ends with them.
#[test]
fn a_race_at_equal_flops_shortens_schedules() {
    let folder = Folder::with_data();
    let result = race(&folder, &["--against", "full-rank", "--equal", "flops", "--out", "flops"]);
    assert_eq!(result["equal"], "flops");
    let of = |index: usize, field: &str| result["contenders"][index][field].as_u64().unwrap();
    let step = |index: usize| result["contenders"][index]["step"]["flops"].as_u64().unwrap();
    assert!(step(0) < step(1));
    assert_eq!(of(1, "steps"), 6 * step(0) / step(1));
    assert_eq!(of(1, "flops"), of(1, "steps") * step(1));
    assert!(of(1, "flops") <= of(0, "flops") && of(1, "flops") + step(1) > of(0, "flops"));
    let spec = text(&folder, "flops/full-rank-seed-42/spec.toml");
    assert!(spec.contains(&format!("steps = {}", of(1, "steps"))), "{spec}");
}

#[test]
fn races_that_compare_nothing_are_refused() {
    let folder = Folder::with_data();
    let spec = text(&folder, "small.toml");
    fs::write(
        folder.path("long.toml"),
        spec.replace("sequence_length = 32", "sequence_length = 16"),
    )
    .unwrap();
    fs::write(folder.path("other.toml"), spec.replace("train.txt", "validation.txt")).unwrap();
    for (arguments, pieces) in [
        (&["small.toml"][..], &["a race needs two contenders", "--against full-rank"][..]),
        (&["small.toml", "--ranks", "8"], &["cola and cola-rank-8 are the same model"]),
        (&["small.toml", "--ranks", "4,4"], &["two contenders are called cola-rank-4"]),
        (
            &["small.toml", "--against", "long.toml"],
            &["do not train on the same batches", "train.sequence_length is 32 and 16"],
        ),
        (&["small.toml", "--against", "other.toml"], &["do not train on the same data"]),
        (&["missing.bin", "--against", "full-rank"], &["missing.bin does not exist"]),
        (
            &["small.toml", "--against", "full-rank", "--data", "gone.txt"],
            &["gone.txt does not exist", "--data"],
        ),
    ] {
        let done = folder.run(&[&["race"][..], arguments].concat()).says(pieces);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{arguments:?}\n{}", done.err);
        assert!(!folder.path("races").exists(), "{arguments:?} leaves a folder");
    }
    assert_eq!(folder.run(&["race", "small.toml", "--ranks", "0"]).code, Some(2));
    assert_eq!(folder.run(&["race", "small.toml", "--seeds", "0"]).code, Some(2));
}

/// Ctrl-C: the run in progress saves, and the command that is printed goes on to the same result.
#[cfg(unix)]
#[test]
fn an_interrupted_race_goes_on() {
    let folder = Folder::with_data();
    let race = |out: &'static str| {
        ["race", "small.toml", "--against", "full-rank", "--steps", "150", "--out", out]
    };
    let child = folder.command(&race("stopped")).spawn().unwrap();
    let log = folder.path("stopped/cola-seed-42/metrics.jsonl");
    while fs::metadata(&log).map_or(0, |metadata| metadata.len()) < 400 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    let expected = "race small.toml --against full-rank --steps 150 --out stopped";
    let go_on = err.lines().find_map(|line| line.strip_prefix("go on with: "));
    assert!(go_on.is_some_and(|line| line.ends_with(expected)), "{err}");
    let goes_on = folder.run(&race("stopped")).succeeds();
    assert!(goes_on.err.contains("going on after step"), "{}", goes_on.err);
    folder.run(&race("whole")).succeeds();
    let losses = |out: &str| {
        let result: Value =
            serde_json::from_slice(&folder.read(&format!("{out}/race.json"))).unwrap();
        [0, 1].map(|index| result["contenders"][index]["finishes"][0]["loss"].clone())
    };
    assert_eq!(losses("stopped"), losses("whole"));
}
