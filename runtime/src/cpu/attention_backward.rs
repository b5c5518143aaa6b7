//! The derivative of attention: scores are rebuilt tile by tile from the kept log-sum-exp (arXiv 2205.14135).
//!
//! With `p = exp(scale · q kᵀ - lse)` (or of shaped scores), `dp = dout vᵀ`, `d = rowsum(dout · out)`: `ds = scale · p · (dp - d)`,
//! `dv = pᵀ dout`, `dk = dsᵀ q`, `dq = ds k`. One task makes all three for one key/value head where there are enough of
//! those; else tasks are tiles of queries (for `dq`) and tiles of keys (for `dk` and `dv`), which rebuild the scores
//! twice. Both ways add the same products in the same order. The first adds to `dq` where it is, so it is for f32 alone.
//! Gradients that are turned back are turned where they lie when all are there. Must not know other operations than that.

use std::ops::Range;

use colac_plan::op::Scores;
use faer::Accum;

use crate::cpu::attention::{KEYS, QUERIES, Shaping, tiles, visible_columns, visible_to_any};
use crate::cpu::gemm::multiply;
use crate::cpu::heads::Heads;
use crate::cpu::kernel::{Buffers, Context, Kernel, span};
use crate::cpu::rope::Rope;
use crate::cpu::vector::{dot, multiply_add, tanh, vectorised};
use crate::cpu::view::{Matrix, Rows};

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
    /// What turns `dq` and `dk` back in place.
    pub(crate) turns: Vec<Rope>,
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
    /// For queries, their gradients, keys and values that are not f32.
    buffers: [&'a mut [f32]; 4],
}

/// What one tile is made of, in f32.
struct Factors {
    q: Matrix,
    dout: Matrix,
    k: Matrix,
    v: Matrix,
}

impl Kernel for AttentionBackward {
    fn run(&self, context: &Context<'_>) {
        self.gradients(context);
        self.turns.iter().for_each(|turn| turn.run(context));
    }

    fn scratch(&self) -> usize {
        let turns = self.turns.iter().map(Kernel::scratch);
        turns.fold(self.own_scratch(), usize::max)
    }
}

impl AttentionBackward {
    /// All three, as they are before anything is turned back.
    fn gradients(&self, context: &Context<'_>) {
        let (batch, heads, seq, groups) = (self.q.batch, self.q.heads, self.q.seq, self.k.heads);
        if self.q.dim == 0 || self.v.dim == 0 || seq == 0 {
            return;
        }
        let across = seq.div_ceil(QUERIES);
        // SAFETY: each task takes its thread's scratch once.
        let scratch = |thread| unsafe { context.scratch.of(thread, self.own_scratch()) };
        context.pool.run(batch * heads * across, &|task, thread| {
            let (batch, head) = (task / across / heads, task / across % heads);
            self.row_sums(batch, head, span(task % across, QUERIES, seq), scratch(thread));
        });
        if batch * groups >= ENOUGH_HEADS && self.dq.is_f32() {
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

    /// Numbers of scratch that a thread needs for them.
    fn own_scratch(&self) -> usize {
        let buffers = [self.q, self.dout].map(|view| view.buffer(QUERIES)).iter().sum::<usize>()
            + [self.k, self.v].map(|view| view.buffer(KEYS)).iter().sum::<usize>();
        2 * QUERIES * KEYS + buffers + KEYS * (self.q.dim + self.v.dim)
    }

    fn place(&self, batch: usize, head: usize, queries: &Range<usize>) -> Range<usize> {
        let first = (batch * self.q.heads + head) * self.q.seq;
        first + queries.start..first + queries.end
    }

    fn row_sums(&self, batch: usize, head: usize, queries: Range<usize>, scratch: &mut [f32]) {
        let (dout_buffer, out_buffer) = scratch.split_at_mut(self.v.dim);
        // SAFETY: a query of a head belongs to one task; operands are only read.
        unsafe {
            let sums = self.sums.part_mut(0, self.place(batch, head, &queries));
            for (sum, position) in sums.iter_mut().zip(queries) {
                *sum = dot(
                    self.dout.vector(batch, position, head, dout_buffer),
                    self.out.vector(batch, position, head, out_buffer),
                );
            }
        }
    }

    /// A thread's tiles, and what is left of its scratch.
    fn cut<'a>(&self, scratch: &'a mut [f32]) -> (Tile<'a>, &'a mut [f32]) {
        let mut buffers = Buffers::new(scratch);
        let (p, ds) = (buffers.take(QUERIES * KEYS), buffers.take(QUERIES * KEYS));
        let needed = [
            self.q.buffer(QUERIES),
            self.dout.buffer(QUERIES),
            self.k.buffer(KEYS),
            self.v.buffer(KEYS),
        ];
        let tile = Tile { p, ds, buffers: needed.map(|length| buffers.take(length)) };
        (tile, buffers.rest())
    }

    /// Rebuilds probabilities and the gradient of the scores for one tile; gives what they were made of.
    fn rebuild(
        &self,
        batch: usize,
        head: usize,
        queries: &Range<usize>,
        keys: &Range<usize>,
        tile: &mut Tile<'_>,
    ) -> Factors {
        let group = head / (self.q.heads / self.k.heads);
        let (rows, columns) = (queries.len(), keys.len());
        let [q, dout, k, v] = &mut tile.buffers;
        // SAFETY: operands are only read while the operation runs.
        let factors = unsafe {
            Factors {
                q: self.q.matrix(batch, head, queries.clone(), q),
                dout: self.dout.matrix(batch, head, queries.clone(), dout),
                k: self.k.matrix(batch, group, keys.clone(), k),
                v: self.v.matrix(batch, group, keys.clone(), v),
            }
        };
        let Factors { q, dout, k, v } = factors;
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
        factors
    }

    /// `dq` of one tile of queries.
    fn queries(&self, batch: usize, head: usize, queries: Range<usize>, scratch: &mut [f32]) {
        let (mut tile, sums) = self.cut(scratch);
        let (rows, dim) = (queries.len(), self.q.dim);
        let target = self.dq.factor(batch, head, queries.clone());
        // Summed where it is if that is f32, else beside it.
        let dq = target.f32().unwrap_or_else(|| Matrix::over(sums, rows, dim));
        let mut beta = Accum::Replace;
        for keys in tiles(0..self.q.seq, KEYS) {
            let seen = self.seen(&queries, &keys);
            if !seen.is_empty() {
                let Factors { k, .. } = self.rebuild(batch, head, &queries, &seen, &mut tile);
                // SAFETY: these queries of this head belong to this task; operands are only read.
                unsafe { multiply(dq, beta, 1.0, Matrix::over(tile.ds, rows, seen.len()), k) };
                beta = Accum::Add;
            }
        }
        if target.f32().is_none() {
            // SAFETY: as above; the sums are complete.
            unsafe { target.store(sums, false) };
        }
    }

    /// The part of a tile of keys that some query of a tile sees.
    fn seen(&self, queries: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let seen = visible_to_any(self.scores.mask, queries, self.q.seq);
        seen.start.max(keys.start)..seen.end.min(keys.end)
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
        let (mut tile, rest) = self.cut(scratch);
        let (dk, dv) = rest.split_at_mut(KEYS * dim);
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
                let Factors { q, dout, k, .. } =
                    self.rebuild(batch, head, &queries, &seen, &mut tile);
                let (rows, columns) = (queries.len(), seen.len());
                let (p, ds) =
                    (Matrix::over(tile.p, rows, columns), Matrix::over(tile.ds, rows, columns));
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
                if let Some(dq) = with_queries
                    .then(|| self.dq.factor(batch, head, queries.clone()).f32())
                    .flatten()
                {
                    let before = visible_to_any(self.scores.mask, &queries, seq).start < keys.start;
                    let beta = if before { Accum::Add } else { Accum::Replace };
                    // SAFETY: these queries of this head belong to this task; operands are only read.
                    unsafe { multiply(dq, beta, 1.0, ds, k) };
                }
            }
        }
        let count = keys.len();
        // SAFETY: these keys of this group belong to this task.
        unsafe {
            self.dk.factor(batch, group, keys.clone()).store(&dk[..count * dim], false);
            self.dv.factor(batch, group, keys).store(&dv[..count * value_dim], false);
        }
    }
}
