//! The command line as a user meets it: the built program, run in an empty folder.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod command_line;
mod common;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::command_line::Folder;

#[test]
fn help_reads_like_a_manual() {
    let folder = Folder::new();
    let manual = folder.run(&["--help"]).succeeds();
    for (name, _) in colac_compiler::spec::shipped::specs() {
        assert!(manual.out.contains(name), "{name} is not in the manual");
    }
    manual.says(&["Exit codes:", "  130  interrupted", "Examples:", "plan", "checkpoint"]);
    for command in ["compile", "inspect", "train", "eval", "generate"] {
        folder.run(&[command, "--help"]).succeeds().says(&[
            "Usage: colac",
            "--set <SECTION.KEY=VALUE>",
            "--full-rank",
        ]);
    }
    folder.run(&["train", "--help"]).says(&[
        "Examples:",
        "--resume",
        "--steps",
        "--data",
        "--seed",
        "--threads",
    ]);
    for command in ["prepare", "train-tokenizer", "info", "sample"] {
        folder.run(&["data", command, "--help"]).succeeds().says(&["Usage: colac data"]);
    }
    let passes = folder.run(&["compile", "--help"]).out;
    for pass in colac_compiler::passes::PASSES {
        assert!(
            passes.contains(pass.name) && passes.contains(pass.about),
            "{} is not explained",
            pass.name
        );
    }
    folder.run(&["--version"]).succeeds().says(&[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn wrong_command_lines_exit_with_2() {
    let folder = Folder::new();
    for arguments in [
        &["trian"][..],
        &["train"],
        &["train", "llama-nano", "--steps", "0"],
        &["train", "llama-nano", "--threads", "many"],
        &["compile", "llama-nano", "--turns", "2"],
        &["data", "prepare", "text.txt"],
        &["generate", "run", "--max-tokens", "-1"],
    ] {
        assert_eq!(folder.run(arguments).code, Some(2), "{arguments:?}");
    }
    assert!(folder.is_empty());
}

#[test]
fn a_shipped_spec_compiles_from_any_folder() {
    let folder = Folder::new();
    let done = folder.run(&["compile", "llama-60m"]).succeeds().says(&[
        "llama-60m (cola) compiled to plan.bin",
        "56 rewritten (56 of rank 128 with silu), 1 kept dense",
        "42,770,944",
        "of full-rank 58,073,600",
        "FLOPs/token",
        "memory",
    ]);
    assert!((8..=15).contains(&done.out.lines().count()), "{}", done.out);
    let next = done.out.lines().last().unwrap();
    assert!(next.starts_with("next: ") && next.ends_with("train plan.bin"), "{next}");

    // Equal specs give equal bytes, and only a plan is ever replaced.
    let first = folder.read("plan.bin");
    folder.run(&["compile", "llama-60m"]).succeeds();
    assert!(folder.read("plan.bin") == first);
    folder.run(&["compile", "llama-60m", "--set", "train.seed=7", "-o", "other.bin"]).succeeds();
    assert!(folder.read("other.bin") != first);
    fs::write(folder.path("notes.txt"), "dear diary").unwrap();
    folder.fails(
        &["compile", "llama-nano", "-o", "notes.txt"],
        &["notes.txt exists and is not a plan"],
    );
    assert_eq!(folder.read("notes.txt"), b"dear diary");

    folder.run(&["compile", "llama-60m", "--full-rank", "-o", "dense.bin"]).succeeds().says(&[
        "llama-60m (full-rank) compiled to dense.bin",
        "0 rewritten",
        "58,073,600",
    ]);
}

#[test]
fn a_dump_prints_the_graph_alone() {
    let folder = Folder::new();
    let done = folder.run(&["compile", "llama-nano", "--dump", "cola", "--turns", "1"]).succeeds();
    assert!(folder.is_empty() && done.err.is_empty(), "{}", done.err);
    done.says(&["linear", "layers.0.self_attn.q_proj.cola_a"]);
    let dense = folder.run(&["compile", "llama-nano", "--dump", "lower"]).succeeds();
    assert!(!dense.out.contains("cola_a"));
    let done = folder.run(&["compile", "llama-nano", "--dump", "scheduel"]);
    assert_eq!(done.code, Some(1));
    done.says(&["no pass `scheduel`", "did you mean `schedule`?"]);
}

#[test]
fn a_spec_and_its_plan_are_inspected_alike() {
    let folder = Folder::new();
    folder.run(&["compile", "llama-nano", "-o", "nano.bin"]).succeeds();
    let plan = folder.run(&["inspect", "nano.bin", "--json"]).succeeds().json();
    assert_eq!(plan, folder.run(&["inspect", "llama-nano", "--json"]).succeeds().json());
    for field in [
        "/parameters/total",
        "/flops_per_token/total",
        "/memory/total",
        "/memory/activations_lower_bound",
    ] {
        assert!(plan.pointer(field).and_then(Value::as_u64).is_some_and(|n| n > 0), "{field}");
    }
    for field in ["per_layer", "rewritten", "kept_dense", "operations"] {
        assert!(plan[field].as_array().is_some_and(|list| !list.is_empty()), "{field}");
    }
    assert_eq!((&plan["name"], &plan["form"]), (&"llama-nano".into(), &"cola".into()));
    let dense = folder.run(&["inspect", "llama-nano", "--json", "--full-rank"]).succeeds().json();
    assert_eq!(dense["form"], "full-rank");
    let rank = |set: &str| {
        let plan = folder.run(&["inspect", "llama-nano", "--json", "--set", set]).succeeds().json();
        plan["rewritten"][0]["rank"].as_u64().unwrap()
    };
    assert_eq!((rank("cola.rank=16"), rank("cola.rank=hidden_size / 2")), (16, 64));
    folder.run(&["inspect", "llama-nano"]).succeeds().says(&[
        "llama-nano (cola)",
        "layers.1–3",
        "dense:",
    ]);
    folder.fails(
        &["inspect", "nano.bin", "--full-rank"],
        &["nano.bin is a plan already", "the spec it was compiled from"],
    );
}

/// Whoever reads the output may stop reading.
#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new();
    let mut child = folder.command(&["inspect", "llama-nano", "--json"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn mistakes_in_specs_are_shown_together_and_in_place() {
    let folder = Folder::new();
    let spec = fs::read_to_string(common::repository("tests/cli/small.toml")).unwrap();
    let wrong = spec
        .replace("hidden_size = 32", "hidden_sise = 32")
        .replace("warmup_steps", "warm_up_steps");
    fs::write(folder.path("wrong.toml"), wrong).unwrap();
    let done = folder.run(&["compile", "wrong.toml"]);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    done.says(&["wrong.toml:", "warm_up_steps", "warmup_steps"]);

    for (arguments, pieces) in [
        (
            &["compile", "llama-60"][..],
            &["no shipped spec is called `llama-60`", "`llama-60m`"][..],
        ),
        (&["train", "llama-60"], &["no shipped spec", "`llama-60m`"]),
        (
            &["inspect", "specs/llama-nano.toml"],
            &["specs/llama-nano.toml does not exist", "`llama-nano`"],
        ),
        (&["compile", "llama-nano", "--set", "train.stepz=4"], &["--set", "train.stepz", "steps"]),
        (
            &["compile", "llama-nano", "--set", "train.steps"],
            &["a setting needs a value", "section.key=value"],
        ),
        (&["compile", "llama-nano", "--set", "cola.rank=wide"], &["--set", "cola.rank=wide"]),
        (&["train", "llama-nano", "--seed", "18446744073709551615"], &["seed"]),
    ] {
        let done = folder.run(arguments).says(pieces);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{arguments:?}");
    }
    assert!(
        fs::read_dir(folder.0.path()).unwrap().count() == 1,
        "a failed command leaves nothing behind"
    );
}

#[test]
fn damaged_plans_get_one_line() {
    let folder = Folder::new();
    folder.run(&["compile", "llama-nano"]).succeeds();
    let whole = folder.read("plan.bin");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut newer = whole.clone();
    newer[8] = 99;
    fs::write(folder.path("weights.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    for (name, bytes, piece) in [
        ("cut.bin", &whole[..whole.len() / 2], "cut"),
        ("flipped.bin", &flipped, "damaged"),
        ("newer.bin", &newer, "newer"),
        ("text.bin", b"not a plan", "not a plan"),
        ("empty.bin", b"", ""),
    ] {
        fs::write(folder.path(name), bytes).unwrap();
        for command in ["inspect", "train"] {
            folder.fails(&[command, name], &[name, piece]);
        }
        folder.fails(&["eval", name, "--checkpoint", "weights.safetensors"], &[name, piece]);
    }
    folder.fails(
        &["train", "missing.bin"],
        &["missing.bin does not exist", "compile SPEC -o missing.bin"],
    );
    folder.fails(&["compile", "plan.bin"], &["plan.bin is a plan already, not a spec"]);
}

/// Without its corpus a plan says what it needs and what that would cost, and touches nothing.
#[test]
fn missing_data_is_explained_before_anything_happens() {
    let folder = Folder::new();
    folder.run(&["compile", "llama-350m"]).succeeds();
    let pieces = [
        "llama-350m has no data to train on",
        "data/c4/train",
        "data/c4/validation",
        "data/c4/tokenizer.json",
        "data train-tokenizer --vocab-size 32000 -o data/c4/tokenizer.json TEXT",
        "data prepare --tokenizer data/c4/tokenizer.json -o data/c4/train TEXT",
        "train plan.bin --data PATH --validation PATH --tokenizer FILE",
        "60,000 steps",
        " days on this CPU",
    ];
    folder.fails(&["train", "plan.bin", "--threads", "2"], &pieces);
    assert!(!folder.path("runs").exists());
}

#[test]
fn data_that_does_not_fit_is_refused_before_training() {
    let folder = Folder::with_data();
    fs::create_dir(folder.path("empty")).unwrap();
    fs::write(folder.path("latin-1.txt"), b"caf\xe9 au lait").unwrap();
    fs::write(folder.path("short.txt"), "Too short.").unwrap();
    let large = common::repository("examples/corpus/tokenizer-4096.json");
    let large = large.to_str().unwrap();
    for (more, pieces) in [
        (
            &["--data", "missing.txt"][..],
            &["small has no data to train on: missing.txt does not exist"][..],
        ),
        (&["--data", "empty"], &["no text in empty"]),
        (&["--data", "latin-1.txt"], &["latin-1.txt, byte 3: it is not UTF-8 text"]),
        (&["--data", "short.txt"], &["too few for one sequence of 32"]),
        (&["--tokenizer", "train.txt"], &["train.txt is not a tokenizer.json"]),
        (
            &["--tokenizer", large],
            &["has 4096 entries, and the model's vocab_size is 448", "model.vocab_size=4096"],
        ),
        (
            &["--set", "train.micro_batch=1000000", "--set", "train.global_batch=1000000"],
            &["of memory"],
        ),
    ] {
        folder.fails(&[&["train", "small.toml"][..], more].concat(), pieces);
        assert!(!folder.path("runs/small-1").exists(), "{more:?} leaves a folder");
    }
    folder.fails(&["train", "small.toml", "--resume"], &["no run runs/small-K to go on with"]);
    folder.fails(&["eval", "small.toml"], &["a spec or a plan has no weights", "--checkpoint"]);
    folder.fails(&["eval", "empty"], &["empty is a folder, but neither a run"]);
    folder.fails(&["data", "info", "empty"], &["no token shards at empty"]);
}

/// The JSON Lines of a run, without what depends on time.
fn metrics(folder: &Folder, run: &str) -> Vec<Value> {
    let text = String::from_utf8(folder.read(&format!("{run}/metrics.jsonl"))).unwrap();
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("tokens_per_second");
        record
    };
    text.lines().map(record).collect()
}

fn assert_same_checkpoint(folder: &Folder, one: &str, other: &str) {
    for file in [
        "model.safetensors",
        "optimizer.safetensors",
        "config.json",
        "tokenizer.json",
        "state.json",
    ] {
        let [one, other] =
            [one, other].map(|checkpoint| folder.read(&format!("{checkpoint}/{file}")));
        assert!(one == other, "{file} differs");
    }
}

/// From text to a trained model and what can be done with it.
#[test]
fn the_life_of_a_run() {
    let folder = Folder::with_data();
    let done = folder.run(&["train", "small.toml"]).succeeds().says(&[
        "14 rewritten (14 of rank 8 with silu), 1 kept dense",
        "step 8 of 8",
        "validation  perplexity",
        "bits per byte",
        "checkpoint  runs/small-1/checkpoints/step-000008",
        "sample      after",
        "generate runs/small-1 --prompt 'She was'",
        "eval runs/small-1",
        "train small.toml --full-rank",
        "tokenizing training text",
        "step 4: validation perplexity",
    ]);
    assert!(done.err.contains("step 8/8  loss"), "{}", done.err);
    for name in
        ["plan.bin", "spec.toml", "metrics.jsonl", "checkpoints/step-000004/model.safetensors"]
    {
        assert!(folder.path("runs/small-1").join(name).is_file(), "{name}");
    }

    // Stopped, resumed in two ways: the same bytes as without.
    let done = folder.run(&["train", "small.toml", "--steps", "3", "--threads", "1"]).succeeds();
    done.says(&["step 3 of 8", "of the schedule's 8", "train runs/small-2 --resume"]);
    folder
        .run(&["train", "small.toml", "--resume", "--steps", "5"])
        .succeeds()
        .says(&["step 5 of 8"]);
    folder
        .run(&["train", "runs/small-2", "--resume"])
        .succeeds()
        .says(&["going on after step 5 to step 8"]);
    assert_same_checkpoint(
        &folder,
        "runs/small-1/checkpoints/step-000008",
        "runs/small-2/checkpoints/step-000008",
    );
    let (whole, resumed) = (metrics(&folder, "runs/small-1"), metrics(&folder, "runs/small-2"));
    let training = |records: &[Value]| -> Vec<Value> {
        records.iter().filter(|record| record["kind"] == "train").cloned().collect()
    };
    assert_eq!(training(&whole).len(), 8);
    assert_eq!(training(&whole), training(&resumed));

    // What was stored says it all: eval and generate need nothing but the folder.
    let last = whole.iter().rfind(|record| record["kind"] == "evaluation").unwrap();
    let report = folder.run(&["eval", "runs/small-1", "--json"]).succeeds().json();
    for field in ["loss", "perplexity", "perplexity_reference_compatible", "bits_per_byte"] {
        assert_eq!(report[field], last[field], "{field}");
    }
    assert_eq!(report["checkpoint"], "runs/small-1/checkpoints/step-000008");
    let early = "runs/small-1/checkpoints/step-000004";
    let by_folder = folder.run(&["eval", early, "--json"]).succeeds().json();
    let by_spec =
        folder.run(&["eval", "small.toml", "--checkpoint", early, "--json"]).succeeds().json();
    assert_eq!(by_folder, by_spec);
    assert!(by_folder["loss"].as_f64() > report["loss"].as_f64());
    let all = folder.run(&["eval", "runs/small-1", "--tokens", "0", "--json"]).succeeds().json();
    assert!(all["tokens"].as_u64() > report["tokens"].as_u64());
    folder.run(&["eval", "runs/small-1"]).succeeds().says(&[
        "small (cola)",
        "reference-compatible",
        "bits per byte",
    ]);

    let generate = |more: &[&str]| {
        let arguments =
            [&["generate", "runs/small-1", "--prompt", "Anne was", "--max-tokens", "12"][..], more]
                .concat();
        folder.run(&arguments).succeeds().out
    };
    let text = generate(&[]);
    assert!(text.starts_with("Anne was") && text.len() > "Anne was\n".len(), "{text}");
    assert_eq!(text, generate(&["--threads", "1"]));
    assert_ne!(text, generate(&["--seed", "5", "--temperature", "2"]));
    assert_eq!(generate(&["--temperature", "0"]), generate(&["--top-k", "1", "--seed", "5"]));
    let refused = folder.run(&["generate", "runs/small-1", "--temperature", "-1"]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""));

    // Ids mean to a model what they meant in training.
    let large = common::repository("examples/corpus/tokenizer-4096.json");
    for command in ["eval", "generate"] {
        folder.fails(
            &[command, "runs/small-1", "--tokenizer", large.to_str().unwrap()],
            &["another vocabulary"],
        );
    }
    let weights = "runs/small-1/checkpoints/step-000008/model.safetensors";
    folder.fails(&["eval", weights], &["file of weights", "--checkpoint"]);
    folder.run(&["eval", "small.toml", "--checkpoint", weights]).succeeds();
    folder.fails(&["train", "small.toml", "--out", "small.toml"], &["small.toml is a file"]);

    // A run is not trained over.
    folder.fails(
        &["train", "small.toml", "--out", "runs/small-1"],
        &["runs/small-1 holds a run already", "--resume"],
    );
    folder.fails(
        &["train", "runs/small-1"],
        &["runs/small-1 holds a run already", "train runs/small-1 --resume"],
    );
    folder.fails(
        &["train", "small.toml", "--resume", "--out", "runs/small-1", "--seed", "7"],
        &["the run in runs/small-1 was begun with another recipe, seed or model"],
    );
    folder.fails(
        &["train", "small.toml", "--resume", "--full-rank"],
        &["no run of small up to runs/small-2"],
    );
    fs::write(folder.path("train.txt"), "Other text, which the run has never seen. ".repeat(40))
        .unwrap();
    folder.fails(
        &["train", "runs/small-1", "--resume"],
        &["training text, its tokenizer or how it is read has changed"],
    );

    // The text may go; its tokens stay in the run.
    fs::remove_file(folder.path("train.txt")).unwrap();
    folder.run(&["train", "runs/small-1", "--resume"]).succeeds().says(&["nothing left to do"]);
}

/// Shards, other seeds, the dense form; options reach plans as they reach specs.
#[test]
fn options_reach_specs_and_plans() {
    let folder = Folder::with_data();
    let prepare = ["data", "prepare", "train.txt", "--tokenizer", "tokenizer.json", "-o", "shards"];
    folder.run(&prepare).succeeds().says(&["shards: ", "1 documents", "1 shard"]);
    folder.fails(&prepare, &["shards already holds token shards", "--overwrite"]);
    folder.run(&[&prepare[..], &["--overwrite"]].concat()).succeeds();
    let info = folder.run(&["data", "info", "shards", "--json"]).succeeds().json();
    assert_eq!((info["documents"].as_u64(), info["vocab_size"].as_u64()), (Some(1), Some(400)));
    folder.fails(
        &["data", "train-tokenizer", "train.txt", "--vocab-size", "400", "-o", "tokenizer.json"],
        &["tokenizer.json exists", "--overwrite"],
    );
    folder.fails(
        &["data", "train-tokenizer", "train.txt", "--vocab-size", "99", "-o", "t.json"],
        &["257 to"],
    );

    folder.run(&["compile", "small.toml", "--full-rank"]).succeeds();
    let options = ["--data", "shards", "--seed", "7", "--steps", "2"];
    folder
        .run(&[&["train", "plan.bin", "--out", "a"][..], &options].concat())
        .succeeds()
        .says(&["small (full-rank)"]);
    folder
        .run(&[&["train", "small.toml", "--full-rank", "--out", "b"][..], &options].concat())
        .succeeds();
    let last = "checkpoints/step-000002";
    assert_same_checkpoint(&folder, &format!("a/{last}"), &format!("b/{last}"));
    let spec = String::from_utf8(folder.read("a/spec.toml")).unwrap();
    assert!(spec.contains("seed = 7") && spec.contains("shards"), "{spec}");
    folder
        .run(&[
            "train",
            "small.toml",
            "--full-rank",
            "--out",
            "c",
            "--data",
            "shards",
            "--steps",
            "2",
        ])
        .succeeds();
    assert!(
        folder.read(&format!("c/{last}/model.safetensors"))
            != folder.read(&format!("a/{last}/model.safetensors"))
    );
    assert!(!folder.path("a/data/train").exists(), "shards are used where they are");

    // Weights of one form do not fit the other.
    folder.fails(&["eval", "small.toml", "--checkpoint", "a"], &["holds another model"]);
}

/// Ctrl-C: the step is finished and saved, and the command that is printed goes on.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on() {
    let folder = Folder::with_data();
    let arguments = [
        "train",
        "small.toml",
        "--set",
        "train.steps=1000000",
        "--set",
        "schedule.warmup_steps=10",
    ];
    let mut child = folder.command(&arguments).spawn().unwrap();
    let log = folder.path("runs/small-1/metrics.jsonl");
    while fs::metadata(&log).map_or(0, |metadata| metadata.len()) < 400 {
        assert!(child.try_wait().unwrap().is_none(), "ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    let go_on = err
        .lines()
        .find_map(|line| line.strip_prefix("go on with: "))
        .unwrap_or_else(|| panic!("{err}"));
    assert!(go_on.ends_with("train runs/small-1 --resume"), "{go_on}");
    let checkpoints = colac_runtime::train::checkpoint::list(&folder.path("runs/small-1")).unwrap();
    let step = checkpoints.last().unwrap().0;
    assert!(err.contains("interrupted after step"), "{err}");
    let stop = (step + 1).to_string();
    folder
        .run(&["train", "runs/small-1", "--resume", "--steps", &stop])
        .succeeds()
        .says(&[&format!("checkpoints/step-{:06}", step + 1)]);
    assert!(Path::new(&log).exists());
}

/// What a user may want of the output streams: quiet, colours or none, a reader that has seen enough.
#[test]
fn output_obeys_its_options() {
    let folder = Folder::with_data();
    let done = folder.run(&["train", "small.toml", "--quiet", "--steps", "2"]).succeeds();
    assert!(done.out.contains("step 2 of 8"), "{}", done.out);
    for progress in ["training", "tokenizing", "step 2", "saved"] {
        assert!(!done.err.contains(progress), "{}", done.err);
    }
    folder.fails(&["inspect", "gone.bin", "-q"], &["gone.bin does not exist"]);

    let colored = |arguments: &[&str], no_color: &str| {
        let output = folder.command(arguments).env("NO_COLOR", no_color).output().unwrap();
        output.stderr.contains(&b'\x1b')
    };
    assert!(colored(&["inspect", "gone.bin", "--color", "always"], "1"));
    assert!(colored(&["inspect", "gone.toml", "--color=always"], ""));
    assert!(!colored(&["inspect", "gone.bin", "--color", "never"], ""));
    assert!(!colored(&["inspect", "gone.bin"], "1"));
    // The command line's own errors obey it too.
    assert!(colored(&["trian", "--color", "always"], ""));
    assert!(!colored(&["trian", "--color", "never"], ""));
    assert_eq!(folder.run(&["inspect", "x", "--color", "pink"]).code, Some(2));

    for arguments in [&["inspect", "llama-nano"][..], &["--help"], &["completions", "zsh"]] {
        let mut child = folder.command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let folder = Folder::new();
    let commands = ["compile", "inspect", "plot", "train", "race", "eval", "generate", "data"];
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = folder.run(&["completions", shell]).succeeds().out;
        for word in commands.iter().chain(&["train-tokenizer", "resume", "full-rank"]) {
            assert!(script.contains(word), "{word} is not in the completions of {shell}");
        }
    }
    let page = folder.run(&["man"]).succeeds().out;
    for command in commands {
        assert!(page.contains(&format!("colac\\-{command}(1)")), "{command}:\n{page}");
    }
    folder.run(&["man", "data", "prepare"]).succeeds().says(&["\\-\\-separator"]);
    folder.fails(&["man", "trian"], &["there is no command trian", "data-prepare"]);
    folder.run(&["man", "--out", "pages"]).succeeds();
    for page in ["colac.1", "colac-train.1", "colac-data-prepare.1"] {
        assert!(folder.path("pages").join(page).is_file(), "{page}");
    }
}
