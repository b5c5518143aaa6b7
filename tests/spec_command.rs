//! `colac spec` as a user meets it: specs as written and as in force, the schema, the list.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::fs;
use std::process::Command;

use colac_compiler::spec::shipped;
use serde_json::Value;

/// Exit code, standard output and error output of a command in a folder.
fn colac(folder: &tempfile::TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colac"));
    let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!err.contains("bug in colac"), "{err}");
    (output.status.code(), out, err)
}

/// The output of a command that succeeds and says nothing else.
#[track_caller]
fn output(folder: &tempfile::TempDir, arguments: &[&str]) -> String {
    let (code, out, err) = colac(folder, arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}\n{out}");
    out
}

#[test]
fn a_shipped_spec_is_copied_and_resolved() {
    let folder = tempfile::tempdir().unwrap();
    let written = output(&folder, &["spec", "llama-nano"]);
    assert_eq!(written, shipped::spec("llama-nano").unwrap());
    fs::write(folder.path().join("mine.toml"), &written).unwrap();
    let resolved = output(&folder, &["spec", "mine.toml", "--resolved", "--set", "cola.rank=16"]);
    let line = |key: &str| {
        let line = resolved.lines().find(|line| line.starts_with(&format!("{key} = ")));
        line.unwrap_or_else(|| panic!("no {key} in\n{resolved}")).to_owned()
    };
    assert!(line("rank").ends_with("# --set"));
    assert!(line("steps").contains("# mine.toml:"), "{}", line("steps"));
    assert!(line("rope_theta").contains("default of the architecture"));

    // What is printed is a spec that compiles to the same numbers.
    fs::write(folder.path().join("resolved.toml"), &resolved).unwrap();
    let hashes = |arguments: &[&str]| {
        let arguments = [&["inspect", "--json"], arguments].concat();
        let report: Value = serde_json::from_str(&output(&folder, &arguments)).unwrap();
        (report["hashes"]["model"].clone(), report["hashes"]["numerics"].clone())
    };
    assert_eq!(hashes(&["resolved.toml"]), hashes(&["mine.toml", "--set", "cola.rank=16"]));
    assert_ne!(hashes(&["resolved.toml"]), hashes(&["mine.toml"]));

    let json = output(&folder, &["spec", "mine.toml", "--resolved", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["values"]["train"]["micro_batch"], 8);
    assert_eq!(json["origins"]["optimizer.beta2"], "default");

    // A plan knows the spec it was made from.
    colac(&folder, &["compile", "mine.toml", "-o", "plan.bin"]);
    let of_plan = output(&folder, &["spec", "plan.bin"]);
    assert!(of_plan.contains("beta2 = 0.999"), "{of_plan}");
}

#[test]
fn the_schema_and_the_list_are_for_machines_too() {
    let folder = tempfile::tempdir().unwrap();
    let schema: Value = serde_json::from_str(&output(&folder, &["spec", "--schema"])).unwrap();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert!(schema["properties"]["train"]["properties"]["steps"].is_object());

    let list = output(&folder, &["spec", "--list"]);
    let json: Value =
        serde_json::from_str(&output(&folder, &["spec", "--list", "--json"])).unwrap();
    let specs = json["specs"].as_array().unwrap();
    assert_eq!(specs.len(), shipped::specs().len());
    for spec in specs {
        let about = spec["about"].as_str().unwrap();
        assert!(!about.is_empty(), "{} begins with no comment about it", spec["name"]);
        assert!(list.contains(about) && list.contains(spec["name"].as_str().unwrap()));
    }
    assert_eq!(json["architectures"].as_array().unwrap().len(), shipped::architectures().len());
}

#[test]
fn a_child_is_shown_with_what_it_inherits_and_mistakes_in_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("child.toml", "extends = \"llama-nano\"\nname = \"child\"\n[train]\nsteps = 400\n");
    let resolved = output(&folder, &["spec", "child.toml", "--resolved"]);
    assert!(resolved.contains("# child.toml:4") && resolved.contains("# llama-nano (built in):"));
    assert!(!resolved.contains("extends"));
    assert_eq!(output(&folder, &["spec", "child.toml"]).lines().count(), 4);

    write(
        "base.toml",
        &shipped::spec("llama-nano")
            .unwrap()
            .replace("sequence_length = 128", "sequence_length = 1"),
    );
    write("wrong.toml", "extends = \"./base.toml\"\nname = \"wrong\"\n[train]\nsteps = -4\n");
    let (code, out, err) = colac(&folder, &["compile", "wrong.toml"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("[wrong.toml:4:9]") && err.contains("base.toml:"), "{err}");
    // A plan's file hash covers the texts of all files.
    write("base.toml", shipped::spec("llama-nano").unwrap());
    write("wrong.toml", "extends = \"./base.toml\"\n");
    let hash = || {
        let report: Value =
            serde_json::from_str(&output(&folder, &["inspect", "wrong.toml", "--json"])).unwrap();
        (report["hashes"]["file"].clone(), report["hashes"]["numerics"].clone())
    };
    let before = hash();
    write("base.toml", &format!("# One more comment.\n{}", shipped::spec("llama-nano").unwrap()));
    let after = hash();
    assert_ne!(before.0, after.0);
    assert_eq!(before.1, after.1);
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["spec"][..],
        &["spec", "llama-nano", "--schema"],
        &["spec", "--list", "--schema"],
        &["spec", "--list", "--resolved"],
    ] {
        assert_eq!(colac(&folder, arguments).0, Some(2), "{arguments:?}");
    }
    for arguments in [
        &["spec", "llama-nano", "--json"][..],
        &["spec", "llama-nano", "--full-rank"],
        &["explain", "nothing_of_that_kind"],
    ] {
        let (code, _, err) = colac(&folder, arguments);
        assert!(code == Some(1) && err.contains("help: "), "{arguments:?}\n{err}");
    }
}
