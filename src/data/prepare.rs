//! `colac data prepare`: text to token shards.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use colac_compiler::view::text;
use colac_runtime::data::{DataError, PrepareOptions, PrepareSummary, SideSummary, prepare};
use serde::Serialize;

use super::ReadingOptions;
use super::train_tokenizer::train;
use crate::shared::failure::Failure;
use crate::shared::machine::ThreadOptions;
use crate::shared::progress::{self, PrepareBar};
use crate::shared::{console, corpus, files, interrupt, number};

/// Tokenize text into token shards
///
/// Reads plain text, JSON Lines, both also compressed by gzip or zstd, and in builds with the feature `arrow` Parquet
/// and Arrow. Shards are files for memory mapping; their header carries the tokenizer's vocabulary, so that ids never
/// meet a model or a tokenizer they do not belong to. Equal text and tokenizer give equal bytes.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac data prepare corpus/ --tokenizer tokenizer.json -o data/train
  colac data prepare web.jsonl.zst --tokenizer tokenizer.json --validation-fraction 0.005 -o data/web
  colac data prepare pages/ --extension md --train-bpe 32000 --dedup -o data/pages
  colac data prepare wiki.txt --separator '' --tokenizer tokenizer.json -o data/train    # paragraphs")]
pub(crate) struct Arguments {
    /// Text files or folders of them
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// The tokenizer.json
    #[arg(long, value_name = "FILE", required_unless_present = "train_bpe")]
    tokenizer: Option<PathBuf>,

    /// Train a byte-level BPE tokenizer of N entries on the text first, and keep it as tokenizer.json in the folder
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "tokenizer",
        value_parser = number::entries,
        allow_negative_numbers = true
    )]
    train_bpe: Option<NonZeroUsize>,

    /// The token that ends a document, instead of the one that its name tells
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,

    /// The folder to write shards into
    #[arg(short, long = "out", value_name = "DIR")]
    out: PathBuf,

    /// Hold out this share of the documents, chosen by their text alone: shards go to DIR/train and DIR/validation
    #[arg(long, value_name = "F", default_value_t = 0.0, value_parser = fraction)]
    validation_fraction: f64,

    /// Keep only the first of documents with exactly the same text
    #[arg(long)]
    dedup: bool,

    /// A shard ends with the document that brings it to this many tokens
    #[arg(long, value_name = "N", default_value_t = 1 << 28, value_parser = number::above_zero)]
    shard_tokens: u64,

    /// Replace shards that are in the folder
    #[arg(long)]
    overwrite: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: ReadingOptions,

    #[command(flatten)]
    machine: ThreadOptions,
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..1.0).contains(&number) => Ok(number),
        _ => Err("give a number from 0 to below 1".to_owned()),
    }
}

/// What was made, for machines.
#[derive(Serialize)]
struct Report<'a> {
    training: &'a SideSummary,
    validation: Option<&'a SideSummary>,
    files: u64,
    empty: u64,
    duplicates: u64,
    bad_records: u64,
    unknown_tokens: Option<u64>,
    tokenizer: String,
    vocab_size: usize,
    vocabulary_hash: String,
    seconds: f64,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    files::refuse_file(&arguments.out)?;
    let began = Instant::now();
    let stop = interrupt::stop_flag()?;
    let options = PrepareOptions {
        reading: arguments.reading.reading(),
        shard_tokens: arguments.shard_tokens,
        threads: arguments.machine.threads(),
        overwrite: arguments.overwrite,
        validation_fraction: arguments.validation_fraction,
        deduplicate: arguments.dedup,
    };
    let (mut tokenizer, path) = match (&arguments.tokenizer, arguments.train_bpe) {
        (Some(path), _) => (corpus::read_tokenizer(path)?, path.clone()),
        (None, size) => {
            let path = arguments.out.join("tokenizer.json");
            if path.exists() && !arguments.overwrite {
                return Err(Failure::line(format!("{} exists", path.display()))
                    .or_help(|| "use it with --tokenizer, or pass --overwrite".to_owned()));
            }
            let size = size.map_or(0, NonZeroUsize::get);
            let reading = &options.reading;
            let tokenizer =
                train(&arguments.inputs, size, reading, options.validation_fraction, &stop)?;
            files::make_folder(&arguments.out)?;
            tokenizer.save(&path)?;
            (tokenizer, path)
        }
    };
    if let Some(token) = &arguments.eos {
        tokenizer = tokenizer.with_end_of_text(token)?;
    }
    let mut bar = PrepareBar::new("tokenizing".to_owned());
    let mut show = |progress| {
        bar.show(progress);
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let summary = prepare(&arguments.inputs, &tokenizer, &arguments.out, &options, &mut show);
    bar.finish(None);
    let summary = match summary {
        Ok(summary) => summary,
        Err(error @ DataError::Interrupted { .. }) => {
            console::alert(error);
            return Err(Failure::Interrupted);
        }
        Err(error) => {
            let exists = matches!(error, DataError::OutputExists { .. });
            let failure = Failure::from(error);
            return Err(match exists {
                true => failure.or_help(|| "pass --overwrite to replace them".to_owned()),
                false => failure,
            });
        }
    };
    progress::left_out(&summary);
    if arguments.json {
        return console::out_json(&Report {
            training: &summary.training,
            validation: summary.validation.as_ref(),
            files: summary.files,
            empty: summary.empty,
            duplicates: summary.duplicates,
            bad_records: summary.bad.count,
            unknown_tokens: summary.unknown_tokens,
            tokenizer: path.display().to_string(),
            vocab_size: tokenizer.vocab_size(),
            vocabulary_hash: tokenizer.hash().to_string(),
            seconds: began.elapsed().as_secs_f64(),
        });
    }
    console::out(lines(&summary))
}

fn lines(summary: &PrepareSummary) -> String {
    let side = |side: &SideSummary| {
        format!(
            "{}: {} tokens in {} documents, {} of text in {} files, {} shard{}\n",
            side.directory.display(),
            text::grouped(side.tokens),
            text::grouped(side.documents),
            text::bytes(side.text_bytes),
            text::grouped(summary.files),
            side.shards.len(),
            if side.shards.len() == 1 { "" } else { "s" },
        )
    };
    let validation = summary.validation.as_ref().map_or_else(String::new, side);
    side(&summary.training) + &validation
}
