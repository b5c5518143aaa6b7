//! Texts in, token shards out.
//!
//! Owns what becomes of every document: left out as empty, bad or a copy, held out for validation, tokenized. Must not
//! know how tokens are used, and prints nothing: progress goes to the caller.
//!
//! Memory is constant but for 16 bytes or so per document when copies are dropped: documents are read in parts, as many
//! parts as there are threads are tokenized at once, and the ids of a document that does not end wait on the disk.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::data::corpus_writer::{CorpusWriter, Side, SideSummary};
use crate::data::error::DataError;
use crate::data::shard::{Manifest, Source};
use crate::data::source::{
    BadRecords, FileIdentity, FileReader, InputFile, Next, ReadOptions, identity, list_inputs,
};
use crate::data::tokenizer::Tokenizer;

/// Text that one thread tokenizes before ids are written again.
const ROUND_BYTES_PER_THREAD: usize = 1 << 20;

/// How a corpus is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// How the inputs are read.
    pub reading: ReadOptions,
    /// A shard ends behind the document with which it has this many tokens.
    pub shard_tokens: u64,
    /// Threads for tokenizing; the ids do not depend on them.
    pub threads: NonZeroUsize,
    /// Whether shards that lie in the output directory are replaced.
    pub overwrite: bool,
    /// Share of the documents that are held out, below 1; see [`is_held_out`].
    pub validation_fraction: f64,
    /// Whether only the first of documents with exactly the same text is kept.
    pub deduplicate: bool,
}

impl Default for PrepareOptions {
    /// Shards have 2^28 tokens (half a gigabyte with two-byte ids); one thread; nothing is overwritten, held out or
    /// dropped.
    fn default() -> Self {
        Self {
            reading: ReadOptions::default(),
            shard_tokens: 1 << 28,
            threads: NonZeroUsize::MIN,
            overwrite: false,
            validation_fraction: 0.0,
            deduplicate: false,
        }
    }
}

impl PrepareOptions {
    /// The share that is held out, if there is one.
    fn split(&self) -> Option<f64> {
        Some(self.validation_fraction).filter(|&fraction| fraction > 0.0)
    }
}

/// How far a preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareProgress {
    /// Bytes of the files that were read.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Tokens so far.
    pub tokens: u64,
}

/// What a preparation made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareSummary {
    /// What is trained on: all that was not held out.
    pub training: SideSummary,
    /// What was held out, if anything was to be.
    pub validation: Option<SideSummary>,
    /// Files that were read.
    pub files: u64,
    /// Documents with nothing but white space, or nothing the tokenizer has a token for.
    pub empty: u64,
    /// Copies of earlier documents that were dropped.
    pub duplicates: u64,
    /// Records that could not be read.
    pub bad: BadRecords,
    /// How many tokens stand for text the tokenizer does not know; `None` if it knows all text.
    pub unknown_tokens: Option<u64>,
}

impl PrepareSummary {
    /// Tokens of both sides.
    pub fn tokens(&self) -> u64 {
        self.training.tokens + self.validation.as_ref().map_or(0, |side| side.tokens)
    }

    /// Bytes of text of both sides.
    pub fn text_bytes(&self) -> u64 {
        self.training.text_bytes + self.validation.as_ref().map_or(0, |side| side.text_bytes)
    }
}

/// Whether a document belongs to the share that is held out: whether the first eight bytes of its text's BLAKE3 hash,
/// as a little-endian number over 2^64, lie below `fraction`.
///
/// So it depends on nothing but the text: not on files, order, shards or other documents. Copies stay together, and a
/// larger share holds out what a smaller one does and more.
pub fn is_held_out(text_hash: &blake3::Hash, fraction: f64) -> bool {
    let first = text_hash.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes);
    // 2^64 is exact; the conversion saturates.
    first < (fraction * 2_f64.powi(64)) as u64
}

/// What is done to files before tokenizing, in words: it is kept in the shards, and tokens that were made with another
/// rule are not used in the place of these.
pub fn rules(options: &PrepareOptions, side: Side) -> String {
    let ReadOptions { text_field, separator, extensions: _, skip_bad } = &options.reading;
    let mut rules = vec![format!("text field {text_field:?}")];
    rules.push(match separator {
        Some(line) => format!("documents between lines {line:?}"),
        None => "a text file is a document".to_owned(),
    });
    if *skip_bad {
        rules.push("bad records left out".to_owned());
    }
    if options.deduplicate {
        rules.push("copies left out".to_owned());
    }
    if let Some(fraction) = options.split() {
        rules.push(match side {
            Side::Training => format!("without the validation share of {fraction}"),
            Side::Validation => format!("the validation share of {fraction}"),
        });
    }
    rules.join(", ")
}

/// Identifies the files that inputs stand for and their bytes: what [`Manifest::inputs`] holds. Reads all of them once.
///
/// # Errors
///
/// If an input cannot be read or none yields a file.
pub fn inputs_hash(inputs: &[PathBuf], extensions: &[String]) -> Result<String, DataError> {
    let files = list_inputs(inputs, extensions)?;
    let identities = files.iter().map(|file| identity(&file.path));
    Ok(hash_inputs(&files, &identities.collect::<Result<Vec<_>, _>>()?))
}

fn hash_inputs(files: &[InputFile], identities: &[FileIdentity]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (file, identity) in files.iter().zip(identities) {
        hasher.update(&(file.name.len() as u64).to_le_bytes());
        hasher.update(file.name.as_bytes());
        hasher.update(identity.blake3.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Tokenizes files and folders of them (see [`list_inputs`]) into token shards.
///
/// The shards lie in `output`; if a share is held out, in its folders `train` and `validation` ([`Side::folder`]).
/// Behind the ids of each document stands the tokenizer's end-of-text token, if it has one. Documents without anything
/// but white space are left out. The shards are called `shard-00001-of-0000N.tokens` and appear when all of them are
/// complete; equal texts, tokenizer and options give equal bytes.
///
/// `progress` is told how far it is and ends the work with [`ControlFlow::Break`].
///
/// # Errors
///
/// If a text cannot be read or tokenized, there is no text at all or none for one side, the output cannot be written
/// to, it holds shards already and they are not to be overwritten, or `progress` ended it. Nothing is changed then.
pub fn prepare(
    inputs: &[PathBuf],
    tokenizer: &Tokenizer,
    output: &Path,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(PrepareProgress) -> ControlFlow<()>,
) -> Result<PrepareSummary, DataError> {
    let files = list_inputs(inputs, &options.reading.extensions)?;
    let mut bytes_total = 0;
    for file in &files {
        let metadata = fs::metadata(&file.path).map_err(DataError::io("open", &file.path))?;
        bytes_total += metadata.len();
    }
    let writer = CorpusWriter::create(output, tokenizer, options)?;
    let mut work = Preparation {
        tokenizer,
        options,
        files: &files,
        writer,
        seen: BTreeSet::new(),
        round: Vec::new(),
        round_bytes: 0,
        document: Document::default(),
        round_limit: ROUND_BYTES_PER_THREAD * options.threads.get(),
        empty: 0,
        duplicates: 0,
        unknown: tokenizer.special_tokens().unknown,
        unknown_tokens: 0,
        bad: BadRecords::default(),
    };
    let mut tell = |bytes_done: u64, tokens| {
        let bytes_done = bytes_done.min(bytes_total);
        match progress(PrepareProgress { bytes_done, bytes_total, tokens }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(DataError::Interrupted { path: output.to_owned() }),
        }
    };
    tell(0, 0)?;
    let mut identities = Vec::with_capacity(files.len());
    let mut bytes_before = 0;
    for (number, file) in files.iter().enumerate() {
        let whole = !tokenizer.splits_at_line_ends();
        let mut reader = FileReader::open(file, &options.reading, whole)?;
        let mut text = String::new();
        loop {
            let next = reader.next(&mut text, &mut work.bad)?;
            match next {
                Next::Part | Next::Last => {
                    work.add(std::mem::take(&mut text), number, next == Next::Last)?;
                }
                Next::Bad { .. } => work.drop_document(number),
                Next::End => break,
            }
            if work.round_bytes >= work.round_limit {
                work.tokenize_round()?;
                tell(bytes_before + reader.bytes(), work.writer.tokens())?;
            }
        }
        let identity = reader.identity();
        bytes_before += identity.bytes;
        identities.push(identity);
    }
    work.tokenize_round()?;
    tell(bytes_total, work.writer.tokens())?;
    let manifest = Manifest {
        tokenizer: tokenizer.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        rules: String::new(),
        inputs: hash_inputs(&files, &identities),
        sources: files
            .iter()
            .zip(identities)
            .map(|(file, FileIdentity { bytes, blake3 })| Source {
                name: file.name.clone(),
                bytes,
                blake3,
                documents: 0,
            })
            .collect(),
    };
    let (training, validation) = work.writer.finish(inputs, options, manifest)?;
    Ok(PrepareSummary {
        training,
        validation,
        files: files.len() as u64,
        empty: work.empty,
        duplicates: work.duplicates,
        bad: work.bad,
        unknown_tokens: work.unknown.map(|_| work.unknown_tokens),
    })
}

/// A part of a document that waits for its ids.
struct Part {
    text: String,
    source: usize,
    /// What becomes of the document, with its last part.
    end: Option<End>,
}

struct End {
    /// Where it goes; `None` if it is dropped.
    side: Option<Side>,
    text_bytes: u64,
}

/// The document that is being read.
#[derive(Default)]
struct Document {
    hasher: blake3::Hasher,
    text_bytes: u64,
    visible: bool,
    /// Its parts in the current round.
    parts: usize,
    /// Whether parts of it were tokenized in an earlier round.
    begun: bool,
}

struct Preparation<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a PrepareOptions,
    files: &'a [InputFile],
    writer: CorpusWriter<'a>,
    /// Half of the hash of every document, if copies are dropped.
    seen: BTreeSet<[u8; 16]>,
    round: Vec<Part>,
    round_bytes: usize,
    round_limit: usize,
    document: Document,
    empty: u64,
    duplicates: u64,
    unknown: Option<u32>,
    unknown_tokens: u64,
    bad: BadRecords,
}

impl Preparation<'_> {
    /// Takes a part of a document.
    fn add(&mut self, text: String, source: usize, last: bool) -> Result<(), DataError> {
        let document = &mut self.document;
        document.hasher.update(text.as_bytes());
        document.text_bytes += text.len() as u64;
        document.visible = document.visible || !text.trim_start().is_empty();
        document.parts += 1;
        self.round_bytes += text.len();
        self.round.push(Part { text, source, end: None });
        if !last {
            return Ok(());
        }
        let hash = document.hasher.finalize();
        if !document.visible {
            self.empty += 1;
            self.drop_document(source);
            return Ok(());
        }
        if self.options.deduplicate {
            let half = hash.as_bytes().first_chunk().copied().unwrap_or_default();
            if !self.seen.insert(half) {
                self.duplicates += 1;
                self.drop_document(source);
                return Ok(());
            }
        }
        let held_out = self.options.split().is_some_and(|fraction| is_held_out(&hash, fraction));
        let side = if held_out { Side::Validation } else { Side::Training };
        let document = std::mem::take(&mut self.document);
        if let Some(part) = self.round.last_mut() {
            part.end = Some(End { side: Some(side), text_bytes: document.text_bytes });
        }
        Ok(())
    }

    /// Forgets the document that is being read.
    fn drop_document(&mut self, source: usize) {
        let document = std::mem::take(&mut self.document);
        for part in self.round.split_off(self.round.len() - document.parts) {
            self.round_bytes -= part.text.len();
        }
        if document.begun {
            let end = Some(End { side: None, text_bytes: 0 });
            self.round.push(Part { text: String::new(), source, end });
        }
    }

    /// Tokenizes the parts that were read and writes the documents that ended with them.
    fn tokenize_round(&mut self) -> Result<(), DataError> {
        let round = std::mem::take(&mut self.round);
        self.round_bytes = 0;
        if self.document.parts > 0 {
            self.document.begun = true;
            self.document.parts = 0;
        }
        let texts: Vec<&str> = round.iter().map(|part| part.text.as_str()).collect();
        let all_ids = self
            .tokenizer
            .encode_all(&texts, self.options.threads)
            .map_err(|(index, error)| in_file(error, &self.files[round[index].source].path))?;
        for (part, ids) in round.iter().zip(all_ids) {
            if let Some(unknown) = self.unknown {
                self.unknown_tokens += ids.iter().filter(|&&id| id == unknown).count() as u64;
            }
            self.writer.extend_document(&ids)?;
            match &part.end {
                None => {}
                Some(End { side: None, .. }) => self.writer.drop_document(),
                Some(End { side: Some(side), text_bytes }) => {
                    let kept = self.writer.end_document(*side, *text_bytes, part.source)?;
                    self.empty += u64::from(!kept);
                }
            }
        }
        Ok(())
    }
}

/// Says in which text file tokenizing failed.
fn in_file(error: DataError, path: &Path) -> DataError {
    match error {
        DataError::Encode { reason, .. } => DataError::Encode { path: path.to_owned(), reason },
        other => other,
    }
}

#[cfg(test)]
mod tests;
