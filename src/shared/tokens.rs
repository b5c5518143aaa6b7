//! Tokens from what a recipe names: text is tokenized, tokens are used where they lie.
//!
//! Owns where tokens made of text go, and when those of an earlier command are used again. Must not know which parts a
//! recipe has: that is [`crate::shared::corpus`]'s.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use colac_plan::recipe::Data;
use colac_runtime::data::prepare::{inputs_hash, rules};
use colac_runtime::data::{
    DataError, PrepareOptions, ReadOptions, ShardHeader, Side, Tokenizer, holds_tokens, prepare,
};

use crate::shared::failure::Failure;
use crate::shared::progress::PrepareBar;

/// One list of paths of the recipe.
pub(crate) struct Part {
    /// What it is, for messages: `training`, `validation`, the name of a source.
    pub(crate) name: String,
    /// The option that replaces it.
    pub(crate) option: &'static str,
    pub(crate) paths: Vec<PathBuf>,
    /// The folder for its tokens, below that of the run's data; with a split the two sides lie in it.
    pub(crate) folder: String,
    /// The share that is held out of it; 0 for none.
    pub(crate) fraction: f64,
}

/// Where tokens made of text go.
#[derive(Clone, Copy)]
pub(crate) enum Tokens<'a> {
    /// Into this folder of a run, to stay.
    Keep {
        /// The run's folder for data.
        root: &'a Path,
        /// Whether the run goes on, so that it must see the tokens it began with.
        resumed: bool,
    },
    /// Into a folder for this command alone, unless this folder of a run has them already.
    Scratch {
        /// The run's folder for data.
        kept: Option<&'a Path>,
    },
}

impl<'a> Tokens<'a> {
    /// The folder of a run that may have them.
    fn kept(self) -> Option<&'a Path> {
        match self {
            Tokens::Keep { root, .. } => Some(root),
            Tokens::Scratch { kept } => kept,
        }
    }

    fn is_resumed(self) -> bool {
        matches!(self, Tokens::Keep { resumed: true, .. })
    }
}

impl Part {
    fn sides(&self, root: &Path) -> Ready {
        let base = root.join(&self.folder);
        if self.fraction > 0.0 {
            let side = |side: Side| vec![base.join(side.folder())];
            return Ready { training: side(Side::Training), validation: side(Side::Validation) };
        }
        Ready { training: vec![base], validation: Vec::new() }
    }

    /// Whether a run can go on with its tokens though the text is gone.
    fn survives_text(&self, tokens: Tokens<'_>) -> bool {
        let usable = !matches!(tokens, Tokens::Keep { resumed: false, .. });
        usable
            && tokens.kept().is_some_and(|root| {
                self.sides(root).all().all(|folder| matches!(holds_tokens(folder), Ok(true)))
            })
    }

    /// Paths that are not there, and are needed.
    pub(crate) fn missing(&self, tokens: Tokens<'_>) -> Vec<&Path> {
        let missing: Vec<&Path> =
            self.paths.iter().map(PathBuf::as_path).filter(|path| !path.exists()).collect();
        if missing.is_empty() || self.survives_text(tokens) { Vec::new() } else { missing }
    }
}

/// Where tokens lie.
pub(crate) struct Ready {
    pub(crate) training: Vec<PathBuf>,
    /// What was held out; empty without a split.
    pub(crate) validation: Vec<PathBuf>,
}

impl Ready {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.training.iter().chain(&self.validation)
    }
}

/// Makes tokens where there are none.
pub(crate) struct Maker<'a> {
    pub(crate) data: &'a Data,
    pub(crate) tokenizer: Option<&'a Tokenizer>,
    pub(crate) tokens: Tokens<'a>,
    pub(crate) threads: NonZeroUsize,
    /// The folder for this command, once it is needed.
    pub(crate) scratch: Option<Scratch>,
}

impl Maker<'_> {
    /// Finds the tokens of a part, making them first where its paths are text.
    pub(crate) fn ready(&mut self, part: &Part) -> Result<Ready, Failure> {
        if part.paths.iter().any(|path| !path.exists()) {
            // `missing` has found tokens that were kept.
            let root = self.tokens.kept().expect("only kept tokens outlive their text");
            return Ok(part.sides(root));
        }
        let held =
            part.paths.iter().map(|path| holds_tokens(path)).collect::<Result<Vec<_>, _>>()?;
        if held.iter().all(|&tokens| tokens) {
            if part.fraction > 0.0 {
                return Err(Failure::line(format!(
                    "data.validation_fraction divides text, and the {} data is tokens already",
                    part.name
                ))
                .or_help(|| {
                    "divide it when it is prepared: colac data prepare TEXT --validation-fraction F; \
                     or set data.validation"
                        .to_owned()
                }));
            }
            return Ok(Ready { training: part.paths.clone(), validation: Vec::new() });
        }
        if held.iter().any(|&tokens| tokens) {
            let help = "prepare the text first: colac data prepare TEXT --tokenizer FILE --out DIR";
            return Err(Failure::line(format!("the {} data mixes tokens and text", part.name))
                .or_help(|| help.to_owned()));
        }
        let Some(tokenizer) = self.tokenizer else {
            return Err(Failure::line(format!(
                "the {} data is text, and no tokenizer is named",
                part.name
            ))
            .or_help(|| "pass --tokenizer FILE, or set data.tokenizer in the spec".to_owned()));
        };
        self.tokenized(part, tokenizer)
    }

    fn tokenized(&mut self, part: &Part, tokenizer: &Tokenizer) -> Result<Ready, Failure> {
        let reading = &self.data.reading;
        let options = PrepareOptions {
            reading: ReadOptions::from(reading),
            threads: self.threads,
            overwrite: true,
            validation_fraction: part.fraction,
            deduplicate: reading.deduplicate,
            ..PrepareOptions::default()
        };
        if let Some(root) = self.tokens.kept() {
            let kept = part.sides(root);
            let there = kept.all().all(|folder| matches!(holds_tokens(folder), Ok(true)));
            if there {
                match is_made_of(&kept, part, tokenizer, &options) {
                    Ok(true) => return Ok(kept),
                    Err(error) if self.tokens.is_resumed() => return Err(error.into()),
                    _ => {}
                }
                if self.tokens.is_resumed() {
                    return Err(Failure::line(format!(
                        "the {} text, its tokenizer or how it is read has changed since the run in {} began",
                        part.name,
                        root.display()
                    ))
                    .or_help(|| {
                        "give the text it began with, or start a run of its own".to_owned()
                    }));
                }
            }
        }
        let root = match self.tokens {
            Tokens::Keep { root, .. } => root.to_owned(),
            Tokens::Scratch { .. } => match &self.scratch {
                Some(scratch) => scratch.0.clone(),
                None => self.scratch.insert(Scratch::create()?).0.clone(),
            },
        };
        let mut bar = PrepareBar::new(format!("tokenizing {} text", part.name));
        let output = root.join(&part.folder);
        let summary = prepare(&part.paths, tokenizer, &output, &options, &mut |progress| {
            bar.show(progress);
            ControlFlow::Continue(())
        });
        bar.finish(summary.as_ref().ok());
        summary?;
        Ok(part.sides(&root))
    }
}

/// Whether tokens are those of exactly these texts, tokenized and divided in this way.
fn is_made_of(
    kept: &Ready,
    part: &Part,
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
) -> Result<bool, DataError> {
    let inputs = inputs_hash(&part.paths, &options.reading.extensions)?;
    for (folder, side) in kept.all().zip([Side::Training, Side::Validation]) {
        let shards = fs::read_dir(folder).map_err(|cause| DataError::Io {
            action: "list",
            path: folder.clone(),
            cause,
        })?;
        let shards = shards.flatten().map(|entry| entry.path());
        for shard in shards.filter(|path| path.extension().is_some_and(|end| end == "tokens")) {
            let header = ShardHeader::read(&shard)?;
            let same = header.vocabulary_hash == tokenizer.hash()
                && header.end_of_text == tokenizer.end_of_text()
                && header.manifest.rules == rules(options, side)
                && header.manifest.inputs == inputs;
            if !same {
                return Ok(false);
            }
        }
    }
    Ok(true)
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
