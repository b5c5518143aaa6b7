//! The recipe: everything about a training run that is neither an operation nor a byte.
//!
//! Owns the settings that the training loop reads: batches, schedule, optimizer constants, evaluation, checkpoints,
//! data. Must not know TOML: the compiler fills it from a spec, the runtime obeys it. The number of workers and of
//! accumulation steps is not in it: `global_batch = micro_batch × workers × accumulation` at run time.

use serde::{Deserialize, Serialize};

/// How a plan is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Tokens in a row.
    pub sequence_length: u32,
    /// Rows in one execution of `forward_backward`.
    pub micro_batch: u32,
    /// Rows in one optimizer update, over all micro-batches and workers; a multiple of `micro_batch`.
    pub global_batch: u32,
    /// Seed of initialisation and data order.
    pub seed: u64,
    /// What the summed loss is divided by.
    pub loss_normalization: LossNormalization,
    /// Learning rate over updates.
    pub schedule: Schedule,
    /// AdamW's constants.
    pub optimizer: Optimizer,
    /// When and on what the model is evaluated.
    pub evaluation: Evaluation,
    /// When the state is saved.
    pub checkpoint: Checkpoint,
    /// Where tokens come from.
    pub data: Data,
    /// What happens when loss or gradient is not finite.
    pub non_finite: NonFinite,
}

/// What the sum of a batch's token losses is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossNormalization {
    /// By the valid tokens of the whole global batch: every token weighs the same.
    GlobalToken,
    /// By the valid tokens of each micro-batch, then by the number of micro-batches, as the published CoLA code.
    MicroBatch,
}

/// Learning rate as a function of the update's index, counted from 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub kind: ScheduleKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates over which the factor rises linearly from 0; update 0 has factor 0 when this is not 0.
    pub warmup_steps: u64,
    /// Horizon in updates; stopping earlier does not change the schedule.
    pub steps: u64,
    /// Factor reached at the horizon, 0 to 1. Ignored by `Constant`.
    pub final_factor: f64,
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduleKind {
    /// Half a cosine from 1 to the final factor.
    Cosine,
    /// A straight line from 1 to the final factor.
    Linear,
    /// 1 throughout.
    Constant,
    /// 1 until the last `decay_steps` updates, then a straight line to the final factor.
    WarmupStableDecay {
        /// Length of the decay in updates.
        decay_steps: u64,
    },
}

/// AdamW with decoupled weight decay and global-norm clipping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Decoupled: a step multiplies the weight by `1 - learning_rate · weight_decay`.
    pub weight_decay: f64,
    /// Whether decay reaches vectors (norm weights, biases) and embeddings too, as in the published recipe.
    pub decay_all: bool,
    /// Largest norm of the whole gradient; 0 turns clipping off.
    pub clip_norm: f64,
}

/// In-loop evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Updates between evaluations; 0 evaluates only at the end.
    pub every: u64,
    /// Valid tokens after which an evaluation stops; 0 takes the whole validation set.
    pub tokens: u64,
    /// Rows in one execution of `evaluate`.
    pub batch: u32,
    /// Rows that the published evaluation averages into one batch mean: its perplexity depends on it.
    pub reference_batch: u32,
}

/// Checkpointing of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Updates between checkpoints; 0 saves only at the end.
    pub every: u64,
    /// How many of the newest checkpoints stay; 0 keeps all.
    pub keep: u32,
    /// Checkpoints after a multiple of so many updates stay for good; 0 makes no such exception.
    pub keep_every: u64,
    /// How many of the checkpoints with the lowest validation loss stay; 0 makes no such exception.
    pub keep_best: u32,
}

/// What a run does about an update whose loss or gradient is infinite or not a number. Such an update never changes a
/// weight or a moment; this says how the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonFinite {
    /// How it goes on.
    pub policy: NonFinitePolicy,
    /// `Skip` ends the run at more than so many updates in a row, `Rollback` at more than so many returns to one
    /// checkpoint. Ignored by `Halt`.
    pub limit: u32,
}

/// How a run goes on when loss or gradient is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NonFinitePolicy {
    /// It ends with an error.
    Halt,
    /// With the next update; this one changed nothing.
    Skip,
    /// From the newest regular checkpoint, on the rows that follow those of this update.
    Rollback,
}

/// Where tokens come from. Paths are as the spec wrote them; the command line says what they are relative to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// How documents become rows.
    pub mode: BatchMode,
    /// Texts or tokens to train on: files or folders. Empty where sources are mixed.
    pub train: Vec<String>,
    /// Texts or tokens to evaluate on.
    pub validation: Vec<String>,
    /// A Hugging Face `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// Sources whose rows are mixed; empty for all rows of `train` alike.
    pub mixture: Vec<MixtureSource>,
    /// Share of the training documents that are held out for evaluation, by their hashes; 0 for none.
    pub validation_fraction: f64,
    /// How texts and token files are read.
    pub reading: Reading,
}

impl Default for Data {
    /// No data, packed, read as a spec without any key has it.
    fn default() -> Self {
        Self {
            mode: BatchMode::Pack,
            train: Vec::new(),
            validation: Vec::new(),
            tokenizer: None,
            mixture: Vec::new(),
            validation_fraction: 0.0,
            reading: Reading::default(),
        }
    }
}

/// One source of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixtureSource {
    /// What messages call it.
    pub name: String,
    /// Texts or tokens: files or folders.
    pub paths: Vec<String>,
    /// Its share of the rows is this divided by the sum over all sources; above 0.
    pub weight: f64,
}

/// How texts and token files are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Name of the field of JSON Lines, Parquet and Arrow that is the text; dots lead into objects.
    pub text_field: String,
    /// Lines of exactly this text separate the documents of a text file; without it a file is one document.
    pub separator: Option<String>,
    /// Endings of the file names that are read in folders; empty for all that are known.
    pub extensions: Vec<String>,
    /// Whether bad lines and texts that are not UTF-8 are left out and counted, instead of ending the run.
    pub skip_bad: bool,
    /// Whether only the first of equal documents is used.
    pub deduplicate: bool,
    /// Format of the ids in token files without a header.
    pub token_dtype: Option<TokenDType>,
    /// The token that ends a document, where it is not the one that the tokenizer's names tell.
    pub end_of_text: Option<String>,
}

impl Default for Reading {
    /// As a spec without any key has it.
    fn default() -> Self {
        Self {
            text_field: "text".to_owned(),
            separator: None,
            extensions: Vec::new(),
            skip_bad: false,
            deduplicate: false,
            token_dtype: None,
            end_of_text: None,
        }
    }
}

/// Format of one id in a token file without a header, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenDType {
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
}

/// How documents become rows of `sequence_length` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchMode {
    /// Documents one after the other, cut into full rows; the label is the next token.
    Pack,
    /// One document a row, cut or filled up; fillers and the last label are ignored. As in the paper.
    Pad,
}
