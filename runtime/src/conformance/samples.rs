//! Awkward operands for every operation.
//!
//! Owns the choice: odd sizes, a single token, a single head, grouped heads, one more than a block, everything ignored,
//! repeated ids, large numbers. Result types are written down here, not inferred, so that the shape rule has something
//! to be compared with. Values are f32 numbers drawn from the sample's name.

use colac_plan::op::{LogitTransform, Mask, Scores, UpdateRange};
use colac_plan::pointwise::{Binary, Builder, InputForm, Program, Unary};
use colac_plan::{DType, Op, Real, Shape, TensorType};

use crate::host::random::Stream;
use crate::reference::Value;

mod attention;
mod norms;
mod rows;

/// Operands of one execution of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Operation and what is special.
    pub(crate) name: String,
    pub(crate) op: Op,
    pub(crate) operands: Vec<Operand>,
    /// What the shape rule must give.
    pub(crate) results: Vec<TensorType>,
    /// What the results are before, for an operation that updates in place.
    pub(crate) current: Option<Vec<Vec<f64>>>,
}

/// One operand: exactly representable values in logical order.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) ty: TensorType,
    pub(crate) values: Vec<f64>,
}

impl Operand {
    pub(crate) fn value(&self) -> Value {
        Value::new(&self.ty.shape, self.values.clone())
    }
}

impl Sample {
    fn new(
        name: impl Into<String>,
        op: Op,
        operands: Vec<Operand>,
        results: Vec<TensorType>,
    ) -> Sample {
        let name = format!("{}: {}", op.name(), name.into());
        Sample { name, op, operands, results, current: None }
    }

    /// Operands as the reference takes them.
    pub(crate) fn values(&self) -> Vec<Value> {
        self.operands.iter().map(Operand::value).collect()
    }
}

/// All samples of all operations.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut family = Some(Op::Linear);
    while let Some(op) = family {
        let (of_op, next) = of(&op);
        samples.extend(of_op);
        family = next;
    }
    samples
}

/// The samples of an operation, whatever the attributes of the one given, and the operation that comes next.
pub(crate) fn of(op: &Op) -> (Vec<Sample>, Option<Op>) {
    let zero = Real::new(0.0);
    match op {
        Op::Linear => (linear(), Some(Op::LinearBackwardInput)),
        Op::LinearBackwardInput => (linear_backward_input(), Some(Op::LinearBackwardWeight)),
        Op::LinearBackwardWeight => (linear_backward_weight(), Some(Op::Embedding)),
        Op::Embedding => (embedding(), Some(Op::EmbeddingBackward { rows: 1 })),
        Op::EmbeddingBackward { .. } => {
            (embedding_backward(), Some(Op::RmsNorm { epsilon: zero, gain: true, prologue: None }))
        }
        Op::RmsNorm { .. } => {
            (norms::rms_norm(), Some(Op::RmsNormBackward { gain: true, epilogue: None }))
        }
        Op::RmsNormBackward { .. } => (
            norms::rms_norm_backward(),
            Some(Op::LayerNorm { epsilon: zero, gain: true, bias: true, prologue: None }),
        ),
        Op::LayerNorm { .. } => (
            norms::layer_norm(),
            Some(Op::LayerNormBackward { gain: true, bias: true, epilogue: None }),
        ),
        Op::LayerNormBackward { .. } => {
            (norms::layer_norm_backward(), Some(Op::Dropout { probability: zero, key: 0 }))
        }
        Op::Dropout { .. } => (dropout(), Some(Op::RowSum { mean: false })),
        Op::RowSum { .. } => (norms::row_sum(), Some(Op::Softmax)),
        Op::Softmax => (norms::softmax(), Some(Op::Rope { inverse: false, interleaved: false })),
        Op::Rope { .. } => {
            (attention::rope(), Some(Op::Attention { scores: Scores::new(Mask::Full, zero) }))
        }
        Op::Attention { .. } => (
            attention::attention(),
            Some(Op::AttentionBackward {
                scores: Scores::new(Mask::Full, zero),
                turned_back: None,
            }),
        ),
        Op::AttentionBackward { .. } => {
            (attention::attention_backward(), Some(Op::Pointwise { program: Program::sum(1) }))
        }
        Op::Pointwise { .. } => (pointwise(), Some(Op::ColumnSum)),
        Op::ColumnSum => {
            (column_sum(), Some(Op::HeadLoss { chunk: 1, bias: false, transform: None }))
        }
        Op::HeadLoss { .. } => {
            let next = Op::HeadLossWithGradient { chunk: 1, bias: false, transform: None };
            (head_loss(), Some(next))
        }
        Op::HeadLossWithGradient { .. } => (head_loss_with_gradient(), Some(Op::GradientNorm)),
        Op::GradientNorm => {
            let next = Op::AdamW {
                beta1: zero,
                beta2: zero,
                epsilon: zero,
                clip_norm: zero,
                ranges: Vec::new(),
                master: false,
            };
            (gradient_norm(), Some(next))
        }
        Op::AdamW { .. } => (adamw(), Some(Op::Slice { start: 0, length: 1 })),
        Op::Slice { .. } => (rows::slice(), Some(Op::Concat { width: 1, starts: vec![0] })),
        Op::Concat { .. } => (rows::concat(), Some(Op::Shift { by: 0 })),
        Op::Shift { .. } => (rows::shift(), Some(Op::Sum)),
        Op::Sum => (rows::sum(), None),
    }
}

/// Numbers evenly distributed in `-magnitude..magnitude`, rounded to f32, named by what they are for.
pub(crate) fn draw(name: &str, count: usize, magnitude: f64) -> Vec<f64> {
    let stream = Stream::new(0, name, 0);
    let numbers = (0..).flat_map(|pair| stream.uniform_pair(pair));
    numbers.take(count).map(|u| f64::from(((2.0 * u - 1.0) * magnitude) as f32)).collect()
}

fn real(name: &str, extents: &[u64], magnitude: f64) -> Operand {
    let ty = TensorType::f32(extents);
    let values = draw(&format!("{name} {extents:?}"), ty.shape.elements() as usize, magnitude);
    Operand { ty, values }
}

fn given(extents: &[u64], values: Vec<f64>) -> Operand {
    let ty = TensorType::f32(extents);
    assert_eq!(ty.shape.elements() as usize, values.len());
    Operand { ty, values: values.iter().map(|&v| f64::from(v as f32)).collect() }
}

fn integers(extents: &[u64], values: Vec<f64>) -> Operand {
    let ty = TensorType::new(DType::I32, Shape::of(extents));
    assert_eq!(ty.shape.elements() as usize, values.len());
    Operand { ty, values }
}

fn ids(name: &str, extents: &[u64], below: u64) -> Operand {
    let values =
        draw(&format!("{name} {extents:?}"), extents.iter().product::<u64>() as usize, 0.5);
    integers(
        extents,
        values.iter().map(|u| ((u + 0.5) * below as f64).floor().min(below as f64 - 1.0)).collect(),
    )
}

/// `leading` axes and a width.
fn with(leading: &[u64], width: u64) -> Vec<u64> {
    [leading, &[width]].concat()
}

/// Leading axes, input width, output width.
const LINEARS: [(&[u64], u64, u64); 14] = [
    (&[1], 1, 1),
    (&[], 3, 17),
    (&[1, 1], 1, 129),
    (&[1, 1], 129, 1),
    (&[2, 65], 17, 3),
    (&[3, 5], 129, 65),
    (&[65], 64, 64),
    (&[2, 129], 33, 65),
    (&[300], 257, 131),
    // Wider and deeper than the blocks of matrix libraries.
    (&[70], 5, 600),
    (&[70], 600, 5),
    (&[3], 1100, 7),
    (&[2, 550], 5, 7),
    (&[40], 136, 72),
];

fn linear() -> Vec<Sample> {
    let sample = |&(leading, k, n): &(&[u64], u64, u64)| {
        let operands = vec![real("x", &with(leading, k), 1.0), real("w", &[n, k], 1.0)];
        let results = vec![TensorType::f32(&with(leading, n))];
        Sample::new(format!("{leading:?} {k} to {n}"), Op::Linear, operands, results)
    };
    LINEARS.iter().map(sample).collect()
}

fn linear_backward_input() -> Vec<Sample> {
    let sample = |&(leading, k, n): &(&[u64], u64, u64)| {
        let operands = vec![real("dy", &with(leading, n), 1.0), real("w", &[n, k], 1.0)];
        let results = vec![TensorType::f32(&with(leading, k))];
        Sample::new(format!("{leading:?} {k} to {n}"), Op::LinearBackwardInput, operands, results)
    };
    LINEARS.iter().map(sample).collect()
}

fn linear_backward_weight() -> Vec<Sample> {
    let sample = |&(leading, k, n): &(&[u64], u64, u64)| {
        let operands = vec![real("dy", &with(leading, n), 1.0), real("x", &with(leading, k), 1.0)];
        let results = vec![TensorType::f32(&[n, k])];
        Sample::new(format!("{leading:?} {k} to {n}"), Op::LinearBackwardWeight, operands, results)
    };
    LINEARS.iter().map(sample).collect()
}

/// Ids' axes, rows of the table, width.
const TABLES: [(&[u64], u64, u64); 8] = [
    (&[1], 1, 1),
    (&[2, 65], 7, 17),
    (&[3, 5], 200, 3),
    (&[1, 129], 2, 129),
    (&[4, 100], 50, 65),
    (&[2, 9], 1000, 5),
    // Rows of whole groups of eight, and more of them than a block has threads.
    (&[2, 33], 10, 264),
    (&[5], 3, 2072),
];

fn embedding() -> Vec<Sample> {
    let sample = |&(axes, rows, width): &(&[u64], u64, u64)| {
        let operands = vec![ids("ids", axes, rows), real("table", &[rows, width], 1.0)];
        let results = vec![TensorType::f32(&with(axes, width))];
        Sample::new(format!("{axes:?} of {rows}, width {width}"), Op::Embedding, operands, results)
    };
    TABLES.iter().map(sample).collect()
}

fn embedding_backward() -> Vec<Sample> {
    let sample = |name: String, ids: Operand, rows: u64, width: u64| {
        let dy = real("dy", &with(&ids.ty.shape.extents(), width), 1.0);
        let results = vec![TensorType::f32(&[rows, width])];
        Sample::new(name, Op::EmbeddingBackward { rows }, vec![ids, dy], results)
    };
    let mut samples: Vec<Sample> = TABLES
        .iter()
        .map(|&(axes, rows, width)| {
            sample(
                format!("{axes:?} of {rows}, width {width}"),
                ids("ids", axes, rows),
                rows,
                width,
            )
        })
        .collect();
    let same = integers(&[2, 33], vec![4.0; 66]);
    samples.push(sample("one id repeated".into(), same, 9, 17));
    samples
}

fn dropout() -> Vec<Sample> {
    let cases: [(&[u64], f64, u64, [i32; 4]); 8] = [
        (&[1], 0.5, 1, [3, -4, 0, 0]),
        (&[17], 0.1, u64::MAX, [0, 0, 7, 1]),
        (&[2, 65, 17], 0.1, 0x0123_4567_89ab_cdef, [1, 2, 3, 4]),
        (&[3, 4099], 0.25, 9, [i32::MIN, i32::MAX, 5, 0]),
        // More than a task, in one row and in several.
        (&[20_001], 0.9, 77, [5, 6, 1000, 3]),
        (&[2, 5, 3, 7], 0.0, 5, [1, 1, 1, 1]),
        (&[300, 67], 0.5, 6, [-1, -1, -1, -1]),
        (&[11, 264], 0.3, 12, [8, 7, 6, 5]),
    ];
    let sample = |&(extents, probability, key, draw): &(&[u64], f64, u64, [i32; 4])| {
        let operands =
            vec![real("x", extents, 1.0), integers(&[4], draw.iter().map(|&w| w.into()).collect())];
        let results = vec![TensorType::f32(extents)];
        let op = Op::Dropout { probability: Real::new(probability), key };
        Sample::new(format!("{extents:?}, p {probability}"), op, operands, results)
    };
    cases.iter().map(sample).collect()
}

/// `x · sigmoid(x)`.
fn silu() -> Program {
    Program::unary(|b, x| {
        let sigmoid = b.unary(Unary::Sigmoid, x);
        b.binary(Binary::Multiply, x, sigmoid)
    })
}

/// `gate · sigmoid(gate) · up`, with `sigmoid(gate)` as a second output.
fn gated() -> Program {
    let mut b = Builder::new();
    let (gate, up) = (b.input(InputForm::Elements), b.input(InputForm::Elements));
    let sigmoid = b.unary(Unary::Sigmoid, gate);
    let silu = b.binary(Binary::Multiply, gate, sigmoid);
    let product = b.binary(Binary::Multiply, silu, up);
    b.finish(&[(product, DType::F32), (sigmoid, DType::F32)])
}

/// `x · row + column · scalar`: all forms of inputs.
fn forms() -> Program {
    let mut b = Builder::new();
    let row = b.input(InputForm::Row);
    let x = b.input(InputForm::Elements);
    let (column, scalar) = (b.input(InputForm::Column), b.input(InputForm::Scalar));
    let scaled = b.binary(Binary::Multiply, x, row);
    let shift = b.binary(Binary::Multiply, column, scalar);
    let sum = b.binary(Binary::Add, scaled, shift);
    b.finish(&[(sum, DType::F32)])
}

/// The tanh form of GELU, an activation with a constant and a cube.
fn gelu() -> Program {
    Program::unary(|b, x| {
        let square = b.binary(Binary::Multiply, x, x);
        let cube = b.binary(Binary::Multiply, square, x);
        let factor = b.constant(0.044_715);
        let cube = b.binary(Binary::Multiply, factor, cube);
        let inner = b.binary(Binary::Add, x, cube);
        let factor = b.constant((2.0 / std::f64::consts::PI).sqrt());
        let inner = b.binary(Binary::Multiply, factor, inner);
        let tanh = b.unary(Unary::HyperbolicTangent, inner);
        let one = b.constant(1.0);
        let gate = b.binary(Binary::Add, one, tanh);
        let half = b.constant(0.5);
        let half = b.binary(Binary::Multiply, half, x);
        b.binary(Binary::Multiply, half, gate)
    })
}

fn pointwise() -> Vec<Sample> {
    let mut samples = Vec::new();
    let axes: [&[u64]; 7] =
        [&[1], &[3], &[65, 17], &[2, 5, 129], &[1, 1, 1, 1], &[3, 4099], &[11, 264]];
    let programs = [
        ("silu", silu()),
        ("gated", gated()),
        ("forms", forms()),
        ("gelu", gelu()),
        ("sum", Program::sum(3)),
    ];
    for (name, program) in &programs {
        for extents in axes {
            let operand = |(i, form): (usize, &InputForm)| {
                let width = extents[extents.len() - 1];
                let extents: &[u64] = match form {
                    InputForm::Elements => extents,
                    InputForm::Row => &[width],
                    InputForm::Column => &extents[..extents.len() - 1],
                    InputForm::Scalar => &[],
                };
                real(&format!("input {i}"), extents, 4.0)
            };
            let operands = program.inputs.iter().enumerate().map(operand).collect();
            let results = vec![TensorType::f32(extents); program.outputs.len()];
            let op = Op::Pointwise { program: program.clone() };
            samples.push(Sample::new(format!("{name} {extents:?}"), op, operands, results));
        }
    }
    samples.extend(repeating_blocks());
    samples
}

/// Rows and numbers that belong to the last axes of the output and repeat over those before.
fn repeating_blocks() -> impl Iterator<Item = Sample> {
    // The output, the row's shape, the column's shape.
    let cases: [(&[u64], &[u64], &[u64]); 5] = [
        (&[3, 5, 17], &[5, 17], &[5, 1]),
        (&[2, 3, 4, 129], &[4, 129], &[3, 4, 1]),
        (&[2, 3, 4, 7], &[3, 4, 7], &[1]),
        (&[4, 2, 1500], &[2, 1500], &[2, 1]),
        (&[2, 3, 1], &[3, 1], &[3, 1]),
    ];
    cases.into_iter().map(|(extents, row, column)| {
        let operands = vec![
            real("row", row, 4.0),
            real("x", extents, 4.0),
            real("column", column, 4.0),
            real("number", &[], 4.0),
        ];
        let op = Op::Pointwise { program: forms() };
        let name = format!("forms {extents:?}, row {row:?}, column {column:?}");
        Sample::new(name, op, operands, vec![TensorType::f32(extents)])
    })
}

fn column_sum() -> Vec<Sample> {
    let sample = |&(leading, width): &(&[u64], u64)| {
        let operands = vec![real("x", &with(leading, width), 1.0)];
        Sample::new(
            format!("{leading:?}, width {width}"),
            Op::ColumnSum,
            operands,
            vec![TensorType::f32(&[width])],
        )
    };
    let cases: [(&[u64], u64); 6] =
        [(&[1], 1), (&[], 17), (&[2, 65], 17), (&[2, 131], 3), (&[257], 129), (&[3, 256], 1000)];
    cases.iter().map(sample).collect()
}

/// Batch, sequence, width, vocabulary, chunk, magnitude of x.
const HEADS: [([u64; 4], u32, f64); 12] = [
    ([1, 1, 1, 1], 1, 1.0),
    ([1, 1, 17, 3], 7, 1.0),
    ([3, 5, 3, 17], 4, 1.0),
    ([2, 65, 17, 129], 16, 1.0),
    ([2, 65, 17, 129], 1000, 1.0),
    ([2, 33, 65, 200], 65, 1.0),
    ([1, 9, 8, 31], 3, 50.0),
    ([2, 129, 33, 300], 128, 1.0),
    // Vocabularies of whole groups of eight, and more of them than a block has threads.
    ([1, 9, 16, 264], 4, 1.0),
    ([1, 3, 8, 8200], 2, 1.0),
    // Vocabularies of models: four groups a thread, and more than it keeps.
    ([1, 3, 8, 32_000], 2, 20.0),
    ([1, 3, 8, 32_776], 2, 20.0),
];

fn head_operands(
    &([batch, seq, width, vocab], chunk, magnitude): &([u64; 4], u32, f64),
) -> (String, Vec<Operand>) {
    let mut labels = ids("labels", &[batch, seq], vocab);
    // A pattern without a period of the chunk or the sequence, so that ignored positions lie everywhere.
    for label in labels.values.iter_mut().skip(2).step_by(7) {
        *label = -100.0;
    }
    let x = real("x", &[batch, seq, width], magnitude);
    let name = format!(
        "{batch} × {seq}, width {width}, vocabulary {vocab}, chunk {chunk}, up to {magnitude}"
    );
    (name, vec![x, real("w", &[vocab, width], 1.0), labels])
}

/// Samples with no valid label at all, and with none in the first row.
fn ignored_labels() -> Vec<(String, Vec<Operand>, u32)> {
    let case = |name: &str, ignored: usize| {
        let (_, mut operands) = head_operands(&([2, 9, 5, 11], 4, 1.0));
        operands[2].values[..ignored].fill(-100.0);
        (name.to_string(), operands, 4)
    };
    vec![case("all labels ignored", 18), case("first row ignored", 9)]
}

/// Functions of logits: a factor, and a cap `3 · tanh(x / 3)`; with their derivatives.
pub(crate) fn logit_transforms() -> [(&'static str, LogitTransform); 2] {
    let two = |build: fn(&mut Builder, u16, u16) -> u16| {
        let mut b = Builder::new();
        let (x, d) = (b.input(InputForm::Elements), b.input(InputForm::Elements));
        let y = build(&mut b, x, d);
        b.finish(&[(y, DType::F32)])
    };
    fn times(b: &mut Builder, x: u16, factor: f64) -> u16 {
        let factor = b.constant(factor);
        b.binary(Binary::Multiply, x, factor)
    }
    fn tanh(b: &mut Builder, x: u16) -> u16 {
        let three = b.constant(3.0);
        let x = b.binary(Binary::Divide, x, three);
        b.unary(Unary::HyperbolicTangent, x)
    }
    let factor = LogitTransform {
        function: Program::unary(|b, x| times(b, x, 0.4)),
        derivative: two(|b, _, d| times(b, d, 0.4)),
    };
    let cap = LogitTransform {
        function: Program::unary(|b, x| {
            let tanh = tanh(b, x);
            times(b, tanh, 3.0)
        }),
        derivative: two(|b, x, d| {
            let tanh = tanh(b, x);
            let square = b.binary(Binary::Multiply, tanh, tanh);
            let one = b.constant(1.0);
            let slope = b.binary(Binary::Subtract, one, square);
            b.binary(Binary::Multiply, d, slope)
        }),
    };
    [("factor", factor), ("cap", cap)]
}

fn head_loss() -> Vec<Sample> {
    let ordinary = HEADS.iter().map(|case| {
        let (name, operands) = head_operands(case);
        (name, operands, case.1)
    });
    let result = |operands: &[Operand]| vec![TensorType::f32(&operands[0].ty.shape.extents()[..1])];
    let plain = |(name, operands, chunk): (String, Vec<Operand>, u32)| {
        let op = Op::HeadLoss { chunk, bias: false, transform: None };
        let results = result(&operands);
        Sample::new(name, op, operands, results)
    };
    let mut samples: Vec<Sample> = ordinary.chain(ignored_labels()).map(plain).collect();
    let functions = logit_transforms().map(|(name, transform)| (name, Some(transform.function)));
    let functions = [("bias alone", None)].into_iter().chain(functions);
    for (function, transform) in functions {
        for (case, bias) in
            [(&HEADS[1], true), (&HEADS[3], true), (&HEADS[2], false), (&HEADS[8], true)]
        {
            if transform.is_none() && !bias {
                continue;
            }
            let (name, mut operands) = head_operands(case);
            if bias {
                operands.push(real("b", &[case.0[3]], 2.0));
            }
            let name = format!("{name}, {function}{}", if bias { " and bias" } else { "" });
            let (chunk, transform) = (case.1, transform.clone());
            let results = result(&operands);
            samples.push(Sample::new(
                name,
                Op::HeadLoss { chunk, bias, transform },
                operands,
                results,
            ));
        }
    }
    samples
}

/// The loss with the gradient that belongs to a loss, for a scale. The scale stands before the bias.
pub(crate) fn with_gradient(op: &Op) -> Op {
    let Op::HeadLoss { chunk, bias, transform } = op else { panic!("a sample of the loss") };
    let transform = transform.as_ref().map(|function| {
        let known = logit_transforms().map(|(_, transform)| transform).into_iter();
        let same = |known: &LogitTransform| known.function == *function;
        known.into_iter().find(same).expect("made from the table")
    });
    Op::HeadLossWithGradient { chunk: *chunk, bias: *bias, transform }
}

fn head_loss_with_gradient() -> Vec<Sample> {
    let sample = |forward: Sample| {
        let op = with_gradient(&forward.op);
        let mut operands = forward.operands;
        operands.insert(3, given(&[], vec![0.37]));
        let mut results =
            vec![forward.results[0].clone(), operands[0].ty.clone(), operands[1].ty.clone()];
        results.extend(operands.get(4).map(|bias| bias.ty.clone()));
        Sample::new(forward.name, op, operands, results)
    };
    [infinite_loss(9), infinite_loss(264)].into_iter().chain(head_loss()).map(sample).collect()
}

/// A token that cannot be predicted is a label: the loss of its row is infinite, and what has to do with it in the
/// gradient is not a number, though every derivative of a logit is one.
fn infinite_loss(vocab: u64) -> Sample {
    let (name, mut operands) = head_operands(&([2, 5, 8, vocab], 4, 1.0));
    let never = operands[2].values[6];
    let mut bias = real("b", &[vocab], 2.0);
    bias.values[never as usize] = f64::NEG_INFINITY;
    operands.push(bias);
    let op = Op::HeadLoss { chunk: 4, bias: true, transform: None };
    let results = vec![TensorType::f32(&operands[0].ty.shape.extents()[..1])];
    Sample::new(format!("{name}, an infinite loss"), op, operands, results)
}

fn gradient_norm() -> Vec<Sample> {
    let sample = |name: &str, gradients: Operand| {
        let results = vec![TensorType::f32(&[]), TensorType::f32(&[])];
        Sample::new(name, Op::GradientNorm, vec![gradients], results)
    };
    let spoilt = |value: f64, at: usize| {
        let mut gradients = real("g", &[70_000], 1.0);
        gradients.values[at] = value;
        gradients
    };
    vec![
        sample("one", real("g", &[1], 1.0)),
        sample("zeros", given(&[129], vec![0.0; 129])),
        sample("129", real("g", &[129], 1.0)),
        sample("more than a block", real("g", &[70_000], 1.0)),
        sample("squares beyond f32", real("g", &[257], 1e30)),
        sample("squares below f32", real("g", &[257], 1e-30)),
        sample("infinite in the second block", spoilt(f64::INFINITY, 66_000)),
        sample("not a number at the start", spoilt(f64::NAN, 0)),
    ]
}

fn adamw() -> Vec<Sample> {
    let range = |start, length, weight_decay, factor| UpdateRange {
        start,
        length,
        weight_decay: Real::new(weight_decay),
        learning_rate_factor: Real::new(factor),
    };
    // The elements between 64 + 129 and 256 are padding.
    let ranges = vec![range(0, 64, 0.01, 1.0), range(64, 129, 0.0, 0.5), range(256, 44, 0.1, 1.0)];
    let sample = |name: &str,
                  size: u64,
                  ranges: Vec<UpdateRange>,
                  clip: f64,
                  norm: f64,
                  finite: f64,
                  step: f64| {
        let mut gradients = real("g", &[size], 1.0);
        if finite == 0.0 {
            gradients.values[5] = f64::NAN;
        }
        let operands = vec![
            gradients,
            given(&[], vec![norm]),
            given(&[], vec![finite]),
            given(&[], vec![1e-3]),
        ];
        let flat = TensorType::f32(&[size]);
        let counter = TensorType::new(DType::I32, Shape::scalar());
        let op = Op::AdamW {
            beta1: Real::new(0.9),
            beta2: Real::new(0.999),
            epsilon: Real::new(1e-8),
            clip_norm: Real::new(clip),
            ranges,
            master: false,
        };
        let moment = if step == 0.0 { 0.0 } else { 0.1 };
        let count = size as usize;
        let current = vec![
            draw("p", count, 1.0),
            draw("m", count, moment),
            draw("v", count, moment).iter().map(|v| v.abs()).collect(),
            vec![step],
        ];
        Sample {
            current: Some(current),
            ..Sample::new(name, op, operands, vec![flat.clone(), flat.clone(), flat, counter])
        }
    };
    vec![
        sample("first update", 300, ranges.clone(), 0.0, 9.0, 1.0, 0.0),
        sample("clipped", 300, ranges.clone(), 1.0, 9.0, 1.0, 1000.0),
        sample("below the clip", 300, ranges.clone(), 1.0, 0.5, 1.0, 7.0),
        sample("not finite", 300, ranges, 1.0, 9.0, 0.0, 3.0),
        sample(
            "more than a block",
            70_000,
            vec![range(0, 40_000, 0.1, 1.0), range(40_000, 30_000, 0.0, 1.0)],
            1.0,
            2.0,
            1.0,
            20.0,
        ),
        sample("one element", 1, vec![range(0, 1, 0.1, 1.0)], 1.0, 2.0, 1.0, 0.0),
    ]
}

#[test]
fn every_operation_has_samples() {
    let mut names: Vec<&str> = Vec::new();
    for sample in all() {
        let name = sample.op.name();
        match names.last() {
            Some(&last) if last == name => {}
            _ => assert!(!names.contains(&name), "the chain of operations visits {name} twice"),
        }
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    assert_eq!(names.len(), 25, "operations in the chain: {names:?}");
    let mut titles: Vec<String> = all().into_iter().map(|sample| sample.name).collect();
    titles.sort();
    let all = titles.len();
    titles.dedup();
    assert_eq!(titles.len(), all, "two samples share a name");
}
