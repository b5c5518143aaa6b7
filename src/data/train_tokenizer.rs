//! `colac data train-tokenizer`: text to a tokenizer.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use colac_compiler::view::text;
use colac_runtime::data::{DataError, ReadOptions, Tokenizer, train_bpe};

use super::ReadingOptions;
use crate::shared::failure::Failure;
use crate::shared::progress::Busy;
use crate::shared::{console, files, interrupt, number};

/// Train a byte-level BPE tokenizer on text
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac data train-tokenizer corpus/ --vocab-size 32000 -o tokenizer.json")]
pub(crate) struct Arguments {
    /// Text files or folders of them
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// Entries of the vocabulary, the 256 bytes and the end of text included
    #[arg(long, value_name = "N", value_parser = number::entries, allow_negative_numbers = true)]
    vocab_size: NonZeroUsize,

    /// The tokenizer.json to write
    #[arg(short, long = "out", value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    reading: ReadingOptions,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { inputs, vocab_size, out, overwrite, reading } = arguments;
    if out.is_dir() {
        return Err(Failure::line(format!("{} is a folder", out.display()))
            .or_help(|| "name a file, such as tokenizer.json, inside it".to_owned()));
    }
    if out.exists() && !overwrite {
        return Err(Failure::line(format!("{} exists", out.display()))
            .or_help(|| "give another --out, or pass --overwrite".to_owned()));
    }
    files::make_folder_of(out)?;
    let began = Instant::now();
    let stop = interrupt::stop_flag()?;
    let tokenizer = train(inputs, vocab_size.get(), &reading.reading(), 0.0, &stop)?;
    tokenizer.save(out)?;
    console::out(format_args!(
        "{}: {} entries, in {}\n",
        out.display(),
        text::grouped(tokenizer.vocab_size() as u64),
        console::duration(began.elapsed().as_secs_f64()),
    ))
}

/// Trains a tokenizer until it is done or the user stops it.
pub(super) fn train(
    inputs: &[PathBuf],
    vocab_size: usize,
    reading: &ReadOptions,
    validation_fraction: f64,
    stop: &AtomicBool,
) -> Result<Tokenizer, Failure> {
    let busy = Busy::new("training the tokenizer");
    let mut go_on = |_| match stop.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let tokenizer = train_bpe(inputs, vocab_size, reading, validation_fraction, &mut go_on);
    drop(busy);
    match tokenizer {
        Err(DataError::Interrupted { .. }) => {
            console::alert("interrupted; no tokenizer was written");
            Err(Failure::Interrupted)
        }
        tokenizer => Ok(tokenizer?),
    }
}
