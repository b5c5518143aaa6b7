//! Text files in, token shards out.
//!
//! Owns what a document is, and that a corpus replaces an older one only when all of it is written.
//! Must not know how tokens are used, and prints nothing: progress goes to the caller.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::data::corpus::list_shards;
use crate::data::error::DataError;
use crate::data::files::{list_text_files, read_text};
use crate::data::shard::{EXTENSION, FinishedShard, ShardWriter, Source, Vocabulary};
use crate::data::tokenizer::Tokenizer;

/// What a document is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DocumentRule {
    /// Every file is one document.
    #[default]
    File,
    /// Lines that consist of exactly this text separate the documents of a file and belong to none of them.
    /// With the empty text, blank lines separate them, so that every paragraph is a document.
    SeparatorLine(String),
}

/// How a corpus is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// What a document is.
    pub documents: DocumentRule,
    /// A shard ends behind the document with which it has this many tokens.
    pub shard_tokens: u64,
    /// Threads for tokenizing; the ids do not depend on them.
    pub threads: NonZeroUsize,
    /// Whether shards that lie in the output directory are replaced.
    pub overwrite: bool,
}

impl Default for PrepareOptions {
    /// Files are documents, shards have 2^28 tokens (half a gigabyte with two-byte ids), one thread, nothing is
    /// overwritten.
    fn default() -> Self {
        Self {
            documents: DocumentRule::default(),
            shard_tokens: 1 << 28,
            threads: NonZeroUsize::MIN,
            overwrite: false,
        }
    }
}

/// How far a preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareProgress {
    /// Bytes of the files that are done.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Tokens so far.
    pub tokens: u64,
}

/// What a preparation made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareSummary {
    /// The shards in their order.
    pub shards: Vec<PathBuf>,
    /// Files that were read.
    pub files: u64,
    /// Documents with text in them.
    pub documents: u64,
    /// Tokens, with the token behind each document.
    pub tokens: u64,
    /// Bytes of the documents' text.
    pub text_bytes: u64,
}

/// Tokenizes text files, and directories of them (see [`list_text_files`]), into token shards in the directory
/// `output`.
///
/// Behind the ids of each document stands the tokenizer's end-of-text token, if it has one. Documents without anything
/// but white space are left out. The shards are called `shard-00001-of-0000N.tokens` and appear when all of them are
/// complete; equal texts, tokenizer and options give equal bytes. A file is held in memory while it is tokenized.
///
/// # Errors
///
/// If a text cannot be read or tokenized, there is no text at all, `output` cannot be written to, or it holds shards
/// already and they are not to be overwritten.
pub fn prepare(
    inputs: &[PathBuf],
    tokenizer: &Tokenizer,
    output: &Path,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(PrepareProgress),
) -> Result<PrepareSummary, DataError> {
    let files = list_text_files(inputs)?;
    let sizes = files
        .iter()
        .map(|file| {
            fs::metadata(&file.path)
                .map(|metadata| metadata.len())
                .map_err(DataError::io("open", &file.path))
        })
        .collect::<Result<Vec<u64>, DataError>>()?;
    let bytes_total = sizes.iter().sum();
    fs::create_dir_all(output).map_err(DataError::io("create", output))?;
    let replaced = list_shards(output)?;
    if !replaced.is_empty() && !options.overwrite {
        return Err(DataError::OutputExists { path: output.to_owned() });
    }

    let mut writer = CorpusWriter {
        directory: output,
        vocabulary: Vocabulary {
            hash: tokenizer.hash(),
            end_of_text: tokenizer.end_of_text(),
            byte_lengths: tokenizer.token_byte_lengths(),
        },
        shard_tokens: options.shard_tokens,
        finished: Vec::new(),
        current: None,
        summary: PrepareSummary {
            shards: Vec::new(),
            files: files.len() as u64,
            documents: 0,
            tokens: 0,
            text_bytes: 0,
        },
    };
    let mut bytes_done = 0;
    progress(PrepareProgress { bytes_done, bytes_total, tokens: 0 });
    for (file, size) in files.iter().zip(sizes) {
        let text = read_text(&file.path)?;
        let source = Source {
            name: file.name.clone(),
            bytes: text.len() as u64,
            blake3: blake3::hash(text.as_bytes()).to_hex().to_string(),
            documents: 0,
        };
        for document in documents(&text, &options.documents) {
            let mut ids = tokenizer
                .encode_with_threads(document, options.threads)
                .map_err(|error| in_file(error, &file.path))?;
            ids.extend(tokenizer.end_of_text());
            writer.push(&ids, document.len() as u64, &source)?;
        }
        bytes_done += size;
        progress(PrepareProgress { bytes_done, bytes_total, tokens: writer.summary.tokens });
    }
    if writer.summary.documents == 0 {
        return Err(DataError::NoText { inputs: inputs.to_vec() });
    }
    writer.finish(&replaced)
}

/// Distributes documents over shards.
struct CorpusWriter<'a> {
    directory: &'a Path,
    vocabulary: Vocabulary,
    shard_tokens: u64,
    finished: Vec<FinishedShard>,
    current: Option<ShardWriter>,
    summary: PrepareSummary,
}

impl CorpusWriter<'_> {
    fn push(&mut self, ids: &[u32], text_bytes: u64, source: &Source) -> Result<(), DataError> {
        if ids.is_empty() {
            // A tokenizer may have no token for any of the characters.
            return Ok(());
        }
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => ShardWriter::create(self.directory, self.finished.len(), &self.vocabulary)?,
        };
        shard.push(ids, text_bytes, source)?;
        self.summary.documents += 1;
        self.summary.tokens += ids.len() as u64;
        self.summary.text_bytes += text_bytes;
        if shard.token_count() >= self.shard_tokens {
            self.finished.push(shard.finish(&self.vocabulary)?);
        } else {
            self.current = Some(shard);
        }
        Ok(())
    }

    /// Removes the shards that are replaced and names the new ones.
    fn finish(mut self, replaced: &[PathBuf]) -> Result<PrepareSummary, DataError> {
        if let Some(shard) = self.current.take() {
            self.finished.push(shard.finish(&self.vocabulary)?);
        }
        let part_count = self.finished.len() as u32;
        // All new shards are complete. Stopped between here and the end, the directory holds a corpus that is
        // incomplete and says so, and never one that is mixed from old and new parts.
        for path in replaced {
            fs::remove_file(path).map_err(DataError::io("remove", path))?;
        }
        for (shard, part) in self.finished.into_iter().zip(1..) {
            let path =
                self.directory.join(format!("shard-{part:05}-of-{part_count:05}.{EXTENSION}"));
            shard.commit(&path, part, part_count)?;
            self.summary.shards.push(path);
        }
        Ok(self.summary)
    }
}

/// The documents of a text that contain more than white space.
fn documents<'a>(text: &'a str, rule: &DocumentRule) -> Vec<&'a str> {
    let mut documents = Vec::new();
    let mut start = 0;
    if let DocumentRule::SeparatorLine(separator) = rule {
        let mut end = 0;
        for line in text.split_inclusive('\n') {
            let content = line.strip_suffix('\n').unwrap_or(line);
            if content.strip_suffix('\r').unwrap_or(content) == separator {
                documents.push(&text[start..end]);
                start = end + line.len();
            }
            end += line.len();
        }
    }
    documents.push(&text[start..]);
    documents.retain(|document| !document.trim().is_empty());
    documents
}

/// Says in which text file tokenizing failed.
fn in_file(error: DataError, path: &Path) -> DataError {
    match error {
        DataError::Encode { reason, .. } => DataError::Encode { path: path.to_owned(), reason },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::data::corpus::TokenCorpus;

    fn tokenizer() -> Tokenizer {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus/tokenizer-4096.json");
        Tokenizer::from_file(&path).unwrap()
    }

    fn read_all(corpus: &TokenCorpus) -> Vec<u32> {
        let mut ids = vec![0; corpus.token_count() as usize];
        corpus.copy_ids(0, &mut ids);
        ids.into_iter().map(|id| id as u32).collect()
    }

    #[test]
    fn a_corpus_holds_its_texts() {
        let directory = tempfile::tempdir().unwrap();
        let (texts, output) = (directory.path().join("texts"), directory.path().join("output"));
        fs::create_dir(&texts).unwrap();
        for (name, text) in
            [("b.txt", "The second text.\n"), ("a.txt", "The first text.\n"), ("c.txt", " \n")]
        {
            fs::write(texts.join(name), text).unwrap();
        }
        let tokenizer = tokenizer();
        let mut steps = Vec::new();
        let summary = prepare(
            from_ref(&texts),
            &tokenizer,
            &output,
            &PrepareOptions::default(),
            &mut |step| steps.push(step),
        )
        .unwrap();
        assert_eq!(summary.shards, [output.join("shard-00001-of-00001.tokens")]);
        assert_eq!((summary.files, summary.documents, summary.text_bytes), (3, 2, 33));
        assert_eq!(
            steps.iter().map(|step| (step.bytes_done, step.bytes_total)).collect::<Vec<_>>(),
            [(0, 35), (16, 35), (33, 35), (35, 35)]
        );

        let corpus = TokenCorpus::open(&[output]).unwrap();
        assert_eq!(
            (corpus.token_count(), corpus.document_count(), corpus.text_bytes()),
            (summary.tokens, 2, 33)
        );
        let ids = read_all(&corpus);
        let mut expected = tokenizer.encode("The first text.\n").unwrap();
        expected.push(0);
        assert_eq!(corpus.document(0), 0..expected.len() as u64);
        assert_eq!(corpus.document(1), expected.len() as u64..ids.len() as u64);
        expected.extend(tokenizer.encode("The second text.\n").unwrap());
        expected.push(0);
        assert_eq!(ids, expected);
        let names: Vec<&str> =
            corpus.shards()[0].sources().iter().map(|source| source.name.as_str()).collect();
        assert_eq!(names, ["a.txt", "b.txt"]);
        assert_eq!(
            corpus.shards()[0].sources()[0].blake3,
            blake3::hash(b"The first text.\n").to_hex().as_str()
        );
        corpus.check_tokenizer(tokenizer.hash()).unwrap();
    }

    #[test]
    fn bytes_are_the_same_for_any_number_of_threads() {
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus/validation");
        let directory = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer();
        let files: Vec<Vec<u8>> = [1, 3]
            .into_iter()
            .map(|threads| {
                let output = directory.path().join(threads.to_string());
                let options = PrepareOptions {
                    threads: NonZeroUsize::new(threads).unwrap(),
                    ..PrepareOptions::default()
                };
                let summary =
                    prepare(from_ref(&text), &tokenizer, &output, &options, &mut |_| ()).unwrap();
                fs::read(&summary.shards[0]).unwrap()
            })
            .collect();
        assert!(files[0] == files[1]);
    }

    #[test]
    fn separator_lines_cut_documents() {
        let cut = |text, line: &str| documents(text, &DocumentRule::SeparatorLine(line.to_owned()));
        assert_eq!(
            cut("a\nb\n---\nc\r\n---\r\n---\nd ---\n", "---"),
            ["a\nb\n", "c\r\n", "d ---\n"]
        );
        assert_eq!(cut("\none\n\n\n two\nthree\n\n", ""), ["one\n", " two\nthree\n"]);
        assert_eq!(cut("---", "---"), [""; 0]);
        assert_eq!(documents("a\n\nb", &DocumentRule::File), ["a\n\nb"]);
    }

    #[test]
    fn shards_end_behind_documents() {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("text.txt");
        fs::write(&text, "a\n\nb\n\nc d e f\n\ng\n").unwrap();
        let output = directory.path().join("output");
        let mut options = PrepareOptions {
            documents: DocumentRule::SeparatorLine(String::new()),
            shard_tokens: 5,
            ..PrepareOptions::default()
        };
        let tokenizer = tokenizer();
        let summary = prepare(from_ref(&text), &tokenizer, &output, &options, &mut |_| ()).unwrap();
        let corpus = TokenCorpus::open(from_ref(&output)).unwrap();
        // Every letter, space and line end is a token here, and each document has one more at its end.
        let counts: Vec<u64> = corpus.shards().iter().map(|shard| shard.token_count()).collect();
        assert_eq!((counts, summary.tokens), (vec![6, 6, 3], 15));
        let lengths: Vec<u64> = (0..4)
            .map(|document| corpus.document(document))
            .map(|range| range.end - range.start)
            .collect();
        assert_eq!(lengths, [3, 3, 6, 3]);
        let whole = read_all(&corpus);

        // The same text in one shard is the same stream.
        assert!(matches!(
            prepare(from_ref(&text), &tokenizer, &output, &options, &mut |_| ()),
            Err(DataError::OutputExists { .. })
        ));
        options.shard_tokens = 1000;
        options.overwrite = true;
        prepare(&[text], &tokenizer, &output, &options, &mut |_| ()).unwrap();
        let corpus = TokenCorpus::open(&[output]).unwrap();
        assert_eq!(corpus.shards().len(), 1);
        assert_eq!(read_all(&corpus), whole);
    }

    #[test]
    fn failures_leave_the_old_corpus() {
        let directory = tempfile::tempdir().unwrap();
        let (good, bad, output) = (
            directory.path().join("good.txt"),
            directory.path().join("bad.txt"),
            directory.path().join("output"),
        );
        fs::write(&good, "good\n").unwrap();
        fs::write(&bad, b"b\xffd\n").unwrap();
        let (tokenizer, options) =
            (tokenizer(), PrepareOptions { overwrite: true, ..PrepareOptions::default() });
        let old = prepare(from_ref(&good), &tokenizer, &output, &options, &mut |_| ()).unwrap();
        let bytes = fs::read(&old.shards[0]).unwrap();
        let error = prepare(&[good, bad], &tokenizer, &output, &options, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("bad.txt is not UTF-8 text: byte 1"), "{error}");
        assert_eq!(fs::read(&old.shards[0]).unwrap(), bytes);
        assert_eq!(fs::read_dir(&output).unwrap().count(), 1);

        fs::write(directory.path().join("empty.txt"), "\n\n").unwrap();
        let empty = [directory.path().join("empty.txt")];
        assert!(matches!(
            prepare(&empty, &tokenizer, &output, &options, &mut |_| ()),
            Err(DataError::NoText { .. })
        ));
    }
}
