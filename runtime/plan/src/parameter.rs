//! Parameters: what is trained, how it starts, what it is called in a checkpoint.

use serde::{Deserialize, Serialize};

use crate::op::Real;
use crate::tensor::TensorId;

/// What a parameter is in the model, for counts, order in the segment and decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The weight of a dense linear, `[out, in]`.
    Matrix,
    /// A of a CoLA pair, `[r, in]`.
    LowRankDown,
    /// B of a CoLA pair, `[out, r]`.
    LowRankUp,
    /// A table of rows looked up by id.
    Embedding,
    /// A gain or a bias.
    Vector,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initialization {
    /// Independent normal numbers of mean 0.
    Normal {
        /// Standard deviation.
        std: Real,
    },
    /// Independent, evenly distributed in `-bound..bound`.
    Uniform {
        /// Largest absolute value.
        bound: Real,
    },
    /// The same number everywhere.
    Constant {
        /// That number.
        value: Real,
    },
}

/// The tensor of a checkpoint that holds a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointName {
    /// Name in the safetensors file.
    pub name: String,
    /// Stored with its two axes exchanged: `[in, out]`.
    pub transposed: bool,
    /// Where in the tensor it lies, if the tensor holds several parameters.
    pub part: Option<Part>,
}

/// The place of a parameter in a checkpoint tensor that holds several, side by side along their first axis (the outputs
/// of linears), in the parameters' orientation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// Index of its first element along that axis.
    pub offset: u64,
    /// Extent of the whole tensor along that axis.
    pub extent: u64,
}

/// One trained tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Path in the graph: `layers.3.self_attn.q_proj.weight`. Randomness is keyed by it.
    pub path: String,
    /// Where it goes in a checkpoint.
    pub checkpoint: CheckpointName,
    /// The weight as operations read it.
    pub tensor: TensorId,
    /// The weight as the optimizer keeps it, of which `tensor` is a rounded copy; `None` where that is `tensor` itself.
    pub master: Option<TensorId>,
    /// Its gradient.
    pub gradient: TensorId,
    /// Start values.
    pub initialization: Initialization,
    /// What it is.
    pub role: Role,
}

impl Parameter {
    /// The tensor that a checkpoint holds and a run goes on from: the master, or where there is none the weight itself.
    pub fn kept(&self) -> TensorId {
        self.master.unwrap_or(self.tensor)
    }
}

/// A table that the host computes once, in f64 rounded to the tensor's format, the same on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constant {
    /// Where it lies.
    pub tensor: TensorId,
    /// What it holds.
    pub content: ConstantContent,
}

/// What a constant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConstantContent {
    /// `[seq, pairs]`: `cos(position · f(i))` with the frequencies `f(i) = theta^(-i/pairs)`, scaled; arXiv 2104.09864.
    RopeCos {
        /// Base of the frequencies.
        theta: Real,
        /// What becomes of the frequencies.
        scaling: RopeScaling,
    },
    /// `[seq, pairs]`: `sin(position · f(i))`.
    RopeSin {
        /// Base of the frequencies.
        theta: Real,
        /// What becomes of the frequencies.
        scaling: RopeScaling,
    },
    /// `[.., seq]` i32: the index along the innermost axis, the same in every row.
    Positions,
}

/// How rotary frequencies are changed for rows longer than those a model began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided by a number; arXiv 2306.15595.
    Linear {
        /// The number.
        factor: Real,
    },
    /// By wavelength `λ = 2π/f`: where `original_length/λ` is below `low_frequency_factor`, a frequency is divided by
    /// `factor`; where it is above `high_frequency_factor`, it stays; between, both are mixed in proportion.
    Bands {
        /// What low frequencies are divided by.
        factor: Real,
        /// Turns within the original length below which a frequency is low.
        low_frequency_factor: Real,
        /// Turns within the original length above which a frequency is high.
        high_frequency_factor: Real,
        /// Positions of the rows that a model began with.
        original_length: u64,
    },
    /// By the number of a frequency (YaRN; arXiv 2309.00071, section 3): those that turn `beta_fast` times and more within
    /// the original length stay, those that turn `beta_slow` times and less are divided by `factor`, between both a ramp
    /// over their numbers mixes. With `n(β) = pairs · ln(original_length/(2πβ)) / ln(theta)`, the ramp leads from
    /// `⌊n(beta_fast)⌋`, at least 0, to `⌈n(beta_slow)⌉`, at most `2 · pairs - 1`. Cosines and sines are multiplied by
    /// `attention_factor`.
    Yarn {
        /// What low frequencies are divided by.
        factor: Real,
        /// Turns within the original length from which on a frequency stays.
        beta_fast: Real,
        /// Turns within the original length up to which a frequency is divided.
        beta_slow: Real,
        /// Positions of the rows that a model began with.
        original_length: u64,
        /// Factor on the tables.
        attention_factor: Real,
    },
}
