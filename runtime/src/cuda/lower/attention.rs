//! Attention and its derivative.
//!
//! Owns which kernels an attention gets, their macros, grids and arguments. What a library of the device was asked for and
//! takes is left to it. bf16 at multiples of 16 bytes with a head size that the tiles are made for runs on them; all else
//! on kernels that take any width and place. Gradients are turned back where the tiles store them, if whole groups of eight
//! pairs are turned; else where they lie, by a launch for each.

use std::fmt::Write;

use colac_plan::DType;
use colac_plan::op::{Mask, Scores, TurnedBack, alibi_slope};

use crate::contract::LayoutProblem;
use crate::cuda::attention::{Attention, AttentionShape, Pass};
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::rope::{self, Tables};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::{Heads, Rows};

/// Rows of a tile of the kernels for any width.
const ANY_ROWS: u64 = 32;
/// Columns of a span of these kernels, and the most spans that a block makes.
const SPAN: u64 = 32;
const MOST_SPANS: u64 = 8;

/// Head sizes that the tiles are made for, and the sizes of attention_tiles.cu.
const TILED_DIMS: [u64; 4] = [32, 64, 96, 128];
/// Queries of a block of the forward pass, and keys that it copies at a time.
const TILED_QUERIES: u64 = 64;
const TILED_KEYS: u64 = 64;
const TILED_THREADS: u32 = 128;

/// Keys of a block of the keys' gradient, and queries that it copies at a time.
fn tiled_key_rows(dim: u64) -> (u64, u64) {
    (if dim < 64 { 128 } else { 64 }, 32)
}

/// Queries of a block of the queries' gradient, and keys that it copies at a time.
fn tiled_query_rows(dim: u64) -> (u64, u64) {
    if dim == 64 { (64, 64) } else { (128, 32) }
}

/// Bytes of so many rows in shared memory.
fn shared(rows: u64, dim: u64) -> u32 {
    (rows * dim * DType::Bf16.bytes()) as u32
}

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

    /// Whether the tiles take it: their counters are 32 bits wide, and they look for the largest product to find the
    /// largest score.
    fn is_tiled(&self, scores: &Scores, heads: &[&Heads]) -> bool {
        self.dtype == DType::Bf16
            && self.dim == self.value_dim
            && TILED_DIMS.contains(&self.dim)
            && (scores.scale.get() as f32) > 0.0
            && self.seq <= 1 << 30
            && self.heads <= 1 << 30
            && heads.iter().all(|heads| heads.is_wide())
    }

    /// Blocks for tiles of so many rows of so many heads.
    fn blocks(&self, heads: u64, rows: u64) -> u64 {
        self.batch * heads * self.seq.div_ceil(rows)
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

/// The same for the tiles, whose text says which mask it is.
fn tiled_scoring(shape: &Shape, scores: &Scores) -> [Argument; 6] {
    let window = if let Mask::Window(width) = scores.mask { width } else { 0 };
    let extents = [shape.seq, shape.heads, shape.heads / shape.groups];
    let [seq, heads, sharing] = extents.map(|extent| Argument::U32(extent as u32));
    let [scale, cap, ..] = scoring(scores);
    [seq, heads, sharing, scale, cap, Argument::U32(window)]
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
        let tensors = [&q, &k, &v, &out];
        if let Some(step) =
            self.by_library(Pass::Forward, scores, &shape, [&q, &k], &tensors, &lse)?
        {
            return Ok(vec![step]);
        }
        let mut arguments: Vec<Argument> = tensors.into_iter().flat_map(place).collect();
        arguments.push(Argument::Address(lse.address));
        if shape.is_tiled(scores, &tensors) {
            arguments.extend(tiled_scoring(&shape, scores));
            return Ok(vec![Step::Launch(Launch {
                source: tiled(&shape, scores),
                entry: "attention_tiles_forward",
                grid: shape.blocks(shape.heads, TILED_QUERIES),
                threads: TILED_THREADS,
                shared: shared(TILED_QUERIES + 2 * TILED_KEYS, shape.dim),
                arguments,
            })]);
        }
        arguments.extend(shape.extents());
        arguments.extend(scoring(scores));
        Ok(vec![Step::Launch(Launch {
            source: any_width(&shape, scores),
            entry: "attention_forward",
            grid: shape.blocks(shape.heads, ANY_ROWS) * chunks(shape.value_dim),
            threads: 256,
            shared: 0,
            arguments,
        })])
    }

    /// `dout, q, k, v, out, lse → dq, dk, dv`, by the tables behind them turned back or not; the row sums of `dout · out`
    /// are in the workspace.
    pub(super) fn attention_backward(
        &self,
        scores: &Scores,
        turned_back: Option<TurnedBack>,
    ) -> Steps {
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
        let turns = turned_back.map(|turned| Ok::<_, CudaError>((turned, self.tables(6)?)));
        let turns = turns.transpose()?;
        // The launches that turn back what lies there.
        let turn_back = || {
            let launch = |(turned, tables): (TurnedBack, Tables)| {
                let gradients = [&dq, &dk, &dv].into_iter().zip(turned.results());
                let gradients = gradients.filter(|(_, turned)| *turned);
                gradients.map(move |(gradient, _)| {
                    let launch = rope::turn(gradient, gradient, &tables, true, turned.interleaved);
                    Step::Launch(launch)
                })
            };
            turns.into_iter().flat_map(launch)
        };
        let tensors = [&dout, &q, &k, &v, &out, &dq, &dk, &dv];
        if let Some(step) =
            self.by_library(Pass::Backward, scores, &shape, [&q, &k], &tensors, &lse)?
        {
            return Ok([step].into_iter().chain(turn_back()).collect());
        }
        let sums = Argument::Address(self.workspace(0));
        let mut row_sums: Vec<Argument> = [&dout, &out].into_iter().flat_map(place).collect();
        row_sums.push(sums);
        let mut common: Vec<Argument> = [&dout, &q, &k, &v].into_iter().flat_map(place).collect();
        common.extend([Argument::Address(lse.address), sums]);
        let with = |results: &[&Heads], last: &[Argument]| {
            let mut arguments = common.clone();
            arguments.extend(results.iter().copied().flat_map(place));
            arguments.extend(last);
            arguments
        };
        let &Shape { batch, seq, heads, groups, dim, value_dim, .. } = &shape;
        if shape.is_tiled(scores, &tensors) {
            let turned = turns.filter(|(_, tables)| tables.are_wide());
            let source = tiled_turning_back(&shape, scores, turned);
            let launch = |entry, grid, threads, shared, arguments| {
                let source = source.clone();
                Step::Launch(Launch { source, entry, grid, threads, shared, arguments })
            };
            row_sums.push(Argument::U64(batch));
            row_sums.extend([seq, heads].map(|extent| Argument::U32(extent as u32)));
            let mut last = Vec::from(tiled_scoring(&shape, scores));
            last.extend(turned.iter().flat_map(|(_, tables)| tables.arguments()));
            let (key_rows, queries) = tiled_key_rows(dim);
            let (query_rows, keys) = tiled_query_rows(dim);
            // A logarithm and a row sum for each query of two tiles.
            let numbers = (2 * 2 * queries * DType::F32.bytes()) as u32;
            let mut steps = vec![
                launch(
                    "attention_tiles_row_sums",
                    (batch * seq * heads).div_ceil(64),
                    256,
                    0,
                    row_sums,
                ),
                launch(
                    "attention_tiles_backward_keys",
                    shape.blocks(groups, key_rows),
                    TILED_THREADS,
                    shared(2 * key_rows + 4 * queries, dim) + numbers,
                    with(&[&dk, &dv], &last),
                ),
                launch(
                    "attention_tiles_backward_queries",
                    shape.blocks(heads, query_rows),
                    TILED_THREADS,
                    shared(2 * query_rows + 4 * keys, dim),
                    with(&[&dq], &last),
                ),
            ];
            if turned.is_none() {
                steps.extend(turn_back());
            }
            return Ok(steps);
        }
        let source = any_width(&shape, scores);
        let launch = |entry, grid, arguments| {
            let source = source.clone();
            Step::Launch(Launch { source, entry, grid, threads: 256, shared: 0, arguments })
        };
        row_sums.extend([batch, seq, heads, value_dim].map(Argument::U64));
        let mut last = Vec::from(shape.extents());
        last.extend(scoring(scores));
        let key_chunks = chunks(dim).max(chunks(value_dim));
        let steps = vec![
            launch("attention_row_sums", (batch * seq * heads).div_ceil(8), row_sums),
            launch(
                "attention_backward_keys",
                shape.blocks(groups, ANY_ROWS) * key_chunks,
                with(&[&dk, &dv], &last),
            ),
            launch(
                "attention_backward_queries",
                shape.blocks(heads, ANY_ROWS) * chunks(dim),
                with(&[&dq], &last),
            ),
        ];
        Ok(steps.into_iter().chain(turn_back()).collect())
    }

    /// The whole operation by a library of the device; `None` where it is for our own kernels.
    fn by_library(
        &self,
        pass: Pass,
        scores: &Scores,
        shape: &Shape,
        [q, k]: [&Heads; 2],
        tensors: &[&Heads],
        lse: &Rows,
    ) -> Result<Option<Step>, CudaError> {
        let scale = scores.scale.get() as f32;
        let plain = scores.softcap.is_none() && !scores.alibi && scale > 0.0;
        let regular = shape.dtype == DType::Bf16 && shape.dim == shape.value_dim;
        let wide = lse.address.is_multiple_of(16) && tensors.iter().all(|heads| heads.is_wide());
        if !plain || !regular || !wide {
            return Ok(None);
        }
        let shape = AttentionShape::of(pass, scores.mask, q, k, tensors);
        if !(self.target.takes)(&shape)? {
            return Ok(None);
        }
        let row_sums = if pass == Pass::Backward { self.workspace(0) } else { 0 };
        Ok(Some(Step::Attention(Box::new(Attention {
            shape,
            scale,
            heads: tensors.iter().map(|heads| heads.address).collect(),
            logarithms: lse.address,
            row_sums,
            workspace: 0,
        }))))
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

/// The text of the tiles.
fn tiled(shape: &Shape, scores: &Scores) -> Source {
    let mask = match scores.mask {
        Mask::Full => 0,
        Mask::Causal => 1,
        Mask::Window(_) => 2,
    };
    let mut source =
        Source::new(Family::AttentionTiles).define("HEAD_DIM", shape.dim).define("MASK", mask);
    if scores.softcap.is_some() {
        source = source.define("CAP", 1);
    }
    with_slopes(source, scores, shape.heads)
}

/// The text of the tiles of the backward pass, which may turn gradients back by tables that are wide.
fn tiled_turning_back(
    shape: &Shape,
    scores: &Scores,
    turned: Option<(TurnedBack, Tables)>,
) -> Source {
    let source = tiled(shape, scores);
    let Some((turned, tables)) = turned else { return source };
    source
        .define("PAIRS", tables.cos.width)
        .define("INTERLEAVED", u8::from(turned.interleaved))
        .define("TURN_QUERIES", u8::from(turned.queries))
        .define("TURN_KEYS", u8::from(turned.keys))
        .define(
            "TABLE_PARAMS",
            ", const float* cos, u64 cos_stride, const float* sin, u64 sin_stride",
        )
}
