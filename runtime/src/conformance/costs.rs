//! Costs against an independent count: multiply-adds are counted by walking the loops of each definition, the rest from
//! a table of arithmetic per element that says what it counts.

use colac_plan::op::{Mask, Scores};
use colac_plan::pointwise::{Instruction, Program};
use colac_plan::{DType, Op, TensorType};

use super::samples::{self, Sample};

/// What a sample should cost.
struct Count {
    /// Twice the FLOPs of products, because attention's convention cuts the diagonal in halves.
    doubled_products: u64,
    other: u64,
    bytes: u64,
}

/// Keys that the query at `position` sees, one by one.
fn visible(mask: Mask, position: u64, seq: u64) -> u64 {
    let sees = |key: u64| match mask {
        Mask::Full => true,
        Mask::Causal => key <= position,
        Mask::Window(width) => key <= position && key + u64::from(width) > position,
    };
    (0..seq).filter(|&key| sees(key)).count() as u64
}

/// Twice the pairs of positions of one head under the convention: pairs on the edges of the mask's band count half,
/// as in the area of a triangle.
fn doubled_pairs(mask: Mask, seq: u64) -> u64 {
    let pairs: u64 = (0..seq).map(|position| visible(mask, position, seq)).sum();
    let edge = match mask {
        Mask::Full => 0,
        Mask::Causal => seq,
        Mask::Window(width) => u64::from(width).min(seq),
    };
    2 * pairs - edge
}

/// Instructions of a program that compute something.
fn arithmetic(program: &Program) -> u64 {
    let computes = |i: &Instruction| match i {
        Instruction::Input(_) | Instruction::Constant(_) => 0,
        Instruction::Unary(..)
        | Instruction::Binary(..)
        | Instruction::Select(..)
        | Instruction::Round(..) => 1,
    };
    program.instructions.iter().map(computes).sum()
}

fn count(sample: &Sample) -> Count {
    let extents = |i: usize| sample.operands[i].ty.shape.extents();
    let elements = |i: usize| extents(i).iter().product::<u64>();
    let last = |i: usize| extents(i).last().copied().unwrap_or(1);
    let size = |ty: &TensorType| ty.shape.extents().iter().product::<u64>() * 4;
    let read: u64 = sample.operands.iter().map(|o| size(&o.ty)).sum();
    let written: u64 = sample.results.iter().map(size).sum();
    // Elements of the rows that a norm is taken of; a program inside computes as often.
    let rows = size(&sample.results[0]) / 4;
    let inside = |program: &Option<Program>| program.as_ref().map_or(0, arithmetic);
    let gain_or = |there: bool, operations: u64| if there { operations } else { 0 };
    let attention = |q: usize, scores: &Scores, products: u64| {
        let mask = scores.mask;
        let [batch, seq, heads, dim] = extents(q)[..] else { panic!("four axes") };
        let doubled = doubled_pairs(mask, seq) * batch * heads;
        // Scale, subtract the maximum, exponential, add, divide; quotient, tanh, product; product, difference.
        let each = 5 + gain_or(scores.softcap.is_some(), 3) + gain_or(scores.alibi, 2);
        (products * 2 * (dim + last(q + 2)) * doubled, each * doubled / 2)
    };
    let logits = |per_logit: u64| elements(2) * extents(1)[0] * per_logit;
    let (doubled_products, other, bytes) = match &sample.op {
        // A row of x meets every row of w: a multiply and an add for each pair of elements.
        Op::Linear => (2 * 2 * elements(0) / last(0) * extents(1)[0] * last(0), 0, read + written),
        Op::LinearBackwardInput => (2 * 2 * elements(0) * last(1), 0, read + written),
        Op::LinearBackwardWeight => {
            (2 * 2 * elements(0) / last(0) * last(0) * last(1), 0, read + written)
        }
        // Only the rows looked up are read.
        Op::Embedding => (0, 0, 4 * elements(0) + 2 * written),
        // Rows of the gradient are read, rows of the table read and written.
        Op::EmbeddingBackward { .. } => (0, elements(1), 4 * elements(0) + 3 * 4 * elements(1)),
        // Square, add; times rstd, times w.
        Op::RmsNorm { gain, prologue, .. } => {
            (0, (3 + gain_or(*gain, 1) + inside(prologue)) * rows, read + written)
        }
        // g · x, add; x · rstd² · mean, g - that, · rstd; with a gain g = dy · w; dy · x · rstd, add.
        Op::RmsNormBackward { gain, epilogue } => {
            (0, (2 + 4 + gain_or(*gain, 1 + 3) + inside(epilogue)) * rows, read + written)
        }
        // Add; subtract, square, add; subtract, times rstd; times w; plus b.
        Op::LayerNorm { gain, bias, prologue, .. } => {
            let vectors = gain_or(*gain, 1) + gain_or(*bias, 1);
            (0, (1 + 3 + 2 + vectors + inside(prologue)) * rows, read + written)
        }
        // Add g; x - mean, times g, add; g - mean(g), x - mean, times a factor, subtract, times rstd; with a gain
        // g = dy · w and dy · z, add; with a bias add dy.
        Op::LayerNormBackward { gain, bias, epilogue } => {
            let vectors = gain_or(*gain, 1 + 2) + gain_or(*bias, 1);
            (0, (1 + 3 + 5 + vectors + inside(epilogue)) * rows, read + written)
        }
        // Add; a quotient for each row.
        Op::RowSum { mean } => {
            (0, elements(0) + gain_or(*mean, elements(0) / last(0)), read + written)
        }
        // Compare, subtract, exponential, add, times the sum's reciprocal.
        Op::Softmax => (0, 5 * elements(0), read + written),
        // For four elements ten rounds of two products, four exclusive ors and two additions; then compare and multiply.
        Op::Dropout { .. } => (0, (10 * (2 + 4 + 2) / 4 + 2) * elements(0), read + written),
        // Four products and two sums for a pair.
        Op::Rope { .. } => (0, 6 * elements(0) / last(0) * last(1), read + written),
        // q kᵀ and p v.
        Op::Attention { scores } => {
            let (products, other) = attention(0, scores, 1);
            (products, other, read + written)
        }
        // dv = pᵀ dout, dp = dout vᵀ, dq = ds k, dk = dsᵀ q.
        // For a pair that is turned back four products and two sums.
        Op::AttentionBackward { scores, turned_back } => {
            let (products, other) = attention(1, scores, 2);
            let turned = turned_back.map_or(0, |turned| {
                let rows = |operand: usize| elements(operand) / last(operand);
                6 * last(6) * (gain_or(turned.queries, rows(1)) + gain_or(turned.keys, rows(2)))
            });
            (products, other + turned, read + written)
        }
        Op::Pointwise { program } => {
            (0, arithmetic(program) * size(&sample.results[0]) / 4, read + written)
        }
        Op::ColumnSum => (0, elements(0), read + written),
        // The logits; subtract the maximum, exponential, add.
        Op::HeadLoss { bias, transform, .. } => {
            let each = 3 + u64::from(*bias) + transform.as_ref().map_or(0, arithmetic);
            (2 * logits(2) * last(0), logits(each), read + written)
        }
        // The logits, dx and dw; then also divide, scale, and add to the bias's gradient.
        Op::HeadLossWithGradient { bias, transform, .. } => {
            let both = transform.as_ref();
            let both = both.map_or(0, |t| arithmetic(&t.function) + arithmetic(&t.derivative));
            let each = 5 + 2 * u64::from(*bias) + both;
            (2 * logits(6) * last(0), logits(each), read + written)
        }
        // The rest of the operand is not read.
        Op::Slice { .. } => (0, 0, 2 * written),
        Op::Concat { .. } | Op::Shift { .. } => (0, 0, read + written),
        Op::Sum => (0, elements(0), read + written),
        Op::GradientNorm => (0, 2 * elements(0), read + written),
        // Clip; 3 for m, 4 for v; correction and root of v, epsilon; rate with correction times m, divide; decay,
        // subtract. Four rows are read and three written.
        Op::AdamW { .. } => (0, (1 + 3 + 4 + 3 + 2 + 2) * elements(0), 7 * 4 * elements(0)),
    };
    Count { doubled_products, other, bytes }
}

#[test]
fn costs_are_as_counted() {
    for sample in samples::all() {
        let operands: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
        let results: Vec<&TensorType> = sample.results.iter().collect();
        let cost = sample.op.cost(&operands, &results);
        let expected = count(&sample);
        // An odd band has a half pair in each head, which the convention rounds.
        let (products_slack, other_slack) = match &sample.op {
            Op::Attention { .. } | Op::AttentionBackward { .. } => {
                let first = usize::from(matches!(sample.op, Op::AttentionBackward { .. }));
                let q = sample.operands[first].ty.shape.extents();
                let halves = q[0] * q[2];
                let v = sample.operands[first + 2].ty.shape.width();
                (2 * 2 * (q[3] + v) * halves, 10 * halves / 2 + 1)
            }
            _ => (0, 0),
        };
        let name = &sample.name;
        assert!(
            (2 * cost.products).abs_diff(expected.doubled_products) <= products_slack,
            "{name}: {} FLOPs of products, counted {}",
            cost.products,
            expected.doubled_products / 2
        );
        assert!(
            cost.other.abs_diff(expected.other) <= other_slack,
            "{name}: {} other FLOPs, counted {}",
            cost.other,
            expected.other
        );
        assert_eq!(cost.bytes, expected.bytes, "{name}: bytes");
    }
}

/// In bf16 with master parameters an update reads and writes 12 bytes of master and moments, reads 4 of gradient and
/// writes a copy of 2; all in bf16 it is half of f32.
#[test]
fn an_update_costs_by_its_storage() {
    for sample in samples::all().iter().filter(|sample| matches!(sample.op, Op::AdamW { .. })) {
        let elements = sample.operands[0].ty.shape.elements();
        for (sample, bytes) in super::precisions::of(sample).iter().zip([4 + 2 * 12 + 2, 7 * 2]) {
            let operands: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
            let results: Vec<&TensorType> = sample.results.iter().collect();
            let cost = sample.op.cost(&operands, &results);
            assert_eq!(cost.bytes, bytes * elements, "{}", sample.name);
            assert_eq!(cost.other, 15 * elements, "{}", sample.name);
        }
    }
}

/// Workspace is part of the price: exact, because an executor may use no more.
#[test]
fn workspace_is_as_documented() {
    for sample in samples::all() {
        let operands: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
        let extents = |i: usize| sample.operands[i].ty.shape.extents();
        let up = |bytes: u64| bytes.next_multiple_of(256);
        let expected = match &sample.op {
            // A partial row of f32 for every 256 rows.
            Op::RmsNormBackward { .. } | Op::LayerNormBackward { .. } | Op::ColumnSum => {
                let (width, leading) =
                    extents(0).split_last().map(|(w, l)| (*w, l.to_vec())).expect("rows");
                let sums = sample.results.iter().filter(|ty| ty.shape.ndim() == 1).count() as u64;
                // The gradient of a single row has one axis too, and needs none.
                let rows = u64::from(leading.is_empty() && !matches!(sample.op, Op::ColumnSum));
                (sums - rows) * up(leading.iter().product::<u64>().div_ceil(256) * width * 4)
            }
            // A chunk of logits in f32 and of losses in f64.
            Op::HeadLoss { chunk, .. }
            | Op::HeadLossWithGradient { chunk, transform: None, .. } => {
                let positions = (extents(0)[0] * extents(0)[1]).min(u64::from(*chunk));
                up(positions * extents(1)[0] * 4) + up(positions * 8)
            }
            // Products and logits.
            Op::HeadLossWithGradient { chunk, transform: Some(_), .. } => {
                let positions = (extents(0)[0] * extents(0)[1]).min(u64::from(*chunk));
                2 * up(positions * extents(1)[0] * 4) + up(positions * 8)
            }
            // A sum in f64 for as many whole rows as have 65536 elements.
            Op::Sum => {
                let width = extents(0).last().copied().unwrap_or(1);
                let rows = extents(0).iter().product::<u64>() / width;
                up(rows.div_ceil((65_536 / width).max(1)) * 8)
            }
            // A sum in f64 and a flag for every 65536 elements.
            Op::GradientNorm => up(extents(0)[0].div_ceil(65_536) * 16),
            // A number for each query.
            Op::AttentionBackward { .. } => up(extents(1)[..3].iter().product::<u64>() * 4),
            _ => 0,
        };
        let results: Vec<&TensorType> = sample.results.iter().collect();
        assert_eq!(sample.op.workspace_bytes(&operands, &results), expected, "{}", sample.name);
        // Gradients of the loss that are bf16 are summed up in f32; nothing else depends on storage.
        for stored in super::precisions::of(&sample) {
            let operands: Vec<&TensorType> = stored.operands.iter().map(|o| &o.ty).collect();
            let results: Vec<&TensorType> = stored.results.iter().collect();
            let sums = match stored.op {
                Op::HeadLossWithGradient { .. } => results[2..]
                    .iter()
                    .filter(|ty| ty.dtype == DType::Bf16)
                    .map(|ty| up(ty.shape.elements() * 4))
                    .sum(),
                _ => 0,
            };
            let bytes = stored.op.workspace_bytes(&operands, &results);
            assert_eq!(bytes, expected + sums, "{}", stored.name);
        }
    }
}
