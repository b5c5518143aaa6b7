//! Bounds for attention.

use colac_plan::op::Mask;

use super::{ELEMENTARY, FLUSH, SECOND_ORDER, UNIT, roundings};
use crate::reference::Value;

/// An executor may go through the keys in blocks, but of no fewer than this many.
const SMALLEST_BLOCK: usize = 16;

struct Extents {
    batch: usize,
    seq: usize,
    heads: usize,
    groups: usize,
    dim: usize,
}

impl Extents {
    fn of(q: &Value, k: &Value) -> Extents {
        let [batch, seq, heads, dim] = q.extents[..] else { panic!("four axes") };
        Extents { batch, seq, heads, groups: k.extents[2], dim }
    }

    fn queries(&self) -> Vec<(usize, usize, usize)> {
        let mut all = Vec::new();
        for b in 0..self.batch {
            for head in 0..self.heads {
                all.extend((0..self.seq).map(|position| (b, head, position)));
            }
        }
        all
    }

    fn query(&self, (b, head, position): (usize, usize, usize)) -> usize {
        ((b * self.seq + position) * self.heads + head) * self.dim
    }

    fn key(&self, b: usize, head: usize, position: usize) -> usize {
        ((b * self.seq + position) * self.groups + head * self.groups / self.heads) * self.dim
    }

    fn lse(&self, (b, head, position): (usize, usize, usize)) -> usize {
        (b * self.heads + head) * self.seq + position
    }

    fn visible(&self, mask: Mask, position: usize) -> Vec<usize> {
        let sees = |key: usize| match mask {
            Mask::Full => true,
            Mask::Causal => key <= position,
            Mask::Window(width) => key <= position && key + width as usize > position,
        };
        (0..self.seq).filter(|&key| sees(key)).collect()
    }
}

/// `Σ a b` and `Σ |a| |b|` of two vectors of `dim` elements.
fn dot(a: &Value, at_a: usize, b: &Value, at_b: usize, dim: usize) -> (f64, f64) {
    let products = (0..dim).map(|d| a.elements[at_a + d] * b.elements[at_b + d]);
    products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
}

/// A score is off by `e = (D + 3)u · scale · Σ|q||k|`. With `m` the largest score and `E` the largest `e`, a probability
/// before normalisation is off by the relative `R = e + E + u(m - s) +` an exponential; going through blocks of keys
/// multiplies it by an exponential for each block, whose arguments add up to at most the range of the scores. The
/// normalised output is then off by `Σ p|v|(R + (n + 4)u + Σ p R + n u)`, and `lse = m + log Σ` by
/// `E + Σ p R + n u`, a logarithm, and roundings of `m` and of itself.
pub(super) fn forward(o: &[Value], mask: Mask, scale: f64, expected: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [q, k, v] = o else { panic!("three operands") };
    let e = Extents::of(q, k);
    let mut bounds = vec![vec![0.0; expected[0].len()], vec![0.0; expected[1].len()]];
    for at @ (b, head, i) in e.queries() {
        let keys = e.visible(mask, i);
        let score = |&j: &usize| {
            let (sum, size) = dot(q, e.query(at), k, e.key(b, head, j), e.dim);
            (scale * sum, roundings(e.dim + 3) * scale * size)
        };
        let scores: Vec<(f64, f64)> = keys.iter().map(score).collect();
        let maximum = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.0));
        let minimum = scores.iter().fold(f64::INFINITY, |m, s| m.min(s.0));
        let worst = scores.iter().fold(0.0f64, |m, s| m.max(s.1));
        let blocks = (keys.len() / SMALLEST_BLOCK + 1) as f64;
        let rescaling = blocks * (ELEMENTARY + roundings(3)) + UNIT * (maximum - minimum);
        let lse = expected[1][e.lse(at)];
        let terms: Vec<(f64, f64)> = scores
            .iter()
            .map(|&(s, error)| {
                (libm::exp(s - lse), error + worst + UNIT * (maximum - s) + ELEMENTARY + rescaling)
            })
            .collect();
        let sum = terms.iter().map(|(p, r)| p * r).sum::<f64>() + roundings(keys.len());
        for d in 0..e.dim {
            let index = e.query(at) + d;
            let parts = keys.iter().zip(&terms).map(|(&j, (p, r))| {
                p * v.elements[e.key(b, head, j) + d].abs() * (r + roundings(keys.len() + 4) + sum)
            });
            bounds[0][index] = SECOND_ORDER * (parts.sum::<f64>() + FLUSH * keys.len() as f64);
        }
        let logarithm = ELEMENTARY * ((lse - maximum).abs() + 1.0);
        bounds[1][e.lse(at)] = SECOND_ORDER
            * (worst + sum + logarithm + roundings(2) * (maximum.abs() + lse.abs()) + FLUSH);
    }
    bounds
}

/// `p = exp(scale q k - lse)` is off by the relative `r = (D + 3)u·scale·Σ|q||k| + 2u(|s| + |lse|) +` an exponential;
/// `ds = p(dout·v - dout·out)` by `p((r + 3u)|dout·v - dout·out| + (D + 3)u·A)` with
/// `A = Σ|dout||v| + Σ|dout||out|`. The three results are sums of these over keys or over queries.
pub(super) fn backward(o: &[Value], mask: Mask, scale: f64) -> Vec<Vec<f64>> {
    let [dout, q, k, v, out, lse] = o else { panic!("six operands") };
    let e = Extents::of(q, k);
    let shared = e.seq * (e.heads / e.groups);
    let mut dq = vec![0.0; q.elements.len()];
    let mut dk = vec![0.0; k.elements.len()];
    let mut dv = vec![0.0; v.elements.len()];
    for at @ (b, head, i) in e.queries() {
        let query = e.query(at);
        let lse = lse.elements[e.lse(at)];
        let (row_sum, row_size) = dot(dout, query, out, query, e.dim);
        for j in e.visible(mask, i) {
            let key = e.key(b, head, j);
            let (sum, size) = dot(q, query, k, key, e.dim);
            let p = libm::exp(scale * sum - lse);
            let r = roundings(e.dim + 3) * scale * size
                + roundings(2) * ((scale * sum).abs() + lse.abs())
                + ELEMENTARY;
            let (dp, dp_size) = dot(dout, query, v, key, e.dim);
            let difference = (dp - row_sum).abs();
            let error =
                p * ((r + roundings(3)) * difference + roundings(e.dim + 3) * (dp_size + row_size));
            let ds = p * difference;
            for d in 0..e.dim {
                let (query, key) = (query + d, key + d);
                dv[key] += p * dout.elements[query].abs() * (r + roundings(shared + 4));
                dq[query] += scale * k.elements[key].abs() * (error + roundings(e.seq + 6) * ds);
                dk[key] += scale * q.elements[query].abs() * (error + roundings(shared + 6) * ds);
            }
        }
    }
    [dq, dk, dv]
        .map(|bounds| bounds.iter().map(|b| SECOND_ORDER * b + FLUSH * shared as f64).collect())
        .into()
}
