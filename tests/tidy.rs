//! Rules of the repository that no compiler checks.

mod common;

use std::path::{Path, PathBuf};

/// Every file below a folder of the repository with the given ending.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![common::repository(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|n| !n.to_string_lossy().starts_with("target")) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A model family is data: compiler and runtime know none by name.
#[test]
fn no_model_family_in_rust() {
    let families = ["llama", "gpt", "mistral", "mixtral", "qwen", "bert"];
    // What only one family calls its parts and settings.
    let words =
        ["wte", "wpe", "c_attn", "c_proj", "c_fc", "ln_f", "n_embd", "n_inner", "resid_pdrop"];
    for path in files("compiler", "rs").into_iter().chain(files("runtime", "rs")) {
        let lower = text(&path).to_lowercase();
        for family in families {
            assert!(!lower.contains(family), "{} names {family}", path.display());
        }
        let mut found = lower.split(|c: char| !c.is_alphanumeric() && c != '_');
        let found = found.find(|word| words.contains(word));
        assert!(found.is_none(), "{} has the word {found:?}", path.display());
    }
}

/// Every module says what it is before anything else.
#[test]
fn modules_open_with_what_they_own() {
    for folder in ["src", "compiler/src", "runtime/src", "runtime/plan/src"] {
        for path in files(folder, "rs") {
            assert!(text(&path).starts_with("//!"), "{} does not open with //!", path.display());
        }
    }
}

#[test]
fn no_trailing_space_and_no_tabs() {
    for folder in ["src", "compiler", "runtime", "tests", "specs"] {
        for ending in ["rs", "toml"] {
            for path in files(folder, ending) {
                // Cases are wrong on purpose.
                if path.starts_with(common::repository("tests/cases")) {
                    continue;
                }
                for (i, line) in text(&path).lines().enumerate() {
                    assert_eq!(line, line.trim_end(), "{}:{}", path.display(), i + 1);
                    assert!(!line.contains('\t'), "{}:{} has a tab", path.display(), i + 1);
                }
            }
        }
    }
}

/// Nothing that says of itself that it is not done.
#[test]
fn nothing_unfinished_by_its_own_words() {
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
    ];
    for folder in ["src", "compiler/src", "runtime/src", "runtime/plan/src"] {
        for path in files(folder, "rs") {
            let text = text(&path);
            for word in &words {
                assert!(!text.contains(word.as_str()), "{} contains {word}", path.display());
            }
        }
    }
}

/// What crosses between compiler and runtime is the plan, and nothing else.
#[test]
fn compiler_and_runtime_do_not_know_each_other() {
    assert!(!text(&common::repository("compiler/Cargo.toml")).contains("colac-runtime"));
    assert!(!text(&common::repository("runtime/Cargo.toml")).contains("colac-compiler"));
    for path in files("runtime/src", "rs") {
        let text = text(&path);
        assert!(
            !text.contains("petgraph") && !text.contains("colac_compiler"),
            "{}",
            path.display()
        );
    }
}
