//! What users get wrong with arguments, files and places: one clear line each, with what to do, before anything is made.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod command_line;
mod common;

use std::fs;
use std::path::Path;

use crate::command_line::Folder;

/// Options that take whole numbers say so of what is none, of less than 0, and of what no machine has.
#[test]
fn numbers_are_asked_for_in_words() {
    let folder = Folder::new();
    let wrong: [&[&str]; 12] = [
        &["train", "llama-nano", "--steps", "0"],
        &["train", "llama-nano", "--steps", "-1"],
        &["train", "llama-nano", "--steps", "many"],
        &["train", "llama-nano", "--threads", "0"],
        &["train", "llama-nano", "--threads", "99999"],
        &["race", "llama-nano", "--against", "full-rank", "--seeds", "0"],
        &["race", "llama-nano", "--against", "full-rank", "--steps", "0"],
        &["eval", "run", "--tokens", "-5"],
        &["eval", "run", "--tokens", "all"],
        &["graph", "llama-nano", "--layer", "-1"],
        &["data", "train-tokenizer", "text.txt", "--vocab-size", "0", "-o", "tokenizer.json"],
        &["data", "prepare", "text.txt", "--train-bpe", "-4", "-o", "data"],
    ];
    for arguments in wrong {
        let done = folder.run(arguments).says(&["write a whole number"]);
        assert_eq!(done.code, Some(2), "{arguments:?}");
        assert!(done.err.starts_with("error: invalid value '"), "{arguments:?}\n{}", done.err);
    }
    let hours = folder.run(&["train", "llama-nano", "--max-hours", "-1"]);
    assert_eq!(hours.says(&["not a number above 0"]).code, Some(2));
    assert!(folder.is_empty());
}

/// What is named as what a command works on, and is something else.
#[test]
fn other_files_and_folders_than_meant_are_named() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    fs::write(folder.path("empty.bin"), "").unwrap();
    fs::write(folder.path("text.txt"), "some text").unwrap();
    let neither = ["folder is a folder, but neither a run", "help: name a spec or a plan"];
    let text = ["--prompt", "She"];
    for command in ["compile", "inspect", "graph", "train", "eval", "generate"] {
        let more: &[&str] = if command == "generate" { &text } else { &[] };
        folder.fails(&[&[command, "folder"], more].concat(), &neither);
        // A run that is not there is not taken for a spec without weights.
        let absent = folder.run(&[&[command, "runs/llama-nano-7"], more].concat());
        absent.says(&["runs/llama-nano-7 does not exist", "help: check the path"]);
        if command != "compile" {
            folder.fails(&[&[command, "empty.bin"], more].concat(), &["this is not a plan"]);
        }
    }
    folder.fails(
        &["compile", "empty.bin"],
        &["empty.bin is named as a plan, not as a spec", "help: give the name of a shipped spec"],
    );

    // The format of a later version, which only that can read.
    folder.run(&["compile", "llama-nano", "-o", "newer.plan"]).succeeds();
    let mut plan = folder.read("newer.plan");
    plan[8..12].copy_from_slice(&99u32.to_le_bytes());
    fs::write(folder.path("newer.plan"), plan).unwrap();
    for command in ["inspect", "graph", "train", "eval", "generate"] {
        let more: &[&str] = if command == "generate" { &text } else { &[] };
        let newer = ["newer.plan: the plan has format version 99, newer than", "update colac"];
        folder.fails(&[&[command, "newer.plan"], more].concat(), &newer);
    }
}

#[test]
fn weights_that_are_none_are_refused_before_anything_is_made() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    fs::write(folder.path("text.txt"), "no weights, but many words").unwrap();
    for (path, reason) in [
        ("absent.safetensors", "absent.safetensors does not exist"),
        ("folder", "folder is a folder without model.safetensors"),
        ("text.txt", "text.txt is not a safetensors file"),
    ] {
        let init = ["train", "llama-nano", "--init-from", path];
        folder.fails(&init, &[reason, "help: --init-from takes a checkpoint folder or"]);
        let eval = ["eval", "llama-nano", "--checkpoint", path];
        folder.fails(&eval, &[reason, "help: --checkpoint takes a checkpoint folder, a run"]);
        let generate = ["generate", "llama-nano", "--prompt", "She", "--checkpoint", path];
        folder.fails(&generate, &[reason, "help: --checkpoint takes"]);
    }
    assert!(!folder.path("runs").exists(), "no run was begun");

    // A run that has not saved yet.
    fs::create_dir(folder.path("begun")).unwrap();
    folder.run(&["compile", "llama-nano", "-o", "begun/plan.bin"]).succeeds();
    let none = "no checkpoint in begun";
    folder.fails(&["eval", "begun"], &[none, "help: train the run first"]);
    folder.fails(&["generate", "begun", "--prompt", "She"], &[none, "help: train the run first"]);
    folder.fails(&["train", "begun", "--resume"], &[none, "help: name a run that has saved"]);
}

/// Folders on the way are made; where they cannot be, the command says which place is wrong.
#[test]
fn places_that_cannot_be_written_are_named() {
    let folder = Folder::new();
    folder.run(&["compile", "llama-nano", "-o", "new/folder/nano.plan"]).succeeds();
    folder.run(&["inspect", "new/folder/nano.plan"]).succeeds();
    fs::write(folder.path("text.txt"), "mine").unwrap();
    let tokenizer = common::repository("examples/corpus/tokenizer-4096.json");
    let tokenizer = tokenizer.to_str().unwrap();
    let below: [&[&str]; 5] = [
        &["compile", "llama-nano", "-o", "text.txt/nano.plan"],
        &["graph", "llama-nano", "-o", "text.txt/nano.svg"],
        &["train", "llama-nano", "--out", "text.txt/run"],
        &["train", "llama-nano", "--out", "text.txt"],
        &["data", "prepare", "text.txt", "--tokenizer", tokenizer, "-o", "text.txt"],
    ];
    for arguments in below {
        folder.fails(arguments, &["text.txt is a file", "help: name a folder"]);
    }
    // Measuring takes its time: what cannot be written is found out before.
    let calibrate = ["calibrate", "-o", "text.txt/cpu.toml"];
    folder.fails(&calibrate, &["text.txt is a file", "help: name a folder"]);
    let bench = ["bench", "llama-tiny", "--trace"];
    folder.fails(&[&bench[..], &["new"]].concat(), &["cannot write new", "help: name a place"]);
    folder.fails(&[&bench[..], &["text.txt"]].concat(), &["is not a trace; it is not replaced"]);
    assert_eq!(folder.read("text.txt"), b"mine");
    if !Path::new("/proc/self").exists() {
        return common::skip("places_that_cannot_be_written_are_named", "there is no /proc");
    }
    let locked: [&[&str]; 2] = [
        &["compile", "llama-nano", "-o", "/proc/nano.plan"],
        &["graph", "llama-nano", "-o", "/proc/nano.svg"],
    ];
    for arguments in locked {
        folder.fails(arguments, &["cannot write /proc/nano.", "help: name a place where"]);
    }
}

/// Data that cannot be what it is named as.
#[test]
fn data_of_another_kind_is_named() {
    let folder = Folder::with_data();
    fs::create_dir(folder.path("folder")).unwrap();
    let train = ["train", "small.toml", "--steps", "2"];
    let wrong = |more: &[&str], pieces: &[&str]| folder.fails(&[&train, more].concat(), pieces);
    wrong(
        &["--tokenizer", "folder"],
        &["folder is not a tokenizer.json: it is a folder", "help: name a tokenizer.json"],
    );
    wrong(&["--tokenizer", "train.txt"], &["it is not JSON", "help: name a tokenizer.json"]);
    fs::write(folder.path("short.txt"), "Short.").unwrap();
    wrong(&["--data", "short.txt"], &["too few for one sequence of 32: give more text"]);
    wrong(
        &["--data", "folder"],
        &["no text in folder: give files, or folders with files that end"],
    );
    assert!(!folder.path("runs").join("small-1").exists(), "no run was begun");

    // Tokens that a run kept stand for the text of its recipe, not for what is named now.
    folder.run(&[&train[..], &["--out", "run"]].concat()).succeeds();
    folder.run(&["eval", "run", "--tokens", "500"]).succeeds();
    folder.fails(
        &["eval", "run", "--tokens", "500", "--validation", "absent.txt"],
        &["absent.txt does not exist", "help: --validation takes"],
    );
    fs::remove_file(folder.path("validation.txt")).unwrap();
    folder.run(&["eval", "run", "--tokens", "500"]).succeeds();
}

/// Contenders of a race that cannot be compared, and the setting that makes them alike.
#[test]
fn races_say_what_to_set() {
    let folder = Folder::with_data();
    let race = ["race", "small.toml", "--steps", "4"];
    let against = |more: &[&str], pieces: &[&str]| folder.fails(&[&race, more].concat(), pieces);
    fs::create_dir(folder.path("folder")).unwrap();
    fs::write(folder.path("text.txt"), "mine").unwrap();
    against(&["--against", "folder"], &["folder is a folder, but neither", "help: name a spec"]);
    against(
        &["--against", "full-rank", "--out", "text.txt/race"],
        &["text.txt is a file", "help: name a folder"],
    );
    let spec = String::from_utf8(folder.read("small.toml")).unwrap();
    let other = spec.replace("name = \"small\"", "name = \"other\"");
    fs::write(folder.path("other.toml"), other.replace("vocab_size = 448", "vocab_size = 512"))
        .unwrap();
    against(
        &["--against", "other.toml"],
        &["model.vocab_size is 4", "help: set it for all: --set model.vocab_size="],
    );
    assert!(!folder.path("races").exists(), "nothing is made");
}
