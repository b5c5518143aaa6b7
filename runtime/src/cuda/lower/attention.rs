//! Attention and its derivative.
//!
//! Owns which kernels an attention gets, their macros, grids and arguments. bf16 at multiples of 16 bytes with a head
//! size that the tiles are made for runs on them; all else on kernels that take any width and place.

use std::fmt::Write;

use colac_plan::DType;
use colac_plan::op::{Mask, Scores, alibi_slope};

use crate::cpu::LayoutProblem;
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::{Heads, Rows};

/// Rows of a tile of the kernels for any width.
const ANY_ROWS: u64 = 32;
/// Columns of a span of these kernels, and the most spans that a block makes.
const SPAN: u64 = 32;
const MOST_SPANS: u64 = 8;

/// What all kernels of an attention are told.
struct Shape {
    batch: u64,
    seq: u64,
    heads: u64,
    groups: u64,
    dim: u64,
    value_dim: u64,
    dtype: DType,
}

impl Shape {
    fn of(q: &Heads, v: &Heads) -> Shape {
        let &Heads { batch, seq, heads, dim, dtype, .. } = q;
        Shape { batch, seq, heads, groups: v.heads, dim, value_dim: v.dim, dtype }
    }

    fn is_empty(&self) -> bool {
        [self.batch, self.seq, self.heads, self.groups, self.dim, self.value_dim].contains(&0)
    }

    fn extents(&self) -> [Argument; 6] {
        let sharing = self.heads / self.groups;
        [self.batch, self.seq, self.heads, sharing, self.dim, self.value_dim].map(Argument::U64)
    }
}

/// Pointer and distances of one tensor.
fn place(heads: &Heads) -> [Argument; 4] {
    let [batch, seq, head] = heads.strides.map(Argument::U64);
    [Argument::Address(heads.address), batch, seq, head]
}

/// How scores are made: scale, cap (0 for none), whether later keys are hidden, and the window (the largest number for
/// none).
fn scoring(scores: &Scores) -> [Argument; 4] {
    let (causal, window) = match scores.mask {
        Mask::Full => (0, u64::MAX),
        Mask::Causal => (1, u64::MAX),
        Mask::Window(width) => (1, u64::from(width)),
    };
    let cap = scores.softcap.map_or(0.0, |cap| cap.get() as f32);
    let scale = scores.scale.get() as f32;
    [Argument::F32(scale), Argument::F32(cap), Argument::U32(causal), Argument::U64(window)]
}

/// Where ALiBi is asked for, the function of a head that gives its slope: computed here, so that it has the same bits
/// everywhere.
fn with_slopes(source: Source, scores: &Scores, heads: u64) -> Source {
    if !scores.alibi {
        return source;
    }
    let mut text = String::from("DEVICE float alibi_slope(u64 head) {\n    switch (head) {\n");
    for head in 0..heads {
        let bits = (alibi_slope(head, heads) as f32).to_bits();
        let _ = writeln!(text, "        case {head}: return bits_to_f32(0x{bits:08x}u);");
    }
    text.push_str("    }\n    return 0.0f;\n}\n");
    Source { program: text, ..source.define("ALIBI", 1) }
}

impl Lowering<'_> {
    /// `q, k, v → out, lse`.
    pub(super) fn attention(&self, scores: &Scores) -> Steps {
        let [q, k, v] = [0, 1, 2].map(|index| self.operand_heads(index));
        let (q, k, v, out) = (q?, k?, v?, self.result_heads(0)?);
        let lse = self.packed_result(1)?;
        let shape = Shape::of(&q, &v);
        self.check_formats(&shape, &[&k, &v, &out], &lse)?;
        if shape.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments = Vec::new();
        arguments.extend([&q, &k, &v, &out].into_iter().flat_map(place));
        arguments.push(Argument::Address(lse.address));
        arguments.extend(shape.extents());
        arguments.extend(scoring(scores));
        let source = any_width(&shape, scores);
        let tiles = shape.seq.div_ceil(ANY_ROWS) * chunks(shape.value_dim);
        Ok(vec![Step::Launch(Launch {
            source,
            entry: "attention_forward",
            grid: shape.batch * shape.heads * tiles,
            threads: 256,
            shared: 0,
            arguments,
        })])
    }

    /// `dout, q, k, v, out, lse → dq, dk, dv`; the row sums of `dout · out` are in the workspace.
    pub(super) fn attention_backward(&self, scores: &Scores) -> Steps {
        let [dout, q, k, v, out] = [0, 1, 2, 3, 4].map(|index| self.operand_heads(index));
        let (dout, q, k, v, out) = (dout?, q?, k?, v?, out?);
        let lse = self.packed_operand(5)?;
        let [dq, dk, dv] = [0, 1, 2].map(|index| self.result_heads(index));
        let (dq, dk, dv) = (dq?, dk?, dv?);
        let shape = Shape::of(&q, &v);
        self.check_formats(&shape, &[&dout, &k, &v, &out, &dq, &dk, &dv], &lse)?;
        if shape.is_empty() {
            return Ok(Vec::new());
        }
        let sums = Argument::Address(self.workspace(0));
        let &Shape { batch, seq, heads, groups, value_dim, .. } = &shape;
        let source = any_width(&shape, scores);
        let launch = |entry, grid, arguments| {
            let source = source.clone();
            Step::Launch(Launch { source, entry, grid, threads: 256, shared: 0, arguments })
        };
        let mut row_sums: Vec<Argument> = [&dout, &out].into_iter().flat_map(place).collect();
        row_sums.push(sums);
        row_sums.extend([batch, seq, heads, value_dim].map(Argument::U64));
        let gradients = |results: &[&Heads]| {
            let mut arguments: Vec<Argument> =
                [&dout, &q, &k, &v].into_iter().flat_map(place).collect();
            arguments.extend([Argument::Address(lse.address), sums]);
            arguments.extend(results.iter().copied().flat_map(place));
            arguments.extend(shape.extents());
            arguments.extend(scoring(scores));
            arguments
        };
        let tiles = seq.div_ceil(ANY_ROWS);
        let key_chunks = chunks(shape.dim);
        let both_chunks = key_chunks.max(chunks(value_dim));
        Ok(vec![
            launch("attention_row_sums", (batch * seq * heads).div_ceil(8), row_sums),
            launch(
                "attention_backward_queries",
                batch * heads * tiles * key_chunks,
                gradients(&[&dq]),
            ),
            launch(
                "attention_backward_keys",
                batch * groups * tiles * both_chunks,
                gradients(&[&dk, &dv]),
            ),
        ])
    }

    /// All tensors have the format of the queries, and the logarithms are f32.
    fn check_formats(&self, shape: &Shape, heads: &[&Heads], lse: &Rows) -> Result<(), CudaError> {
        let found = heads.iter().map(|heads| (shape.dtype, heads.dtype));
        match found.chain([(DType::F32, lse.dtype)]).find(|(expected, found)| expected != found) {
            None => Ok(()),
            Some((expected, found)) => {
                let problem = LayoutProblem::ElementFormat { expected, found };
                Err(self.layout("a tensor".into(), problem))
            }
        }
    }
}

/// Spans that a block makes of so many columns.
fn spans(width: u64) -> u64 {
    width.div_ceil(SPAN).min(MOST_SPANS)
}

/// Blocks that share the columns of a tile.
fn chunks(width: u64) -> u64 {
    width.div_ceil(SPAN * spans(width))
}

/// The text of the kernels that take any width and place.
fn any_width(shape: &Shape, scores: &Scores) -> Source {
    let source = Source::new(Family::Attention)
        .format("X_T", shape.dtype)
        .define("KEY_SPANS", spans(shape.dim))
        .define("VALUE_SPANS", spans(shape.value_dim));
    with_slopes(source, scores, shape.heads)
}
