//! Data as a user brings it: prepared by the command line, named in specs, mixed, divided, looked at.

#![allow(clippy::unwrap_used, reason = "a test may fail where it unwraps")]

mod command_line;
mod common;

use std::fs;

use command_line::Folder;
use serde_json::{Value, json};

/// The text of the folder as JSON Lines, one paragraph an object.
fn write_lines(folder: &Folder) -> usize {
    let text = String::from_utf8(folder.read("train.txt")).unwrap();
    let paragraphs: Vec<&str> = text.split("\n\n").filter(|text| !text.trim().is_empty()).collect();
    let lines: String =
        paragraphs.iter().map(|text| json!({"meta": {"body": text}}).to_string() + "\n").collect();
    fs::write(folder.path("lines.jsonl"), lines).unwrap();
    paragraphs.len()
}

#[test]
fn lines_are_prepared_divided_and_told_of() {
    let folder = Folder::with_data();
    let paragraphs = write_lines(&folder) as u64;
    folder.fails(
        &["data", "prepare", "lines.jsonl", "--tokenizer", "tokenizer.json", "-o", "out"],
        &["lines.jsonl:1: no field `text`; there is `meta`"],
    );
    let prepare = [
        "data",
        "prepare",
        "lines.jsonl",
        "--text-field",
        "meta.body",
        "--train-bpe",
        "400",
        "--validation-fraction",
        "0.2",
        "--dedup",
        "-o",
        "out",
        "--json",
    ];
    let report = folder.run(&prepare).succeeds().json();
    let count = |report: &Value, pointer: &str| report.pointer(pointer).unwrap().as_u64().unwrap();
    let (train, held) =
        (count(&report, "/training/documents"), count(&report, "/validation/documents"));
    assert_eq!(train + held + count(&report, "/duplicates"), paragraphs);
    assert!(held > 0 && train > held, "{report}");
    assert_eq!(count(&report, "/vocab_size"), 400);
    folder.fails(&prepare, &["out/tokenizer.json exists", "--overwrite"]);

    let info = folder.run(&["data", "info", "out/validation", "--json"]).succeeds().json();
    assert_eq!((count(&info, "/documents"), &info["tokenizer"]), (held, &"tokenizer.json".into()));
    assert_eq!(info["vocabulary_hash"], report["vocabulary_hash"]);
    assert!(info["rules"].as_str().unwrap().contains("the validation share of 0.2"), "{info}");
    let texts = ["data", "info", "lines.jsonl", "--text-field", "meta.body", "--json"];
    assert_eq!(count(&folder.run(&texts).succeeds().json(), "/documents"), paragraphs);
    folder
        .run(&["data", "info", "out/tokenizer.json"])
        .succeeds()
        .says(&["byte-level BPE with 400 entries", "end of text <|endoftext|>"]);
    folder.fails(
        &[
            "data",
            "prepare",
            "lines.jsonl",
            "--tokenizer",
            "tokenizer.json",
            "--eos",
            "<x>",
            "-o",
            "x",
        ],
        &["tokenizer.json has no token \"<x>\""],
    );
}

/// The same text by way of a spec: divided when training begins, found again by evaluation and when the run goes on.
#[test]
fn a_spec_divides_its_text_itself() {
    let folder = Folder::with_data();
    write_lines(&folder);
    let spec = fs::read_to_string(folder.path("small.toml")).unwrap();
    let (head, _) = spec.split_once("[data]").unwrap();
    let data = "[data]\nmode = \"pad\"\ntrain = \"lines.jsonl\"\ntext_field = \"meta.body\"\n\
                validation_fraction = 0.2\ntokenizer = \"tokenizer.json\"\n";
    fs::write(folder.path("own.toml"), format!("{head}{data}")).unwrap();
    folder
        .run(&["train", "own.toml", "--steps", "4", "--out", "run"])
        .succeeds()
        .says(&["validation"]);
    for side in ["train", "validation"] {
        assert!(folder.path("run/data").join(side).is_dir(), "{side}");
    }
    folder.run(&["eval", "run", "--tokens", "100"]).succeeds();
    folder.run(&["train", "run", "--resume"]).succeeds();
    let row = folder.run(&["data", "sample", "run", "--rows", "1", "--json"]).succeeds().json();
    let labels = row["labels"].as_array().unwrap();
    let counted = labels.iter().filter(|label| label.as_i64() != Some(-100)).count();
    assert_eq!((labels.len(), row["counted_labels"].as_u64()), (32, Some(counted as u64)));
    assert!(counted < 32, "a row of mode pad does not predict behind its end");
    // Read in another way, the run would see other rows.
    fs::write(folder.path("lines.jsonl"), "{\"meta\": {\"body\": \"other\"}}\n").unwrap();
    folder.fails(&["train", "run", "--resume"], &["has changed since the run in run/data began"]);
}

#[test]
fn sources_are_mixed_by_their_weights() {
    let folder = Folder::with_data();
    fs::write(folder.path("other.txt"), folder.read("train.txt")).unwrap();
    let spec = fs::read_to_string(folder.path("small.toml")).unwrap();
    let mixture = "\n[[data.mixture]]\nname = \"a\"\npaths = \"train.txt\"\nweight = 3\n\
                   \n[[data.mixture]]\nname = \"b\"\npaths = [\"other.txt\"]\nweight = 1\n";
    let spec = spec.replace("train = [\"train.txt\"]\n", "") + mixture;
    fs::write(folder.path("mixed.toml"), spec).unwrap();
    folder
        .run(&["train", "mixed.toml", "--steps", "2", "--out", "run"])
        .succeeds()
        .says(&["mixture: a: 75.0 % of the rows", "mixture: b: 25.0 % of the rows"]);
    let rows = folder.run(&["data", "sample", "run", "--rows", "8", "--json"]).succeeds();
    let rows: Vec<Value> =
        rows.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().filter(|row| row["source"] == "a").count(), 6);
    folder.run(&["train", "run", "--resume", "--steps", "3"]).succeeds();
    // Data from the command line stands in for all of it.
    folder
        .run(&[
            "data",
            "sample",
            "mixed.toml",
            "--rows",
            "1",
            "--set",
            "data.train=[\"train.txt\"]",
        ])
        .succeeds()
        .says(&["`mixture` has no effect", "row 0 (epoch 0"]);
}

/// Token files of other trainers are trained on where they lie.
#[test]
fn foreign_tokens_are_used_in_place() {
    let folder = Folder::with_data();
    let ids: Vec<u8> = (0..4000_u16).flat_map(|at| (at * 7 % 400).to_le_bytes()).collect();
    fs::write(folder.path("train.bin"), &ids).unwrap();
    let train =
        ["train", "small.toml", "--steps", "1", "--data", "train.bin", "--validation", "train.bin"];
    folder.fails(&train, &["train.bin is not a token file", "data.token_dtype"]);
    let dtype = ["--set", "data.token_dtype=u16", "--out", "run"];
    folder.run(&[&train[..], &dtype].concat()).succeeds();
    assert!(!folder.path("run/data").exists(), "nothing is converted");
    let wide = ["--set", "data.token_dtype=u32", "--out", "wide"];
    folder.fails(&[&train[..], &wide].concat(), &["and tokenizer.json has 400 entries"]);
    let info = ["data", "info", "train.bin", "--token-dtype", "u16", "--json"];
    let info = folder.run(&info).succeeds().json();
    assert_eq!(
        (&info["tokens"], &info["documents"], &info["max_id"]),
        (&4000.into(), &Value::Null, &399.into())
    );
    let pad = [
        "--set",
        "data.token_dtype=u16",
        "--set",
        "data.mode=pad",
        "--set",
        "data.tokenizer=other.json",
    ];
    folder.fails(&[&train[..], &pad].concat(), &["other.json does not exist"]);
}

/// Parquet and both forms of Arrow, written by another program (`tests/cases/columns/make.py`).
#[test]
fn columns_are_read_where_the_feature_is_built_in_and_named_where_it_is_not() {
    let folder = Folder::with_data();
    let texts = ["She was there.", "He was not.", "They were, é."];
    for name in ["three.parquet", "file.arrow", "stream.arrow"] {
        fs::copy(common::repository("tests/cases/columns").join(name), folder.path(name)).unwrap();
        let out = format!("{name}-tokens");
        let from = ["data", "prepare", name, "--tokenizer", "tokenizer.json", "-o", &out];
        let prepare = [&from[..], &["--text-field", "meta.body"]].concat();
        if cfg!(feature = "arrow") {
            folder.fails(&from, &[name, "no column `text`"]);
            let report = folder.run(&[&prepare[..], &["--json"]].concat()).succeeds().json();
            assert_eq!(report["training"]["documents"], texts.len(), "{report}");
            assert_eq!(report["training"]["text_bytes"], texts.concat().len(), "{report}");
        } else {
            folder.fails(&prepare, &[name, "build it with `--features arrow`"]);
        }
    }
}
