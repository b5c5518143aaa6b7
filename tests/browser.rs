//! The pages of `colac graph` in a real browser: `tests/browser/checks.mjs` does what a reader does.
//!
//! Skipped where there is no node, no playwright-core or no browser; `tests/browser/install` fetches what is missing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod command_line;
mod common;

use std::fs;
use std::process::{Command, Stdio};

use crate::command_line::Folder;
use crate::common::{repository, skip};

/// Runs the shell on one line; whether it succeeds.
fn shell(line: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(repository("."));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Why pages cannot be tested here, if so.
fn missing() -> Option<&'static str> {
    if !shell("command -v node") {
        return Some("there is no node");
    }
    if !shell("test -d target/browser/node_modules/playwright-core") {
        return Some("playwright-core is not there; tests/browser/install fetches it");
    }
    let browser = "command -v \"${COLAC_BROWSER:-chromium}\" || command -v chromium-browser || \
                   command -v google-chrome";
    if !shell(browser) {
        return Some("there is no chromium; tests/browser/install fetches it");
    }
    None
}

#[test]
fn pages_of_graphs() {
    if let Some(reason) = missing() {
        skip("pages_of_graphs", reason);
        return;
    }
    let folder = Folder::new();
    let large = repository("tests/browser/llama-7b.toml");
    folder.run(&["graph", "llama-60m", "--format", "html", "-o", "60m.html"]).succeeds();
    folder.run(&["graph", large.to_str().unwrap(), "-o", "7b.html"]).succeeds();
    folder.run(&["compile", "llama-60m", "--full-rank", "-o", "full.plan"]).succeeds();
    folder.run(&["compile", "llama-60m", "-o", "cola.plan"]).succeeds();
    folder
        .run(&[
            "graph",
            "full.plan",
            "--against",
            "cola.plan",
            "--format",
            "html",
            "-o",
            "against.html",
        ])
        .succeeds();
    for name in ["60m.html", "7b.html", "against.html"] {
        let bytes = fs::metadata(folder.path(name)).unwrap().len();
        assert!(name == "against.html" || bytes < 2_000_000, "{name} has {bytes} bytes");
    }
    let script = repository("tests/browser/checks.mjs");
    let mut node = Command::new("node");
    let output = node.arg(script).arg(folder.path(".")).stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Names come from specs of others: what is shown of them is text, and no page asks for anything.
#[test]
fn scripts_make_no_markup_of_names_and_load_nothing() {
    let folder = repository("compiler/src/view/page");
    let mut scripts = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "js") {
            continue;
        }
        scripts += 1;
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "fetch(",
            "import ",
            "://",
        ] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
    assert!(scripts > 10, "{} scripts in {}", scripts, folder.display());
}
