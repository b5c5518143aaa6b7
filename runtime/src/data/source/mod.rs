//! Texts of every supported format as one stream of documents.
//!
//! Owns which files are read ([`list`]), how their formats are told apart and opened, and what becomes of records that
//! cannot be read. Formats have a file each: plain text, JSON Lines, and with the feature `arrow` Parquet and Arrow.
//! Must not know tokenizers or shards.
//!
//! A document comes in parts, so that one of any size is read in constant memory: a plain text file may be larger than
//! the machine. Parts are cut where tokenizers may cut ([`crate::data::tokenizer`]), unless the reader is asked for
//! whole documents.

mod decompress;
mod json_lines;
pub mod list;
mod text;

#[cfg(feature = "arrow")]
mod arrow_rows;
#[cfg(feature = "arrow")]
pub mod guarded;
#[cfg(feature = "arrow")]
mod parquet_rows;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use colac_plan::recipe::Reading;

use crate::data::error::DataError;
pub use list::{Format, InputFile, list_inputs};

/// A line, a value or a part of a document that would be longer than this is an error: it would have to be in memory
/// as a whole.
pub const MAX_RECORD_BYTES: usize = 256 << 20;

/// Parts of a document are handed over when they have this many bytes.
const PART_BYTES: usize = 1 << 20;

/// How many bad records are kept word by word; all are counted.
const REPORTED_RECORDS: usize = 20;

/// How inputs are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The field of JSON Lines, Parquet and Arrow that holds the text; dots lead into objects.
    pub text_field: String,
    /// Lines that consist of exactly this text separate the documents of a text file and belong to none of them. With
    /// the empty text, blank lines separate them, so that every paragraph is a document. `None`: a file is a document.
    pub separator: Option<String>,
    /// Which files of a folder are read, by the ends of their names; empty for all known ones.
    pub extensions: Vec<String>,
    /// Whether bad records are counted and left out, instead of being errors.
    pub skip_bad: bool,
}

impl Default for ReadOptions {
    /// The field `text`, a file a document, all known extensions, nothing bad is accepted.
    fn default() -> Self {
        Self::from(&Reading::default())
    }
}

impl From<&Reading> for ReadOptions {
    fn from(reading: &Reading) -> Self {
        Self {
            text_field: reading.text_field.clone(),
            separator: reading.separator.clone(),
            extensions: reading.extensions.clone(),
            skip_bad: reading.skip_bad,
        }
    }
}

/// What a reader found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A part of a document, which goes on.
    Part,
    /// The last part of a document; it may be empty.
    Last,
    /// A record that is no document; the parts of it that were given are void.
    Bad {
        /// Where in the file, as it stands behind the file's name: `:12` for a line, `, byte 4711`, `, row 8`.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no more.
    End,
}

/// Reads the documents of one file.
pub(crate) trait Documents: Send {
    /// Finds the next part and puts its text into `text`, replacing what was there.
    fn next(&mut self, text: &mut String) -> Result<Next, DataError>;
}

/// Records that could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadRecords {
    /// How many there were.
    pub count: u64,
    /// The first of them: file, place, reason.
    pub first: Vec<String>,
}

impl BadRecords {
    fn add(&mut self, error: &DataError) {
        self.count += 1;
        if self.first.len() < REPORTED_RECORDS {
            self.first.push(error.to_string());
        }
    }
}

/// Bytes that were read from a file, for progress and for the file's hash.
#[derive(Debug, Default)]
struct Tally {
    bytes: u64,
    hasher: blake3::Hasher,
}

/// A file that counts and hashes what is read of it.
struct TalliedFile {
    file: File,
    tally: Arc<Mutex<Tally>>,
}

impl Read for TalliedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.bytes += count as u64;
        tally.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// What identifies a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    /// Size of the file.
    pub(crate) bytes: u64,
    /// BLAKE3 of its bytes as they lie, in hexadecimal digits.
    pub(crate) blake3: String,
}

/// Size and hash of a file's bytes.
pub(crate) fn identity(path: &Path) -> Result<FileIdentity, DataError> {
    let mut hasher = blake3::Hasher::new();
    let bytes = File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .map_err(DataError::io("read", path))?;
    Ok(FileIdentity { bytes, blake3: hasher.finalize().to_hex().to_string() })
}

/// The documents of one file, with what was read and what was bad.
pub(crate) struct FileReader {
    path: PathBuf,
    documents: Box<dyn Documents>,
    tally: Arc<Mutex<Tally>>,
    skip_bad: bool,
}

impl FileReader {
    /// Opens a file. With `whole`, every document comes in one part.
    pub(crate) fn open(
        file: &InputFile,
        options: &ReadOptions,
        whole: bool,
    ) -> Result<Self, DataError> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let path = file.path.as_path();
        let documents: Box<dyn Documents> = match file.format {
            Format::Text => {
                let reader = open_stream(path, &tally)?;
                Box::new(text::TextDocuments::new(reader, path, options, whole))
            }
            Format::JsonLines => {
                let reader = open_stream(path, &tally)?;
                Box::new(json_lines::JsonDocuments::new(reader, path, &options.text_field))
            }
            #[cfg(feature = "arrow")]
            Format::Parquet => {
                let open =
                    || parquet_rows::ParquetDocuments::open(path, &options.text_field, &tally);
                Box::new(guarded::Guarded::open(path, "Parquet", open)?)
            }
            #[cfg(feature = "arrow")]
            Format::Arrow => {
                let open = || arrow_rows::ArrowDocuments::open(path, &options.text_field, &tally);
                Box::new(guarded::Guarded::open(path, "Arrow", open)?)
            }
            #[cfg(not(feature = "arrow"))]
            Format::Parquet | Format::Arrow => {
                let format = file.format.name();
                return Err(DataError::FeatureMissing { path: path.to_owned(), format });
            }
        };
        Ok(Self { path: file.path.clone(), documents, tally, skip_bad: options.skip_bad })
    }

    /// The next part of a document; bad records are added to `bad`, or are errors.
    pub(crate) fn next(
        &mut self,
        text: &mut String,
        bad: &mut BadRecords,
    ) -> Result<Next, DataError> {
        let next = self.documents.next(text)?;
        if let Next::Bad { place, reason } = &next {
            let error = DataError::BadRecord {
                path: self.path.clone(),
                place: place.clone(),
                reason: reason.clone(),
            };
            if !self.skip_bad {
                return Err(error);
            }
            bad.add(&error);
        }
        Ok(next)
    }

    /// Bytes of the file that were read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Size and hash of the file, once [`Next::End`] was reached.
    pub(crate) fn identity(&self) -> FileIdentity {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        FileIdentity { bytes: tally.bytes, blake3: tally.hasher.finalize().to_hex().to_string() }
    }
}

/// A file's bytes, decompressed if they begin as compressed ones do.
fn open_stream(
    path: &Path,
    tally: &Arc<Mutex<Tally>>,
) -> Result<Box<dyn BufRead + Send>, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let file = TalliedFile { file, tally: Arc::clone(tally) };
    decompress::open(BufReader::with_capacity(1 << 16, file)).map_err(DataError::io("read", path))
}

/// The beginning of a file's text, for estimates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSample {
    /// Text of the first documents, up to a whole part.
    pub text: String,
    /// Bytes of text in the whole file, as far as the beginning tells; exact where that is all of it.
    pub text_bytes: u64,
}

/// Reads documents of a file until they have `limit` bytes of text; bad records are passed by where that is allowed.
///
/// # Errors
///
/// If the file cannot be read, or a bad record is met.
pub fn sample(
    file: &InputFile,
    options: &ReadOptions,
    limit: usize,
) -> Result<TextSample, DataError> {
    let metadata = std::fs::metadata(&file.path).map_err(DataError::io("open", &file.path))?;
    let mut reader = FileReader::open(file, options, false)?;
    let (mut sample, mut text) = (String::new(), String::new());
    let mut bad = BadRecords::default();
    while sample.len() < limit {
        match reader.next(&mut text, &mut bad)? {
            Next::Part | Next::Last => sample.push_str(&text),
            Next::Bad { .. } => {}
            Next::End => {
                let text_bytes = sample.len() as u64;
                return Ok(TextSample { text: sample, text_bytes });
            }
        }
    }
    let share = sample.len() as f64 / reader.bytes().max(1) as f64;
    Ok(TextSample { text: sample, text_bytes: (metadata.len() as f64 * share) as u64 })
}

/// Rows of a Parquet file, from its footer alone.
#[cfg(feature = "arrow")]
pub(crate) fn parquet_rows(path: &Path) -> Result<u64, DataError> {
    guarded::guard(path, "Parquet", || parquet_rows::row_count(path))
}

/// Every document of `inputs`, one after the other and whole, for what does not need to stream; `visit` gets the file
/// and the text, and ends the reading by returning false.
///
/// # Errors
///
/// If an input cannot be read, has a bad record and none may be skipped, or has a document of more than
/// [`MAX_RECORD_BYTES`].
pub fn for_each_document(
    inputs: &[PathBuf],
    options: &ReadOptions,
    mut visit: impl FnMut(&InputFile, &str) -> bool,
) -> Result<BadRecords, DataError> {
    let mut bad = BadRecords::default();
    let mut text = String::new();
    for file in list_inputs(inputs, &options.extensions)? {
        let mut reader = FileReader::open(&file, options, true)?;
        loop {
            match reader.next(&mut text, &mut bad)? {
                Next::Last if !visit(&file, &text) => return Ok(bad),
                Next::Last | Next::Part | Next::Bad { .. } => {}
                Next::End => break,
            }
        }
    }
    Ok(bad)
}
