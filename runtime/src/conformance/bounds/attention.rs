//! Bounds for attention.

use colac_plan::op::{Mask, Scores, TurnedBack, alibi_slope};
use colac_plan::{DType, Op};

use super::pointwise::{Approximate, rounded_to};
use super::{ELEMENTARY, FLUSH, SECOND_ORDER, UNIT, roundings, turned_magnitudes};
use crate::reference::{Value, evaluate};

/// An executor may go through the keys in blocks, but of no fewer than this many.
const SMALLEST_BLOCK: usize = 16;

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
        let [batch, seq, heads, dim] = q.extents[..] else { panic!("four axes") };
        Extents { batch, seq, heads, groups: v.extents[2], dim, value_dim: v.extents[3] }
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

    fn output(&self, (b, head, position): (usize, usize, usize)) -> usize {
        ((b * self.seq + position) * self.heads + head) * self.value_dim
    }

    fn value(&self, b: usize, head: usize, position: usize) -> usize {
        ((b * self.seq + position) * self.groups + head * self.groups / self.heads) * self.value_dim
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

/// The score of a query and a key.
struct Score {
    value: f64,
    error: f64,
    /// Of the score with respect to the scaled product, with its own error.
    derivative: f64,
    derivative_error: f64,
}

/// The product `z` is off by `e`. A cap `c` makes `t = tanh(z/c)`, whose argument is off by `e/c` and two roundings of
/// itself and which has the slope `1 - t²` and an elementary function's error; `c·t` adds two roundings, and `1 - t²`
/// is off by `2|t|` times the error of `t` and by two roundings. The distance costs three roundings of itself and one of
/// the sum.
fn score(scores: &Scores, sum: f64, size: f64, dim: usize, slope: f64, distance: usize) -> Score {
    let scale = scores.scale.get();
    let (scaled, error) = (scale * sum, roundings(dim + 3) * scale * size);
    let capped = match scores.softcap {
        None => Score { value: scaled, error, derivative: 1.0, derivative_error: 0.0 },
        Some(cap) => {
            let cap = cap.get();
            let t = libm::tanh(scaled / cap);
            let derivative = 1.0 - t * t;
            // The slope may be larger by as much as the argument is off.
            let off = error / cap + roundings(2) * (scaled / cap).abs();
            let off = (derivative + 2.0 * off).min(1.0) * off + ELEMENTARY * t.abs();
            Score {
                value: cap * t,
                error: cap * (off + roundings(2) * t.abs()),
                derivative,
                derivative_error: 2.0 * t.abs() * off + roundings(2),
            }
        }
    };
    if slope == 0.0 {
        return capped;
    }
    let bias = slope * distance as f64;
    let value = capped.value - bias;
    Score { value, error: capped.error + roundings(3) * bias + UNIT * value.abs(), ..capped }
}

fn slope(scores: &Scores, head: usize, heads: usize) -> f64 {
    if scores.alibi { alibi_slope(head as u64, heads as u64) } else { 0.0 }
}

/// A score is off by `e`, for a plain product `e = (D + 3)u · scale · Σ|q||k|`. With `m` the largest score and `E` the largest `e`, a probability
/// before normalisation is off by the relative `R = e + E + u(m - s) +` an exponential; going through blocks of keys
/// multiplies it by an exponential for each block, whose arguments add up to at most the range of the scores. The
/// normalised output is then off by `Σ p|v|(R + (n + 4)u + Σ p R + n u)`, and `lse = m + log Σ` by
/// `E + Σ p R + n u`, a logarithm, and roundings of `m` and of itself.
pub(super) fn forward(
    o: &[Value],
    scores: &Scores,
    expected: &[Vec<f64>],
    inner: f64,
) -> Vec<Vec<f64>> {
    let [q, k, v] = o else { panic!("three operands") };
    let e = Extents::of(q, v);
    let shaping = scores;
    let mut bounds = vec![vec![0.0; expected[0].len()], vec![0.0; expected[1].len()]];
    for at @ (b, head, i) in e.queries() {
        let keys = e.visible(shaping.mask, i);
        let slope = slope(shaping, head, e.heads);
        let score = |&j: &usize| {
            let (sum, size) = dot(q, e.query(at), k, e.key(b, head, j), e.dim);
            let score = score(shaping, sum, size, e.dim, slope, i.abs_diff(j));
            (score.value, score.error)
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
        for d in 0..e.value_dim {
            let index = e.output(at) + d;
            let parts = keys.iter().zip(&terms).map(|(&j, (p, r))| {
                p * v.elements[e.value(b, head, j) + d].abs()
                    * (r + roundings(keys.len() + 4) + sum + inner)
            });
            bounds[0][index] = SECOND_ORDER * (parts.sum::<f64>() + FLUSH * keys.len() as f64);
        }
        let logarithm = ELEMENTARY * ((lse - maximum).abs() + 1.0);
        bounds[1][e.lse(at)] = SECOND_ORDER
            * (worst + sum + logarithm + roundings(2) * (maximum.abs() + lse.abs()) + FLUSH);
    }
    bounds
}

/// `p = exp(s - lse)` is off by the relative `r = e + 2u(|s| + |lse|) +` an exponential;
/// `ds = p(dout·v - dout·out)` by `p((r + 3u)|dout·v - dout·out| + (E + 3)u·A)` with
/// `A = Σ|dout||v| + Σ|dout||out|`, and times the derivative of a cap by that and the derivative's own error. The three results are sums of these over keys or over queries.
pub(super) fn backward(o: &[Value], scores: &Scores, inner: f64) -> Vec<Vec<f64>> {
    let scale = scores.scale.get();
    let [dout, q, k, v, out, lse] = o else { panic!("six operands") };
    let e = Extents::of(q, v);
    let shared = e.seq * (e.heads / e.groups);
    let mut dq = vec![0.0; q.elements.len()];
    let mut dk = vec![0.0; k.elements.len()];
    let mut dv = vec![0.0; v.elements.len()];
    for at @ (b, head, i) in e.queries() {
        let (query, output) = (e.query(at), e.output(at));
        let lse = lse.elements[e.lse(at)];
        let slope = slope(scores, head, e.heads);
        let (row_sum, row_size) = dot(dout, output, out, output, e.value_dim);
        for j in e.visible(scores.mask, i) {
            let (key, value) = (e.key(b, head, j), e.value(b, head, j));
            let (sum, size) = dot(q, query, k, key, e.dim);
            let score = score(scores, sum, size, e.dim, slope, i.abs_diff(j));
            let p = libm::exp(score.value - lse);
            let r = score.error + roundings(2) * (score.value.abs() + lse.abs()) + ELEMENTARY;
            let (dp, dp_size) = dot(dout, output, v, value, e.value_dim);
            let difference = (dp - row_sum).abs();
            let products = roundings(e.value_dim + 3) * (dp_size + row_size);
            let error = p
                * (((r + roundings(4)) * difference + products) * score.derivative
                    + (difference + products) * score.derivative_error);
            let ds = p * difference * score.derivative;
            for d in 0..e.value_dim {
                dv[value + d] +=
                    p * dout.elements[output + d].abs() * (r + roundings(shared + 4) + inner);
            }
            for d in 0..e.dim {
                let (query, key) = (query + d, key + d);
                dq[query] +=
                    scale * k.elements[key].abs() * (error + (roundings(e.seq + 6) + inner) * ds);
                dk[key] += scale
                    * q.elements[query].abs()
                    * (error + (roundings(shared + 6) + inner) * ds);
            }
        }
    }
    [dq, dk, dv]
        .map(|bounds| bounds.iter().map(|b| SECOND_ORDER * b + FLUSH * shared as f64).collect())
        .into()
}

/// Bounds of gradients that are turned back, from those of what is turned, which is rounded to its storage before. Two
/// products and their sum have four roundings of `|c x| + |s y|`, and are off by `|c|` and `|s|` times what `x` and `y` are.
pub(super) fn turned_back(
    o: &[Value],
    scores: &Scores,
    turned: TurnedBack,
    format: DType,
    mut bounds: Vec<Vec<f64>>,
) -> Vec<Vec<f64>> {
    let plain = Op::AttentionBackward { scores: *scores, turned_back: None };
    let exact = evaluate(&plain, &o[..6], &[]);
    for (result, _) in turned.results().into_iter().enumerate().filter(|(_, turned)| *turned) {
        let stored = exact[result].iter().zip(&bounds[result]);
        let stored =
            stored.map(|(&value, &error)| rounded_to(format, Approximate { value, error }));
        let (sizes, errors): (Vec<f64>, Vec<f64>) =
            stored.map(|x| (x.value.abs() + x.error, x.error)).unzip();
        let turned = |elements: Vec<f64>| {
            let gradient = Value { extents: o[1 + result].extents.clone(), elements };
            turned_magnitudes(&[gradient, o[6].clone(), o[7].clone()], turned.interleaved)
        };
        let both = turned(errors).into_iter().zip(turned(sizes));
        bounds[result] =
            both.map(|(off, size)| SECOND_ORDER * (off + roundings(4) * size) + FLUSH).collect();
    }
    bounds
}
