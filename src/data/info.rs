//! `colac data info`: what data holds.

use std::path::{Path, PathBuf};

use clap::Args;
use colac_compiler::view::text;
use colac_runtime::data::source::for_each_document;
use colac_runtime::data::{OpenOptions, TokenCorpus, Tokenizer, holds_tokens, inspect};
use serde::Serialize;

use super::{IdFormat, ReadingOptions};
use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::progress::Busy;

/// Say what tokens, texts or a tokenizer hold
///
/// Reads all of it: token files are checked to the last byte, documents of texts are counted.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac data info data/train
  colac data info data/train data/more --json
  colac data info web.jsonl.gz --text-field body
  colac data info train.bin --token-dtype u16
  colac data info tokenizer.json")]
pub(crate) struct Arguments {
    /// Token files, texts, folders of either, or a tokenizer.json
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Format of the ids in token files without a header
    #[arg(long, value_name = "FORMAT")]
    token_dtype: Option<IdFormat>,

    /// The tokenizer of token files that do not say which
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: ReadingOptions,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let [path] = arguments.paths.as_slice()
        && path.extension().is_some_and(|extension| extension == "json")
        && let Ok(tokenizer) = Tokenizer::from_file(path)
    {
        return of_tokenizer(&tokenizer, arguments.json);
    }
    let held =
        arguments.paths.iter().map(|path| holds_tokens(path)).collect::<Result<Vec<_>, _>>()?;
    let folder_of_nothing = |path: &PathBuf| path.is_dir() && inspect(path, &[], None).is_err();
    if held.iter().all(|&tokens| tokens) || arguments.paths.iter().all(folder_of_nothing) {
        return of_tokens(arguments);
    }
    if held.iter().any(|&tokens| tokens) {
        return Err(Failure::line("tokens and texts are told of one at a time")
            .or_help(|| "name paths of one kind".to_owned()));
    }
    of_texts(arguments)
}

/// What a corpus holds, for machines.
#[derive(Serialize)]
struct Corpus {
    format: &'static str,
    shards: usize,
    tokens: u64,
    documents: Option<u64>,
    text_bytes: u64,
    max_id: u32,
    vocab_size: usize,
    vocabulary_hash: Option<String>,
    end_of_text: Option<u32>,
    tokenizer: Option<String>,
    content_hash: String,
    rules: Option<String>,
}

fn of_tokens(arguments: &Arguments) -> Result<(), Failure> {
    let tokenizer = arguments.tokenizer.as_deref().map(Tokenizer::from_file).transpose()?;
    let token_dtype = arguments.token_dtype.map(Into::into);
    let open = OpenOptions { token_dtype, tokenizer: tokenizer.as_ref() };
    let corpus = TokenCorpus::open_with(&arguments.paths, &open)?;
    if let Some(tokenizer) = &tokenizer {
        corpus.check_tokenizer(tokenizer.hash())?;
    }
    let manifest = corpus.manifests().next();
    let report = Corpus {
        format: corpus.format(),
        shards: corpus.shard_count(),
        tokens: corpus.token_count(),
        documents: corpus.knows_documents().then(|| corpus.document_count()),
        text_bytes: corpus.text_bytes(),
        max_id: corpus.max_id(),
        vocab_size: corpus.vocab_size(),
        vocabulary_hash: corpus.vocabulary_hash().map(|hash| hash.to_string()),
        end_of_text: corpus.end_of_text(),
        tokenizer: manifest.map(|manifest| manifest.tokenizer.clone()),
        content_hash: blake3::Hash::from_bytes(corpus.content_hash()).to_hex().to_string(),
        rules: manifest.map(|manifest| manifest.rules.clone()),
    };
    if arguments.json {
        return console::out_json(&report);
    }
    let documents = match report.documents {
        Some(documents) => text::grouped(documents),
        None => "an unknown number of".to_owned(),
    };
    let mut lines = format!(
        "{} tokens in {documents} documents and {} {}{}\n",
        text::grouped(report.tokens),
        report.shards,
        report.format,
        if report.shards == 1 { "" } else { "s" },
    );
    if report.text_bytes > 0 {
        let per_token = report.text_bytes as f64 / report.tokens as f64;
        let bytes = text::bytes(report.text_bytes);
        lines += &format!("  {bytes} of text, {per_token:.2} bytes per token\n");
    }
    lines += &format!("  largest id {}", text::grouped(report.max_id.into()));
    lines += &match &report.vocabulary_hash {
        Some(hash) => {
            let name = report.tokenizer.as_deref().unwrap_or("a tokenizer");
            let entries = text::grouped(report.vocab_size as u64);
            format!(", vocabulary of {entries} entries from {name}\n  {hash}\n")
        }
        None => "; the files do not say from which vocabulary\n".to_owned(),
    };
    if let Some(rules) = &report.rules {
        lines += &format!("  {rules}\n");
    }
    console::out(lines)
}

/// What texts hold, for machines.
#[derive(Default, Serialize)]
struct Texts {
    format: &'static str,
    files: u64,
    file_bytes: u64,
    documents: u64,
    empty: u64,
    text_bytes: u64,
    longest_bytes: u64,
    bad_records: u64,
}

fn of_texts(arguments: &Arguments) -> Result<(), Failure> {
    let reading = arguments.reading.reading();
    let mut report = Texts::default();
    for path in &arguments.paths {
        let info = inspect(path, &reading.extensions, None)?;
        report.format = info.format;
        report.files += info.files;
        report.file_bytes += info.bytes;
    }
    let busy = Busy::new("reading");
    let bad = for_each_document(&arguments.paths, &reading, |_, text| {
        let bytes = text.len() as u64;
        match text.trim().is_empty() {
            true => report.empty += 1,
            false => report.documents += 1,
        }
        report.text_bytes += bytes;
        report.longest_bytes = report.longest_bytes.max(bytes);
        true
    });
    drop(busy);
    let bad = bad?;
    report.bad_records = bad.count;
    if arguments.json {
        return console::out_json(&report);
    }
    for line in &bad.first {
        console::note(line);
    }
    console::out(format_args!(
        "{} documents in {} files of {}, {}\n  {} of text, the longest document {}\n  {} empty, {} bad\n",
        text::grouped(report.documents),
        text::grouped(report.files),
        report.format,
        text::bytes(report.file_bytes),
        text::bytes(report.text_bytes),
        text::bytes(report.longest_bytes),
        text::grouped(report.empty),
        text::grouped(report.bad_records),
    ))
}

/// A tokenizer, for machines.
#[derive(Serialize)]
struct Vocabulary {
    kind: &'static str,
    vocab_size: usize,
    vocabulary_hash: String,
    end_of_text: Option<String>,
    begin_of_text: Option<String>,
    unknown: Option<String>,
}

fn of_tokenizer(tokenizer: &Tokenizer, json: bool) -> Result<(), Failure> {
    let special = tokenizer.special_tokens();
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let report = Vocabulary {
        kind: tokenizer.kind(),
        vocab_size: tokenizer.vocab_size(),
        vocabulary_hash: tokenizer.hash().to_string(),
        end_of_text: name(special.end_of_text),
        begin_of_text: name(special.begin_of_text),
        unknown: name(special.unknown),
    };
    if json {
        return console::out_json(&report);
    }
    let path: &Path = tokenizer.path();
    let shown = |token: &Option<String>| token.clone().unwrap_or_else(|| "none".to_owned());
    console::out(format_args!(
        "{}: {} with {} entries\n  {}\n  end of text {}, begin of text {}, unknown {}\n",
        path.display(),
        report.kind,
        text::grouped(report.vocab_size as u64),
        report.vocabulary_hash,
        shown(&report.end_of_text),
        shown(&report.begin_of_text),
        shown(&report.unknown),
    ))
}
