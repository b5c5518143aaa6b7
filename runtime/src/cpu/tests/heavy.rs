//! Products, attention, the head with its loss.

use colac_plan::Op;
use colac_plan::op::{Mask, Real, Scores};

use super::*;

/// `a [m, k] · b [k, n]` with the factors given by element.
fn product(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let element = |i: usize| (0..k).map(|l| a(i / n, l) * b(l, i % n)).sum();
    (0..m * n).map(element).collect()
}

#[test]
fn linears() {
    for (rows, n, k) in
        [(1, 1, 1), (1, 40, 7), (5, 1, 33), (3, 5, 1), (70, 33, 130), (130, 600, 17), (33, 65, 700)]
    {
        let (x, w, dy) = (
            Value::numbers(1, &[rows, k]),
            Value::numbers(2, &[n, k]),
            Value::numbers(3, &[rows, n]),
        );
        let (xs, ws, dys) = (x.f64(), w.f64(), dy.f64());
        let (r, n, k) = (rows as usize, n as usize, k as usize);
        let y = product(r, n, k, |i, l| xs[i * k + l], |l, j| ws[j * k + l]);
        let dx = product(r, k, n, |i, l| dys[i * n + l], |l, j| ws[l * k + j]);
        let dw = product(n, k, r, |i, l| dys[l * n + i], |l, j| xs[l * k + j]);
        Case::new(Op::Linear, vec![x.clone(), w.clone()], vec![y]).check("linear");
        Case::new(Op::LinearBackwardInput, vec![dy.clone(), w], vec![dx])
            .check("linear_backward_input");
        Case::new(Op::LinearBackwardWeight, vec![dy, x], vec![dw]).check("linear_backward_weight");
    }
}

struct Attended {
    out: Vec<f64>,
    log_sum_exp: Vec<f64>,
    gradients: Vec<Vec<f64>>,
}

/// Attention and its derivative in f64, one score at a time.
fn attend(extents: [usize; 5], mask: Mask, scale: f64, tensors: [&[f64]; 4]) -> Attended {
    let ([b, s, h, g, d], [q, k, v, dout]) = (extents, tensors);
    let at = |heads: usize, batch: usize, position: usize, head: usize| {
        ((batch * s + position) * heads + head) * d
    };
    let (mut out, mut log_sum_exp) = (vec![0.0; q.len()], vec![]);
    let mut gradients = vec![vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]];
    for (batch, head, i) in (0..b * h * s).map(|n| (n / s / h, n / s % h, n % s)) {
        let (qi, group) = (at(h, batch, i, head), head / (h / g));
        let sees = |j: &usize| match mask {
            Mask::Full => true,
            Mask::Causal => *j <= i,
            Mask::Window(width) => *j <= i && j + width as usize > i,
        };
        let keys: Vec<usize> = (0..s).filter(sees).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let row = |x: &[f64], from: usize| x[from..from + d].to_vec();
        let scores: Vec<f64> = keys
            .iter()
            .map(|j| scale * dot(&row(q, qi), &row(k, at(g, batch, *j, group))))
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = largest + scores.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        log_sum_exp.push(lse);
        for (score, j) in scores.iter().zip(&keys) {
            (0..d)
                .for_each(|e| out[qi + e] += (score - lse).exp() * v[at(g, batch, *j, group) + e]);
        }
        let sum = dot(&row(dout, qi), &row(&out, qi));
        for (score, j) in scores.iter().zip(&keys) {
            let (p, kj) = ((score - lse).exp(), at(g, batch, *j, group));
            let ds = scale * p * (dot(&row(dout, qi), &row(v, kj)) - sum);
            for e in 0..d {
                gradients[0][qi + e] += ds * k[kj + e];
                gradients[1][kj + e] += ds * q[qi + e];
                gradients[2][kj + e] += p * dout[qi + e];
            }
        }
    }
    Attended { out, log_sum_exp, gradients }
}

#[test]
fn attention_and_its_derivative() {
    for (b, s, h, g, d, mask) in [
        (1, 1, 1, 1, 1, Mask::Causal),
        (1, 1, 2, 1, 5, Mask::Full),
        (2, 7, 1, 1, 3, Mask::Full),
        (1, 65, 4, 2, 7, Mask::Causal),
        (1, 129, 2, 1, 16, Mask::Window(5)),
        (1, 200, 3, 3, 9, Mask::Window(150)),
        (2, 130, 8, 8, 8, Mask::Causal),
        (4, 140, 8, 4, 6, Mask::Window(60)),
        (1, 150, 2, 2, 33, Mask::Full),
    ] {
        let scale = 1.7;
        let (q, dout) = (Value::numbers(1, &[b, s, h, d]), Value::numbers(4, &[b, s, h, d]));
        let (k, v) = (Value::numbers(2, &[b, s, g, d]), Value::numbers(3, &[b, s, g, d]));
        let extents = [b, s, h, g, d].map(|e| e as usize);
        let want = attend(extents, mask, scale, [&q.f64(), &k.f64(), &v.f64(), &dout.f64()]);
        let what = format!("attention {b} {s} {h} {g} {d} {mask}");
        let op = Op::Attention { scores: Scores::new(mask, Real::new(scale)) };
        let results = vec![want.out.clone(), want.log_sum_exp.clone()];
        Case::new(op, vec![q.clone(), k.clone(), v.clone()], results)
            .packed(&[], &[1])
            .check(&what);
        let out = Value::F32(vec![b, s, h, d], want.out.iter().map(|x| *x as f32).collect());
        let lse = Value::F32(vec![b, h, s], want.log_sum_exp.iter().map(|x| *x as f32).collect());
        let scores = Scores::new(mask, Real::new(scale));
        let op = Op::AttentionBackward { scores, turned_back: None };
        let backward = Case::new(op, vec![dout, q, k, v, out, lse], want.gradients);
        backward.packed(&[5], &[]).tolerance(5e-6).check(&what);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let (b, s, h, d) = (1u64, 80u64, 1u64, 4u64);
    let large = |seed| match Value::numbers(seed, &[b, s, h, d]) {
        Value::F32(extents, values) => {
            Value::F32(extents, values.iter().map(|x| x * 40.0).collect())
        }
        other => other,
    };
    let (q, k, v) = (large(1), large(2), Value::numbers(3, &[b, s, h, d]));
    let want =
        attend([1, 80, 1, 1, 4], Mask::Causal, 1.0, [&q.f64(), &k.f64(), &v.f64(), &v.f64()]);
    let op = Op::Attention { scores: Scores::new(Mask::Causal, Real::new(1.0)) };
    let case = Case::new(op, vec![q, k, v], vec![want.out, want.log_sum_exp]).packed(&[], &[1]);
    case.tolerance(1e-3).check("large scores");
}

#[test]
fn head_loss_and_its_gradient() {
    // Labels as a function of the position: which are ignored.
    let patterns: [fn(u64) -> bool; 5] =
        [|_| false, |i| i % 3 == 0, |i| i > 20, |i| !(5..9).contains(&i), |_| true];
    for (b, s, n, vocabulary, chunk) in
        [(1, 1, 1, 1, 1), (2, 5, 7, 11, 3), (3, 17, 33, 700, 16), (2, 40, 20, 65, 1000)]
    {
        for (which, ignored) in patterns.iter().enumerate() {
            let (x, w) = (Value::numbers(1, &[b, s, n]), Value::numbers(2, &[vocabulary, n]));
            let labels: Vec<i32> = (0..b * s)
                .map(|i| if ignored(i) { -100 } else { ((i * 31) % vocabulary) as i32 })
                .collect();
            let (xs, ws, n_, v_) = (x.f64(), w.f64(), n as usize, vocabulary as usize);
            let factor = 0.25;
            let mut loss = vec![0.0; b as usize];
            let (mut dx, mut dw) = (vec![0.0; xs.len()], vec![0.0; ws.len()]);
            for (i, label) in labels.iter().enumerate().filter(|(_, label)| **label >= 0) {
                let x = &xs[i * n_..][..n_];
                let logit = |j: usize| x.iter().zip(&ws[j * n_..]).map(|(x, w)| x * w).sum::<f64>();
                let logits: Vec<f64> = (0..v_).map(logit).collect();
                let lse = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
                loss[i / s as usize] += lse - logits[*label as usize];
                for j in 0..v_ {
                    let d = factor
                        * ((logits[j] - lse).exp() - f64::from(u8::from(j == *label as usize)));
                    for e in 0..n_ {
                        dx[i * n_ + e] += d * ws[j * n_ + e];
                        dw[j * n_ + e] += d * x[e];
                    }
                }
            }
            let labels = Value::I32(vec![b, s], labels);
            let what = format!("head_loss {b} {s} {n} {vocabulary} chunk {chunk} pattern {which}");
            let operands = vec![x.clone(), w.clone(), labels.clone()];
            Case::new(
                Op::HeadLoss { chunk, bias: false, transform: None },
                operands,
                vec![loss.clone()],
            )
            .check(&what);
            let operands = vec![x, w, labels, Value::F32(vec![], vec![factor as f32])];
            let op = Op::HeadLossWithGradient { chunk, bias: false, transform: None };
            Case::new(op, operands, vec![loss, dx, dw]).tolerance(5e-6).check(&what);
        }
    }
}

#[test]
#[should_panic(expected = "label 11 is not in a vocabulary of 11")]
fn a_label_outside_the_vocabulary_is_named() {
    let operands = vec![
        Value::numbers(1, &[1, 1, 2]),
        Value::numbers(2, &[11, 2]),
        Value::I32(vec![1, 1], vec![11]),
    ];
    Case::new(Op::HeadLoss { chunk: 1, bias: false, transform: None }, operands, vec![]).run(
        1,
        0,
        Write::Overwrite,
        0.0,
    );
}
