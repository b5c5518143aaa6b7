//! The derivative of attention: scores are rebuilt tile by tile from the kept log-sum-exp (arXiv 2205.14135).
//!
//! With `p = exp(scale · q kᵀ - lse)` (or of shaped scores), `dp = dout vᵀ`, `d = rowsum(dout · out)`: `ds = scale · p · (dp - d)`,
//! `dv = pᵀ dout`, `dk = dsᵀ q`, `dq = ds k`. One task makes all three for one key/value head where there are enough of
//! those; else tasks are tiles of queries (for `dq`) and tiles of keys (for `dk` and `dv`), which rebuild the scores
//! twice. Both ways add the same products in the same order. Must not know other operations.

use std::ops::Range;

use colac_plan::op::Scores;
use faer::Accum;

use crate::cpu::attention::{KEYS, QUERIES, Shaping, tiles, visible_columns, visible_to_any};
use crate::cpu::gemm::multiply;
use crate::cpu::kernel::{Context, Kernel, span};
use crate::cpu::vector::{dot, multiply_add, tanh, vectorised};
use crate::cpu::view::{Heads, Matrix, Rows};

/// Key/value heads from which on each is a task of its own: enough for 16 threads.
const ENOUGH_HEADS: usize = 16;

/// [`colac_plan::Op::AttentionBackward`].
#[derive(Debug)]
pub(crate) struct AttentionBackward {
    pub(crate) dout: Heads,
    pub(crate) q: Heads,
    pub(crate) k: Heads,
    pub(crate) v: Heads,
    pub(crate) out: Heads,
    /// `[batch, heads, seq]` as one row.
    pub(crate) log_sum_exp: Rows,
    pub(crate) dq: Heads,
    pub(crate) dk: Heads,
    pub(crate) dv: Heads,
    /// Row sums of `dout · out`, as `log_sum_exp`; in the workspace.
    pub(crate) sums: Rows,
    pub(crate) scores: Scores,
}

vectorised! {
    /// `p = exp(p - log_sum_exp)`, `dp = factor · p · (dp - sum)` for one row.
    fn score_gradients<FUSED>(p: &mut [f32], dp: &mut [f32], log_sum_exp: f32, sum: f32, factor: f32) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = crate::cpu::vector::exp::<FUSED>(*p - log_sum_exp);
            *dp = factor * *p * multiply_add::<FUSED>(-1.0, sum, *dp);
        }
    }
}

vectorised! {
    /// As [`score_gradients`] where scores are shaped: the cap's derivative is another factor.
    fn shaped_score_gradients<FUSED>(
        p: &mut [f32],
        dp: &mut [f32],
        log_sum_exp: f32,
        sum: f32,
        factor: f32,
        shaping: Shaping,
    ) {
        for (key, (p, dp)) in p.iter_mut().zip(dp).enumerate() {
            let (mut score, mut derivative) = (*p, 1.0);
            if shaping.cap != 0.0 {
                let t = tanh::<FUSED>(score / shaping.cap);
                (score, derivative) = (shaping.cap * t, multiply_add::<FUSED>(-t, t, 1.0));
            }
            score -= shaping.slope * (shaping.query - key as f32).abs();
            *p = crate::cpu::vector::exp::<FUSED>(score - log_sum_exp);
            *dp = factor * derivative * *p * multiply_add::<FUSED>(-1.0, sum, *dp);
        }
    }
}

/// A thread's tiles while it works on one task.
struct Tile<'a> {
    p: &'a mut [f32],
    ds: &'a mut [f32],
}

impl Kernel for AttentionBackward {
    fn run(&self, context: &Context<'_>) {
        let (batch, heads, seq, groups) = (self.q.batch, self.q.heads, self.q.seq, self.k.heads);
        if self.q.dim == 0 || self.v.dim == 0 || seq == 0 {
            return;
        }
        let across = seq.div_ceil(QUERIES);
        context.pool.run(batch * heads * across, &|task, _| {
            self.row_sums(
                task / across / heads,
                task / across % heads,
                span(task % across, QUERIES, seq),
            );
        });
        // SAFETY: each task takes its thread's scratch once.
        let scratch = |thread| unsafe { context.scratch.of(thread, self.scratch()) };
        if batch * groups >= ENOUGH_HEADS {
            context.pool.run(batch * groups, &|task, thread| {
                for keys in tiles(0..seq, KEYS) {
                    // The slice of the last turn is gone when this one is taken.
                    self.keys(task / groups, task % groups, keys, true, scratch(thread));
                }
            });
            return;
        }
        context.pool.run(batch * heads * across, &|task, thread| {
            let (head, tile) = (task % (batch * heads), across - 1 - task / (batch * heads));
            self.queries(head / heads, head % heads, span(tile, QUERIES, seq), scratch(thread));
        });
        let across = seq.div_ceil(KEYS);
        context.pool.run(batch * groups * across, &|task, thread| {
            let (group, tile) = (task % (batch * groups), task / (batch * groups));
            self.keys(
                group / groups,
                group % groups,
                span(tile, KEYS, seq),
                false,
                scratch(thread),
            );
        });
    }

    fn scratch(&self) -> usize {
        2 * QUERIES * KEYS + KEYS * (self.q.dim + self.v.dim)
    }
}

impl AttentionBackward {
    fn place(&self, batch: usize, head: usize, queries: &Range<usize>) -> Range<usize> {
        let first = (batch * self.q.heads + head) * self.q.seq;
        first + queries.start..first + queries.end
    }

    fn row_sums(&self, batch: usize, head: usize, queries: Range<usize>) {
        // SAFETY: a query of a head belongs to one task; operands are only read.
        unsafe {
            let sums = self.sums.part_mut(0, self.place(batch, head, &queries));
            for (sum, position) in sums.iter_mut().zip(queries) {
                *sum = dot(
                    self.dout.vector(batch, position, head),
                    self.out.vector(batch, position, head),
                );
            }
        }
    }

    /// Rebuilds probabilities and the gradient of the scores for one tile.
    fn rebuild(
        &self,
        batch: usize,
        head: usize,
        queries: &Range<usize>,
        keys: &Range<usize>,
        tile: &mut Tile<'_>,
    ) {
        let group = head / (self.q.heads / self.k.heads);
        let (rows, columns) = (queries.len(), keys.len());
        let (q, dout) = (
            self.q.matrix(batch, head, queries.clone()),
            self.dout.matrix(batch, head, queries.clone()),
        );
        let (k, v) =
            (self.k.matrix(batch, group, keys.clone()), self.v.matrix(batch, group, keys.clone()));
        // SAFETY: operands are only read while the operation runs; the tile is this task's.
        unsafe {
            multiply(
                Matrix::over(tile.p, rows, columns),
                Accum::Replace,
                self.scores.scale.get() as f32,
                q,
                k.transposed(),
            );
            multiply(
                Matrix::over(tile.ds, rows, columns),
                Accum::Replace,
                1.0,
                dout,
                v.transposed(),
            );
        }
        let place = self.place(batch, head, queries);
        // SAFETY: both are written before these tasks start.
        let (log_sum_exp, sums) =
            unsafe { (self.log_sum_exp.part(0, place.clone()), self.sums.part(0, place)) };
        let each =
            tile.p.chunks_exact_mut(columns).zip(tile.ds.chunks_exact_mut(columns)).take(rows);
        for (row, (p, ds)) in each.enumerate() {
            let position = queries.start + row;
            let seen = visible_columns(self.scores.mask, position, keys, self.q.seq);
            for hidden in [0..seen.start, seen.end..columns] {
                p[hidden.clone()].fill(0.0);
                ds[hidden].fill(0.0);
            }
            let factor = self.scores.scale.get() as f32;
            let first = keys.start + seen.start;
            let shaping = Shaping::of(&self.scores, head, self.q.heads, position, first);
            let (p, ds) = (&mut p[seen.clone()], &mut ds[seen]);
            match shaping {
                None => score_gradients(p, ds, log_sum_exp[row], sums[row], factor),
                Some(shaping) => {
                    shaped_score_gradients(p, ds, log_sum_exp[row], sums[row], factor, shaping);
                }
            }
        }
    }

    /// `dq` of one tile of queries.
    fn queries(&self, batch: usize, head: usize, queries: Range<usize>, scratch: &mut [f32]) {
        let group = head / (self.q.heads / self.k.heads);
        let (p, rest) = scratch.split_at_mut(QUERIES * KEYS);
        let mut tile = Tile { p, ds: &mut rest[..QUERIES * KEYS] };
        let mut beta = Accum::Replace;
        for keys in tiles(0..self.q.seq, KEYS) {
            let seen = self.seen(&queries, &keys);
            if !seen.is_empty() {
                self.rebuild(batch, head, &queries, &seen, &mut tile);
                self.add_query_gradient(batch, head, &queries, group, &seen, beta, &mut tile);
                beta = Accum::Add;
            }
        }
    }

    /// The part of a tile of keys that some query of a tile sees.
    fn seen(&self, queries: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let seen = visible_to_any(self.scores.mask, queries, self.q.seq);
        seen.start.max(keys.start)..seen.end.min(keys.end)
    }

    #[expect(clippy::too_many_arguments, reason = "they name one tile of one product")]
    fn add_query_gradient(
        &self,
        batch: usize,
        head: usize,
        queries: &Range<usize>,
        group: usize,
        keys: &Range<usize>,
        beta: Accum,
        tile: &mut Tile<'_>,
    ) {
        let ds = Matrix::over(tile.ds, queries.len(), keys.len());
        let (dq, k) = (
            self.dq.matrix(batch, head, queries.clone()),
            self.k.matrix(batch, group, keys.clone()),
        );
        // SAFETY: these queries of this head belong to this task; operands are only read.
        unsafe { multiply(dq, beta, 1.0, ds, k) };
    }

    /// `dk` and `dv` of one tile of keys and, if `with_queries`, this tile's part of `dq`.
    fn keys(
        &self,
        batch: usize,
        group: usize,
        keys: Range<usize>,
        with_queries: bool,
        scratch: &mut [f32],
    ) {
        let (dim, value_dim, seq) = (self.q.dim, self.v.dim, self.q.seq);
        let (p, rest) = scratch.split_at_mut(QUERIES * KEYS);
        let (ds, rest) = rest.split_at_mut(QUERIES * KEYS);
        let (dk, dv) = rest.split_at_mut(KEYS * dim);
        let mut tile = Tile { p, ds };
        let sharing = self.q.heads / self.k.heads;
        // Queries may see a part of the keys only: all products are added.
        dk[..keys.len() * dim].fill(0.0);
        dv[..keys.len() * value_dim].fill(0.0);
        for head in group * sharing..(group + 1) * sharing {
            for queries in tiles(0..seq, QUERIES) {
                let seen = self.seen(&queries, &keys);
                if seen.is_empty() {
                    continue;
                }
                self.rebuild(batch, head, &queries, &seen, &mut tile);
                let (rows, columns) = (queries.len(), seen.len());
                let (p, ds) =
                    (Matrix::over(tile.p, rows, columns), Matrix::over(tile.ds, rows, columns));
                let q = self.q.matrix(batch, head, queries.clone());
                let dout = self.dout.matrix(batch, head, queries.clone());
                let first = seen.start - keys.start;
                // SAFETY: operands are only read; sums and tile are this task's and apart.
                unsafe {
                    multiply(
                        Matrix::over(&mut dv[first * value_dim..], columns, value_dim),
                        Accum::Add,
                        1.0,
                        p.transposed(),
                        dout,
                    );
                    multiply(
                        Matrix::over(&mut dk[first * dim..], columns, dim),
                        Accum::Add,
                        1.0,
                        ds.transposed(),
                        q,
                    );
                }
                if with_queries {
                    let before = visible_to_any(self.scores.mask, &queries, seq).start < keys.start;
                    let beta = if before { Accum::Add } else { Accum::Replace };
                    self.add_query_gradient(batch, head, &queries, group, &seen, beta, &mut tile);
                }
            }
        }
        for (row, position) in keys.enumerate() {
            // SAFETY: these keys of this group belong to this task.
            unsafe {
                let (dk, dv) = (&dk[row * dim..][..dim], &dv[row * value_dim..][..value_dim]);
                self.dk.vector_mut(batch, position, group).copy_from_slice(dk);
                self.dv.vector_mut(batch, position, group).copy_from_slice(dv);
            }
        }
    }
}
