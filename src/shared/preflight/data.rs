//! Whether the data of a run can be read and fits its model.

use std::fmt;
use std::path::{Path, PathBuf};

use colac_compiler::diagnostics::Diagnostic;
use colac_compiler::view::text;
use colac_plan::Plan;
use colac_plan::recipe::BatchMode;
use colac_runtime::data::source::{list_inputs, sample};
use colac_runtime::data::{
    DataError, OpenOptions, ReadOptions, TokenCorpus, Tokenizer, VocabularyHash, holds_tokens,
};
use serde::Serialize;

use super::{Facts, Findings, codes};

/// Going over the same text up to about this often is nearly as good as new text (arXiv 2305.16264).
const HARMLESS_EPOCHS: f64 = 4.0;
/// A vocabulary is rounded up for the sake of speed to a multiple of at most this.
const ROUNDING: u64 = 128;
/// Bytes of a text that are tokenized to learn how many bytes a token has.
const SAMPLE_BYTES: usize = 1 << 18;

/// How much data there is.
#[derive(Debug, Serialize)]
pub(crate) struct Amount {
    /// Files of text, or token shards.
    files: usize,
    /// Whether the files are token shards.
    shards: bool,
    /// Bytes of text.
    text_bytes: u64,
    /// Tokens; a guess from a sample where the files are text.
    tokens: Option<u64>,
    /// Documents, where the files are token shards.
    documents: Option<u64>,
}

impl Amount {
    /// How often the schedule of a plan goes over it, if that is known.
    fn epochs(&self, plan: &Plan) -> Option<f64> {
        let recipe = &plan.recipe;
        let seen = recipe.schedule.steps as f64 * f64::from(recipe.global_batch);
        let rows = match recipe.data.mode {
            BatchMode::Pack => self.tokens? as f64 / f64::from(recipe.sequence_length),
            BatchMode::Pad => self.documents? as f64,
        };
        (rows > 0.0).then(|| seen / rows)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.shards { "token shard" } else { "text file" };
        let plural = if self.files == 1 { "" } else { "s" };
        write!(f, "{} {kind}{plural}, {}", self.files, text::bytes(self.text_bytes))?;
        match self.tokens {
            Some(tokens) => {
                let about = if self.shards { "" } else { "about " };
                write!(f, ", {about}{} tokens", text::count(tokens as f64))
            }
            None => Ok(()),
        }
    }
}

/// One list of paths.
struct List<'a> {
    key: &'static str,
    name: &'static str,
    option: &'static str,
    paths: Vec<&'a Path>,
}

pub(super) fn check(plan: &Plan, findings: &mut Findings, facts: &mut Facts) {
    let data = &plan.recipe.data;
    let paths = |list: &'_ [String]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
    let mixed = data.mixture.iter().flat_map(|source| &source.paths);
    let train: Vec<PathBuf> = data.train.iter().chain(mixed).map(PathBuf::from).collect();
    let validation = paths(&data.validation);
    let tokenizer = tokenizer(plan, findings);
    facts.tokenizer_entries = tokenizer.as_ref().map(|tokenizer| tokenizer.vocab_size() as u64);
    let training = List {
        key: if data.mixture.is_empty() { "data.train" } else { "data.mixture" },
        name: "training",
        option: "--data",
        paths: train.iter().map(PathBuf::as_path).collect(),
    };
    let held_out = List {
        key: "data.validation",
        name: "validation",
        option: "--validation",
        paths: validation.iter().map(PathBuf::as_path).collect(),
    };
    if training.paths.is_empty() {
        let finding = Diagnostic::error(codes::NONE_NAMED, "the run has nothing to train on");
        findings.add(
            training.key,
            "an empty list",
            finding.help("name files or folders in `data.train`, or pass --data PATH"),
        );
    }
    if held_out.paths.is_empty() && data.validation_fraction == 0.0 {
        let finding =
            Diagnostic::warning(codes::NO_VALIDATION, "the run has nothing to be evaluated on");
        findings.add(
            held_out.key,
            "an empty list",
            finding.help("name text that is not trained on in `data.validation`"),
        );
    }
    overlap(&training, &held_out, findings);
    let (training, hash) = amount(&training, plan, tokenizer.as_ref(), None, findings);
    let expected = hash.filter(|_| tokenizer.is_none());
    let (validation, _) = amount(&held_out, plan, tokenizer.as_ref(), expected, findings);
    facts.epochs = training.as_ref().and_then(|amount| amount.epochs(plan));
    if let Some(finding) = facts.epochs.and_then(repeats) {
        let key = match findings.place("train.steps") {
            Some(_) => "train.steps",
            None => "train.tokens_per_parameter",
        };
        findings.add(key, "decides how many rows are seen", finding);
    }
    // Text is tokenized into the run folder.
    for amount in [&training, &validation].into_iter().flatten().filter(|amount| !amount.shards) {
        let bytes = if plan.vocab_size > 1 << 16 { 4 } else { 2 };
        facts.disk_needed += amount.tokens.unwrap_or(0) * bytes;
    }
    facts.training = training;
    facts.validation = validation;
}

/// The warning that a schedule goes over its data more often than is of use.
pub(crate) fn repeats(epochs: f64) -> Option<Diagnostic> {
    (epochs > HARMLESS_EPOCHS).then(|| {
        Diagnostic::warning(
            codes::REPEATS,
            format!("the schedule goes {epochs:.1} times over the training data"),
        )
        .help(format!(
            "give more data, or shorten the run: beyond {HARMLESS_EPOCHS} times repeated text teaches less and less"
        ))
    })
}

fn tokenizer(plan: &Plan, findings: &mut Findings) -> Option<Tokenizer> {
    const KEY: &str = "data.tokenizer";
    let path = Path::new(plan.recipe.data.tokenizer.as_ref()?);
    if !path.exists() {
        let message = format!("the tokenizer {} does not exist", path.display());
        let finding = Diagnostic::error(codes::NOT_FOUND, message).help(format!(
            "paths start at the current folder; pass --tokenizer FILE, or make it: colac data train-tokenizer TEXT -o {}",
            path.display()
        ));
        findings.add(KEY, "no such file", finding);
        return None;
    }
    let named = |tokenizer: Tokenizer| match &plan.recipe.data.reading.end_of_text {
        Some(token) => tokenizer.with_end_of_text(token),
        None => Ok(tokenizer),
    };
    let tokenizer = match Tokenizer::from_file(path).and_then(named) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            let finding = Diagnostic::error(codes::BAD_TOKENIZER, error.to_string());
            let help = "name a tokenizer.json, as Hugging Face models have it";
            findings.add(KEY, "named here", finding.help(help));
            return None;
        }
    };
    let (entries, rows) = (tokenizer.vocab_size() as u64, plan.vocab_size);
    if entries > rows {
        let message = format!("the tokenizer has {entries} entries, and the model {rows}");
        let finding = Diagnostic::error(codes::TOKENIZER_TOO_LARGE, message).help(format!(
            "set `vocab_size` under [model] to {}, or use a smaller tokenizer",
            entries.next_multiple_of(64)
        ));
        findings.add(KEY, "too large for the model", finding);
    } else if rows > entries.next_multiple_of(ROUNDING) {
        let message = format!("the model has {rows} entries, and the tokenizer only {entries}");
        let finding = Diagnostic::warning(codes::VOCABULARY_TOO_LARGE, message).help(format!(
            "set `vocab_size` under [model] to {}: the other rows cost memory and time for nothing",
            entries.next_multiple_of(64)
        ));
        findings.add(KEY, "has fewer entries", finding);
    }
    Some(tokenizer)
}

/// The same file in both lists.
fn overlap(training: &List<'_>, held_out: &List<'_>, findings: &mut Findings) {
    let whole = |path: &&Path| path.canonicalize().ok();
    let trained: Vec<PathBuf> = training.paths.iter().filter_map(whole).collect();
    for path in &held_out.paths {
        let Some(canonical) = whole(path) else { continue };
        if trained.iter().any(|other| canonical.starts_with(other) || other.starts_with(&canonical))
        {
            let message = format!("{} is trained on and evaluated on", path.display());
            let finding = Diagnostic::warning(codes::VALIDATION_IS_TRAINING, message)
                .help("evaluate on text that is not trained on: the loss says nothing else");
            findings.add(held_out.key, "also part of the training data", finding);
        }
    }
}

/// How much a list holds, and with which vocabulary; everything that is wrong with it is reported. `expected` is the
/// vocabulary it must have if no tokenizer says so.
fn amount(
    list: &List<'_>,
    plan: &Plan,
    tokenizer: Option<&Tokenizer>,
    expected: Option<VocabularyHash>,
    findings: &mut Findings,
) -> (Option<Amount>, Option<VocabularyHash>) {
    const NOTHING: (Option<Amount>, Option<VocabularyHash>) = (None, None);
    let mut present = Vec::new();
    for path in &list.paths {
        if path.exists() {
            present.push(path.to_path_buf());
            continue;
        }
        let message = format!("the {} data {} does not exist", list.name, path.display());
        let finding = Diagnostic::error(codes::NOT_FOUND, message)
            .help(format!("paths start at the current folder; pass {} PATH", list.option));
        findings.add(list.key, "named here", finding);
    }
    if present.is_empty() {
        return NOTHING;
    }
    let kinds: Result<Vec<bool>, DataError> =
        present.iter().map(|path| holds_tokens(path)).collect();
    let kinds = match kinds {
        Ok(kinds) => kinds,
        Err(error) => {
            unreadable(list, &error, findings);
            return NOTHING;
        }
    };
    if kinds.iter().all(|&shards| shards) {
        return shards(list, &present, plan, tokenizer, expected, findings);
    }
    if kinds.iter().any(|&shards| shards) {
        let message = format!("the {} data mixes token shards and text", list.name);
        let finding = Diagnostic::error(codes::MIXED, message)
            .help("make shards of the text first: colac data prepare TEXT --tokenizer FILE -o DIR");
        findings.add(list.key, "named here", finding);
        return NOTHING;
    }
    (texts(list, &present, plan, tokenizer, findings), None)
}

fn unreadable(list: &List<'_>, error: &DataError, findings: &mut Findings) {
    let finding = Diagnostic::error(codes::UNREADABLE, error.to_string());
    let help = format!("mend or leave out what cannot be read, or pass {} PATH", list.option);
    findings.add(list.key, "named here", finding.help(help));
}

fn shards(
    list: &List<'_>,
    paths: &[PathBuf],
    plan: &Plan,
    tokenizer: Option<&Tokenizer>,
    expected: Option<VocabularyHash>,
    findings: &mut Findings,
) -> (Option<Amount>, Option<VocabularyHash>) {
    let open = OpenOptions { token_dtype: plan.recipe.data.reading.token_dtype, tokenizer };
    let corpus = match TokenCorpus::open_with(paths, &open) {
        Ok(corpus) => corpus,
        Err(error) => {
            unreadable(list, &error, findings);
            return (None, None);
        }
    };
    if let Err(error) = corpus.check_fits(plan.vocab_size) {
        let finding = Diagnostic::error(codes::ID_OUT_OF_VOCABULARY, error.to_string());
        let help = format!(
            "set `vocab_size` under [model] to {}, or use data of the model's tokenizer",
            (u64::from(corpus.max_id()) + 1).next_multiple_of(64)
        );
        findings.add(list.key, "named here", finding.help(help));
    }
    let expected = tokenizer.map(Tokenizer::hash).or(expected);
    if let Some(Err(error)) = expected.map(|hash| corpus.check_tokenizer(hash)) {
        let finding = Diagnostic::error(codes::TOKENIZER_MISMATCH, error.to_string());
        let help = "name the tokenizer that the shards were made with, or make them again";
        findings.add(list.key, "named here", finding.help(help));
    }
    let tokens = corpus.token_count();
    length(list, plan, tokens, findings);
    let amount = Amount {
        files: corpus.shard_count(),
        shards: true,
        text_bytes: corpus.text_bytes(),
        tokens: Some(tokens),
        documents: corpus.knows_documents().then(|| corpus.document_count()),
    };
    (Some(amount), corpus.vocabulary_hash())
}

fn length(list: &List<'_>, plan: &Plan, tokens: u64, findings: &mut Findings) {
    let row = u64::from(plan.recipe.sequence_length);
    if tokens < row {
        let message = format!("the {} data has {tokens} tokens, and a row {row}", list.name);
        let finding = Diagnostic::error(codes::TOO_SHORT, message)
            .help("give more text, or lower `sequence_length`");
        findings.add(list.key, "named here", finding);
    }
}

fn texts(
    list: &List<'_>,
    paths: &[PathBuf],
    plan: &Plan,
    tokenizer: Option<&Tokenizer>,
    findings: &mut Findings,
) -> Option<Amount> {
    if plan.recipe.data.tokenizer.is_none() {
        let message = format!("the {} data is text, and no tokenizer is named", list.name);
        let finding = Diagnostic::error(codes::NO_TOKENIZER, message)
            .help("set `data.tokenizer`, or pass --tokenizer FILE");
        findings.add(list.key, "named here", finding);
    }
    let reading = ReadOptions::from(&plan.recipe.data.reading);
    let files = match list_inputs(paths, &reading.extensions) {
        Ok(files) => files,
        Err(error) => {
            unreadable(list, &error, findings);
            return None;
        }
    };
    let mut amount =
        Amount { files: files.len(), shards: false, text_bytes: 0, tokens: None, documents: None };
    let (mut sampled, mut tokens) = (0u64, 0u64);
    for file in &files {
        match sample(file, &reading, SAMPLE_BYTES) {
            Ok(found) => {
                amount.text_bytes += found.text_bytes;
                // A few files tell enough.
                if let Some(tokenizer) = tokenizer.filter(|_| sampled < SAMPLE_BYTES as u64)
                    && let Ok(ids) = tokenizer.encode(&found.text)
                {
                    sampled += found.text.len() as u64;
                    tokens += ids.len() as u64;
                }
            }
            Err(error) => {
                let finding = Diagnostic::error(codes::UNREADABLE, error.to_string());
                let help = "mend it, or leave it out; `data.skip_bad` leaves out what is bad in it";
                findings.add(list.key, "named here", finding.help(help));
            }
        }
    }
    if sampled > 0 {
        let estimate = amount.text_bytes as f64 * tokens as f64 / sampled as f64;
        amount.tokens = Some(estimate.ceil() as u64);
        // A whole corpus that was sampled is counted, not guessed.
        length(list, plan, amount.tokens.unwrap_or(0), findings);
    }
    Some(amount)
}
