//! Every block of code in `docs/layer-language.md` does what the page says.

use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostics, Rendered, SourceId, Sources};
use colac_compiler::graph::Graph;
use colac_compiler::language::architecture::Architecture;
use colac_compiler::language::config::Config;
use colac_compiler::language::expression::Expression;
use colac_compiler::language::selector::Selector;
use colac_compiler::lower::{self, Batch};
use colac_compiler::spec::{Spec, SpecInput};

/// The settings that the page's blocks read.
const SPEC: &str = r#"
name = "page"
architecture = "page.toml"
[model]
vocab_size = 40
hidden_size = 16
num_hidden_layers = 3
num_attention_heads = 2
[train]
sequence_length = 8
micro_batch = 2
steps = 1
[optimizer]
learning_rate = 0.001
"#;

const SECTIONS: &str = r#"
language = 1
about = "page"
objective = "next-token"
[config]
required = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"]
head_dim = "hidden_size / num_attention_heads"
norm_eps = 1e-6
[check]
"vocab_size > 0 and num_hidden_layers > 0 and head_dim > 0 and norm_eps > 0" = "every block may read these"
[body]
"#;

struct CodeBlock {
    language: String,
    text: String,
    line: usize,
}

fn blocks() -> Vec<CodeBlock> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/layer-language.md");
    let page = std::fs::read_to_string(path).expect("the page is part of the repository");
    let mut blocks = Vec::new();
    let mut open: Option<CodeBlock> = None;
    for (index, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(CodeBlock {
                    language: language.into(),
                    text: String::new(),
                    line: index + 1,
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of code has no end");
    blocks
}

fn rendered(diagnostics: &Diagnostics, sources: &Sources) -> String {
    diagnostics
        .iter()
        .map(|d| format!("{:?}\n", miette::Report::new(Rendered::new(d, sources))))
        .collect()
}

fn lower(text: &str, line: usize) -> Graph {
    let (lowered, sources) = try_lower(text, line);
    let graph = lowered.unwrap_or_else(|errors| panic!("{}", rendered(&errors, &sources)));
    graph.verify().unwrap_or_else(|error| panic!("line {line}: {error}"));
    graph
}

fn try_lower(text: &str, line: usize) -> (Result<Graph, Diagnostics>, Sources) {
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "spec.toml".into(), text: SPEC.into() };
    let (spec, _) = Spec::load(input, &[], false, &mut sources).expect("the spec is right");
    let source = sources.add(format!("block at line {line}"), text);
    let lowered = Architecture::parse(source, &mut sources).and_then(|architecture| {
        let config =
            Config::resolve(&architecture, &lower::settings(&spec.model), spec.model_section)?;
        lower::lower(&architecture, &config, Batch { rows: 2, sequence_length: 8, place: None })
    });
    (lowered, sources)
}

fn with_sections(text: &str) -> String {
    format!("{SECTIONS}text = '''\n{text}'''\n")
}

fn body(text: &str, line: usize) -> Graph {
    lower(&with_sections(text), line)
}

/// The header of each section of a TOML text with its lines; what stands before the first has the header "".
fn sections(text: &str) -> Vec<(String, String)> {
    let mut sections = vec![(String::new(), String::new())];
    for line in text.lines() {
        if line.starts_with('[') {
            sections.push((line.to_owned(), String::new()));
        }
        let (_, lines) = sections.last_mut().expect("there is a first");
        lines.push_str(&format!("{line}\n"));
    }
    sections
}

/// The page's whole file with some of its sections replaced or added.
fn with_replaced(whole: &str, replacements: &str) -> String {
    let mut all = sections(whole);
    let body = all.iter().position(|(header, _)| header == "[body]").expect("it has a body");
    for (header, lines) in sections(replacements).into_iter().skip(1) {
        match all.iter_mut().find(|(known, _)| *known == header) {
            Some((_, old)) => *old = lines,
            None => all.insert(body, (header, lines)),
        }
    }
    all.into_iter().map(|(_, lines)| lines).collect()
}

/// `PATH is NAME`, then `, transposed` and `, rows A to B of C` where they hold.
fn checkpoint_name(written: &str, graph: &Graph, line: usize) {
    let (path, wanted) = written.split_once(" is ").unwrap_or_else(|| panic!("line {line}"));
    let path = path.trim();
    let found = graph.parameters().find(|(_, info)| info.path == path);
    let (_, info) = found.unwrap_or_else(|| panic!("line {line}: no parameter {path}"));
    let mut name = info.checkpoint.name.clone();
    if info.checkpoint.transposed {
        name.push_str(", transposed");
    }
    if let Some(part) = info.checkpoint.part {
        let end = part.offset + info.ty.shape.extents()[0];
        name.push_str(&format!(", rows {} to {end} of {}", part.offset, part.extent));
    }
    assert_eq!(name, wanted, "line {line}: {path}");
}

fn expression(written: &str, line: usize) {
    let evaluate = |text: &str| {
        let parsed = Expression::parse(text.trim(), SourceId(0), 0);
        parsed.and_then(|expression| expression.evaluate(&|_| None))
    };
    if let Some((text, code)) = written.split_once(" is ") {
        let error = evaluate(text).expect_err("the page says that it is refused");
        assert_eq!(error.code, code.trim(), "line {line}: {written}");
        return;
    }
    let (text, wanted) =
        written.rsplit_once(" = ").unwrap_or_else(|| panic!("line {line}: {written}"));
    let (found, wanted) =
        (evaluate(text).expect("has a value"), evaluate(wanted).expect("has a value"));
    assert_eq!(found, wanted, "line {line}: {written}");
}

fn selector(written: &str, line: usize) {
    let words: Vec<&str> = written.split_whitespace().collect();
    let [pattern, verb, path] = words[..] else { panic!("line {line}: {written}") };
    let wanted = match verb {
        "selects" => true,
        "not" => false,
        _ => panic!("line {line}: {written}"),
    };
    let selector = Selector::parse(pattern, SourceId(0), 0).expect("is a selector");
    assert_eq!(selector.matches(path), wanted, "line {line}: {written}");
}

#[test]
fn every_block_of_the_page_does_what_it_says() {
    let mut seen: Vec<String> = Vec::new();
    let (mut whole, mut last) = (String::new(), None);
    for CodeBlock { language, text, line } in blocks() {
        match language.as_str() {
            "toml" => {
                let graph = lower(&text, line);
                let paths: Vec<String> =
                    graph.parameters().map(|(_, info)| info.path.clone()).collect();
                for path in [
                    "embed.weight",
                    "layers.0.norm_1.weight",
                    "layers.0.attn.q.weight",
                    "head.weight",
                ] {
                    assert!(paths.iter().any(|known| known == path), "line {line}: no {path}");
                }
                whole = text;
            }
            "toml-sections" => last = Some(lower(&with_replaced(&whole, &text), line)),
            "names" => {
                let graph = last.as_ref().expect("names follow the sections that give them");
                text.lines().for_each(|written| checkpoint_name(written, graph, line));
            }
            wrong if wrong.starts_with("colac-error ") => {
                let code = wrong.trim_start_matches("colac-error ");
                let (lowered, sources) = try_lower(&with_sections(&text), line);
                let errors = lowered.expect_err("the page says that it is wrong");
                let found = errors.iter().any(|error| error.code == code);
                assert!(found, "line {line}: no {code} in\n{}", rendered(&errors, &sources));
            }
            // The grammar, and what else is not of the language.
            "text" => {}
            "colac" => drop(body(&text, line)),
            "colac-statements" => drop(body(
                &format!(
                    "use normal(0, 0.02) for linear, embedding\nmodel(tokens: ids[batch, seq]) {{\n\
                     x = embed: embedding(tokens, vocab_size, hidden_size)\n{text}\
                     return head: linear(x, vocab_size, cola = never)\n}}\n"
                ),
                line,
            )),
            "expressions" => text.lines().for_each(|written| expression(written, line)),
            "selectors" => text.lines().for_each(|written| selector(written, line)),
            other => panic!("line {line}: no test knows blocks of {other:?}"),
        }
        seen.push(language);
    }
    for language in
        ["toml", "toml-sections", "names", "colac", "colac-statements", "expressions", "selectors"]
    {
        assert!(seen.iter().any(|known| known == language), "the page has no block of {language}");
    }
}

#[test]
fn the_page_says_where_labels_lead() {
    let blocks = blocks();
    let block =
        blocks.iter().find(|block| block.text.contains("twice(")).expect("the block about labels");
    let graph = body(&block.text, block.line);
    let paths: Vec<&str> = graph.linears.iter().map(|site| site.path.as_str()).collect();
    assert_eq!(paths, ["first.a", "first.b", "a", "b", "head"]);
    let block = blocks
        .iter()
        .find(|block| block.text.contains("bounded:"))
        .expect("the block about bypass");
    let graph = body(&block.text, block.line);
    let paths: Vec<&str> =
        graph.bypassable.iter().map(|&id| graph.node(id).origin.path.as_str()).collect();
    assert_eq!(paths, ["act", "bounded"]);
}

#[test]
fn the_page_names_every_operation_with_its_arguments() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/layer-language.md");
    let page = std::fs::read_to_string(path).expect("the page is part of the repository");
    for (operation, arguments) in lower::operations() {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{operation}(")));
        let row = row.unwrap_or_else(|| panic!("no row for {operation}"));
        for argument in arguments {
            assert!(row.contains(argument), "the row of {operation} does not name {argument}");
        }
    }
}
