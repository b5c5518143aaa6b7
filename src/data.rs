//! `colac data`: tokenizers, token shards and what is in them.
//!
//! Owns the options that say how text is read; every command has a file of its own.

mod info;
mod prepare;
mod sample;
mod train_tokenizer;

use clap::{Args, Subcommand};
use colac_plan::recipe::TokenDType;
use colac_runtime::data::ReadOptions;

use crate::shared::failure::Failure;

/// Make tokenizers and token shards from text
///
/// Training reads text as well; shards save tokenizing it again, and corpora that are larger than memory need
/// them.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(prepare::Arguments),
    TrainTokenizer(train_tokenizer::Arguments),
    Info(info::Arguments),
    Sample(sample::Arguments),
}

/// How text is read.
#[derive(Args, Clone, Debug)]
struct ReadingOptions {
    /// The field of JSON Lines, Parquet and Arrow that holds the text; dots lead into objects
    #[arg(long, value_name = "NAME", default_value = "text", help_heading = "Reading text")]
    text_field: String,

    /// Lines of exactly this text separate documents; an empty text stands for blank lines [default: a file is a document]
    #[arg(long, value_name = "LINE", help_heading = "Reading text")]
    separator: Option<String>,

    /// Which files of folders are read, by the ends of their names; may be repeated [default: txt, jsonl, ndjson, parquet, arrow]
    #[arg(long = "extension", value_name = "EXT", help_heading = "Reading text")]
    extensions: Vec<String>,

    /// Leave out and count bad lines and texts that are not UTF-8, instead of stopping at the first
    #[arg(long, help_heading = "Reading text")]
    skip_bad: bool,
}

impl ReadingOptions {
    fn reading(&self) -> ReadOptions {
        ReadOptions {
            text_field: self.text_field.clone(),
            separator: self.separator.clone(),
            extensions: self.extensions.clone(),
            skip_bad: self.skip_bad,
        }
    }
}

/// Format of ids in files without a header.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum IdFormat {
    U16,
    U32,
}

impl From<IdFormat> for TokenDType {
    fn from(format: IdFormat) -> TokenDType {
        match format {
            IdFormat::U16 => TokenDType::U16,
            IdFormat::U32 => TokenDType::U32,
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Prepare(arguments) => prepare::run(&arguments),
        Command::TrainTokenizer(arguments) => train_tokenizer::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Sample(arguments) => sample::run(&arguments),
    }
}
