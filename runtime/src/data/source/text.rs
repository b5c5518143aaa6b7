//! Plain text as documents.
//!
//! Owns separators, UTF-8 across reads, and where a long document is cut into parts. Line ends stay as they are; a byte
//! order mark at the beginning is an encoding's mark and no text, and is left out.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::{Documents, MAX_RECORD_BYTES, Next, PART_BYTES, ReadOptions};
use crate::data::error::DataError;

/// Lines are read in stretches of at most this many bytes.
const STRETCH_BYTES: u64 = 1 << 16;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The documents of a text file.
pub(super) struct TextDocuments {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    separator: Option<String>,
    whole: bool,
    /// Bytes read so far.
    offset: u64,
    /// The stretch that is looked at.
    stretch: Vec<u8>,
    /// Text of the document that was not handed over. Ends within no character.
    pending: String,
    /// Up to where the pending text was searched for a place to cut.
    searched: usize,
    /// Bytes of a character whose rest was not read.
    broken: Vec<u8>,
    /// Whether the next stretch begins a line.
    at_line_start: bool,
    /// Whether the rest of the document is to be left out, because a part of it was bad.
    skipping: bool,
    /// Whether a part of the document was handed over.
    begun: bool,
    ended: bool,
}

impl TextDocuments {
    pub(super) fn new(
        reader: Box<dyn BufRead + Send>,
        path: &Path,
        options: &ReadOptions,
        whole: bool,
    ) -> Self {
        Self {
            reader,
            path: path.to_owned(),
            separator: options.separator.clone(),
            whole,
            offset: 0,
            stretch: Vec::new(),
            pending: String::new(),
            searched: 0,
            broken: Vec::new(),
            at_line_start: true,
            skipping: false,
            begun: false,
            ended: false,
        }
    }

    /// Reads up to the end of a line, but not more than [`STRETCH_BYTES`]; false at the end of the file.
    fn read_stretch(&mut self) -> Result<bool, DataError> {
        self.stretch.clear();
        let count = (&mut self.reader)
            .take(STRETCH_BYTES)
            .read_until(b'\n', &mut self.stretch)
            .map_err(DataError::io("read", &self.path))?;
        if self.offset == 0 && self.stretch.starts_with(BYTE_ORDER_MARK) {
            self.stretch.drain(..BYTE_ORDER_MARK.len());
        }
        self.offset += count as u64;
        Ok(count > 0)
    }

    /// Whether the stretch is a whole line and separates documents.
    fn separates(&mut self) -> Result<bool, DataError> {
        let Some(separator) = &self.separator else { return Ok(false) };
        if !self.at_line_start || !self.broken.is_empty() {
            return Ok(false);
        }
        let line = self.stretch.strip_suffix(b"\n").unwrap_or(&self.stretch);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line != separator.as_bytes() {
            return Ok(false);
        }
        if self.stretch.ends_with(b"\n") {
            return Ok(true);
        }
        // A line as long as a stretch goes on in the next one, unless the file ends here.
        let ends = self.reader.fill_buf().map_err(DataError::io("read", &self.path))?.is_empty();
        Ok(ends)
    }

    /// Appends the stretch to the pending text; `Some` says what is bad about it.
    fn append(&mut self) -> Option<Next> {
        let start = self.offset - (self.broken.len() + self.stretch.len()) as u64;
        let bytes = if self.broken.is_empty() {
            std::mem::take(&mut self.stretch)
        } else {
            let mut bytes = std::mem::take(&mut self.broken);
            bytes.extend_from_slice(&self.stretch);
            bytes
        };
        let bad = match std::str::from_utf8(&bytes) {
            Ok(text) => {
                self.pending.push_str(text);
                None
            }
            Err(error) => {
                let (good, rest) = bytes.split_at(error.valid_up_to());
                // The bytes up to there are valid by the error's own word.
                self.pending.push_str(std::str::from_utf8(good).unwrap_or_default());
                if error.error_len().is_none() {
                    self.broken = rest.to_vec();
                    None
                } else {
                    Some(not_utf8(start + good.len() as u64, start, &bytes))
                }
            }
        };
        self.stretch = bytes;
        bad
    }

    /// Gives up the document that is being read.
    fn abandon(&mut self) {
        self.skipping = true;
        self.searched = 0;
        self.pending.clear();
        self.broken.clear();
    }

    fn hand_over(&mut self, text: &mut String) {
        text.clear();
        std::mem::swap(text, &mut self.pending);
        self.searched = 0;
    }

    /// Where the pending text may be cut: before a line feed that follows a visible ASCII character. Every place is
    /// looked at once.
    fn cut(&mut self) -> Option<usize> {
        let bytes = self.pending.as_bytes();
        let from = std::mem::replace(&mut self.searched, bytes.len()).max(1);
        (from..bytes.len()).rev().find(|&at| bytes[at] == b'\n' && bytes[at - 1].is_ascii_graphic())
    }
}

impl Documents for TextDocuments {
    fn next(&mut self, text: &mut String) -> Result<Next, DataError> {
        if self.ended {
            return Ok(Next::End);
        }
        loop {
            if !self.read_stretch()? {
                self.ended = true;
                if self.skipping {
                    return Ok(Next::End);
                }
                if !self.broken.is_empty() {
                    let place = format!(", byte {}", self.offset - self.broken.len() as u64);
                    let reason = "the text ends within a character".to_owned();
                    return Ok(Next::Bad { place, reason });
                }
                if self.pending.is_empty() && !self.begun {
                    return Ok(Next::End);
                }
                self.hand_over(text);
                return Ok(Next::Last);
            }
            let separates = self.separates()?;
            self.at_line_start = self.stretch.ends_with(b"\n");
            if separates {
                let begun = std::mem::take(&mut self.begun);
                // Nothing stands between two separators that follow each other.
                if std::mem::take(&mut self.skipping) || (self.pending.is_empty() && !begun) {
                    continue;
                }
                self.hand_over(text);
                return Ok(Next::Last);
            }
            if self.skipping {
                continue;
            }
            if let Some(bad) = self.append() {
                self.abandon();
                return Ok(bad);
            }
            if self.pending.len() >= PART_BYTES
                && !self.whole
                && let Some(cut) = self.cut()
            {
                let rest = self.pending.split_off(cut);
                self.hand_over(text);
                self.pending = rest;
                self.begun = true;
                return Ok(Next::Part);
            }
            if self.pending.len() > MAX_RECORD_BYTES {
                let reason = if self.whole {
                    "a document of more than 256 MiB, and this tokenizer needs documents as a whole; \
                     divide it with a separator line"
                } else {
                    "more than 256 MiB without the end of a line"
                };
                let bad = Next::Bad {
                    place: format!(", byte {}", self.offset),
                    reason: reason.to_owned(),
                };
                self.abandon();
                return Ok(bad);
            }
        }
    }
}

/// Says where bytes are no UTF-8, and what they may be. `start` is the place of the first of `bytes` in the file.
fn not_utf8(offset: u64, start: u64, bytes: &[u8]) -> Next {
    let wide = start == 0 && (bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff"));
    let reason = match wide {
        true => "it is UTF-16, not UTF-8: convert the file with iconv -f UTF-16 -t UTF-8",
        false => {
            "it is not UTF-8 text: this byte starts no character; convert the file, for example with iconv"
        }
    };
    Next::Bad { place: format!(", byte {offset}"), reason: reason.to_owned() }
}
