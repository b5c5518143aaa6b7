//! Writes shards.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::format::{HEADER_BYTES, Header, LARGEST_TWO_BYTE_VOCABULARY, NO_END_OF_TEXT};
use super::{Manifest, Vocabulary};
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
    /// Documents from each of the corpus's files, by the file's number, in the order of the documents.
    sources: Vec<(usize, u64)>,
}

impl ShardWriter {
    /// Begins a shard in an existing directory; `name` tells the shards that are being written there apart.
    pub(crate) fn create(
        directory: &Path,
        name: &str,
        vocabulary: &Vocabulary,
    ) -> Result<Self, DataError> {
        let mut partial = PartialFile::create(directory, name)?;
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

    /// Tokens of the documents that are complete.
    pub(crate) fn token_count(&self) -> u64 {
        self.token_count
    }

    /// Adds a document: its ids, which must not be empty, the size of its text, and the number of the file it is from.
    #[cfg(test)]
    pub(crate) fn push(
        &mut self,
        ids: &[u32],
        text_bytes: u64,
        source: usize,
    ) -> Result<(), DataError> {
        self.push_ids(ids)?;
        self.end_document(ids.len() as u64, text_bytes, source);
        Ok(())
    }

    /// Adds ids of a document that is not complete.
    pub(crate) fn push_ids(&mut self, ids: &[u32]) -> Result<(), DataError> {
        for &id in ids {
            self.max_id = self.max_id.max(id);
            self.unwritten.extend_from_slice(&id.to_le_bytes()[..self.token_bytes as usize]);
            if self.unwritten.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends the document whose `token_count` ids were added.
    pub(crate) fn end_document(&mut self, token_count: u64, text_bytes: u64, source: usize) {
        debug_assert!(token_count > 0, "an empty document has no place in the index");
        self.documents.push(self.token_count);
        self.token_count += token_count;
        self.text_bytes += text_bytes;
        match self.sources.last_mut() {
            Some((last, documents)) if *last == source => *documents += 1,
            _ => self.sources.push((source, 1)),
        }
    }

    /// Ends the tables. What is left are the manifest, for which the files must have been read to their ends, and the
    /// header, for which the number of shards must be known.
    pub(crate) fn finish(mut self, vocabulary: &Vocabulary) -> Result<FinishedShard, DataError> {
        self.align(self.token_count * u64::from(self.token_bytes));
        for at in 0..self.documents.len() {
            self.unwritten.extend_from_slice(&self.documents[at].to_le_bytes());
            if self.unwritten.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        for length in &vocabulary.byte_lengths {
            self.unwritten.extend_from_slice(&length.to_le_bytes());
        }
        self.align(2 * vocabulary.byte_lengths.len() as u64);
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
            manifest_bytes: 0,
            vocabulary_hash: vocabulary.hash.0,
            payload_hash: [0; 32],
        };
        let (partial, hasher, sources) = (self.partial, self.hasher, self.sources);
        Ok(FinishedShard { partial, hasher, header, sources })
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

/// A shard that lacks only its manifest, its header and its name.
#[derive(Debug)]
pub(crate) struct FinishedShard {
    partial: PartialFile,
    hasher: blake3::Hasher,
    header: Header,
    sources: Vec<(usize, u64)>,
}

impl FinishedShard {
    /// Writes manifest and header, brings the file to the disk and names it. `part` counts from 1 to `part_count`;
    /// the sources of `of_corpus` are all files of the corpus by their numbers, of which the shard's own are written.
    pub(crate) fn commit(
        mut self,
        path: &Path,
        (part, part_count): (u32, u32),
        of_corpus: &Manifest,
    ) -> Result<(), DataError> {
        let sources = self.sources.iter().map(|&(source, documents)| {
            let source = of_corpus.sources[source].clone();
            super::Source { documents, ..source }
        });
        let manifest = Manifest { sources: sources.collect(), ..of_corpus.clone() };
        let manifest = serde_json::to_vec(&manifest).expect("strings and numbers are always JSON");
        self.hasher.update(&manifest);
        self.header.part = part;
        self.header.part_count = part_count;
        self.header.manifest_bytes = manifest.len() as u64;
        self.header.payload_hash = *self.hasher.finalize().as_bytes();
        let bytes = self.header.to_bytes();
        let file = self.partial.file();
        let written = file
            .seek(SeekFrom::End(0))
            .and_then(|_| file.write_all(&manifest))
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(&bytes));
        written.map_err(DataError::io("write", path))?;
        self.partial.commit(path)
    }
}
