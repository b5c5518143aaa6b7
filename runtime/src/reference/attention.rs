//! Scaled dot-product attention with grouped key/value heads, and its gradient.

use std::ops::RangeInclusive;

use colac_plan::op::{Mask, Scores, alibi_slope};

use super::value::{Value, add_scaled, dot};

/// Extents of q, the number of key/value heads and the width of values.
struct Extents {
    batch: usize,
    seq: usize,
    heads: usize,
    groups: usize,
    dim: usize,
    value_dim: usize,
}

impl Extents {
    fn of(q: &Value, v: &Value) -> Extents {
        let [batch, seq, heads, dim] = q.extents[..] else {
            unreachable!("the shape rule asks for four axes")
        };
        Extents { batch, seq, heads, groups: v.extents[2], dim, value_dim: v.extents[3] }
    }

    /// Where a query's vector lies.
    fn query(&self, b: usize, position: usize, head: usize) -> std::ops::Range<usize> {
        let start = ((b * self.seq + position) * self.heads + head) * self.dim;
        start..start + self.dim
    }

    /// Where a query's output lies.
    fn output(&self, b: usize, position: usize, head: usize) -> std::ops::Range<usize> {
        let start = ((b * self.seq + position) * self.heads + head) * self.value_dim;
        start..start + self.value_dim
    }

    /// Where the key lies that query head `head` reads.
    fn key(&self, b: usize, position: usize, head: usize) -> std::ops::Range<usize> {
        let group = head / (self.heads / self.groups);
        let start = ((b * self.seq + position) * self.groups + group) * self.dim;
        start..start + self.dim
    }

    /// Where the value lies that query head `head` reads.
    fn value(&self, b: usize, position: usize, head: usize) -> std::ops::Range<usize> {
        let group = head / (self.heads / self.groups);
        let start = ((b * self.seq + position) * self.groups + group) * self.value_dim;
        start..start + self.value_dim
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

/// The score of a query and a key, and its derivative with respect to `scale · q k`.
fn score(scores: &Scores, product: f64, slope: f64, query: usize, key: usize) -> (f64, f64) {
    let scaled = scores.scale.get() * product;
    let (capped, derivative) = match scores.softcap {
        Some(cap) => {
            let tanh = libm::tanh(scaled / cap.get());
            (cap.get() * tanh, 1.0 - tanh * tanh)
        }
        None => (scaled, 1.0),
    };
    (capped - slope * query.abs_diff(key) as f64, derivative)
}

/// The slope of a head; 0 where scores have none.
fn slope(scores: &Scores, head: usize, heads: usize) -> f64 {
    if scores.alibi { alibi_slope(head as u64, heads as u64) } else { 0.0 }
}

/// `out = softmax(s) v` and the logarithm of each softmax's denominator.
pub(super) fn forward(q: &Value, k: &Value, v: &Value, scores: &Scores) -> [Vec<f64>; 2] {
    let e = Extents::of(q, v);
    let mut out = vec![0.0; e.batch * e.seq * e.heads * e.value_dim];
    let mut lse = vec![0.0; e.batch * e.heads * e.seq];
    for (b, head, i) in e.queries() {
        let query = &q.elements[e.query(b, i, head)];
        let slope = slope(scores, head, e.heads);
        let keys = visible(scores.mask, i, e.seq);
        let row: Vec<f64> = keys
            .clone()
            .map(|j| score(scores, dot(query, &k.elements[e.key(b, j, head)]), slope, i, j).0)
            .collect();
        let maximum = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|score| libm::exp(score - maximum)).sum();
        let log_sum = maximum + libm::log(sum);
        for (j, score) in keys.zip(row) {
            let probability = libm::exp(score - log_sum);
            let value = &v.elements[e.value(b, j, head)];
            add_scaled(&mut out[e.output(b, i, head)], probability, value);
        }
        lse[e.lse(b, i, head)] = log_sum;
    }
    [out, lse]
}

/// dq, dk, dv of `[dout, q, k, v, out, lse]`. With `p = exp(s - lse)`: `dv = Σ p · dout`,
/// `dz = p · (dout · v - dout · out) · ds/dz` for `z = scale · q k`, `dq = scale · Σ dz · k`, `dk = scale · Σ dz · q`.
pub(super) fn backward(operands: [&Value; 6], scores: &Scores) -> [Vec<f64>; 3] {
    let [dout, q, k, v, out, lse] = operands;
    let e = Extents::of(q, v);
    let scale = scores.scale.get();
    let mut dq = vec![0.0; q.elements.len()];
    let mut dk = vec![0.0; k.elements.len()];
    let mut dv = vec![0.0; v.elements.len()];
    for (b, head, i) in e.queries() {
        let (at, output) = (e.query(b, i, head), e.output(b, i, head));
        let (query, dout) = (&q.elements[at.clone()], &dout.elements[output.clone()]);
        let row_sum = dot(dout, &out.elements[output]);
        let slope = slope(scores, head, e.heads);
        for j in visible(scores.mask, i, e.seq) {
            let (key_at, value_at) = (e.key(b, j, head), e.value(b, j, head));
            let (key, value) = (&k.elements[key_at.clone()], &v.elements[value_at.clone()]);
            let (score, derivative) = score(scores, dot(query, key), slope, i, j);
            let probability = libm::exp(score - lse.elements[e.lse(b, i, head)]);
            let dscaled = probability * (dot(dout, value) - row_sum) * derivative;
            add_scaled(&mut dv[value_at], probability, dout);
            add_scaled(&mut dq[at.clone()], scale * dscaled, key);
            add_scaled(&mut dk[key_at], scale * dscaled, query);
        }
    }
    [dq, dk, dv]
}
