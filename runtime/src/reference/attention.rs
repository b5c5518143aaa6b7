//! Scaled dot-product attention with grouped key/value heads, and its gradient.

use std::ops::RangeInclusive;

use colac_plan::op::Mask;

use super::value::{Value, add_scaled, dot};

/// Extents of q and the number of key/value heads.
struct Extents {
    batch: usize,
    seq: usize,
    heads: usize,
    groups: usize,
    dim: usize,
}

impl Extents {
    fn of(q: &Value, k: &Value) -> Extents {
        let [batch, seq, heads, dim] = q.extents[..] else {
            unreachable!("the shape rule asks for four axes")
        };
        Extents { batch, seq, heads, groups: k.extents[2], dim }
    }

    /// Where a query's (or its output's) vector lies.
    fn query(&self, b: usize, position: usize, head: usize) -> std::ops::Range<usize> {
        let start = ((b * self.seq + position) * self.heads + head) * self.dim;
        start..start + self.dim
    }

    /// Where the key or value vector lies that query head `head` reads.
    fn key(&self, b: usize, position: usize, head: usize) -> std::ops::Range<usize> {
        let group = head / (self.heads / self.groups);
        let start = ((b * self.seq + position) * self.groups + group) * self.dim;
        start..start + self.dim
    }

    /// Where a query's entry in `lse[B, H, S]` lies.
    fn lse(&self, b: usize, position: usize, head: usize) -> usize {
        (b * self.heads + head) * self.seq + position
    }

    /// All queries as (batch row, head, position).
    fn queries(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (heads, seq) = (self.heads, self.seq);
        (0..self.batch).flat_map(move |b| {
            (0..heads).flat_map(move |head| (0..seq).map(move |position| (b, head, position)))
        })
    }
}

/// Keys that the query at a position sees.
fn visible(mask: Mask, position: usize, seq: usize) -> RangeInclusive<usize> {
    match mask {
        Mask::Full => 0..=seq - 1,
        Mask::Causal => 0..=position,
        Mask::Window(width) => (position + 1).saturating_sub(width as usize)..=position,
    }
}

/// `out = softmax(scale · q kᵀ + mask) v` and the logarithm of each softmax's denominator.
pub(super) fn forward(q: &Value, k: &Value, v: &Value, mask: Mask, scale: f64) -> [Vec<f64>; 2] {
    let e = Extents::of(q, k);
    let mut out = vec![0.0; q.elements.len()];
    let mut lse = vec![0.0; e.batch * e.heads * e.seq];
    for (b, head, i) in e.queries() {
        let query = &q.elements[e.query(b, i, head)];
        let keys = visible(mask, i, e.seq);
        let scores: Vec<f64> =
            keys.clone().map(|j| scale * dot(query, &k.elements[e.key(b, j, head)])).collect();
        let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| libm::exp(score - maximum)).sum();
        let log_sum = maximum + libm::log(sum);
        for (j, score) in keys.zip(scores) {
            let probability = libm::exp(score - log_sum);
            add_scaled(&mut out[e.query(b, i, head)], probability, &v.elements[e.key(b, j, head)]);
        }
        lse[e.lse(b, i, head)] = log_sum;
    }
    [out, lse]
}

/// dq, dk, dv of `[dout, q, k, v, out, lse]`. With `p = exp(scale · q k - lse)`: `dv = Σ p · dout`,
/// `ds = p · (dout · v - dout · out)`, `dq = scale · Σ ds · k`, `dk = scale · Σ ds · q`.
pub(super) fn backward(operands: [&Value; 6], mask: Mask, scale: f64) -> [Vec<f64>; 3] {
    let [dout, q, k, v, out, lse] = operands;
    let e = Extents::of(q, k);
    let mut dq = vec![0.0; q.elements.len()];
    let mut dk = vec![0.0; k.elements.len()];
    let mut dv = vec![0.0; v.elements.len()];
    for (b, head, i) in e.queries() {
        let at = e.query(b, i, head);
        let (query, dout) = (&q.elements[at.clone()], &dout.elements[at.clone()]);
        let row_sum = dot(dout, &out.elements[at.clone()]);
        for j in visible(mask, i, e.seq) {
            let key_at = e.key(b, j, head);
            let (key, value) = (&k.elements[key_at.clone()], &v.elements[key_at.clone()]);
            let probability = libm::exp(scale * dot(query, key) - lse.elements[e.lse(b, i, head)]);
            let dscore = probability * (dot(dout, value) - row_sum);
            add_scaled(&mut dv[key_at.clone()], probability, dout);
            add_scaled(&mut dq[at.clone()], scale * dscore, key);
            add_scaled(&mut dk[key_at], scale * dscore, query);
        }
    }
    [dq, dk, dv]
}
