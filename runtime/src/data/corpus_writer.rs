//! Documents over shards, and shards into folders.
//!
//! Owns that a corpus replaces an older one only when all of it is written, on both sides of a split. Must not know
//! where documents come from.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::corpus::list_shards;
use crate::data::error::DataError;
use crate::data::files::{PartialFile, remove_abandoned};
use crate::data::prepare::{PrepareOptions, rules};
use crate::data::shard::{EXTENSION, FinishedShard, Manifest, ShardWriter, Vocabulary};
use crate::data::tokenizer::Tokenizer;

/// Ids of a document that does not end go to the disk in portions of this many.
const SPILL_IDS: usize = 1 << 22;

/// The two sides of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is trained on.
    Training,
    /// What is held out.
    Validation,
}

impl Side {
    /// The folder inside the output that its shards go to where there is a split.
    pub fn folder(self) -> &'static str {
        match self {
            Side::Training => "train",
            Side::Validation => "validation",
        }
    }
}

/// What was written for one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SideSummary {
    /// Where the shards lie.
    pub directory: PathBuf,
    /// The shards in their order.
    pub shards: Vec<PathBuf>,
    /// Documents.
    pub documents: u64,
    /// Tokens, with the token behind each document.
    pub tokens: u64,
    /// Bytes of the documents' text.
    pub text_bytes: u64,
}

/// Distributes documents over the shards of one or two sides.
pub(crate) struct CorpusWriter<'a> {
    tokenizer: &'a Tokenizer,
    vocabulary: Vocabulary,
    shard_tokens: u64,
    training: SideWriter,
    validation: Option<SideWriter>,
    /// Shards that the new ones replace.
    replaced: Vec<PathBuf>,
    /// Ids of the document that has not ended.
    ids: Vec<u32>,
    spilled: Option<Spill>,
}

/// Ids that wait on the disk.
struct Spill {
    file: PartialFile,
    count: u64,
}

struct SideWriter {
    finished: Vec<FinishedShard>,
    current: Option<ShardWriter>,
    summary: SideSummary,
}

impl SideWriter {
    fn create(directory: PathBuf) -> Result<Self, DataError> {
        fs::create_dir_all(&directory).map_err(DataError::io("create", &directory))?;
        remove_abandoned(&directory);
        let summary = SideSummary { directory, ..SideSummary::default() };
        Ok(Self { finished: Vec::new(), current: None, summary })
    }
}

impl<'a> CorpusWriter<'a> {
    pub(crate) fn create(
        output: &Path,
        tokenizer: &'a Tokenizer,
        options: &PrepareOptions,
    ) -> Result<Self, DataError> {
        let split = options.validation_fraction > 0.0;
        let mut folders = vec![output.to_owned()];
        if split {
            folders
                .extend([Side::Training, Side::Validation].map(|side| output.join(side.folder())));
        }
        let mut replaced = Vec::new();
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            let shards = list_shards(folder)?;
            if !shards.is_empty() && !options.overwrite {
                return Err(DataError::OutputExists { path: folder.clone() });
            }
            replaced.extend(shards);
        }
        let training = SideWriter::create(folders[usize::from(split)].clone())?;
        let validation = match split {
            true => Some(SideWriter::create(folders[2].clone())?),
            false => None,
        };
        Ok(Self {
            tokenizer,
            vocabulary: Vocabulary {
                hash: tokenizer.hash(),
                end_of_text: tokenizer.end_of_text(),
                byte_lengths: tokenizer.token_byte_lengths(),
            },
            shard_tokens: options.shard_tokens,
            training,
            validation,
            replaced,
            ids: Vec::new(),
            spilled: None,
        })
    }

    /// Tokens of the documents that are complete, on both sides.
    pub(crate) fn tokens(&self) -> u64 {
        let validation = self.validation.as_ref().map_or(0, |side| side.summary.tokens);
        self.training.summary.tokens + validation
    }

    /// Adds ids to the document that is being written.
    pub(crate) fn extend_document(&mut self, ids: &[u32]) -> Result<(), DataError> {
        self.ids.extend_from_slice(ids);
        if self.ids.len() < SPILL_IDS {
            return Ok(());
        }
        let spill = match &mut self.spilled {
            Some(spill) => spill,
            None => {
                let file = PartialFile::create(&self.training.summary.directory, "document")?;
                self.spilled.insert(Spill { file, count: 0 })
            }
        };
        let bytes: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let written = spill.file.file().write_all(&bytes);
        written.map_err(DataError::io("write", spill.file.path()))?;
        spill.count += self.ids.len() as u64;
        self.ids.clear();
        Ok(())
    }

    /// Forgets the document that is being written.
    pub(crate) fn drop_document(&mut self) {
        self.ids.clear();
        self.spilled = None;
    }

    /// Ends the document; false if it has no ids and leaves nothing.
    pub(crate) fn end_document(
        &mut self,
        side: Side,
        text_bytes: u64,
        source: usize,
    ) -> Result<bool, DataError> {
        let spill = self.spilled.take();
        if self.ids.is_empty() && spill.is_none() {
            return Ok(false);
        }
        self.ids.extend(self.tokenizer.end_of_text());
        let writer = match (side, &mut self.validation) {
            (Side::Validation, Some(validation)) => validation,
            _ => &mut self.training,
        };
        let mut shard = match writer.current.take() {
            Some(shard) => shard,
            None => {
                let name = format!("shard-{}", writer.finished.len());
                ShardWriter::create(&writer.summary.directory, &name, &self.vocabulary)?
            }
        };
        let mut count = self.ids.len() as u64;
        if let Some(mut spill) = spill {
            count += spill.count;
            copy_ids(&mut spill.file, &mut shard)?;
        }
        shard.push_ids(&self.ids)?;
        shard.end_document(count, text_bytes, source);
        self.ids.clear();
        writer.summary.documents += 1;
        writer.summary.tokens += count;
        writer.summary.text_bytes += text_bytes;
        if shard.token_count() >= self.shard_tokens {
            writer.finished.push(shard.finish(&self.vocabulary)?);
        } else {
            writer.current = Some(shard);
        }
        Ok(true)
    }

    /// Removes the shards that are replaced and names the new ones. `manifest` has all files of the corpus.
    pub(crate) fn finish(
        self,
        inputs: &[PathBuf],
        options: &PrepareOptions,
        manifest: Manifest,
    ) -> Result<(SideSummary, Option<SideSummary>), DataError> {
        let Self { vocabulary, training, validation, replaced, .. } = self;
        let (trained, held_out) =
            (training.summary.documents, validation.as_ref().map(|side| side.summary.documents));
        let fraction = options.validation_fraction;
        match (trained, held_out) {
            (0, None | Some(0)) => {
                let extensions = crate::data::source::list::endings(&options.reading.extensions);
                return Err(DataError::NoText { inputs: inputs.to_vec(), extensions });
            }
            (0, Some(documents)) => {
                return Err(DataError::EmptySide { side: "training", fraction, documents });
            }
            (documents, Some(0)) => {
                return Err(DataError::EmptySide { side: "validation", fraction, documents });
            }
            _ => {}
        }
        let mut sides = Vec::new();
        for (side, mut writer) in [(Side::Training, Some(training)), (Side::Validation, validation)]
            .into_iter()
            .filter_map(|(side, writer)| Some((side, writer?)))
        {
            if let Some(shard) = writer.current.take() {
                writer.finished.push(shard.finish(&vocabulary)?);
            }
            sides.push((rules(options, side), writer));
        }
        // All new shards are complete. Stopped between here and the end, a directory holds a corpus that is incomplete
        // and says so, and never one that is mixed from old and new parts.
        for path in replaced {
            fs::remove_file(&path).map_err(DataError::io("remove", &path))?;
        }
        let mut summaries = Vec::new();
        for (rules, mut writer) in sides {
            let manifest = Manifest { rules, ..manifest.clone() };
            let count = writer.finished.len() as u32;
            for (shard, part) in writer.finished.into_iter().zip(1..) {
                let name = format!("shard-{part:05}-of-{count:05}.{EXTENSION}");
                let path = writer.summary.directory.join(name);
                shard.commit(&path, (part, count), &manifest)?;
                writer.summary.shards.push(path);
            }
            summaries.push(writer.summary);
        }
        let validation = (summaries.len() > 1).then(|| summaries.pop()).flatten();
        Ok((summaries.pop().unwrap_or_default(), validation))
    }
}

/// Copies the ids that waited on the disk.
fn copy_ids(spill: &mut PartialFile, shard: &mut ShardWriter) -> Result<(), DataError> {
    let path = spill.path().to_owned();
    spill.file().seek(SeekFrom::Start(0)).map_err(DataError::io("read", &path))?;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut portion = spill.file().take(4 * SPILL_IDS as u64);
        if portion.read_to_end(&mut bytes).map_err(DataError::io("read", &path))? == 0 {
            return Ok(());
        }
        let (ids, _) = bytes.as_chunks::<4>();
        let ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        shard.push_ids(&ids)?;
    }
}
