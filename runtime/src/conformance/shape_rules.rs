//! The shape rule gives the types that the samples state, and refuses operands that do not fit.

use colac_plan::op::{Mask, UpdateRange};
use colac_plan::pointwise::{Binary, InputForm, Instruction, Program};
use colac_plan::shape::Axis;
use colac_plan::{DType, Op, Real, Shape, TensorType};

use super::samples;

fn infer(op: &Op, types: &[TensorType]) -> Option<Vec<TensorType>> {
    op.infer(&types.iter().collect::<Vec<_>>()).ok()
}

#[test]
fn results_are_as_stated() {
    for sample in samples::all() {
        let types: Vec<TensorType> = sample.operands.iter().map(|o| o.ty.clone()).collect();
        let found = sample.op.infer(&types.iter().collect::<Vec<_>>());
        assert_eq!(found.as_ref(), Ok(&sample.results), "{}", sample.name);
    }
}

/// Every way of making one operand wrong in one place.
fn perturbed(types: &[TensorType]) -> Vec<(String, Vec<TensorType>)> {
    let mut cases = Vec::new();
    for i in 0..types.len() {
        let mut with = |what: String, ty: TensorType| {
            let mut types = types.to_vec();
            types[i] = ty;
            cases.push((format!("operand {i} {what}"), types));
        };
        let ty = &types[i];
        let dtype = if ty.dtype.is_float() { DType::I32 } else { DType::F32 };
        with(format!("of {dtype}"), TensorType::new(dtype, ty.shape.clone()));
        for axis in 0..ty.shape.ndim() {
            let mut shape = ty.shape.clone();
            shape.0[axis].extent += 1;
            with(format!("longer along axis {axis}"), TensorType::new(ty.dtype, shape));
            let mut shape = ty.shape.clone();
            shape.0.remove(axis);
            with(format!("without axis {axis}"), TensorType::new(ty.dtype, shape));
        }
        let mut shape = ty.shape.clone();
        shape.0.insert(0, Axis::anonymous(2));
        with("with another axis".into(), TensorType::new(ty.dtype, shape));
    }
    cases
}

/// Whether a perturbed operand is as good as the old one though the results stay the same: axes that do not reach the
/// results and that no other operand shares.
fn legal(op: &Op, types: &[TensorType], operand: usize) -> bool {
    match op {
        // Any number of rows is looked up in, summed, predicted.
        Op::Embedding => operand == 1 && types[1].shape.ndim() == 2,
        Op::HeadLoss { .. } => operand == 1 && types[1].shape.ndim() == 2,
        Op::ColumnSum => types[0].shape.ndim() >= 1,
        Op::GradientNorm => types[0].shape.ndim() == 1,
        Op::Linear
        | Op::LinearBackwardInput
        | Op::LinearBackwardWeight
        | Op::EmbeddingBackward { .. }
        | Op::RmsNorm { .. }
        | Op::RmsNormBackward
        | Op::Rope { .. }
        | Op::Attention { .. }
        | Op::AttentionBackward { .. }
        | Op::Pointwise { .. }
        | Op::HeadLossWithGradient { .. }
        | Op::AdamW { .. } => false,
    }
}

/// A wrong operand is refused, or the results follow it. A rule that forgets a comparison gives the old results.
#[test]
fn wrong_operands_are_refused() {
    for sample in samples::all() {
        let types: Vec<TensorType> = sample.operands.iter().map(|o| o.ty.clone()).collect();
        for (what, wrong) in perturbed(&types) {
            let operand =
                (0..types.len()).find(|&i| types[i] != wrong[i]).expect("one was perturbed");
            let element_format = types[operand].dtype != wrong[operand].dtype;
            let accepted = infer(&sample.op, &wrong);
            assert!(!(element_format && accepted.is_some()), "{} takes {what}", sample.name);
            let unchanged = accepted.is_some_and(|results| results == sample.results);
            assert!(
                !unchanged || legal(&sample.op, &wrong, operand),
                "{} takes {what}",
                sample.name
            );
        }
        let mut fewer = types.clone();
        fewer.pop();
        assert_eq!(infer(&sample.op, &fewer), None, "{} takes one operand less", sample.name);
        let mut more = types.clone();
        more.push(TensorType::f32(&[]));
        assert_eq!(infer(&sample.op, &more), None, "{} takes one operand more", sample.name);
    }
}

#[test]
fn wrong_attributes_are_refused() {
    let f32 = |extents: &[u64]| TensorType::f32(extents);
    let i32 = |extents: &[u64]| TensorType::new(DType::I32, Shape::of(extents));
    let one = Real::new(1.0);
    let qkv = |heads, groups| {
        vec![f32(&[1, 5, heads, 4]), f32(&[1, 5, groups, 4]), f32(&[1, 5, groups, 4])]
    };
    let attention = |mask| Op::Attention { mask, scale: one };
    let range =
        |start, length| UpdateRange { start, length, weight_decay: one, learning_rate_factor: one };
    let adamw = |ranges| Op::AdamW { beta1: one, beta2: one, epsilon: one, clip_norm: one, ranges };
    let update = vec![f32(&[10]), f32(&[]), f32(&[]), f32(&[])];
    let pointwise = |instructions: Vec<Instruction>| {
        let mut program = Program { instructions, ..Program::sum(1) };
        program.outputs[0].register = program.instructions.len() as u16 - 1;
        Op::Pointwise { program }
    };
    let head = vec![f32(&[1, 5, 4]), f32(&[7, 4]), i32(&[1, 5])];
    let row_only = Program { inputs: vec![InputForm::Row], ..Program::sum(1) };
    let cases = [
        ("three heads over two groups", attention(Mask::Full), qkv(3, 2)),
        ("no position in the window", attention(Mask::Window(0)), qkv(2, 2)),
        (
            "an odd head_dim",
            Op::Rope { inverse: false },
            vec![f32(&[1, 5, 2, 3]), f32(&[5, 1]), f32(&[5, 1])],
        ),
        (
            "a negative epsilon",
            Op::RmsNorm { epsilon: Real::new(-1.0) },
            vec![f32(&[2, 3]), f32(&[3])],
        ),
        (
            "epsilon not a number",
            Op::RmsNorm { epsilon: Real::new(f64::NAN) },
            vec![f32(&[2, 3]), f32(&[3])],
        ),
        ("an empty chunk", Op::HeadLoss { chunk: 0 }, head),
        ("ranges that overlap", adamw(vec![range(0, 5), range(4, 2)]), update.clone()),
        ("ranges out of order", adamw(vec![range(5, 2), range(0, 2)]), update.clone()),
        ("a range beyond the end", adamw(vec![range(9, 2)]), update.clone()),
        ("a range that overflows", adamw(vec![range(u64::MAX, 2)]), update),
        ("a missing input", pointwise(vec![Instruction::Input(1)]), vec![f32(&[3])]),
        (
            "a later register",
            pointwise(vec![Instruction::Binary(Binary::Add, 0, 0)]),
            vec![f32(&[3])],
        ),
        (
            "an integer",
            pointwise(vec![Instruction::Input(0), Instruction::Round(DType::I32, 0)]),
            vec![f32(&[3])],
        ),
        ("too much", pointwise(vec![Instruction::Input(0); 257]), vec![f32(&[3])]),
        ("rows only", Op::Pointwise { program: row_only }, vec![f32(&[3])]),
    ];
    for (what, op, types) in cases {
        assert_eq!(infer(&op, &types), None, "{} accepts {what}", op.name());
    }
    // The same operands are fine with right attributes.
    assert!(infer(&attention(Mask::Window(1)), &qkv(4, 2)).is_some());
    assert!(infer(&pointwise(vec![Instruction::Input(0); 256]), &[f32(&[3])]).is_some());
}
