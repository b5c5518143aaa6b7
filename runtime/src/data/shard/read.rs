//! Reads shards.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::Manifest;
use super::format::{HEADER_BYTES, Header, Layout, NO_END_OF_TEXT, check_sizes};
use crate::data::error::{DataError, one_line};
use crate::data::tokenizer::VocabularyHash;

/// The ids of a shard as they lie in the file.
#[derive(Clone, Copy, Debug)]
enum Ids<'a> {
    Two(&'a [u16]),
    Four(&'a [u32]),
}

/// A shard that is mapped into memory and was checked from the first byte to the last.
#[derive(Debug)]
pub struct TokenShard {
    path: PathBuf,
    map: Mmap,
    pub(super) header: Header,
    layout: Layout,
    manifest: Manifest,
}

/// What a shard says of itself, without a look at its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardHeader {
    /// Number of tokens.
    pub token_count: u64,
    /// Number of documents.
    pub document_count: u64,
    /// Bytes of the text that was tokenized.
    pub text_bytes: u64,
    /// The largest id that occurs.
    pub max_id: u32,
    /// Number of entries of the tokenizer's vocabulary.
    pub vocab_size: u32,
    /// The id behind the last token of every document, if the tokenizer has one.
    pub end_of_text: Option<u32>,
    /// Which tokenizer made the ids.
    pub vocabulary_hash: VocabularyHash,
    /// The shard's number among the parts of its corpus, from 1, and how many there are.
    pub part: (u32, u32),
    /// How it was made. Its hash is only checked by [`TokenShard::open`].
    pub manifest: Manifest,
}

impl ShardHeader {
    /// Reads header and manifest of a shard and checks that the file has the size they imply.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no shard of this version, or its header does not fit it.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let mut file = File::open(path).map_err(DataError::io("open", path))?;
        let file_bytes = file.metadata().map_err(DataError::io("open", path))?.len();
        let mut beginning = Vec::new();
        (&mut file)
            .take(HEADER_BYTES as u64)
            .read_to_end(&mut beginning)
            .map_err(DataError::io("read", path))?;
        let header = Header::read(&beginning, path)?;
        let layout = check_sizes(&header, usize::try_from(file_bytes).unwrap_or(usize::MAX), path)?;
        let mut manifest = Vec::new();
        file.seek(SeekFrom::Start(layout.manifest.start as u64))
            .and_then(|_| file.read_to_end(&mut manifest))
            .map_err(DataError::io("read", path))?;
        Ok(Self {
            token_count: header.token_count,
            document_count: header.document_count,
            text_bytes: header.text_bytes,
            max_id: header.max_id,
            vocab_size: header.vocab_size,
            end_of_text: Some(header.end_of_text).filter(|&id| id != NO_END_OF_TEXT),
            vocabulary_hash: VocabularyHash(header.vocabulary_hash),
            part: (header.part, header.part_count),
            manifest: read_manifest(&manifest, path)?,
        })
    }
}

fn read_manifest(bytes: &[u8], path: &Path) -> Result<Manifest, DataError> {
    serde_json::from_slice(bytes).map_err(|error| {
        DataError::damaged(path, format!("its manifest is not readable: {}", one_line(error)))
    })
}

impl TokenShard {
    /// Maps a shard and checks all of it: hashes, sizes, every id, the document index. This reads the file once.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no shard, is newer than this program or damaged. No content makes this function
    /// panic.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let metadata = file.metadata().map_err(DataError::io("open", path))?;
        if !metadata.is_file() {
            let reason = "it is not a regular file".to_owned();
            return Err(DataError::NotShard { path: path.to_owned(), reason });
        }
        // SAFETY: The map is only read. Shards are replaced by renaming, never changed in place; a foreign process that
        // writes to or cuts the file while it is mapped breaks the promise every memory-mapped file depends on.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))?;
        let header = Header::read(&map, path)?;
        let layout = check_sizes(&header, map.len(), path)?;
        if blake3::hash(&map[HEADER_BYTES..]) != header.payload_hash {
            return Err(DataError::damaged(path, "its content was changed"));
        }
        let manifest = read_manifest(&map[layout.manifest.clone()], path)?;
        let shard = Self { path: path.to_owned(), map, header, layout, manifest };
        shard.check_content()?;
        Ok(shard)
    }

    /// A hash only proves that nothing was changed after writing; these are the promises that later indexing relies on.
    fn check_content(&self) -> Result<(), DataError> {
        let max_id = match self.ids() {
            Ids::Two(ids) => ids.iter().map(|&id| u32::from(u16::from_le(id))).max(),
            Ids::Four(ids) => ids.iter().map(|&id| u32::from_le(id)).max(),
        };
        if max_id != Some(self.header.max_id) || self.header.max_id >= self.header.vocab_size {
            return Err(DataError::damaged(
                &self.path,
                "its largest id is not what its header says",
            ));
        }
        if self.header.end_of_text != NO_END_OF_TEXT
            && self.header.end_of_text >= self.header.vocab_size
        {
            return Err(DataError::damaged(
                &self.path,
                "its end-of-text id is outside of its vocabulary",
            ));
        }
        if self.header.part == 0 || self.header.part > self.header.part_count {
            return Err(DataError::damaged(
                &self.path,
                "its number among the parts of its corpus is impossible",
            ));
        }
        let mut earlier = None;
        for document in 0..self.header.document_count {
            let start = self.document_start(document);
            if start >= self.header.token_count
                || earlier.map_or(start != 0, |earlier| start <= earlier)
            {
                return Err(DataError::damaged(&self.path, "its document index is out of order"));
            }
            earlier = Some(start);
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of tokens; at least one.
    pub fn token_count(&self) -> u64 {
        self.header.token_count
    }

    /// Number of documents; at least one.
    pub fn document_count(&self) -> u64 {
        self.header.document_count
    }

    /// Bytes of the text that was tokenized.
    pub fn text_bytes(&self) -> u64 {
        self.header.text_bytes
    }

    /// The largest id that occurs.
    pub fn max_id(&self) -> u32 {
        self.header.max_id
    }

    /// Number of entries of the tokenizer's vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.header.vocab_size as usize
    }

    /// The id behind the last token of every document, if the tokenizer has one.
    pub fn end_of_text(&self) -> Option<u32> {
        Some(self.header.end_of_text).filter(|&id| id != NO_END_OF_TEXT)
    }

    /// Which tokenizer made the ids.
    pub fn vocabulary_hash(&self) -> VocabularyHash {
        VocabularyHash(self.header.vocabulary_hash)
    }

    /// BLAKE3 hash of everything behind the header.
    pub fn payload_hash(&self) -> [u8; 32] {
        self.header.payload_hash
    }

    /// The shard's number among the parts of its corpus, from 1, and how many there are.
    pub fn part(&self) -> (u32, u32) {
        (self.header.part, self.header.part_count)
    }

    /// How it was made, and of what.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of text that a token of the given id stands for, as the tokenizer declares it.
    ///
    /// # Panics
    ///
    /// If the id is not below [`TokenShard::vocab_size`].
    pub fn byte_length(&self, id: u32) -> u16 {
        let lengths: &[u16] = bytemuck::cast_slice(&self.map[self.layout.byte_lengths.clone()]);
        u16::from_le(lengths[id as usize])
    }

    /// The first token of a document.
    ///
    /// # Panics
    ///
    /// If there is no such document.
    pub fn document_start(&self, document: u64) -> u64 {
        let starts: &[u64] = bytemuck::cast_slice(&self.map[self.layout.documents.clone()]);
        u64::from_le(starts[document as usize])
    }

    /// Copies the ids from token `start` on until `ids` is full.
    ///
    /// # Panics
    ///
    /// If the shard ends before that.
    pub fn copy_ids(&self, start: u64, ids: &mut [i32]) {
        let range = start as usize..start as usize + ids.len();
        match self.ids() {
            Ids::Two(stored) => {
                for (id, stored) in ids.iter_mut().zip(&stored[range]) {
                    *id = u16::from_le(*stored).into();
                }
            }
            Ids::Four(stored) => {
                for (id, stored) in ids.iter_mut().zip(&stored[range]) {
                    // Checked when the shard was opened: ids are below a vocabulary size that fits.
                    *id = u32::from_le(*stored) as i32;
                }
            }
        }
    }

    fn ids(&self) -> Ids<'_> {
        // Maps begin at a page and tables at multiples of eight bytes, so the casts cannot fail.
        let bytes = &self.map[self.layout.tokens.clone()];
        if self.header.token_bytes == 2 {
            Ids::Two(bytemuck::cast_slice(bytes))
        } else {
            Ids::Four(bytemuck::cast_slice(bytes))
        }
    }
}
