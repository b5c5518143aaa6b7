//! From the paths that a plan or the command line names to rows of tokens.
//!
//! Owns finding the data, saying what is missing before anything is allocated, and tokenizing text that was given where
//! tokens are needed. Must not know how text is tokenized or rows are made: that is the runtime's.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use colac_plan::Plan;
use colac_runtime::data::{
    DataError, EvaluationBatches, MixedCorpus, OpenOptions, TokenCorpus, Tokenizer, TrainingBatches,
};
use colac_runtime::train::checkpoint::TOKENIZER_FILE;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::target::{paths_setting, text_setting};
use crate::shared::tokens::{Maker, Part, Scratch, Tokens};

/// Options that replace what the spec says about validation data.
#[derive(Args, Clone, Debug)]
pub(crate) struct ValidationOptions {
    /// Text (.txt, .jsonl, …), folders of it, or tokens to evaluate on, instead of the spec's; may be repeated
    #[arg(long, value_name = "PATH")]
    validation: Vec<String>,

    /// The tokenizer.json to read text with, instead of the spec's
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<String>,
}

impl ValidationOptions {
    /// Refuses paths that are not there: tokens that a run kept stand in for the text of its recipe, not for what is named
    /// now.
    pub(crate) fn check_given(&self) -> Result<(), Failure> {
        match self.validation.iter().find(|path| !Path::new(path).exists()) {
            Some(path) => Err(Failure::line(format!("{path} does not exist")).or_help(|| {
                "--validation takes text files, folders of them, or token shards; paths start at the current folder"
                    .to_owned()
            })),
            None => Ok(()),
        }
    }

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
    /// Mapped files may go, but not before the command does.
    _scratch: Option<Scratch>,
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
    fn tokens(&self) -> Tokens<'_> {
        let root = self.training.parent();
        debug_assert_eq!(root, self.validation.parent(), "a split writes both into one folder");
        Tokens::Keep { root: root.unwrap_or(self.training), resumed: self.resumed }
    }

    /// What of a plan's data is not there.
    pub(crate) fn missing(&self, plan: &Plan) -> Vec<MissingData> {
        let mut parts = training_parts(plan);
        parts.extend(validation_part(plan));
        missing(&parts, plan, self.tokens())
    }

    /// Opens the data, tokenizing text first.
    pub(crate) fn open(&self, plan: &Plan, threads: NonZeroUsize) -> Result<TrainingData, Failure> {
        training_data(plan, self.tokens(), threads)
    }
}

/// Opens the data of a plan for a command that only looks at it; tokens below `kept`, a run's folder for data, are used
/// if they are made of the same text.
pub(crate) fn look(
    plan: &Plan,
    kept: Option<&Path>,
    threads: NonZeroUsize,
) -> Result<TrainingData, Failure> {
    let tokens = Tokens::Scratch { kept };
    let mut parts = training_parts(plan);
    parts.extend(validation_part(plan));
    let missing = missing(&parts, plan, tokens);
    if !missing.is_empty() {
        let help = || format!("paths start at the current folder; pass {}", options(&missing));
        return Err(Failure::line(not_there(&missing)).or_help(help));
    }
    training_data(plan, tokens, threads)
}

/// What is trained on: one part, or the sources of a mixture.
fn training_parts(plan: &Plan) -> Vec<Part> {
    let data = &plan.recipe.data;
    let fraction = data.validation_fraction;
    if data.mixture.is_empty() {
        // With a split, the two sides have the names that tokens of both kinds have anyway.
        let folder = if fraction > 0.0 { String::new() } else { "train".to_owned() };
        let name = "training".to_owned();
        return vec![Part { name, option: "--data", paths: paths(&data.train), folder, fraction }];
    }
    let part = |(number, source): (usize, &colac_plan::recipe::MixtureSource)| Part {
        name: source.name.clone(),
        option: "--data",
        paths: paths(&source.paths),
        folder: format!("mixture-{}", number + 1),
        fraction,
    };
    data.mixture.iter().enumerate().map(part).collect()
}

/// What is evaluated on, where the recipe names it.
fn validation_part(plan: &Plan) -> Option<Part> {
    let paths = paths(&plan.recipe.data.validation);
    (!paths.is_empty()).then(|| Part {
        name: "validation".to_owned(),
        option: "--validation",
        paths,
        folder: "validation".to_owned(),
        fraction: 0.0,
    })
}

fn training_data(
    plan: &Plan,
    tokens: Tokens<'_>,
    threads: NonZeroUsize,
) -> Result<TrainingData, Failure> {
    let recipe = &plan.recipe;
    let tokenizer = tokenizer(plan)?;
    let parts = training_parts(plan);
    if parts.iter().all(|part| part.paths.is_empty()) {
        return Err(Failure::line(format!("{} names no training data", plan.name))
            .or_help(|| "pass --data PATH, or set data.train in the spec".to_owned()));
    }
    let open =
        OpenOptions { token_dtype: recipe.data.reading.token_dtype, tokenizer: tokenizer.as_ref() };
    let mut maker =
        Maker { data: &recipe.data, tokenizer: tokenizer.as_ref(), tokens, threads, scratch: None };
    let length = recipe.sequence_length as usize;
    let mut corpora = Vec::new();
    let mut held_out = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let ready = maker.ready(part)?;
        let corpus = Arc::new(TokenCorpus::open_with(&ready.training, &open)?);
        check(&corpus, plan, tokenizer.as_ref())?;
        held_out.extend(ready.validation);
        let weight = recipe.data.mixture.get(number).map_or(1.0, |source| source.weight);
        let name = if recipe.data.mixture.is_empty() { String::new() } else { part.name.clone() };
        corpora.push(MixedCorpus { name, corpus, weight });
    }
    if let Some(part) = validation_part(plan) {
        held_out = maker.ready(&part)?.training;
    }
    let hash = corpora.iter().find_map(|source| source.corpus.vocabulary_hash());
    let training = TrainingBatches::mixed(corpora, recipe.data.mode, length, recipe.seed)
        .map_err(|error| name_as_given(error, &parts))?;
    report_shares(plan, &training);
    let mut validation = None;
    let mut prompt = String::new();
    if !held_out.is_empty() {
        let held_out = Arc::new(TokenCorpus::open_with(&held_out, &open)?);
        check(&held_out, plan, tokenizer.as_ref())?;
        if let Some(hash) = hash {
            held_out.check_tokenizer(hash)?;
        }
        if let Some(tokenizer) = &tokenizer {
            prompt = excerpt(&held_out, tokenizer)?;
        }
        validation = Some(EvaluationBatches::new(held_out, recipe.data.mode, length)?);
    }
    let _scratch = maker.scratch.take();
    Ok(TrainingData { training, validation, tokenizer, prompt, _scratch })
}

/// Says how often a run goes through each source of a mixture.
fn report_shares(plan: &Plan, training: &TrainingBatches) {
    let recipe = &plan.recipe;
    let rows = recipe.schedule.steps.saturating_mul(recipe.global_batch.into());
    let shares = training.shares(rows);
    if shares.len() < 2 {
        return;
    }
    for share in shares {
        console::note(format!(
            "mixture: {}: {:.1} % of the rows, {:.2} epochs in the whole run",
            share.name,
            100.0 * share.rows as f64 / rows.max(1) as f64,
            share.epochs
        ));
    }
}

/// Tokens of text lie where the user never put anything: an error about them names the text.
fn name_as_given(error: DataError, parts: &[Part]) -> DataError {
    match error {
        DataError::TooShort { path, tokens, sequence_length } => {
            let given = match parts {
                [only] => only.paths.first().cloned(),
                _ => None,
            };
            let path = given.unwrap_or(path);
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
    let tokens = Tokens::Scratch { kept: kept.and_then(Path::parent) };
    let parts: Vec<Part> = match validation_part(plan) {
        Some(part) => vec![part],
        None if data.validation_fraction > 0.0 => training_parts(plan),
        None => Vec::new(),
    };
    if parts.is_empty() {
        return Err(Failure::line(format!("{} names no validation data", plan.name))
            .or_help(|| "pass --validation PATH, or set data.validation in the spec".to_owned()));
    }
    let missing = missing(&parts, plan, tokens);
    if !missing.is_empty() {
        let help = || format!("paths start at the current folder; pass {}", options(&missing));
        return Err(Failure::line(not_there(&missing)).or_help(help));
    }
    let tokenizer = tokenizer(plan)?;
    let open = OpenOptions { token_dtype: data.reading.token_dtype, tokenizer: tokenizer.as_ref() };
    let mut maker = Maker { data, tokenizer: tokenizer.as_ref(), tokens, threads, scratch: None };
    let mut folders = Vec::new();
    for part in &parts {
        let ready = maker.ready(part)?;
        folders.extend(if part.fraction > 0.0 { ready.validation } else { ready.training });
    }
    let corpus = Arc::new(TokenCorpus::open_with(&folders, &open)?);
    check(&corpus, plan, tokenizer.as_ref())?;
    let rows = EvaluationBatches::new(corpus, data.mode, plan.recipe.sequence_length as usize)?;
    let _scratch = maker.scratch.take();
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

fn missing(parts: &[Part], plan: &Plan, tokens: Tokens<'_>) -> Vec<MissingData> {
    let tokenizer = plan.recipe.data.tokenizer.as_ref().map(PathBuf::from);
    let mut found: Vec<MissingData> = tokenizer
        .filter(|path| !path.exists())
        .map(|path| MissingData { name: "tokenizer", option: "--tokenizer", path })
        .into_iter()
        .collect();
    for part in parts {
        for path in part.missing(tokens) {
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

/// The tokenizer in a file that the user or the recipe names.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Tokenizer, Failure> {
    Tokenizer::from_file(path).map_err(|error| {
        Failure::from(error).or_help(|| {
            "name a tokenizer.json, as Hugging Face models have it, or make one with `colac data train-tokenizer`"
                .to_owned()
        })
    })
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
        && read_tokenizer(given)?.hash() != Tokenizer::from_file(&beside)?.hash()
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
    let mut tokenizer = read_tokenizer(Path::new(path))?;
    if let Some(token) = &plan.recipe.data.reading.end_of_text {
        tokenizer = tokenizer.with_end_of_text(token)?;
    }
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
