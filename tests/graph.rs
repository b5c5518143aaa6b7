//! `colac graph` as a user meets it: files, formats, refusals, and the committed pictures of two small specs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod command_line;
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::command_line::Folder;
use crate::common::repository;

/// Small specs, one of each architecture that ships.
const SPECS: [&str; 2] = ["llama-nano", "gpt2-nano"];

fn output(folder: &Folder, arguments: &[&str]) -> String {
    folder.run(arguments).succeeds().out
}

#[test]
fn pictures_of_small_specs_are_as_committed() {
    let folder = Folder::new();
    for spec in SPECS {
        for (format, stage) in
            [("dot", "cola"), ("text", "plan"), ("json", "cola"), ("svg", "cola")]
        {
            let picture =
                output(&folder, &["graph", spec, "--format", format, "--stage", stage, "-o", "-"]);
            insta::with_settings!({
                snapshot_path => repository("tests/cases/graph"),
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, {
                insta::assert_snapshot!(format!("{spec}-{format}"), picture);
            });
        }
    }
    let against = ["graph", "llama-nano", "--against", "llama-nano", "--full-rank-against"];
    let text = output(&folder, &[&against[..], &["--format", "text", "--stage", "plan"]].concat());
    insta::with_settings!({
        snapshot_path => repository("tests/cases/graph"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("against-full-rank", text);
    });
}

#[test]
fn files_are_named_by_spec_and_format() {
    let folder = Folder::new();
    folder.run(&["graph", "llama-nano"]).succeeds().says(&["llama-nano.html"]);
    folder.run(&["graph", "llama-nano", "--format", "svg"]).succeeds().says(&["llama-nano.svg"]);
    folder.run(&["graph", "llama-nano", "-o", "pictures/a.gv"]).succeeds();
    assert!(folder.read("pictures/a.gv").starts_with(b"// <!-- drawn by colac graph -->\ndigraph"));
    let page = String::from_utf8(folder.read("llama-nano.html")).unwrap();
    assert!(page.starts_with("<!doctype html>"));
    let data = page.split_once("id=\"picture\">").unwrap().1.split_once("</script>").unwrap().0;
    let picture: Value = serde_json::from_str(data).unwrap();
    let stages: Vec<&str> = picture["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["name"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["forward", "cola", "backward", "recompute", "fused", "plan"]);
    assert!(picture["memory"]["total"].as_u64().unwrap() > 0);
    // A plan file says the same as the spec that it is compiled from.
    folder.run(&["compile", "llama-nano", "-o", "plan.bin"]).succeeds();
    let of_plan = output(&folder, &["graph", "plan.bin", "--format", "json", "-o", "-"]);
    assert_eq!(of_plan, output(&folder, &["graph", "llama-nano", "--format", "json", "-o", "-"]));
    // An earlier picture is replaced, and nothing else.
    folder.run(&["graph", "llama-nano"]).succeeds();
    fs::write(folder.path("notes.svg"), "mine").unwrap();
    folder
        .fails(&["graph", "llama-nano", "-o", "notes.svg"], &["was not drawn by colac", "help: "]);
}

#[test]
fn two_plans_stand_side_by_side() {
    let folder = Folder::new();
    let against = ["graph", "llama-nano", "--against", "llama-nano"];
    let same = [&against[..], &["--format", "text"]].concat();
    folder.run(&same).succeeds().says(&["no difference", "= model"]);
    let rank = [&against[..], &["--set-against", "cola.rank=16", "--format", "text"]].concat();
    folder.run(&rank).succeeds().says(&["≠ model", "128 → 32 → 128 with silu  →  128 → 16 → 128"]);
    let page = [&against[..], &["--full-rank-against", "-o", "both.html"]].concat();
    folder.run(&page).succeeds();
    let page = String::from_utf8(folder.read("both.html")).unwrap();
    let data = page.split_once("id=\"picture\">").unwrap().1.split_once("</script>").unwrap().0;
    let both: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&both["a"]["form"], &both["b"]["form"]), (&"cola".into(), &"full-rank".into()));
    let differences = both["differences"].as_array().unwrap();
    assert!(differences.iter().any(|row| row["path"] == "layers.0.mlp.up_proj"));
}

#[test]
fn what_cannot_be_drawn_is_refused_in_one_line() {
    let folder = Folder::new();
    let refused: [(&[&str], &str); 7] = [
        (&["-o", "a.png"], "a.png does not say its format"),
        (&["--format", "svg", "--stage", "plan"], "a figure shows the model before"),
        (
            &["--against", "llama-tiny", "-o", "a.dot"],
            "two plans are not drawn side by side as dot",
        ),
        (&["--layer", "4", "-o", "-"], "there is no layer 4: the layers are 0 to 3"),
        (&["--format", "text", "--open"], "--open opens a file"),
        (&["--against", "absent.bin"], "absent.bin does not exist"),
        (&["-o", "."], "does not say its format"),
    ];
    for (arguments, reason) in refused {
        folder.fails(&[&["graph", "llama-nano"], arguments].concat(), &[reason]);
    }
    assert!(folder.is_empty(), "nothing is written");
}

/// A plan that this colac would not make is drawn, with a warning where its stages may not be those it came from.
#[test]
fn a_plan_of_another_colac_is_drawn_with_a_warning() {
    let folder = Folder::new();
    let mut other = (*common::plan("llama-nano", &["compiler.fuse=[]"], false)).clone();
    other.origin = common::plan("llama-nano", &[], false).origin.clone();
    other.origin.compiler_version = "0.0.9".to_owned();
    fs::write(folder.path("old.plan"), colac_plan::file::write(&other).unwrap()).unwrap();
    let warning = "warning: the plan was compiled by colac 0.0.9, and this colac ";
    for format in ["html", "svg", "dot", "json"] {
        let drawn = folder.run(&["graph", "old.plan", "--format", format]).succeeds();
        assert_eq!(drawn.err.matches(warning).count(), 1, "{format}: {}", drawn.err);
    }
    let of_stage = |stage| folder.run(&["graph", "old.plan", "--format", "text", "--stage", stage]);
    of_stage("fused").succeeds().says(&[warning, "note: the plan was compiled by"]);
    let plan = of_stage("plan").succeeds();
    assert!(plan.err.is_empty() && !plan.out.contains("note: "), "{}", plan.err);
}

/// A plan whose spec this colac cannot compile is still drawn as far as it goes.
#[test]
fn a_plan_whose_spec_does_not_compile_is_drawn_alone() {
    let folder = Folder::new();
    let mut other = (*common::plan("llama-nano", &[], false)).clone();
    other.origin.resolved_spec = other.origin.resolved_spec.replace("[model]", "[modell]");
    fs::write(folder.path("old.plan"), colac_plan::file::write(&other).unwrap()).unwrap();
    let why = "its spec does not compile with this colac";
    for format in ["html", "json", "text"] {
        let drawn = folder.run(&["graph", "old.plan", "--format", format, "-o", "-"]).succeeds();
        assert_eq!((drawn.out.matches(why).count(), drawn.err.matches(why).count()), (1, 1));
    }
    let json = folder.run(&["graph", "old.plan", "--format", "json", "-o", "-"]).succeeds().json();
    assert_eq!(json["graphs"].as_array().unwrap().len(), 1);
    for stage in ["cola", "fused"] {
        let refused = folder.run(&["graph", "old.plan", "--stage", stage, "-o", "a.html"]);
        assert_eq!(refused.says(&["no section `[modell]`"]).code, Some(1));
    }
    folder.run(&["graph", "old.plan", "--format", "svg"]).says(&["no section `[modell]`"]);
}

/// Graphviz takes the files, whatever names are in them.
#[test]
fn graphviz_accepts_dot() {
    let installed = Command::new("dot").arg("-V").stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        return common::skip("graphviz_accepts_dot", "Graphviz is not installed");
    }
    let folder = Folder::new();
    for spec in SPECS {
        for stage in ["cola", "plan"] {
            let arguments = ["graph", spec, "--format", "dot", "--stage", stage, "-o", "-"];
            let text = output(&folder, &arguments);
            let mut dot = Command::new("dot")
                .arg("-Tsvg")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = dot.stdin.take().unwrap();
            input.write_all(text.as_bytes()).unwrap();
            drop(input);
            let drawn = dot.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&drawn.stderr).into_owned();
            assert!(drawn.status.success() && said.is_empty(), "{spec}, {stage}: {said}");
            let svg = String::from_utf8(drawn.stdout).unwrap();
            assert!(svg.contains("class=\"cluster\"") && svg.contains("class=\"edge\""));
        }
    }
}

/// The file is as its schema says, its edges end at nodes, and no level is larger than the viewer can lay out.
#[test]
fn model_explorers_file_is_as_documented() {
    let folder = Folder::new();
    let schema = fs::read(repository("tests/cases/graph/model-explorer.schema.json")).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    for spec in SPECS {
        let text = output(&folder, &["graph", spec, "--format", "json", "-o", "-"]);
        let file: Value = serde_json::from_str(&text).unwrap();
        validate(&schema, &schema, &file, spec);
        for graph in file["graphs"].as_array().unwrap() {
            let nodes = graph["nodes"].as_array().unwrap();
            let outputs: BTreeMap<&str, usize> = nodes
                .iter()
                .map(|n| {
                    (n["id"].as_str().unwrap(), n["outputsMetadata"].as_array().unwrap().len())
                })
                .collect();
            assert_eq!(outputs.len(), nodes.len(), "ids are unique");
            let mut levels: BTreeMap<&str, usize> = BTreeMap::new();
            for node in nodes {
                *levels.entry(node["namespace"].as_str().unwrap()).or_default() += 1;
                for edge in node["incomingEdges"].as_array().unwrap() {
                    let made = outputs[edge["sourceNodeId"].as_str().unwrap()];
                    let output: usize =
                        edge["sourceNodeOutputId"].as_str().unwrap().parse().unwrap();
                    assert!(output < made);
                }
            }
            assert!(levels.values().all(|&count| count <= 1000));
            assert!(levels.keys().any(|namespace| namespace.matches('/').count() >= 2));
        }
    }
}

/// As much of JSON Schema as that file uses: type, properties, required, additionalProperties, items, pattern-free.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointed = root.pointer(reference.trim_start_matches('#')).expect("the schema has it");
        return validate(root, pointed, value, at);
    }
    match schema["type"].as_str().expect("every schema says its type") {
        "string" => assert!(value.is_string(), "{at} is no string: {value}"),
        "array" => {
            let items = value.as_array().unwrap_or_else(|| panic!("{at} is no list: {value}"));
            items.iter().enumerate().for_each(|(i, item)| {
                validate(root, &schema["items"], item, &format!("{at}/{i}"));
            });
        }
        "object" => {
            let object = value.as_object().unwrap_or_else(|| panic!("{at} is no object: {value}"));
            for key in schema["required"].as_array().into_iter().flatten() {
                assert!(object.contains_key(key.as_str().unwrap()), "{at} has no {key}");
            }
            for (key, value) in object {
                let known = schema["properties"].get(key);
                let known = known.or_else(|| schema.get("additionalProperties"));
                let known = known.filter(|known| known.is_object());
                let known = known.unwrap_or_else(|| panic!("{at} may have no {key}"));
                validate(root, known, value, &format!("{at}/{key}"));
            }
        }
        other => panic!("the schema has a type {other}"),
    }
}

/// The figures of the documentation are what `docs/draw` draws.
#[test]
fn drawn_figures_are_not_stale() {
    let drawn = tempfile::tempdir().unwrap();
    let done = Command::new("sh")
        .arg(repository("docs/draw"))
        .arg(drawn.path())
        .env("COLAC", env!("CARGO_BIN_EXE_colac"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut count = 0;
    for entry in fs::read_dir(drawn.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let committed = repository("docs/figures").join(&name);
        let is_same = fs::read(&committed).ok() == fs::read(drawn.path().join(&name)).ok();
        assert!(is_same, "docs/figures/{} is stale: run docs/draw", name.display());
        count += 1;
    }
    assert!(count > 0, "the script draws nothing");
}
