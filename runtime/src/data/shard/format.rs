//! The header of a shard and the places of what follows it.

use std::ops::Range;
use std::path::Path;

use crate::data::error::DataError;
use crate::data::tokenizer::MAX_VOCAB_SIZE;

/// Version of the format that is written, and the only one that is read.
pub const FORMAT_VERSION: u32 = 2;

/// How every shard begins.
pub(crate) const MAGIC: [u8; 8] = *b"COLACTOK";
pub(super) const HEADER_BYTES: usize = 168;
/// The header's own hash stands at its end and covers what is before it.
const HASHED_HEADER_BYTES: usize = 136;
pub(super) const NO_END_OF_TEXT: u32 = u32::MAX;
/// Ids of a vocabulary up to this size are stored in two bytes.
pub(super) const LARGEST_TWO_BYTE_VOCABULARY: usize = 1 << 16;

/// The header's fields, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) token_bytes: u32,
    pub(super) vocab_size: u32,
    pub(super) max_id: u32,
    pub(super) end_of_text: u32,
    pub(super) part: u32,
    pub(super) part_count: u32,
    pub(super) token_count: u64,
    pub(super) document_count: u64,
    pub(super) text_bytes: u64,
    pub(super) manifest_bytes: u64,
    pub(super) vocabulary_hash: [u8; 32],
    pub(super) payload_hash: [u8; 32],
}

impl Header {
    pub(super) fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        let reserved = 0;
        for number in [
            FORMAT_VERSION,
            self.token_bytes,
            self.vocab_size,
            self.max_id,
            self.end_of_text,
            self.part,
            self.part_count,
            reserved,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.token_count, self.document_count, self.text_bytes, self.manifest_bytes]
        {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.vocabulary_hash);
        bytes.extend_from_slice(&self.payload_hash);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes.try_into().expect("the fields are as long as the header")
    }

    /// Reads a header and checks magic, version and hash; `bytes` is the whole file, or at least its beginning.
    pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        let beginning = &bytes[..bytes.len().min(MAGIC.len())];
        if beginning != MAGIC {
            let reason = if bytes.is_empty() {
                "it is empty".to_owned()
            } else {
                format!("it begins with \"{}\"", beginning.escape_ascii())
            };
            return Err(DataError::NotShard { path: path.to_owned(), reason });
        }
        let mut fields = Fields { rest: &bytes[MAGIC.len()..] };
        let cut = || {
            DataError::damaged(
                path,
                format!("it ends after {} bytes, within its header", bytes.len()),
            )
        };
        let version = fields.u32().ok_or_else(cut)?;
        if version > FORMAT_VERSION {
            return Err(DataError::NewerShard {
                path: path.to_owned(),
                found: version,
                supported: FORMAT_VERSION,
            });
        }
        if version < FORMAT_VERSION {
            return Err(DataError::OlderShard { path: path.to_owned(), found: version });
        }
        let Some(hashed) = bytes.get(..HASHED_HEADER_BYTES) else { return Err(cut()) };
        let mut read = || {
            let header = Self {
                token_bytes: fields.u32()?,
                vocab_size: fields.u32()?,
                max_id: fields.u32()?,
                end_of_text: fields.u32()?,
                part: fields.u32()?,
                part_count: fields.u32()?,
                token_count: {
                    let _reserved = fields.u32()?;
                    fields.u64()?
                },
                document_count: fields.u64()?,
                text_bytes: fields.u64()?,
                manifest_bytes: fields.u64()?,
                vocabulary_hash: fields.hash()?,
                payload_hash: fields.hash()?,
            };
            Some((header, fields.hash()?))
        };
        let (header, header_hash) = read().ok_or_else(cut)?;
        if blake3::hash(hashed) != header_hash {
            return Err(DataError::damaged(path, "its header was changed"));
        }
        Ok(header)
    }
}

/// Takes little-endian fields from the front of a slice.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn hash(&mut self) -> Option<[u8; 32]> {
        self.take()
    }
}

/// Where the parts of the payload lie in the file.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) tokens: Range<usize>,
    pub(super) documents: Range<usize>,
    pub(super) byte_lengths: Range<usize>,
    pub(super) manifest: Range<usize>,
}

impl Layout {
    /// `None` if the sizes in the header exceed what a file can have.
    pub(super) fn new(header: &Header) -> Option<Self> {
        let after = |start: usize, count: u64, size: u64| {
            let end = start.checked_add(usize::try_from(count.checked_mul(size)?).ok()?)?;
            Some((start..end, end.checked_next_multiple_of(8)?))
        };
        let (tokens, next) = after(HEADER_BYTES, header.token_count, header.token_bytes.into())?;
        let (documents, next) = after(next, header.document_count, 8)?;
        let (byte_lengths, next) = after(next, header.vocab_size.into(), 2)?;
        let (manifest, _) = after(next, header.manifest_bytes, 1)?;
        Some(Self { tokens, documents, byte_lengths, manifest })
    }
}

/// Checks that the file has exactly the size its header implies.
pub(super) fn check_sizes(
    header: &Header,
    file_bytes: usize,
    path: &Path,
) -> Result<Layout, DataError> {
    if !matches!(header.token_bytes, 2 | 4) {
        return Err(DataError::damaged(
            path,
            format!("tokens of {} bytes do not exist", header.token_bytes),
        ));
    }
    if header.vocab_size == 0 || header.vocab_size as usize > MAX_VOCAB_SIZE {
        return Err(DataError::damaged(
            path,
            format!("a vocabulary of {} entries is impossible", header.vocab_size),
        ));
    }
    if header.token_count == 0 || header.document_count == 0 {
        return Err(DataError::damaged(path, "it holds no tokens"));
    }
    match Layout::new(header) {
        Some(layout) if layout.manifest.end == file_bytes => Ok(layout),
        Some(layout) => {
            let expected = layout.manifest.end;
            Err(DataError::damaged(
                path,
                format!("it has {file_bytes} bytes where its header says {expected}"),
            ))
        }
        None => Err(DataError::damaged(path, "the sizes in its header are impossible")),
    }
}
