//! The closed set of operations.
//!
//! Owns what each operation means: its attributes, operands, results, which results accumulate into a gradient. The
//! rule for result types is in [`infer`], the price in [`cost`]. Must not know how any executor computes it.
//!
//! An operation has five places: here, its derivative in the compiler's `passes/autodiff`, its CPU kernel, its CUDA
//! kernel, and its samples in the conformance suite. Matches on [`Op`] are exhaustive, so the Rust compiler names what
//! is missing.
//!
//! Shapes below: `B` batch rows, `S` sequence, `H` heads, `G` key/value heads, `D` head dimension, `n`, `k` widths;
//! `..` stands for any leading axes, which make up the rows.

pub mod cost;
pub mod infer;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pointwise::{InputForm, Program};
use crate::shape::TensorType;

pub use cost::Cost;
pub use infer::TypeError;

/// A real attribute by its bits, so that operations can be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Real(u64);

impl Real {
    /// The attribute of a number.
    pub fn new(value: f64) -> Real {
        Real(value.to_bits())
    }

    /// Its value.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// Which keys a query at position `i` may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mask {
    /// All of the row.
    Full,
    /// Positions `0..=i`.
    Causal,
    /// Causal, and at most the last `w` positions including its own: `i-w+1..=i`.
    Window(u32),
}

/// How attention makes scores of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scores {
    /// Visible keys.
    pub mask: Mask,
    /// Factor on the products.
    pub scale: Real,
    /// Where there is a cap `c`, a product `z` becomes `c · tanh(z/c)`; arXiv 2408.00118, section 2.
    pub softcap: Option<Real>,
    /// Whether `m · |i - j|` is taken from the score of query `i` and key `j`, with the head's slope `m`
    /// ([`alibi_slope`]); arXiv 2108.12409.
    pub alibi: bool,
}

impl Scores {
    /// Scaled products under a mask.
    pub fn new(mask: Mask, scale: Real) -> Scores {
        Scores { mask, scale, softcap: None, alibi: false }
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mask={} scale={}", self.mask, self.scale)?;
        if let Some(cap) = self.softcap {
            write!(f, " softcap={cap}")?;
        }
        f.write_str(if self.alibi { " alibi" } else { "" })
    }
}

/// Which gradients [`Op::AttentionBackward`] turns back: those of what an [`Op::Rope`] had turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TurnedBack {
    /// That of the queries.
    pub queries: bool,
    /// That of the keys.
    pub keys: bool,
    /// Pairs are neighbours.
    pub interleaved: bool,
}

impl TurnedBack {
    /// By result: dq, dk, dv.
    pub fn results(self) -> [bool; 3] {
        [self.queries, self.keys, false]
    }

    /// The operation that turns one of them back, over the gradient and the two tables.
    pub fn rope(self) -> Op {
        Op::Rope { inverse: true, interleaved: self.interleaved }
    }
}

impl fmt::Display for TurnedBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.queries, self.keys) {
            (true, true) => "turned_back=dq,dk",
            (true, false) => "turned_back=dq",
            (false, true) => "turned_back=dk",
            (false, false) => "turned_back=none",
        })?;
        f.write_str(if self.interleaved { " interleaved" } else { "" })
    }
}

/// The slope of head `head` (from 0) of `heads` in ALiBi, as the paper's code has it: `2^(-8(h+1)/n)` for a number of
/// heads `n` that is a power of two. For others the heads up to the power `p` below have the slopes of `p` heads, and
/// the rest every second of `2p` heads. Roots and products alone, so it is the same on every machine.
pub fn alibi_slope(head: u64, heads: u64) -> f64 {
    let power = 1u64 << heads.max(1).ilog2();
    let (heads, exponent) =
        if head < power { (power, head + 1) } else { (2 * power, 2 * (head - power) + 1) };
    let ratio = (0..heads.ilog2()).fold(1.0 / 256.0, |ratio: f64, _| ratio.sqrt());
    (0..exponent).fold(1.0, |slope, _| slope * ratio)
}

/// An operation with its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// `x[.., k], w[n, k] → y[.., n]`: `y = x wᵀ`.
    Linear,
    /// `dy[.., n], w[n, k] → dx[.., k]`: `dx = dy w`.
    LinearBackwardInput,
    /// `dy[.., n], x[.., k] → dw[n, k]`: `dw = dyᵀ x`. `dw` accumulates.
    LinearBackwardWeight,
    /// `ids[..], table[v, n] → y[.., n]`: row `ids` of the table.
    Embedding,
    /// `ids[..], dy[.., n] → dtable[rows, n]`: adds each row of `dy` to row `ids`, in row order. `dtable` accumulates.
    EmbeddingBackward {
        /// Rows of the table.
        rows: u64,
    },
    /// `x[.., n], w[n] → y[.., n], rstd[..]`: `rstd = 1/sqrt(mean(x²) + epsilon)`, `y = x · rstd · w`; arXiv 1910.07467.
    /// Without a gain there is no `w`, and it counts as 1. With a prologue the operands of the program stand where `x`
    /// stood, `x` is its output, and it is a further result after `rstd`.
    RmsNorm {
        /// Added to the mean square.
        epsilon: Real,
        /// Whether there is a `w`.
        gain: bool,
        /// A program of one output that makes `x`, rounded to its storage: the residual addition before the norm.
        prologue: Option<Program>,
    },
    /// `dy[.., n], x[.., n], w[n], rstd[..] → dx[.., n], dw[n]`. With `g = dy · w`:
    /// `dx = rstd · (g - x · rstd² · mean(g · x))`, `dw = Σ dy · x · rstd`. `dw` accumulates. Without a gain there is
    /// neither `w` nor `dw`. With an epilogue, whose first input is `dx`, rounded to its storage, operands for its other
    /// inputs follow `rstd`, and its output is the first result in the place of `dx`.
    RmsNormBackward {
        /// Whether there is a `w`.
        gain: bool,
        /// A program of one output over `dx`: the addition of the residual's gradient.
        epilogue: Option<Program>,
    },
    /// `x[.., n], w[n], b[n] → y[.., n], mean[..], rstd[..]`: `rstd = 1/sqrt(mean((x - mean)²) + epsilon)`,
    /// `y = (x - mean) · rstd · w + b`; arXiv 1607.06450. Without a gain there is no `w`, without a bias no `b`. With a
    /// prologue `x` is what a program makes, as in [`Op::RmsNorm`], and a further result after `rstd`.
    LayerNorm {
        /// Added to the variance.
        epsilon: Real,
        /// Whether there is a `w`.
        gain: bool,
        /// Whether there is a `b`.
        bias: bool,
        /// A program of one output that makes `x`, rounded to its storage.
        prologue: Option<Program>,
    },
    /// `dy[.., n], x[.., n], w[n], mean[..], rstd[..] → dx[.., n], dw[n], db[n]`. With `z = (x - mean) · rstd` and
    /// `g = dy · w`: `dx = rstd · (g - mean(g) - z · mean(g · z))`, `dw = Σ dy · z`, `db = Σ dy`. `dw` and `db`
    /// accumulate. Without a gain there is neither `w` nor `dw`, without a bias no `db`. With an epilogue the first result
    /// is what a program makes of `dx`, as in [`Op::RmsNormBackward`].
    LayerNormBackward {
        /// Whether there is a `w`.
        gain: bool,
        /// Whether there is a `b`.
        bias: bool,
        /// A program of one output over `dx`.
        epilogue: Option<Program>,
    },
    /// `x[..], draw[4] → y[..]`: each element is 0 with the given probability, else divided by what is left of 1;
    /// arXiv 1207.0580. It is its own derivative: with the same `draw` it treats the same elements so.
    ///
    /// Element `e`, counted in logical order, is dropped where word `e mod 4` of the Philox4x32-10 block with counter
    /// `(⌊e/4⌋ mod 2³², ⌊e/4⌋/2³², draw[2], draw[3])` and key `(draw[0] ^ key mod 2³², draw[1] ^ key/2³²)` is less than
    /// `probability · 2³²`, rounded down. `draw` holds 32-bit words (as i32): two made from the
    /// run's seed, the update's index, the micro-batch within it.
    Dropout {
        /// Share of the elements that become 0; from 0 up, below 1.
        probability: Real,
        /// Distinguishes the dropouts of a model: a hash of the path, so that no rewrite moves a mask.
        key: u64,
    },
    /// `x[.., n] → y[.., 1]`: the sum of each row (f32), or its mean.
    RowSum {
        /// Divide by `n`.
        mean: bool,
    },
    /// `x[.., n] → y[.., n]`: `y = exp(x - max(x)) / Σ exp(x - max(x))` for each row.
    Softmax,
    /// `x[B, S, H, D], cos[S, R], sin[S, R] → y[B, S, H, D]` with `2R ≤ D`: rotates the pairs `(x[i], x[i + R])`, or
    /// `(x[2i], x[2i + 1])` where `interleaved`, by the position's angle; elements from `2R` on stay as they are.
    /// `inverse` rotates back, which is the derivative.
    Rope {
        /// Rotate by the negative angle.
        inverse: bool,
        /// Pairs are neighbours.
        interleaved: bool,
    },
    /// `q[B, S, H, D], k[B, S, G, D], v[B, S, G, E] → out[B, S, H, E], lse[B, H, S]`: `out = softmax(s) v` with
    /// `s = scale · q kᵀ + mask` or what else [`Scores`] say, `lse` the logarithm of each softmax's denominator (f32),
    /// maximum included. Head `h` reads key/value head `h / (H/G)`.
    Attention {
        /// How scores are made.
        scores: Scores,
    },
    /// `dout, q, k, v, out, lse → dq, dk, dv`, shapes as in [`Op::Attention`]. Where gradients are turned back, `cos[S, R]`
    /// and `sin[S, R]` follow `lse`, and what is stored of them is what an inverse [`Op::Rope`] makes of the gradient, which
    /// was rounded to its storage before.
    AttentionBackward {
        /// How scores were made.
        scores: Scores,
        /// Which gradients are turned back; none where it is missing.
        turned_back: Option<TurnedBack>,
    },
    /// Operands as the program's inputs say, results as its outputs.
    Pointwise {
        /// What is computed for each element.
        program: Program,
    },
    /// `x[.., n] → y[n]`: sums over rows: the gradient of a broadcast row. `y` accumulates.
    ColumnSum,
    /// `x[B, S, n], w[v, n], labels[B, S] → loss[B]`: for each row the sum over its valid positions of
    /// `logsumexp(z) - z[label]` with the logits `z = f(x wᵀ + b)`. With `bias` a fourth operand `b[v]`, else 0. A label
    /// of -100 is not valid.
    HeadLoss {
        /// Positions whose logits are held at a time.
        chunk: u32,
        /// Whether there is a vector added to the product.
        bias: bool,
        /// The function f of one number; the identity where there is none.
        transform: Option<Program>,
    },
    /// `x[B, S, n], w[v, n], labels[B, S], scale[] → loss[B], dx[B, S, n], dw[v, n]`: [`Op::HeadLoss`] and the gradient
    /// of `scale · Σ loss` on the spot, because the logits are not kept. With `bias` a fifth operand `b[v]` and a fourth
    /// result `db[v]`. `dw` and `db` accumulate. Where the loss of a position is not finite, what it adds to `dw` is not
    /// either, even if its logits have derivatives: so the norm of the gradient tells of such a loss, too, and
    /// [`Op::AdamW`] does not learn from it, before any host has seen it.
    HeadLossWithGradient {
        /// Positions whose logits are held at a time.
        chunk: u32,
        /// Whether there is a vector added to the product.
        bias: bool,
        /// The function f of one number with its derivative; the identity where there is none.
        transform: Option<LogitTransform>,
    },
    /// `gradients[n] → norm[], finite[]`: Euclidean norm of the whole gradient segment (accumulated in f64, stored
    /// f32), and 1 where every element is finite, else 0.
    GradientNorm,
    /// `gradients[n], norm[], finite[], learning_rate[] → parameters[n], first[n], second[n], step[]`, all four updated
    /// in place; nothing is written when `finite` is 0, and elements outside the ranges are never touched.
    ///
    /// With `c = min(1, clip_norm/(norm + 1e-6))` (1 when `clip_norm` is 0), `g = c · gradient`, `t = step + 1`:
    /// `m = β₁m + (1-β₁)g`, `v = β₂v + (1-β₂)g²`,
    /// `p = p(1 - lr·decay) - lr · (m/(1-β₁ᵗ)) / (sqrt(v/(1-β₂ᵗ)) + ε)`; arXiv 1711.05101, clipping as PyTorch.
    ///
    /// With `master` a fifth result `master[n]` of the gradients' format holds `p`, and `parameters` (bf16) become `p`
    /// rounded. Without it parameters and moments have the gradients' format. Whatever the formats, an element is one
    /// evaluation in f32 from the stored numbers, in which `p` reads `m` and `v` unrounded, and each stored number is
    /// rounded once: in bf16 that is PyTorch's fused AdamW.
    AdamW {
        /// Decay of the first moment.
        beta1: Real,
        /// Decay of the second moment.
        beta2: Real,
        /// Added to the root of the second moment.
        epsilon: Real,
        /// Largest norm of the gradient, 0 for none.
        clip_norm: Real,
        /// Weight decay and learning-rate factor by range of the segment; ranges are in order and do not overlap.
        ranges: Vec<UpdateRange>,
        /// Whether parameters are bf16 copies of master parameters.
        master: bool,
    },
    /// `x[.., n] → y[.., length]`: elements `start..start + length` of each row.
    Slice {
        /// First element of a row.
        start: u64,
        /// Elements of a row.
        length: u64,
    },
    /// `parts[.., nᵢ] → y[.., width]`: part `i` fills the elements from `starts[i]` on of each row, and 0 the others. Also
    /// the derivative of slices.
    Concat {
        /// Elements of a row.
        width: u64,
        /// Where each part begins; in order, without overlap.
        starts: Vec<u64>,
    },
    /// `x[B, S, ..] → y[B, S, ..]`: `y[b, s] = x[b, s - by]`, 0 where there is no such position. `-by` is the derivative.
    Shift {
        /// Positions to move towards the end of the row; negative moves towards its start.
        by: i64,
    },
    /// `x[..] → y[]`: the sum of all elements (accumulated in f64): the gradient of a number shared by all. `y`
    /// accumulates.
    Sum,
}

/// A function of logits, and what turns the gradient of its result into the gradient of its argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogitTransform {
    /// One input, one output, both elements.
    pub function: Program,
    /// Inputs are the argument and the gradient of the result; one output.
    pub derivative: Program,
}

/// Elements of the parameter segment that [`Op::AdamW`] treats alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UpdateRange {
    /// First element, counted in elements from the start of the segment.
    pub start: u64,
    /// Number of elements.
    pub length: u64,
    /// Decoupled weight decay.
    pub weight_decay: Real,
    /// Factor on the learning rate.
    pub learning_rate_factor: Real,
}

impl Op {
    /// The printed name.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Linear => "linear",
            Op::LinearBackwardInput => "linear_backward_input",
            Op::LinearBackwardWeight => "linear_backward_weight",
            Op::Embedding => "embedding",
            Op::EmbeddingBackward { .. } => "embedding_backward",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormBackward { .. } => "rms_norm_backward",
            Op::LayerNorm { .. } => "layer_norm",
            Op::LayerNormBackward { .. } => "layer_norm_backward",
            Op::Dropout { .. } => "dropout",
            Op::RowSum { .. } => "row_sum",
            Op::Softmax => "softmax",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::AttentionBackward { .. } => "attention_backward",
            Op::Pointwise { .. } => "pointwise",
            Op::ColumnSum => "column_sum",
            Op::HeadLoss { .. } => "head_loss",
            Op::HeadLossWithGradient { .. } => "head_loss_with_gradient",
            Op::GradientNorm => "gradient_norm",
            Op::AdamW { .. } => "adamw",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Shift { .. } => "shift",
            Op::Sum => "sum",
        }
    }

    /// Attributes for a printed line, e.g. `mask=causal scale=0.125`; empty where there are none.
    pub fn attributes(&self) -> String {
        match self {
            Op::Linear
            | Op::LinearBackwardInput
            | Op::LinearBackwardWeight
            | Op::Embedding
            | Op::ColumnSum
            | Op::Softmax
            | Op::GradientNorm
            | Op::Sum => String::new(),
            Op::RowSum { mean } => if *mean { "mean" } else { "" }.into(),
            Op::EmbeddingBackward { rows } => format!("rows={rows}"),
            Op::RmsNorm { epsilon, gain, prologue } => {
                let missing = without(&[(*gain, "gain")]);
                format!("epsilon={epsilon}{missing}{}", of("x", prologue.as_ref()))
            }
            Op::RmsNormBackward { gain, epilogue } => {
                let missing = without(&[(*gain, "gain")]);
                format!("{missing}{}", of("dx", epilogue.as_ref())).trim_start().into()
            }
            Op::LayerNorm { epsilon, gain, bias, prologue } => {
                let missing = without(&[(*gain, "gain"), (*bias, "bias")]);
                format!("epsilon={epsilon}{missing}{}", of("x", prologue.as_ref()))
            }
            Op::LayerNormBackward { gain, bias, epilogue } => {
                let missing = without(&[(*gain, "gain"), (*bias, "bias")]);
                format!("{missing}{}", of("dx", epilogue.as_ref())).trim_start().into()
            }
            Op::Dropout { probability, key } => format!("p={probability} key={key:016x}"),
            Op::Rope { inverse, interleaved } => match (inverse, interleaved) {
                (false, false) => "",
                (true, false) => "inverse",
                (false, true) => "interleaved",
                (true, true) => "inverse interleaved",
            }
            .into(),
            Op::Attention { scores } | Op::AttentionBackward { scores, turned_back: None } => {
                scores.to_string()
            }
            Op::AttentionBackward { scores, turned_back: Some(turned_back) } => {
                format!("{scores} {turned_back}")
            }
            Op::Pointwise { program } => format!("{{ {program} }}"),
            Op::HeadLoss { chunk, bias, transform } => {
                head_attributes(*chunk, *bias, transform.as_ref())
            }
            Op::HeadLossWithGradient { chunk, bias, transform } => {
                head_attributes(*chunk, *bias, transform.as_ref().map(|t| &t.function))
            }
            Op::Slice { start, length } => format!("start={start} length={length}"),
            Op::Concat { width, starts } => format!("width={width} starts={starts:?}"),
            Op::Shift { by } => format!("by={by}"),
            Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master } => format!(
                "beta1={beta1} beta2={beta2} epsilon={epsilon} clip_norm={clip_norm} ranges={}{}",
                ranges.len(),
                if *master { " master" } else { "" }
            ),
        }
    }

    /// Whether result `index` is a parameter's gradient: it may be added to what is there. Its storage is a choice of the
    /// plan, f32 or bf16 ([`Op::gives`]); the sum, with what is there, is in f32 and rounded once.
    pub fn accumulates(&self, index: usize) -> bool {
        match self {
            Op::LinearBackwardWeight | Op::EmbeddingBackward { .. } | Op::ColumnSum | Op::Sum => {
                true
            }
            Op::RmsNormBackward { .. } => index == 1,
            Op::LayerNormBackward { .. } => index >= 1,
            Op::HeadLossWithGradient { .. } => index >= 2,
            Op::Linear
            | Op::LinearBackwardInput
            | Op::Embedding
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Dropout { .. }
            | Op::RowSum { .. }
            | Op::Softmax
            | Op::Rope { .. }
            | Op::Attention { .. }
            | Op::AttentionBackward { .. }
            | Op::Pointwise { .. }
            | Op::HeadLoss { .. }
            | Op::GradientNorm
            | Op::AdamW { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Shift { .. } => false,
        }
    }

    /// Whether a tensor of type `found` can hold result `index`, for which the shape rule gives `inferred`: the same
    /// extents and element format, or for what accumulates any real one.
    pub fn gives(&self, index: usize, inferred: &TensorType, found: &TensorType) -> bool {
        let chosen = self.accumulates(index) && found.dtype.is_float();
        (chosen || inferred.dtype == found.dtype) && inferred.shape.same_extents(&found.shape)
    }

    /// The first operand of a norm that its prologue does not read: the gain, the bias.
    pub(crate) fn after_prologue(prologue: Option<&Program>) -> usize {
        prologue.map_or(1, |program| program.inputs.len())
    }

    /// The first operand that the epilogue of a norm's derivative reads: behind gradient, `x`, gain and statistics.
    fn epilogue_operands(gain: bool, statistics: usize) -> usize {
        2 + usize::from(gain) + statistics
    }

    /// How a program inside the operation (its own, a prologue, an epilogue) reads operand `operand`; `None` where no
    /// program reads it.
    pub fn program_input(&self, operand: usize) -> Option<InputForm> {
        let epilogue = |program: &Option<Program>, first: usize| {
            program.as_ref()?.inputs.get(1 + operand.checked_sub(first)?).copied()
        };
        match self {
            Op::Pointwise { program } => program.inputs.get(operand).copied(),
            Op::RmsNorm { prologue, .. } | Op::LayerNorm { prologue, .. } => {
                prologue.as_ref()?.inputs.get(operand).copied()
            }
            Op::RmsNormBackward { gain, epilogue: program } => {
                epilogue(program, Op::epilogue_operands(*gain, 1))
            }
            Op::LayerNormBackward { gain, epilogue: program, .. } => {
                epilogue(program, Op::epilogue_operands(*gain, 2))
            }
            _ => None,
        }
    }

    /// Whether result `result` may lie on the bytes of operand `operand` when that operand is not read again: the
    /// executor reads each element before it writes the same element, and reads it only once. A prologue reads a row of
    /// its operands before the norm writes any result of that row.
    pub fn in_place(&self, operand: usize, result: usize) -> bool {
        let elements = || self.program_input(operand) == Some(InputForm::Elements);
        match self {
            Op::Pointwise { program } => elements() && result < program.outputs.len(),
            Op::RmsNorm { .. } => elements() && matches!(result, 0 | 2),
            Op::LayerNorm { .. } => elements() && matches!(result, 0 | 3),
            Op::Rope { .. } | Op::Dropout { .. } => operand == 0 && result == 0,
            _ => false,
        }
    }
}

/// ` no_gain no_bias`, as far as they are missing.
fn without(parts: &[(bool, &str)]) -> String {
    parts.iter().filter(|(there, _)| !there).map(|(_, name)| format!(" no_{name}")).collect()
}

/// ` x={ a + b }` for the program that makes a value of a norm.
fn of(value: &str, program: Option<&Program>) -> String {
    program.map_or_else(String::new, |program| format!(" {value}={{ {program} }}"))
}

fn head_attributes(chunk: u32, bias: bool, transform: Option<&Program>) -> String {
    let bias = if bias { " bias" } else { "" };
    let transform = transform.map_or_else(String::new, |program| format!(" {{ {program} }}"));
    format!("chunk={chunk}{bias}{transform}")
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mask::Full => f.write_str("full"),
            Mask::Causal => f.write_str("causal"),
            Mask::Window(width) => write!(f, "window({width})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::alibi_slope;

    /// The lists that the paper's code (`get_slopes`) gives.
    #[test]
    fn slopes_are_the_papers() {
        let slopes = |heads| (0..heads).map(|head| alibi_slope(head, heads)).collect::<Vec<_>>();
        assert_eq!(slopes(8), [1, 2, 3, 4, 5, 6, 7, 8].map(|h| 1.0 / f64::from(1 << h)));
        assert_eq!(slopes(1), [1.0 / 256.0]);
        let six = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125];
        assert_eq!(slopes(6), six);
        for (slope, exponent) in
            slopes(12).into_iter().zip([1., 2., 3., 4., 5., 6., 7., 8., 0.5, 1.5, 2.5, 3.5])
        {
            assert!((slope / 2f64.powf(-exponent) - 1.0).abs() < 1e-12, "{slope} for {exponent}");
        }
    }
}
