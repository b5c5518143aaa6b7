//! Writes shards.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::format::{HEADER_BYTES, Header, LARGEST_TWO_BYTE_VOCABULARY, NO_END_OF_TEXT};
use super::{Source, Vocabulary};
use crate::data::error::DataError;
use crate::data::files::PartialFile;

/// Tokens are handed to the operating system in portions of about this many bytes.
pub(super) const WRITE_BYTES: usize = 1 << 20;

/// Writes one shard, document by document, into a file without a name.
#[derive(Debug)]
pub(crate) struct ShardWriter {
    partial: PartialFile,
    hasher: blake3::Hasher,
    unwritten: Vec<u8>,
    token_bytes: u32,
    max_id: u32,
    token_count: u64,
    documents: Vec<u64>,
    text_bytes: u64,
    sources: Vec<Source>,
}

impl ShardWriter {
    /// Begins a shard in an existing directory; `number` tells the shards that are being written there apart.
    pub(crate) fn create(
        directory: &Path,
        number: usize,
        vocabulary: &Vocabulary,
    ) -> Result<Self, DataError> {
        let mut partial = PartialFile::create(directory, &format!("shard-{number}"))?;
        let written = partial.file().write_all(&[0; HEADER_BYTES]);
        written.map_err(DataError::io("write", partial.path()))?;
        let two_bytes = vocabulary.byte_lengths.len() <= LARGEST_TWO_BYTE_VOCABULARY;
        Ok(Self {
            partial,
            hasher: blake3::Hasher::new(),
            unwritten: Vec::with_capacity(WRITE_BYTES + 8),
            token_bytes: if two_bytes { 2 } else { 4 },
            max_id: 0,
            token_count: 0,
            documents: Vec::new(),
            text_bytes: 0,
            sources: Vec::new(),
        })
    }

    /// Tokens written so far.
    pub(crate) fn token_count(&self) -> u64 {
        self.token_count
    }

    /// Adds a document: its ids, which must not be empty, the size of its text, and the file it is from.
    pub(crate) fn push(
        &mut self,
        ids: &[u32],
        text_bytes: u64,
        source: &Source,
    ) -> Result<(), DataError> {
        debug_assert!(!ids.is_empty(), "an empty document has no place in the index");
        self.documents.push(self.token_count);
        self.token_count += ids.len() as u64;
        self.text_bytes += text_bytes;
        match self.sources.last_mut() {
            Some(last) if last.name == source.name && last.blake3 == source.blake3 => {
                last.documents += 1
            }
            _ => self.sources.push(Source { documents: 1, ..source.clone() }),
        }
        for &id in ids {
            self.max_id = self.max_id.max(id);
            self.unwritten.extend_from_slice(&id.to_le_bytes()[..self.token_bytes as usize]);
            if self.unwritten.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends the payload. What is left is the header, for which the number of shards must be known.
    pub(crate) fn finish(mut self, vocabulary: &Vocabulary) -> Result<FinishedShard, DataError> {
        let manifest =
            serde_json::to_vec(&self.sources).expect("strings and numbers are always JSON");
        self.align(self.token_count * u64::from(self.token_bytes));
        for start in &self.documents {
            self.unwritten.extend_from_slice(&start.to_le_bytes());
        }
        for length in &vocabulary.byte_lengths {
            self.unwritten.extend_from_slice(&length.to_le_bytes());
        }
        self.align(2 * vocabulary.byte_lengths.len() as u64);
        self.unwritten.extend_from_slice(&manifest);
        self.flush()?;
        let header = Header {
            token_bytes: self.token_bytes,
            vocab_size: vocabulary.byte_lengths.len() as u32,
            max_id: self.max_id,
            end_of_text: vocabulary.end_of_text.unwrap_or(NO_END_OF_TEXT),
            part: 0,
            part_count: 0,
            token_count: self.token_count,
            document_count: self.documents.len() as u64,
            text_bytes: self.text_bytes,
            manifest_bytes: manifest.len() as u64,
            vocabulary_hash: vocabulary.hash.0,
            payload_hash: *self.hasher.finalize().as_bytes(),
        };
        Ok(FinishedShard { partial: self.partial, header })
    }

    /// Fills up with zeros behind a table of `size` bytes that began at a multiple of eight.
    fn align(&mut self, size: u64) {
        let padding = size.next_multiple_of(8) - size;
        self.unwritten.resize(self.unwritten.len() + padding as usize, 0);
    }

    fn flush(&mut self) -> Result<(), DataError> {
        self.hasher.update(&self.unwritten);
        let written = self.partial.file().write_all(&self.unwritten);
        written.map_err(DataError::io("write", self.partial.path()))?;
        self.unwritten.clear();
        Ok(())
    }
}

/// A shard that lacks only its header and its name.
#[derive(Debug)]
pub(crate) struct FinishedShard {
    partial: PartialFile,
    header: Header,
}

impl FinishedShard {
    /// Writes the header, brings the file to the disk and names it. `part` counts from 1 to `part_count`.
    pub(crate) fn commit(
        mut self,
        path: &Path,
        part: u32,
        part_count: u32,
    ) -> Result<(), DataError> {
        self.header.part = part;
        self.header.part_count = part_count;
        let bytes = self.header.to_bytes();
        let file = self.partial.file();
        let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&bytes));
        written.map_err(DataError::io("write", path))?;
        self.partial.commit(path)
    }
}
