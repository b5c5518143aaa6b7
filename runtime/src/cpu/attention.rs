//! Attention that never stores the score matrix.
//!
//! Forward: for each tile of queries, scores of one tile of keys at a time, softmax kept up to date as the maximum grows
//! (arXiv 2112.05682, 2205.14135). A task is one tile of queries of one head. Owns tiles, masks and the forward pass;
//! the backward pass is in [`crate::cpu::attention_backward`]. Must not know other operations.

use std::ops::Range;

use colac_plan::op::{Mask, Scores, alibi_slope};
use faer::Accum;

use crate::cpu::gemm::multiply;
use crate::cpu::heads::Heads;
use crate::cpu::kernel::{Buffers, Context, Kernel, span};
use crate::cpu::vector::{exponentials, maximum, scale, tanh, vectorised};
use crate::cpu::view::{Matrix, Rows};

/// Queries in a tile.
pub(crate) const QUERIES: usize = 64;
/// Keys in a tile.
pub(crate) const KEYS: usize = 128;

/// Keys that the query at `position` sees in a sequence of `seq`.
pub(crate) fn visible(mask: Mask, position: usize, seq: usize) -> Range<usize> {
    match mask {
        Mask::Full => 0..seq,
        Mask::Causal => 0..position + 1,
        Mask::Window(width) => (position + 1).saturating_sub(width as usize)..position + 1,
    }
}

/// Keys that some query in `queries` sees.
pub(crate) fn visible_to_any(mask: Mask, queries: &Range<usize>, seq: usize) -> Range<usize> {
    visible(mask, queries.start, seq).start..visible(mask, queries.end - 1, seq).end
}

/// The columns of a tile `keys` that the query at `position` sees, counted from the start of the tile.
pub(crate) fn visible_columns(
    mask: Mask,
    position: usize,
    keys: &Range<usize>,
    seq: usize,
) -> Range<usize> {
    let visible = visible(mask, position, seq);
    let start = visible.start.clamp(keys.start, keys.end);
    let end = visible.end.clamp(start, keys.end);
    start - keys.start..end - keys.start
}

/// Tiles of `size` that cover `all`.
pub(crate) fn tiles(all: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    all.clone().step_by(size).map(move |start| start..(start + size).min(all.end))
}

/// What is done to the scaled products of one row of a tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shaping {
    /// The cap; 0 for none.
    pub(crate) cap: f32,
    /// What a step of distance takes off.
    pub(crate) slope: f32,
    /// Position of the query, counted from the first key of the row.
    pub(crate) query: f32,
}

impl Shaping {
    /// What is done to the row of a query whose first key stands at `first_key`; `None` if nothing.
    pub(crate) fn of(
        scores: &Scores,
        head: usize,
        heads: usize,
        position: usize,
        first_key: usize,
    ) -> Option<Shaping> {
        let cap = scores.softcap.map_or(0.0, |cap| cap.get() as f32);
        let slope = if scores.alibi { alibi_slope(head as u64, heads as u64) as f32 } else { 0.0 };
        let query = position as f32 - first_key as f32;
        (cap != 0.0 || slope != 0.0).then_some(Shaping { cap, slope, query })
    }
}

vectorised! {
    /// Caps scores and takes off what their distance says.
    fn shape<FUSED>(scores: &mut [f32], shaping: Shaping) {
        if shaping.cap != 0.0 {
            for score in scores.iter_mut() {
                *score = shaping.cap * tanh::<FUSED>(*score / shaping.cap);
            }
        }
        if shaping.slope != 0.0 {
            for (key, score) in scores.iter_mut().enumerate() {
                *score -= shaping.slope * (shaping.query - key as f32).abs();
            }
        }
    }
}

/// [`colac_plan::Op::Attention`].
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) q: Heads,
    pub(crate) k: Heads,
    pub(crate) v: Heads,
    pub(crate) out: Heads,
    /// `[batch, heads, seq]` as one row.
    pub(crate) log_sum_exp: Rows,
    pub(crate) scores: Scores,
}

impl Kernel for Attention {
    fn run(&self, context: &Context<'_>) {
        let q = &self.q;
        let across = q.seq.div_ceil(QUERIES);
        if q.dim == 0 || self.v.dim == 0 {
            return;
        }
        context.pool.run(q.batch * q.heads * across, &|task, thread| {
            // Later tiles see more keys under a causal mask: they go first, so that no long task comes last.
            let (head, tile) =
                (task % (q.batch * q.heads), across - 1 - task / (q.batch * q.heads));
            // SAFETY: the task takes its thread's scratch once.
            let scratch = unsafe { context.scratch.of(thread, self.scratch()) };
            self.tile(head / q.heads, head % q.heads, span(tile, QUERIES, q.seq), scratch);
        });
    }

    fn scratch(&self) -> usize {
        QUERIES * (KEYS + self.v.dim + 2)
            + self.q.buffer(QUERIES)
            + self.k.buffer(KEYS)
            + self.v.buffer(KEYS)
            + self.out.buffer(1)
    }
}

impl Attention {
    fn tile(&self, batch: usize, head: usize, queries: Range<usize>, scratch: &mut [f32]) {
        let (dim, seq, rows) = (self.v.dim, self.q.seq, queries.len());
        let (mask, factor) = (self.scores.mask, self.scores.scale.get() as f32);
        let group = head / (self.q.heads / self.k.heads);
        let mut buffers = Buffers::new(scratch);
        let (scores, out) = (buffers.take(QUERIES * KEYS), buffers.take(QUERIES * dim));
        let (sums, maxima) = (buffers.take(QUERIES), buffers.take(QUERIES));
        let (q_buffer, k_buffer, v_buffer) = (
            buffers.take(self.q.buffer(QUERIES)),
            buffers.take(self.k.buffer(KEYS)),
            buffers.take(self.v.buffer(KEYS)),
        );
        let out_buffer = buffers.rest();
        sums.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        // SAFETY: operands are only read while the operation runs.
        let q = unsafe { self.q.matrix(batch, head, queries.clone(), q_buffer) };
        let mut beta = Accum::Replace;
        for keys in tiles(visible_to_any(mask, &queries, seq), KEYS) {
            // SAFETY: operands are only read while the operation runs.
            let (k, v) = unsafe {
                (
                    self.k.matrix(batch, group, keys.clone(), k_buffer),
                    self.v.matrix(batch, group, keys.clone(), v_buffer),
                )
            };
            let tile = Matrix::over(scores, rows, keys.len());
            // SAFETY: operands are only read while the operation runs; the scores are this task's.
            unsafe { multiply(tile, Accum::Replace, factor, q, k.transposed()) };
            for (row, scores) in scores.chunks_exact_mut(keys.len()).take(rows).enumerate() {
                let columns = visible_columns(mask, queries.start + row, &keys, seq);
                scores[..columns.start].fill(0.0);
                scores[columns.end..].fill(0.0);
                if columns.is_empty() {
                    continue;
                }
                let (position, first) = (queries.start + row, keys.start + columns.start);
                if let Some(shaping) =
                    Shaping::of(&self.scores, head, self.q.heads, position, first)
                {
                    shape(&mut scores[columns.clone()], shaping);
                }
                let seen = maximum(&scores[columns.clone()]).max(maxima[row]);
                let sum = exponentials(&mut scores[columns], seen);
                let factor = (maxima[row] - seen).exp();
                sums[row] = sums[row] * factor + sum;
                if beta == Accum::Add && factor != 1.0 {
                    scale(&mut out[row * dim..][..dim], factor);
                }
                maxima[row] = seen;
            }
            // SAFETY: as above; probabilities and output are apart.
            unsafe {
                multiply(
                    Matrix::over(out, rows, dim),
                    beta,
                    1.0,
                    Matrix::over(scores, rows, keys.len()),
                    v,
                )
            };
            beta = Accum::Add;
        }
        for (row, position) in queries.clone().enumerate() {
            let factor = 1.0 / sums[row];
            let fill = |target: &mut [f32]| {
                for (target, value) in target.iter_mut().zip(&out[row * dim..]) {
                    *target = value * factor;
                }
            };
            // SAFETY: a query of a head belongs to one task.
            unsafe { self.out.change((batch, position, head), false, out_buffer, fill) };
        }
        let first = (batch * self.q.heads + head) * seq;
        // SAFETY: as above.
        let target =
            unsafe { self.log_sum_exp.part_mut(0, first + queries.start..first + queries.end) };
        for ((target, maximum), sum) in target.iter_mut().zip(&*maxima).zip(&*sums) {
            *target = *maximum + sum.ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_agree_between_tiles_and_single_queries() {
        let seq = 300;
        for mask in
            [Mask::Full, Mask::Causal, Mask::Window(1), Mask::Window(70), Mask::Window(1000)]
        {
            for queries in tiles(0..seq, QUERIES) {
                let all = visible_to_any(mask, &queries, seq);
                for position in queries {
                    let mut seen = Vec::new();
                    for keys in tiles(all.clone(), KEYS) {
                        seen.extend(
                            visible_columns(mask, position, &keys, seq)
                                .map(|column| keys.start + column),
                        );
                    }
                    assert_eq!(seen, visible(mask, position, seq).collect::<Vec<_>>());
                }
            }
        }
    }
}
