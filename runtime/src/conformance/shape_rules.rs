//! The shape rule gives the types that the samples state, and refuses operands that do not fit.

use colac_plan::op::{Mask, Scores, TurnedBack, UpdateRange};
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

/// One operand changed in one place.
#[derive(Clone, Copy, Debug)]
enum Change {
    ElementFormat,
    Longer { axis: usize },
    OneAxisLess,
    OneAxisMore,
}

/// Every change of every operand: its position and the types with it.
fn changes(types: &[TensorType]) -> Vec<(usize, Change, Vec<TensorType>)> {
    let mut cases = Vec::new();
    for (operand, ty) in types.iter().enumerate() {
        let mut with = |change: Change, ty: TensorType| {
            let mut types = types.to_vec();
            types[operand] = ty;
            cases.push((operand, change, types));
        };
        let dtype = if ty.dtype.is_float() { DType::I32 } else { DType::F32 };
        with(Change::ElementFormat, TensorType::new(dtype, ty.shape.clone()));
        for axis in 0..ty.shape.ndim() {
            let mut shape = ty.shape.clone();
            shape.0[axis].extent += 1;
            with(Change::Longer { axis }, TensorType::new(ty.dtype, shape));
            let mut shape = ty.shape.clone();
            shape.0.remove(axis);
            with(Change::OneAxisLess, TensorType::new(ty.dtype, shape));
        }
        let mut shape = ty.shape.clone();
        shape.0.insert(0, Axis::anonymous(2));
        with(Change::OneAxisMore, TensorType::new(ty.dtype, shape));
    }
    cases
}

/// Whether an axis of an operand may be longer while all other operands stay: no other operand and no attribute has to
/// agree with it.
fn free(op: &Op, types: &[TensorType], operand: usize, axis: usize) -> bool {
    let width = axis + 1 == types[operand].shape.ndim();
    match op {
        Op::Linear => (operand == 0 && !width) || (operand == 1 && axis == 0),
        Op::LinearBackwardInput => (operand == 0 && !width) || (operand == 1 && axis == 1),
        Op::LinearBackwardWeight => width,
        Op::Embedding | Op::ColumnSum | Op::GradientNorm => true,
        Op::EmbeddingBackward { .. } => operand == 1 && width,
        // Every sample's program joins two operands.
        Op::RmsNorm { prologue: Some(_), .. } | Op::LayerNorm { prologue: Some(_), .. } => false,
        Op::RmsNorm { gain: false, .. } | Op::LayerNorm { gain: false, bias: false, .. } => true,
        Op::RmsNorm { .. } | Op::LayerNorm { .. } => operand == 0 && !width,
        Op::RowSum { .. } | Op::Softmax => true,
        Op::Dropout { .. } => operand == 0,
        Op::RmsNormBackward { .. }
        | Op::LayerNormBackward { .. }
        | Op::AttentionBackward { .. } => false,
        // Batch, heads, and elements that are not turned.
        Op::Rope { .. } => operand == 0 && axis != 1,
        // A wider row has the slice too.
        Op::Slice { .. } | Op::Shift { .. } | Op::Sum => true,
        // Where a gap follows.
        Op::Concat { width: total, starts } => {
            let end = starts[operand] + types[operand].shape.width();
            let next = starts.get(operand + 1).copied().unwrap_or(*total);
            (width && end < next) || (!width && types.len() == 1)
        }
        // More heads on as many key/value heads, where they divide evenly.
        Op::Attention { .. } => {
            let (heads, groups) = (types[0].shape.0[2].extent, types[1].shape.0[2].extent);
            // Or values of another width.
            (operand == 0 && axis == 2 && (heads + 1).is_multiple_of(groups))
                || (operand == 2 && width)
        }
        Op::Pointwise { program } => {
            let mut longer = types[operand].clone();
            longer.shape.0[axis].extent += 1;
            let others =
                program.inputs.iter().zip(types).enumerate().filter(|(i, _)| *i != operand);
            let mut fits = others.map(|(_, (form, other))| {
                let rows = &longer.shape.0[..longer.shape.ndim() - 1];
                let statistic = other.shape.same_extents(&Shape(rows.to_vec()));
                *form == InputForm::Scalar
                    || (*form == InputForm::Column && statistic)
                    || repeats(*form, other, &longer)
            });
            program.inputs[operand] == InputForm::Elements && fits.all(|fits| fits)
        }
        Op::HeadLoss { bias, .. } | Op::HeadLossWithGradient { bias, .. } => {
            operand == 1 && axis == 0 && !bias
        }
        Op::AdamW { .. } => operand == 0,
    }
}

/// Whether an operand of a pointwise program belongs to the last axes of the results, and not to all of their rows.
fn repeats(form: InputForm, operand: &TensorType, result: &TensorType) -> bool {
    let (operand, result) = (operand.shape.extents(), result.shape.extents());
    match form {
        InputForm::Row => !operand.is_empty() && result.ends_with(&operand),
        InputForm::Column => {
            let single = [&result[..result.len() - 1], &[1]].concat();
            !operand.is_empty() && single.ends_with(&operand)
        }
        InputForm::Elements | InputForm::Scalar => false,
    }
}

/// Another element format is never taken, a longer axis where it is free and nowhere else; one axis more or less may
/// leave the results as they were only for operations that sum over all rows, and for operands that repeat over rows.
#[test]
fn wrong_operands_are_refused() {
    for sample in samples::all() {
        let types: Vec<TensorType> = sample.operands.iter().map(|o| o.ty.clone()).collect();
        for (operand, change, changed) in changes(&types) {
            let accepted = infer(&sample.op, &changed);
            let what = format!("{}, operand {operand}: {change:?}", sample.name);
            match change {
                Change::ElementFormat => assert_eq!(accepted, None, "{what}"),
                Change::Longer { axis } => {
                    assert_eq!(
                        accepted.is_some(),
                        free(&sample.op, &types, operand, axis),
                        "{what}"
                    );
                }
                Change::OneAxisLess | Change::OneAxisMore => {
                    let unchanged = accepted.is_some_and(|results| results == sample.results);
                    let allowed = match &sample.op {
                        Op::ColumnSum => changed[0].shape.ndim() > 0,
                        Op::Sum => true,
                        // A program of its own or inside a norm.
                        op => op.program_input(operand).is_some_and(|form| {
                            repeats(form, &changed[operand], &sample.results[0])
                        }),
                    };
                    assert!(!unchanged || allowed, "{what}");
                }
            }
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
    let attention = |mask| Op::Attention { scores: Scores::new(mask, one) };
    let capped = |cap| Op::Attention {
        scores: Scores { softcap: Some(Real::new(cap)), ..Scores::new(Mask::Full, one) },
    };
    let turning = |queries, keys| Op::AttentionBackward {
        scores: Scores::new(Mask::Full, one),
        turned_back: Some(TurnedBack { queries, keys, interleaved: false }),
    };
    let turned = |pairs| {
        let mut operands = vec![f32(&[1, 5, 2, 4]); 5];
        operands.extend([f32(&[1, 2, 5]), f32(&[5, pairs]), f32(&[5, pairs])]);
        operands
    };
    let range =
        |start, length| UpdateRange { start, length, weight_decay: one, learning_rate_factor: one };
    let adamw = |ranges| Op::AdamW {
        beta1: one,
        beta2: one,
        epsilon: one,
        clip_norm: one,
        ranges,
        master: false,
    };
    let update = vec![f32(&[10]), f32(&[]), f32(&[]), f32(&[])];
    let pointwise = |instructions: Vec<Instruction>| {
        let mut program = Program { instructions, ..Program::sum(1) };
        program.outputs[0].register = program.instructions.len() as u16 - 1;
        Op::Pointwise { program }
    };
    let head = vec![f32(&[1, 5, 4]), f32(&[7, 4]), i32(&[1, 5])];
    let row_only = Program { inputs: vec![InputForm::Row], ..Program::sum(1) };
    let mut twice = Program::sum(1);
    twice.outputs.push(twice.outputs[0]);
    let mut column_first = Program::sum(2);
    column_first.inputs[0] = InputForm::Column;
    let cases = [
        ("three heads over two groups", attention(Mask::Full), qkv(3, 2)),
        ("a cap of zero", capped(0.0), qkv(2, 2)),
        ("a cap that is not a number", capped(f64::NAN), qkv(2, 2)),
        ("no position in the window", attention(Mask::Window(0)), qkv(2, 2)),
        (
            "more pairs than there are",
            Op::Rope { inverse: false, interleaved: false },
            vec![f32(&[1, 5, 2, 3]), f32(&[5, 2]), f32(&[5, 2])],
        ),
        ("more pairs to turn back than there are", turning(true, false), turned(3)),
        ("tables to turn nothing back", turning(false, false), turned(2)),
        (
            "a negative epsilon",
            Op::RmsNorm { epsilon: Real::new(-1.0), gain: true, prologue: None },
            vec![f32(&[2, 3]), f32(&[3])],
        ),
        (
            "epsilon not a number",
            Op::RmsNorm { epsilon: Real::new(f64::NAN), gain: true, prologue: None },
            vec![f32(&[2, 3]), f32(&[3])],
        ),
        (
            "a negative epsilon",
            Op::LayerNorm { epsilon: Real::new(-1.0), gain: false, bias: false, prologue: None },
            vec![f32(&[2, 3])],
        ),
        (
            "two results of a prologue",
            Op::RmsNorm { epsilon: one, gain: false, prologue: Some(twice.clone()) },
            vec![f32(&[2, 3])],
        ),
        (
            "two results of an epilogue",
            Op::RmsNormBackward { gain: false, epilogue: Some(twice) },
            vec![f32(&[2, 3]), f32(&[2, 3]), f32(&[2])],
        ),
        (
            "an epilogue that does not begin with the gradient",
            Op::RmsNormBackward { gain: false, epilogue: Some(column_first) },
            vec![f32(&[2, 3]), f32(&[2, 3]), f32(&[2]), f32(&[2, 3])],
        ),
        (
            "a prologue over a row alone",
            Op::LayerNorm {
                epsilon: one,
                gain: false,
                bias: false,
                prologue: Some(row_only.clone()),
            },
            vec![f32(&[3])],
        ),
        (
            "a probability of 1",
            Op::Dropout { probability: one, key: 0 },
            vec![f32(&[2, 3]), i32(&[4])],
        ),
        (
            "a probability that is not a number",
            Op::Dropout { probability: Real::new(f64::NAN), key: 0 },
            vec![f32(&[2, 3]), i32(&[4])],
        ),
        ("an empty chunk", Op::HeadLoss { chunk: 0, bias: false, transform: None }, head.clone()),
        (
            "a function of two logits",
            Op::HeadLoss { chunk: 1, bias: false, transform: Some(Program::sum(2)) },
            head,
        ),
        ("a slice of nothing", Op::Slice { start: 1, length: 0 }, vec![f32(&[2, 3])]),
        ("a slice beyond the end", Op::Slice { start: 2, length: 2 }, vec![f32(&[2, 3])]),
        ("a slice that overflows", Op::Slice { start: u64::MAX, length: 2 }, vec![f32(&[2, 3])]),
        (
            "parts that overlap",
            Op::Concat { width: 9, starts: vec![0, 2] },
            vec![f32(&[2, 3]), f32(&[2, 3])],
        ),
        ("a part beyond the end", Op::Concat { width: 4, starts: vec![2] }, vec![f32(&[2, 3])]),
        ("no parts", Op::Concat { width: 4, starts: vec![] }, vec![]),
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
    assert!(infer(&turning(false, true), &turned(2)).is_some());
    assert!(infer(&pointwise(vec![Instruction::Input(0); 256]), &[f32(&[3])]).is_some());
}
