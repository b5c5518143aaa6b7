//! Token files of other trainers, read where they lie.
//!
//! Owns their headers: the 1024-byte headers of llm.c (two magic numbers) and llmq, and arrays without any. Such files
//! say nothing of the tokenizer, of documents or of a hash; what can be known is found out by reading them once, when
//! they are opened. Must not know our own shards ([`crate::data::shard`]).

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use colac_plan::recipe::TokenDType;
use memmap2::Mmap;

use crate::data::error::DataError;

/// Bytes of the headers that there are.
const HEADER_BYTES: usize = 1024;
/// llm.c's magic numbers and versions: ids of two bytes, ids of four bytes, and its files of questions.
const LLM_C_TWO: [i32; 2] = [20_240_520, 1];
const LLM_C_FOUR: [i32; 2] = [20_240_801, 7];
const LLM_C_QUESTIONS: i32 = 20_240_522;
/// How files of llmq begin.
const LLMQ: &[u8; 8] = b"BIN.TOK\n";
const LLMQ_VERSION: u32 = 2;

/// How the names of token files without a header end.
pub const EXTENSION: &str = "bin";

/// What a token file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFileKind {
    /// llm.c's: the end-of-text token stands before every document.
    LlmC,
    /// llmq's.
    Llmq,
    /// Ids and nothing else.
    Bare,
}

impl TokenFileKind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            TokenFileKind::LlmC => "token file of llm.c",
            TokenFileKind::Llmq => "token file of llmq",
            TokenFileKind::Bare => "token file without a header",
        }
    }
}

/// What a header says, without a look at the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFileHeader {
    /// Which format it is.
    pub kind: TokenFileKind,
    /// Number of ids.
    pub token_count: u64,
    /// Size of the vocabulary, where the header has it.
    pub vocab_size: Option<u32>,
    width: usize,
    tokens: Range<usize>,
}

impl TokenFileHeader {
    /// Reads the header of a file; `dtype` is the format of the ids where there is none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, has a header that is not known or contradicts its size, or none and no `dtype`.
    pub fn read(path: &Path, dtype: Option<TokenDType>) -> Result<Self, DataError> {
        let mut beginning = Vec::new();
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let file_bytes = file.metadata().map_err(DataError::io("open", path))?.len();
        file.take(HEADER_BYTES as u64)
            .read_to_end(&mut beginning)
            .map_err(DataError::io("read", path))?;
        let bytes = usize::try_from(file_bytes).unwrap_or(usize::MAX);
        Self::parse(&beginning, bytes, dtype).map_err(|reason| wrong(path, reason))
    }

    fn parse(
        beginning: &[u8],
        file_bytes: usize,
        dtype: Option<TokenDType>,
    ) -> Result<Self, String> {
        let number = |at: usize| {
            let bytes = beginning.get(4 * at..4 * at + 4)?;
            Some(i32::from_le_bytes(bytes.try_into().ok()?))
        };
        let (kind, width, count, vocab_size) = if beginning.starts_with(LLMQ) {
            let field = |at: usize| number(at).map(|value| value as u32);
            let cut = "it ends within its header";
            let (version, width) = (field(2).ok_or(cut)?, field(3).ok_or(cut)?);
            let (count, vocab) = (field(4).ok_or(cut)?, field(5).ok_or(cut)?);
            if version != LLMQ_VERSION {
                return Err(format!("llmq's version {version} is not known, only {LLMQ_VERSION}"));
            }
            if field(6).ok_or(cut)? != 0 {
                return Err("it has masks, which are for fine-tuning".to_owned());
            }
            let vocab = Some(vocab).filter(|&vocab| vocab > 0);
            (TokenFileKind::Llmq, width as usize, u64::from(count), vocab)
        } else {
            match (number(0), number(1), number(2)) {
                (Some(magic), Some(version), Some(count))
                    if [LLM_C_TWO, LLM_C_FOUR].iter().any(|known| known[0] == magic) =>
                {
                    let width = if magic == LLM_C_TWO[0] { 2 } else { 4 };
                    let known = [LLM_C_TWO, LLM_C_FOUR].contains(&[magic, version]);
                    if !known {
                        return Err(format!("llm.c's version {version} of this file is not known"));
                    }
                    let count = u64::try_from(count).map_err(|_| "its token count is negative")?;
                    (TokenFileKind::LlmC, width, count, None)
                }
                (Some(LLM_C_QUESTIONS), _, _) => {
                    return Err("it holds llm.c's evaluation questions, not text".to_owned());
                }
                _ => return Self::bare(file_bytes, dtype),
            }
        };
        if !matches!(width, 2 | 4) {
            return Err(format!("ids of {width} bytes do not exist"));
        }
        let expected = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(width)?.checked_add(HEADER_BYTES));
        if expected != Some(file_bytes) || beginning.len() < HEADER_BYTES {
            return Err(format!(
                "its header speaks of {count} ids of {width} bytes, which do not make up its {file_bytes} bytes"
            ));
        }
        if count == 0 {
            return Err("it holds no ids".to_owned());
        }
        Ok(Self { kind, token_count: count, vocab_size, width, tokens: HEADER_BYTES..file_bytes })
    }

    fn bare(file_bytes: usize, dtype: Option<TokenDType>) -> Result<Self, String> {
        let width = match dtype {
            Some(TokenDType::U16) => 2,
            Some(TokenDType::U32) => 4,
            None => {
                return Err(
                    "it begins with no header that is known; if it holds ids and nothing else, \
                            say which: data.token_dtype = \"u16\" or \"u32\" (--token-dtype)"
                        .to_owned(),
                );
            }
        };
        if file_bytes == 0 {
            return Err("it is empty".to_owned());
        }
        if !file_bytes.is_multiple_of(width) {
            return Err(format!("its {file_bytes} bytes are no whole number of {width}-byte ids"));
        }
        let token_count = (file_bytes / width) as u64;
        let kind = TokenFileKind::Bare;
        Ok(Self { kind, token_count, vocab_size: None, width, tokens: 0..file_bytes })
    }
}

/// Whether a file begins like a token file of another trainer.
pub(crate) fn begins_as_token_file(beginning: &[u8]) -> bool {
    let magic = beginning.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
    let known = [LLM_C_TWO[0], LLM_C_FOUR[0], LLM_C_QUESTIONS];
    beginning.starts_with(LLMQ) || magic.is_some_and(|magic| known.contains(&magic))
}

/// A token file of another trainer, mapped into memory; every id was looked at.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    map: Mmap,
    header: TokenFileHeader,
    max_id: u32,
    /// First token of each document: 0 and what follows the end of a text, where that is known.
    documents: Vec<u64>,
}

impl TokenFile {
    /// Maps a file and reads it once. With the id that ends a text, its documents are found.
    ///
    /// # Errors
    ///
    /// As for [`TokenFileHeader::read`], or if an id is impossible.
    pub fn open(
        path: &Path,
        dtype: Option<TokenDType>,
        end_of_text: Option<u32>,
    ) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        if !file.metadata().map_err(DataError::io("open", path))?.is_file() {
            return Err(wrong(path, "it is not a regular file".to_owned()));
        }
        // SAFETY: The map is only read. A foreign process that changes or cuts the file while it is mapped breaks the
        // promise every memory-mapped file depends on; ids are looked up by their value only after a check of range.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))?;
        let beginning = &map[..map.len().min(HEADER_BYTES)];
        let header = TokenFileHeader::parse(beginning, map.len(), dtype)
            .map_err(|reason| wrong(path, reason))?;
        let mut found = Self { path: path.to_owned(), map, header, max_id: 0, documents: vec![0] };
        found.scan(end_of_text);
        if found.max_id > i32::MAX as u32 {
            let (max_id, width) = (found.max_id, found.header.width);
            return Err(wrong(
                path,
                format!("id {max_id} is impossible; are its ids not of {width} bytes?"),
            ));
        }
        Ok(found)
    }

    fn scan(&mut self, end_of_text: Option<u32>) {
        let count = self.header.token_count;
        // llm.c puts the token before a document, others behind it.
        let behind = u64::from(self.header.kind != TokenFileKind::LlmC);
        let mut documents = vec![0];
        let mut max_id = 0;
        for at in 0..count {
            let id = self.id(at as usize);
            max_id = max_id.max(id);
            let start = at + behind;
            if Some(id) == end_of_text && start > 0 && start < count {
                documents.push(start);
            }
        }
        (self.max_id, self.documents) = (max_id, documents);
    }

    fn id(&self, index: usize) -> u32 {
        let bytes = &self.map[self.header.tokens.clone()];
        // Maps begin at a page and headers are a multiple of four bytes, so the casts cannot fail.
        match self.header.width {
            2 => u16::from_le(bytemuck::cast_slice::<u8, u16>(bytes)[index]).into(),
            _ => u32::from_le(bytemuck::cast_slice::<u8, u32>(bytes)[index]),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its header says.
    pub fn header(&self) -> &TokenFileHeader {
        &self.header
    }

    /// Number of tokens; at least one.
    pub fn token_count(&self) -> u64 {
        self.header.token_count
    }

    /// Number of documents; one, if it was opened without the id that ends them.
    pub fn document_count(&self) -> u64 {
        self.documents.len() as u64
    }

    /// The largest id that occurs.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }

    /// The first token of a document.
    ///
    /// # Panics
    ///
    /// If there is no such document.
    pub fn document_start(&self, document: u64) -> u64 {
        self.documents[document as usize]
    }

    /// Copies the ids from token `start` on until `ids` is full.
    ///
    /// # Panics
    ///
    /// If the file ends before that.
    pub fn copy_ids(&self, start: u64, ids: &mut [i32]) {
        let bytes = &self.map[self.header.tokens.clone()];
        let range = start as usize..start as usize + ids.len();
        match self.header.width {
            2 => {
                let stored: &[u16] = bytemuck::cast_slice(bytes);
                for (id, stored) in ids.iter_mut().zip(&stored[range]) {
                    *id = u16::from_le(*stored).into();
                }
            }
            _ => {
                let stored: &[u32] = bytemuck::cast_slice(bytes);
                for (id, stored) in ids.iter_mut().zip(&stored[range]) {
                    // Checked when the file was opened.
                    *id = u32::from_le(*stored) as i32;
                }
            }
        }
    }
}

fn wrong(path: &Path, reason: String) -> DataError {
    DataError::NotTokenFile { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn llm_c(magic: i32, version: i32, count: i32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        for (at, number) in [magic, version, count].into_iter().enumerate() {
            bytes[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    fn two(ids: &[u16]) -> Vec<u8> {
        ids.iter().flat_map(|id| id.to_le_bytes()).collect()
    }

    fn four(ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|id| id.to_le_bytes()).collect()
    }

    fn llmq(
        version: u32,
        width: u32,
        count: u32,
        vocab: u32,
        masks: u32,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut bytes = LLMQ.to_vec();
        for number in [version, width, count, vocab, masks] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn open(
        bytes: &[u8],
        dtype: Option<TokenDType>,
        end: Option<u32>,
    ) -> Result<(TokenFile, Vec<i32>), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.bin");
        fs::write(&path, bytes).unwrap();
        let file = TokenFile::open(&path, dtype, end).map_err(|error| error.to_string())?;
        let mut ids = vec![0; file.token_count() as usize];
        file.copy_ids(0, &mut ids);
        Ok((file, ids))
    }

    fn documents(file: &TokenFile) -> Vec<u64> {
        (0..file.document_count()).map(|document| file.document_start(document)).collect()
    }

    #[test]
    fn every_format_is_read_in_place() {
        let ids = [9, 1, 2, 9, 65_535, 9];
        let expected = [9, 1, 2, 9, 65_535, 9];
        let files: [(Vec<u8>, _, TokenFileKind, &[u64]); 5] = [
            (llm_c(20_240_520, 1, 6, &two(&ids)), None, TokenFileKind::LlmC, &[0, 3, 5]),
            (
                llm_c(20_240_801, 7, 6, &four(&ids.map(u32::from))),
                None,
                TokenFileKind::LlmC,
                &[0, 3, 5],
            ),
            (
                llmq(2, 4, 6, 70_000, 0, &four(&ids.map(u32::from))),
                None,
                TokenFileKind::Llmq,
                &[0, 1, 4],
            ),
            (two(&ids), Some(TokenDType::U16), TokenFileKind::Bare, &[0, 1, 4]),
            (four(&ids.map(u32::from)), Some(TokenDType::U32), TokenFileKind::Bare, &[0, 1, 4]),
        ];
        for (bytes, dtype, kind, starts) in files {
            let (file, ids) = open(&bytes, dtype, Some(9)).unwrap();
            assert_eq!((ids.as_slice(), file.max_id()), (&expected[..], 65_535));
            assert_eq!(file.header().kind, kind);
            assert_eq!(documents(&file), starts, "{kind:?}");
            assert_eq!(open(&bytes, dtype, None).unwrap().0.document_count(), 1);
            let header_wins = open(&bytes, Some(TokenDType::U16), None).unwrap();
            assert_eq!(header_wins.0.header().kind, kind);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let bytes = two(&[1, 2]);
        for (bytes, dtype, reason) in [
            (bytes.clone(), None, "data.token_dtype"),
            (vec![1, 2, 3], Some(TokenDType::U16), "no whole number of 2-byte ids"),
            (Vec::new(), Some(TokenDType::U16), "it is empty"),
            (llm_c(20_240_520, 2, 2, &bytes), None, "version 2"),
            (llm_c(20_240_520, 1, 3, &bytes), None, "3 ids of 2 bytes"),
            (llm_c(20_240_520, 1, -3, &bytes), None, "negative"),
            (llm_c(20_240_520, 1, 0, &[]), None, "no ids"),
            (llm_c(20_240_522, 1, 2, &bytes), None, "questions"),
            (llmq(1, 4, 1, 9, 0, &four(&[1])), None, "llmq's version 1"),
            (llmq(2, 3, 1, 9, 0, &[1, 2, 3]), None, "ids of 3 bytes"),
            (llmq(2, 4, 1, 9, 1, &four(&[1])), None, "masks"),
            (four(&[u32::MAX]), Some(TokenDType::U32), "id 4294967295 is impossible"),
        ] {
            let error = open(&bytes, dtype, None).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange(
            bytes in prop::collection::vec(any::<u8>(), 0..1100),
            cut in 0_usize..1040,
            dtype in prop::sample::select(vec![None, Some(TokenDType::U16), Some(TokenDType::U32)]),
        ) {
            let _ = open(&bytes, dtype, Some(7));
            let whole = llm_c(20_240_801, 7, 4, &four(&[1, 2, 3, 4]));
            prop_assert!(open(&whole[..cut.min(whole.len() - 1)], None, None).is_err());
        }
    }
}
