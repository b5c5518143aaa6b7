//! From the paths that a plan or the command line names to rows of tokens.
//!
//! Owns finding the data, saying what is missing before anything is allocated, and tokenizing text that was given where
//! tokens are needed. Must not know how text is tokenized or rows are made: that is the runtime's.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use colac_plan::Plan;
use colac_runtime::data::files::{list_text_files, read_text};
use colac_runtime::data::{
    DataError, EvaluationBatches, PrepareOptions, TokenCorpus, Tokenizer, TrainingBatches,
    holds_shards, prepare,
};
use colac_runtime::train::checkpoint::TOKENIZER_FILE;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::progress::PrepareBar;
use crate::shared::target::{paths_setting, text_setting};

/// Options that replace what the spec says about validation data.
#[derive(Args, Clone, Debug)]
pub(crate) struct ValidationOptions {
    /// Text files, folders of .txt files, or token shards to evaluate on, instead of the spec's; may be repeated
    #[arg(long, value_name = "PATH")]
    validation: Vec<String>,

    /// The tokenizer.json to read text with, instead of the spec's
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<String>,
}

impl ValidationOptions {
    /// As settings of the spec.
    pub(crate) fn settings(&self) -> Vec<String> {
        let mut settings = Vec::new();
        if !self.validation.is_empty() {
            settings.push(paths_setting("data.validation", &self.validation));
        }
        settings.extend(self.tokenizer.as_ref().map(|path| text_setting("data.tokenizer", path)));
        settings
    }
}

/// One list of paths of the recipe, and where tokens of it may lie.
struct Part<'a> {
    /// What it is, for messages.
    name: &'static str,
    /// The option that replaces it.
    option: &'static str,
    paths: Vec<PathBuf>,
    tokens: Tokens<'a>,
}

/// Where tokens made of text go.
#[derive(Clone, Copy)]
enum Tokens<'a> {
    /// Into this folder of a run, to stay.
    Keep { folder: &'a Path, resumed: bool },
    /// Into a folder for this command alone, unless this folder of a run has them already.
    Scratch { kept: Option<&'a Path> },
}

impl<'a> Tokens<'a> {
    /// The folder of a run that may have them.
    fn kept(self) -> Option<&'a Path> {
        match self {
            Tokens::Keep { folder, .. } => Some(folder),
            Tokens::Scratch { kept } => kept,
        }
    }

    /// Whether a run can go on with them though the text is gone.
    fn survive_text(self) -> bool {
        let usable = !matches!(self, Tokens::Keep { resumed: false, .. });
        usable && self.kept().is_some_and(|folder| matches!(holds_shards(folder), Ok(true)))
    }
}

impl Part<'_> {
    fn missing(&self) -> Vec<&Path> {
        if self.tokens.survive_text() {
            return Vec::new();
        }
        self.paths.iter().map(PathBuf::as_path).filter(|path| !path.exists()).collect()
    }

    /// Opens the tokens, making them first where the paths are text.
    fn open(
        &self,
        tokenizer: Option<&Tokenizer>,
        threads: NonZeroUsize,
    ) -> Result<Opened, Failure> {
        if self.paths.iter().any(|path| !path.exists()) {
            // `missing` has found tokens that were kept.
            let kept = self.tokens.kept().expect("only kept tokens outlive their text").to_owned();
            return Ok(Opened { corpus: Arc::new(TokenCorpus::open(&[kept])?), _scratch: None });
        }
        let shards =
            self.paths.iter().map(|path| holds_shards(path)).collect::<Result<Vec<_>, _>>()?;
        if shards.iter().all(|&shards| shards) {
            return Ok(Opened {
                corpus: Arc::new(TokenCorpus::open(&self.paths)?),
                _scratch: None,
            });
        }
        if shards.iter().any(|&shards| shards) {
            return Err(Failure::line(format!(
                "the {} data mixes token shards and text",
                self.name
            ))
            .or_help(|| {
                "prepare the text first: colac data prepare TEXT --tokenizer FILE --out DIR"
                    .to_owned()
            }));
        }
        let Some(tokenizer) = tokenizer else {
            return Err(Failure::line(format!(
                "the {} data is text, and no tokenizer is named",
                self.name
            ))
            .or_help(|| "pass --tokenizer FILE, or set data.tokenizer in the spec".to_owned()));
        };
        self.tokenized(tokenizer, threads)
    }

    fn tokenized(&self, tokenizer: &Tokenizer, threads: NonZeroUsize) -> Result<Opened, Failure> {
        let kept = self.tokens.kept().filter(|folder| matches!(holds_shards(folder), Ok(true)));
        if let Some(folder) = kept {
            match TokenCorpus::open(&[folder.to_owned()]) {
                Ok(corpus) if is_made_of(&corpus, &self.paths, tokenizer)? => {
                    return Ok(Opened { corpus: Arc::new(corpus), _scratch: None });
                }
                Err(error) if matches!(self.tokens, Tokens::Keep { resumed: true, .. }) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        let (folder, scratch) = match self.tokens {
            Tokens::Keep { folder, resumed } => {
                if resumed && kept.is_some() {
                    return Err(Failure::line(format!(
                        "the {} text or its tokenizer has changed since the run in {} began",
                        self.name,
                        folder.display()
                    ))
                    .or_help(|| {
                        "give the text it began with, or start a run of its own".to_owned()
                    }));
                }
                (folder.to_owned(), None)
            }
            Tokens::Scratch { .. } => {
                let scratch = Scratch::create()?;
                (scratch.0.clone(), Some(scratch))
            }
        };
        let options = PrepareOptions { threads, overwrite: true, ..PrepareOptions::default() };
        let mut bar = PrepareBar::new(format!("tokenizing {} text", self.name));
        let summary =
            prepare(&self.paths, tokenizer, &folder, &options, &mut |progress| bar.show(progress));
        bar.finish(summary.as_ref().ok());
        summary?;
        Ok(Opened { corpus: Arc::new(TokenCorpus::open(&[folder])?), _scratch: scratch })
    }
}

/// Whether a corpus holds exactly these texts, tokenized with this tokenizer.
fn is_made_of(
    corpus: &TokenCorpus,
    paths: &[PathBuf],
    tokenizer: &Tokenizer,
) -> Result<bool, Failure> {
    if corpus.check_tokenizer(tokenizer.hash()).is_err() {
        return Ok(false);
    }
    let shards = corpus.shards().iter();
    let mut recorded: Vec<(String, String)> = shards
        .flat_map(|shard| shard.sources())
        .map(|source| (source.name.clone(), source.blake3.clone()))
        .collect();
    // A text that goes on in the next shard is recorded in both.
    recorded.dedup();
    let mut given = Vec::new();
    for file in list_text_files(paths)? {
        let text = read_text(&file.path)?;
        if !text.trim().is_empty() {
            given.push((file.name, blake3::hash(text.as_bytes()).to_hex().to_string()));
        }
    }
    given.dedup();
    Ok(recorded == given)
}

/// A corpus and the folder that goes with it.
struct Opened {
    corpus: Arc<TokenCorpus>,
    _scratch: Option<Scratch>,
}

/// A folder that lives as long as the command.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Scratch, Failure> {
        let path = std::env::temp_dir().join(format!("colac-{}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|error| Failure::line(format!("cannot create {}: {error}", path.display())))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which clears its temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The data of a training run.
pub(crate) struct TrainingData {
    /// Rows to train on.
    pub(crate) training: TrainingBatches,
    /// Rows to evaluate on.
    pub(crate) validation: Option<EvaluationBatches>,
    /// The tokenizer, where the recipe names one.
    pub(crate) tokenizer: Option<Tokenizer>,
    /// A few words of the validation data, or nothing.
    pub(crate) prompt: String,
}

/// Where a run's data is looked for and kept.
pub(crate) struct TrainingPlace<'a> {
    /// Folder for the tokens of training text.
    pub(crate) training: &'a Path,
    /// Folder for the tokens of validation text.
    pub(crate) validation: &'a Path,
    /// Whether the run goes on, so that it must see the tokens it began with.
    pub(crate) resumed: bool,
}

impl TrainingPlace<'_> {
    fn parts(&self, plan: &Plan) -> [Part<'_>; 2] {
        let data = &plan.recipe.data;
        let keep = |folder| Tokens::Keep { folder, resumed: self.resumed };
        [
            Part {
                name: "training",
                option: "--data",
                paths: paths(&data.train),
                tokens: keep(self.training),
            },
            Part {
                name: "validation",
                option: "--validation",
                paths: paths(&data.validation),
                tokens: keep(self.validation),
            },
        ]
    }

    /// What of a plan's data is not there.
    pub(crate) fn missing(&self, plan: &Plan) -> Vec<MissingData> {
        missing(&self.parts(plan), plan)
    }

    /// Opens the data, tokenizing text first.
    pub(crate) fn open(&self, plan: &Plan, threads: NonZeroUsize) -> Result<TrainingData, Failure> {
        let recipe = &plan.recipe;
        let tokenizer = tokenizer(plan)?;
        let [training, validation] = self.parts(plan);
        if training.paths.is_empty() {
            return Err(Failure::line(format!("{} names no training data", plan.name))
                .or_help(|| "pass --data PATH, or set data.train in the spec".to_owned()));
        }
        let length = recipe.sequence_length as usize;
        let corpus = training.open(tokenizer.as_ref(), threads)?.corpus;
        check(&corpus, plan, tokenizer.as_ref())?;
        let training =
            TrainingBatches::new(Arc::clone(&corpus), recipe.data.mode, length, recipe.seed)
                .map_err(|error| name_as_given(error, &training.paths))?;
        let mut data =
            TrainingData { training, validation: None, tokenizer, prompt: String::new() };
        if !validation.paths.is_empty() {
            let held_out = validation.open(data.tokenizer.as_ref(), threads)?.corpus;
            check(&held_out, plan, data.tokenizer.as_ref())?;
            held_out.check_tokenizer(corpus.vocabulary_hash())?;
            if let Some(tokenizer) = &data.tokenizer {
                data.prompt = excerpt(&held_out, tokenizer)?;
            }
            data.validation = Some(EvaluationBatches::new(held_out, recipe.data.mode, length)?);
        }
        Ok(data)
    }
}

/// Tokens of text lie where the user never put anything: an error about them names the text.
fn name_as_given(error: DataError, paths: &[PathBuf]) -> DataError {
    match error {
        DataError::TooShort { path, tokens, sequence_length } => {
            let path = paths.first().cloned().unwrap_or(path);
            DataError::TooShort { path, tokens, sequence_length }
        }
        other => other,
    }
}

/// A prompt that the model was not trained on: some words from the middle of the corpus's first document, from the
/// beginning of a sentence or line if there is one near.
fn excerpt(corpus: &TokenCorpus, tokenizer: &Tokenizer) -> Result<String, Failure> {
    const TOKENS: u64 = 128;
    const WORDS: usize = 8;
    let document = corpus.document(0);
    let length = document.end - document.start;
    let start = document.start + length.saturating_sub(TOKENS) / 2;
    let mut ids = vec![0; length.min(TOKENS) as usize];
    corpus.copy_ids(start, &mut ids);
    let end_of_text = corpus.end_of_text();
    let ids: Vec<u32> =
        ids.into_iter().map(|id| id as u32).filter(|&id| Some(id) != end_of_text).collect();
    let text = tokenizer.decode(&ids)?;
    let sentence = text.find(['.', '\n']).map_or(text.as_str(), |at| &text[at + 1..]);
    let enough = |text: &str| text.split_whitespace().count() > WORDS;
    let words = if enough(sentence) { sentence } else { text.as_str() };
    let words = words.trim_start_matches(|c: char| !c.is_alphanumeric());
    Ok(words.split_whitespace().take(WORDS).collect::<Vec<_>>().join(" "))
}

/// The data of an evaluation.
pub(crate) struct ValidationData {
    /// Rows to evaluate on.
    pub(crate) rows: EvaluationBatches,
    _scratch: Option<Scratch>,
}

/// Opens the validation data of a plan; tokens in `kept` are used if they are made of the same text.
pub(crate) fn validation(
    plan: &Plan,
    kept: Option<&Path>,
    threads: NonZeroUsize,
) -> Result<ValidationData, Failure> {
    let data = &plan.recipe.data;
    let part = Part {
        name: "validation",
        option: "--validation",
        paths: paths(&data.validation),
        tokens: Tokens::Scratch { kept },
    };
    if part.paths.is_empty() {
        return Err(Failure::line(format!("{} names no validation data", plan.name))
            .or_help(|| "pass --validation PATH, or set data.validation in the spec".to_owned()));
    }
    let missing = missing(std::slice::from_ref(&part), plan);
    if !missing.is_empty() {
        let help = || format!("paths start at the current folder; pass {}", options(&missing));
        return Err(Failure::line(not_there(&missing)).or_help(help));
    }
    let tokenizer = tokenizer(plan)?;
    let Opened { corpus, _scratch } = part.open(tokenizer.as_ref(), threads)?;
    check(&corpus, plan, tokenizer.as_ref())?;
    let rows = EvaluationBatches::new(corpus, data.mode, plan.recipe.sequence_length as usize)?;
    Ok(ValidationData { rows, _scratch })
}

fn paths(written: &[String]) -> Vec<PathBuf> {
    written.iter().map(PathBuf::from).collect()
}

/// Data that is not where the recipe says.
pub(crate) struct MissingData {
    /// `training data`, `tokenizer`.
    pub(crate) name: &'static str,
    /// The option that names another place.
    pub(crate) option: &'static str,
    /// Where it is expected.
    pub(crate) path: PathBuf,
}

fn missing(parts: &[Part<'_>], plan: &Plan) -> Vec<MissingData> {
    let tokenizer = plan.recipe.data.tokenizer.as_ref().map(PathBuf::from);
    let mut found: Vec<MissingData> = tokenizer
        .filter(|path| !path.exists())
        .map(|path| MissingData { name: "tokenizer", option: "--tokenizer", path })
        .into_iter()
        .collect();
    for part in parts {
        for path in part.missing() {
            let name = if part.option == "--data" { "training data" } else { "validation data" };
            found.push(MissingData { name, option: part.option, path: path.to_owned() });
        }
    }
    found
}

/// `data/c4/train and data/c4/tokenizer.json do not exist`.
pub(crate) fn not_there(missing: &[MissingData]) -> String {
    let paths: Vec<String> = missing.iter().map(|m| m.path.display().to_string()).collect();
    format!(
        "{} {} not exist",
        console::listed(&paths),
        if paths.len() == 1 { "does" } else { "do" }
    )
}

/// `--data and --tokenizer`.
fn options(missing: &[MissingData]) -> String {
    let mut options: Vec<String> = missing.iter().map(|m| m.option.to_owned()).collect();
    options.dedup();
    console::listed(&options)
}

/// The tokenizer that lies in a checkpoint, if one does. `given` has to have the same vocabulary: ids mean to a model
/// what they meant in training.
pub(crate) fn checkpoint_tokenizer(
    weights: &Path,
    given: Option<&Path>,
) -> Result<Option<PathBuf>, Failure> {
    let beside = weights.join(TOKENIZER_FILE);
    if !beside.is_file() {
        return Ok(None);
    }
    if let Some(given) = given
        && Tokenizer::from_file(given)?.hash() != Tokenizer::from_file(&beside)?.hash()
    {
        return Err(Failure::line(format!(
            "{} has another vocabulary than the model was trained with",
            given.display()
        ))
        .or_help(|| format!("leave out --tokenizer: {} is used", beside.display())));
    }
    Ok(Some(beside))
}

/// The tokenizer that the recipe names, if its ids fit into the model.
fn tokenizer(plan: &Plan) -> Result<Option<Tokenizer>, Failure> {
    let Some(path) = &plan.recipe.data.tokenizer else { return Ok(None) };
    let tokenizer = Tokenizer::from_file(Path::new(path))?;
    let (entries, vocab_size) = (tokenizer.vocab_size() as u64, plan.vocab_size);
    if entries > vocab_size {
        return Err(Failure::line(format!(
            "{path} has {entries} entries, and the model's vocab_size is {vocab_size}"
        ))
        .or_help(|| {
            format!("use a smaller tokenizer, or a spec with --set model.vocab_size={entries}")
        }));
    }
    Ok(Some(tokenizer))
}

fn check(corpus: &TokenCorpus, plan: &Plan, tokenizer: Option<&Tokenizer>) -> Result<(), Failure> {
    corpus.check_fits(plan.vocab_size)?;
    if let Some(tokenizer) = tokenizer {
        corpus.check_tokenizer(tokenizer.hash())?;
    }
    Ok(())
}
