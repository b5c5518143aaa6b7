//! Tells a release build which commit it is made from, for `run.json`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // In other builds it would mean to build the program again after every commit.
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
        let mark = if changed.is_some() { " with changes" } else { "" };
        println!("cargo:rustc-env=COLAC_COMMIT={commit}{mark}");
    }
}

/// What a git command prints, if there is git and it prints something.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
