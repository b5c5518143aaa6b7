//! `colac train --dry-run` finds everything that can be wrong before anything is spent: every code has a case under
//! `tests/cases/data/` or `tests/cases/train/`, compared as a user sees it.
//!
//! A case is a spec named after its code, `CODE.toml` or `CODE-VARIANT.toml`; it may extend `base.toml`, which is
//! `tests/cli/small.toml` with its text and tokenizer beside it. Leading lines that start with `#!` are not part of it:
//! `#! args …` adds arguments to the dry run, `#! run …` runs a command before it, `#! write FILE TEXT` writes a file
//! (`\xff` stands for that byte), `#! hold DIR` keeps the lock of a run folder.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use colac_runtime::train::lock::RunLock;
use serde_json::Value;

const AREAS: [&str; 2] = ["data", "train"];

fn cases(area: &str) -> PathBuf {
    common::repository(&format!("tests/cases/{area}"))
}

fn names(area: &str) -> Vec<String> {
    let files = fs::read_dir(cases(area)).unwrap().map(|file| file.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// A folder with the small spec as `base.toml` and what it names.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        static TOKENIZER: OnceLock<Vec<u8>> = OnceLock::new();
        let folder = Folder(tempfile::tempdir().unwrap());
        fs::copy(common::repository("tests/cli/small.toml"), folder.path("base.toml")).unwrap();
        let corpus = common::repository("examples/corpus/validation/persuasion.txt");
        let text = fs::read_to_string(corpus).unwrap();
        let (train, validation) = text.split_at(text.floor_char_boundary(30_000));
        fs::write(folder.path("train.txt"), train).unwrap();
        let end = validation.floor_char_boundary(4_000);
        fs::write(folder.path("validation.txt"), &validation[..end]).unwrap();
        let made = TOKENIZER.get_or_init(|| {
            folder.succeeds("data train-tokenizer train.txt --vocab-size 400 -o tokenizer.json");
            fs::read(folder.path("tokenizer.json")).unwrap()
        });
        fs::write(folder.path("tokenizer.json"), made).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Exit code, standard output, error output.
    fn run(&self, arguments: &str) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_colac"))
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let err = text(output.stderr);
        assert!(!err.contains("bug in colac"), "{err}");
        (output.status.code(), text(output.stdout), err)
    }

    #[track_caller]
    fn succeeds(&self, arguments: &str) {
        let (code, out, err) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments}\n{out}\n{err}");
    }

    /// Names of everything in it, to see that nothing is added.
    fn entries(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path.display().to_string());
            }
        }
        found
    }
}

/// What a case needs besides the common files, and the arguments of its dry run.
struct Prepared {
    folder: Folder,
    arguments: String,
    _lock: Option<RunLock>,
}

fn prepare(area: &str, name: &str) -> Prepared {
    let folder = Folder::new();
    let text = fs::read_to_string(cases(area).join(format!("{name}.toml"))).unwrap();
    let mut rest = text.as_str();
    let mut arguments = format!("train ./{name}.toml --dry-run --threads 1");
    let mut lock = None;
    while let Some(after) = rest.strip_prefix("#! ") {
        let (line, next) = after.split_once('\n').expect("a directive ends its line");
        let (word, argument) = line.split_once(' ').expect("a directive has an argument");
        match word {
            "args" => arguments = format!("{arguments} {argument}"),
            "run" => folder.succeeds(argument),
            "write" => {
                let (file, text) = argument.split_once(' ').unwrap();
                let bytes: Vec<u8> = match text.split_once("\\xff") {
                    Some((before, after)) => {
                        [before.as_bytes(), b"\xff", after.as_bytes()].concat()
                    }
                    None => text.as_bytes().to_vec(),
                };
                let path = folder.path(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            "hold" => {
                fs::create_dir(folder.path(argument)).unwrap();
                lock = Some(RunLock::acquire(&folder.path(argument)).unwrap());
            }
            other => panic!("unknown directive {other} in {name}"),
        }
        rest = next;
    }
    fs::write(folder.path(&format!("{name}.toml")), rest).unwrap();
    Prepared { folder, arguments, _lock: lock }
}

/// Numbers of this machine and this process as `…`.
fn neutral(text: &str) -> String {
    let mut neutral = String::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        for end in [" left", " free"] {
            if let (Some(start), Some(stop)) = (line.find(" has "), line.find(end))
                && start < stop
            {
                line.replace_range(start + " has ".len()..stop, "…");
            }
        }
        if let Some(at) = line.find("process ") {
            let digits = line[at + 8..].chars().take_while(char::is_ascii_digit).count();
            line.replace_range(at + 8..at + 8 + digits, "…");
        }
        neutral.push_str(line.trim_end());
        neutral.push('\n');
    }
    neutral
}

fn check_case(area: &str, name: &str) {
    let Prepared { folder, arguments, _lock } = prepare(area, name);
    let before = folder.entries();
    let (code, out, err) = folder.run(&arguments);
    let wanted = format!("{area}::{}", name.split('-').next().unwrap());
    assert!(
        err.lines().any(|line| line == wanted),
        "{name} does not report {wanted}\n{err}\n{out}"
    );
    assert_eq!(folder.entries(), before, "{name}: a dry run writes nothing");
    let (json_code, json, _) = folder.run(&format!("{arguments} --json"));
    assert_eq!(json_code, code, "{name}");
    let report: Value = serde_json::from_str(&json).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["code"] == wanted.as_str()), "{name}\n{json}");
    let errors = findings.iter().filter(|finding| finding["severity"] == "error").count();
    let (expected, ok) = if errors > 0 { (1, false) } else { (0, true) };
    assert_eq!((code, report["ok"].as_bool()), (Some(expected), Some(ok)), "{name}");
    for finding in findings {
        assert!(finding["help"].is_string(), "{name}: {finding} has no help");
        assert!(!finding["message"].as_str().unwrap().ends_with('.'), "{name}: {finding}");
    }
    insta::with_settings!({
        snapshot_path => cases(area),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name.to_owned(), neutral(&err));
    });
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for area in AREAS {
        for name in names(area) {
            check_case(area, &name);
        }
    }
}

#[test]
fn codes_and_cases_are_the_same() {
    let (_, list, _) = Folder::new().run("explain --json");
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let codes: BTreeSet<String> = list
        .iter()
        .map(|entry| entry["code"].as_str().unwrap().to_owned())
        .filter(|code| AREAS.iter().any(|area| code.starts_with(&format!("{area}::"))))
        .collect();
    let plain = |area: &str| -> Vec<String> {
        let plain = names(area).into_iter().filter(|name| !name.contains('-'));
        plain.map(|name| format!("{area}::{name}")).collect()
    };
    let cases: BTreeSet<String> = AREAS.iter().flat_map(|area| plain(area)).collect();
    assert_eq!(codes, cases, "every code needs a case and every case a code");
}

#[test]
fn a_run_that_can_begin_is_reported_with_its_numbers() {
    let folder = Folder::new();
    let (code, out, _) = folder.run("train ./base.toml --dry-run --threads 1");
    assert_eq!(code, Some(0), "{out}");
    for piece in
        ["dry run of small (cola)", "8 steps", "1 text file", "runs/small-1, new", "0 errors"]
    {
        assert!(out.contains(piece), "{piece} is not in\n{out}");
    }
    assert!(!folder.path("runs").exists());
    let (_, json, _) = folder.run("train ./base.toml --dry-run --threads 1 --json");
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!((&report["steps"], &report["tokens"]), (&8.into(), &1024.into()));
    // One file that is sampled as a whole is counted exactly.
    folder.succeeds("data prepare train.txt --tokenizer tokenizer.json -o shards");
    let (_, of_shards, _) =
        folder.run("train ./base.toml --dry-run --threads 1 --json --data shards");
    let of_shards: Value = serde_json::from_str(&of_shards).unwrap();
    let tokens = |report: &Value| report["training"]["tokens"].as_u64().unwrap();
    assert!(tokens(&of_shards) - tokens(&report) <= 1, "the end of the text is one token more");
    assert_eq!(of_shards["training"]["shards"], true);

    // The promise is kept: the run begins, and goes on.
    folder.succeeds("train ./base.toml --threads 1 --steps 4 --out run");
    let (code, out, _) = folder.run("train ./base.toml --dry-run --threads 1 --out run --resume");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("run, goes on"), "{out}");
    let (code, out, err) = folder.run("train ./base.toml --dry-run --threads 1 --out run");
    assert_eq!(code, Some(1), "{out}");
    assert!(err.contains("train::run_folder"), "{err}");
    // A plan and a run are checked as a spec is.
    folder.succeeds("compile ./base.toml -o plan.bin");
    folder.succeeds("train plan.bin --dry-run --threads 1");
}

#[test]
fn warnings_are_errors_on_demand() {
    let folder = Folder::new();
    let spec = "./base.toml --set data.validation=[] --dry-run --threads 1";
    let (code, _, err) = folder.run(&format!("train {spec}"));
    assert!(code == Some(0) && err.contains("data::no_validation"), "{err}");
    assert_eq!(folder.run(&format!("train {spec} --deny-warnings")).0, Some(1));
    let warned = "compile ./base.toml -o plan.bin --set model.vocab_size=401";
    let (code, _, err) = folder.run(warned);
    assert_eq!((code, err.matches("compile::unaligned_vocabulary").count()), (Some(0), 1), "{err}");
    fs::remove_file(folder.path("plan.bin")).unwrap();
    let (code, _, err) = folder.run(&format!("{warned} --deny-warnings"));
    assert_eq!((code, err.matches("compile::unaligned_vocabulary").count()), (Some(1), 1), "{err}");
    assert!(!folder.path("plan.bin").exists());
}
