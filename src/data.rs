//! `colac data`: tokenizers and token shards.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use colac_compiler::view::text;
use colac_runtime::data::{
    DataError, DocumentRule, PrepareOptions, TokenCorpus, Tokenizer, prepare, train_bpe,
};
use serde::Serialize;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::machine::MachineOptions;
use crate::shared::progress::{Busy, PrepareBar};

/// Make tokenizers and token shards from text
///
/// Training reads plain text as well; shards save tokenizing it again, and corpora that are larger than memory need
/// them.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(Prepare),
    TrainTokenizer(TrainTokenizer),
    Info(Info),
}

/// Tokenize text into token shards
///
/// Shards are files for memory mapping; their header carries the tokenizer's vocabulary, so that ids never meet a model
/// or a tokenizer they do not belong to. Equal text and tokenizer give equal bytes.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac data prepare corpus/ --tokenizer tokenizer.json -o data/train
  colac data prepare stories.txt --separator '<|endoftext|>' --tokenizer tokenizer.json -o data/train
  colac data prepare wiki.txt --separator '' --tokenizer tokenizer.json -o data/train    # paragraphs")]
struct Prepare {
    /// Text files, or folders of .txt files
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// The tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,

    /// The folder to write shards into
    #[arg(short, long = "out", value_name = "DIR")]
    out: PathBuf,

    /// Lines of exactly this text separate documents; an empty text stands for blank lines [default: a file is a document]
    #[arg(long, value_name = "LINE")]
    separator: Option<String>,

    /// A shard ends with the document that brings it to this many tokens
    #[arg(long, value_name = "N", default_value_t = 1 << 28, value_parser = clap::value_parser!(u64).range(1..))]
    shard_tokens: u64,

    /// Replace shards that are in the folder
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    machine: MachineOptions,
}

/// Train a byte-level BPE tokenizer on text
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac data train-tokenizer corpus/ --vocab-size 32000 -o tokenizer.json")]
struct TrainTokenizer {
    /// Text files, or folders of .txt files
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// Entries of the vocabulary, the 256 bytes and the end of text included
    #[arg(long, value_name = "N")]
    vocab_size: NonZeroUsize,

    /// The tokenizer.json to write
    #[arg(short, long = "out", value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,
}

/// Say what token shards hold
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac data info data/train
  colac data info data/train data/more --json")]
struct Info {
    /// Token shards, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Prepare(arguments) => run_prepare(&arguments),
        Command::TrainTokenizer(arguments) => run_train_tokenizer(&arguments),
        Command::Info(arguments) => run_info(&arguments),
    }
}

fn run_prepare(arguments: &Prepare) -> Result<(), Failure> {
    let tokenizer = Tokenizer::from_file(&arguments.tokenizer)?;
    let documents = match &arguments.separator {
        Some(line) => DocumentRule::SeparatorLine(line.clone()),
        None => DocumentRule::File,
    };
    let options = PrepareOptions {
        documents,
        shard_tokens: arguments.shard_tokens,
        threads: arguments.machine.threads(),
        overwrite: arguments.overwrite,
    };
    let mut bar = PrepareBar::new("tokenizing".to_owned());
    let mut show = |progress| bar.show(progress);
    let summary = prepare(&arguments.inputs, &tokenizer, &arguments.out, &options, &mut show);
    bar.finish(None);
    let summary = summary.map_err(|error| {
        let exists = matches!(error, DataError::OutputExists { .. });
        let failure = Failure::from(error);
        if exists {
            failure.or_help(|| "pass --overwrite to replace them".to_owned())
        } else {
            failure
        }
    })?;
    console::out(format_args!(
        "{}: {} tokens in {} documents, {} of text in {} files, {} shard{}\n",
        arguments.out.display(),
        text::grouped(summary.tokens),
        text::grouped(summary.documents),
        text::bytes(summary.text_bytes),
        text::grouped(summary.files),
        summary.shards.len(),
        if summary.shards.len() == 1 { "" } else { "s" },
    ))
}

fn run_train_tokenizer(arguments: &TrainTokenizer) -> Result<(), Failure> {
    let TrainTokenizer { inputs, vocab_size, out, overwrite } = arguments;
    if out.is_dir() {
        return Err(Failure::line(format!("{} is a folder", out.display()))
            .or_help(|| "name a file, such as tokenizer.json, inside it".to_owned()));
    }
    if out.exists() && !overwrite {
        return Err(Failure::line(format!("{} exists", out.display()))
            .or_help(|| "give another --out, or pass --overwrite".to_owned()));
    }
    if let Some(folder) = out.parent().filter(|folder| *folder != Path::new("")) {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::line(format!("cannot create {}: {error}", folder.display()))
        })?;
    }
    let began = Instant::now();
    let busy = Busy::new("training the tokenizer");
    let tokenizer = train_bpe(inputs, vocab_size.get());
    drop(busy);
    let tokenizer = tokenizer?;
    tokenizer.save(out)?;
    console::out(format_args!(
        "{}: {} entries, in {}\n",
        out.display(),
        text::grouped(tokenizer.vocab_size() as u64),
        console::duration(began.elapsed().as_secs_f64()),
    ))
}

/// What a corpus holds, for machines.
#[derive(Serialize)]
struct Corpus {
    shards: usize,
    tokens: u64,
    documents: u64,
    text_bytes: u64,
    vocab_size: usize,
    vocabulary_hash: String,
    end_of_text: Option<u32>,
}

fn run_info(arguments: &Info) -> Result<(), Failure> {
    let corpus = TokenCorpus::open(&arguments.paths)?;
    if arguments.json {
        return console::out_json(&Corpus {
            shards: corpus.shards().len(),
            tokens: corpus.token_count(),
            documents: corpus.document_count(),
            text_bytes: corpus.text_bytes(),
            vocab_size: corpus.vocab_size(),
            vocabulary_hash: corpus.vocabulary_hash().to_string(),
            end_of_text: corpus.end_of_text(),
        });
    }
    let per_token = corpus.text_bytes() as f64 / corpus.token_count() as f64;
    console::out(format_args!(
        "{} tokens in {} documents and {} shards\n  {} of text, {per_token:.2} bytes per token\n  \
         vocabulary of {} entries, {}\n",
        text::grouped(corpus.token_count()),
        text::grouped(corpus.document_count()),
        corpus.shards().len(),
        text::bytes(corpus.text_bytes()),
        text::grouped(corpus.vocab_size() as u64),
        corpus.vocabulary_hash(),
    ))
}
