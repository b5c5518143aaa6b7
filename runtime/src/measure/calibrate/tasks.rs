//! What a calibration measures, and at which sizes.
//!
//! Products are measured for every shape class that training meets: wide and narrow factors (the low-rank pairs), in all
//! three orientations, and the head's with its chunk of positions. What moves bytes is measured for sizes that fit the
//! caches and for sizes that do not. Owns this list for a CPU and for a GPU, which differ in size and in the format of
//! numbers. Must not know how times are taken or what is made of them.

use colac_plan::op::{Mask, Real, Scores, UpdateRange};
use colac_plan::pointwise::{Binary, Program, Unary};
use colac_plan::profile::{Product, ProductShape};
use colac_plan::{DType, Op, Shape, TensorType};

/// What a measurement is for.
pub(super) enum Role {
    Product(Product, ProductShape),
    Attention { backward: bool, sequence: u64, head_dim: u64 },
    Stream,
    Overhead,
    Arithmetic { instructions: u64 },
    Functions { elements: u64, functions: u64 },
}

pub(super) struct Task {
    pub(super) name: String,
    pub(super) op: Op,
    pub(super) operands: Vec<TensorType>,
    pub(super) role: Role,
}

/// Everything that is measured of a CPU, in order; in f32, in which it computes.
pub(super) fn of_cpu() -> Vec<Task> {
    // Positions, input and output widths of linears; the last of a model's chunk of positions and its vocabulary.
    const LINEARS: [(u64, u64, u64); 16] = [
        (2048, 256, 64),
        (2048, 64, 256),
        (2048, 688, 64),
        (2048, 64, 688),
        (2048, 256, 256),
        (2048, 512, 128),
        (2048, 128, 512),
        (2048, 128, 1376),
        (2048, 1376, 128),
        (8192, 512, 128),
        (8192, 128, 1376),
        (2048, 512, 512),
        (2048, 2048, 512),
        (1024, 512, 2048),
        (256, 256, 8192),
        (256, 512, 32_000),
    ];
    let f32 = DType::F32;
    let mut tasks = vec![overhead()];
    tasks.extend(instructions(1024, 16, 1));
    for (positions, inputs, outputs) in LINEARS {
        tasks.extend(linear(f32, positions, inputs, outputs));
    }
    for (rows, sequence, heads, head_dim) in [(8, 256, 4, 64), (2, 1024, 4, 64), (4, 256, 4, 128)] {
        tasks.extend(attention(f32, [rows, sequence, heads, head_dim]));
    }
    for (positions, width) in [(2048, 256), (16_384, 512)] {
        tasks.extend(streams(f32, positions, width));
    }
    tasks.extend(optimizer(4 << 20, false));
    tasks
}

/// Everything that is measured of a GPU, in order: in bf16 with f32 masters, in which it trains, at the sizes of steps that
/// fill it; and a few products in f32.
pub(super) fn of_gpu() -> Vec<Task> {
    // As for a CPU. Products that read the same value are grouped, so that their widths stand in sums here.
    const LINEARS: [(u64, u64, u64); 19] = [
        (16_384, 512, 384),
        (16_384, 128, 512),
        (16_384, 512, 256),
        (16_384, 128, 1376),
        (16_384, 1376, 128),
        (16_384, 1024, 768),
        (16_384, 256, 1024),
        (16_384, 256, 2736),
        (16_384, 2736, 256),
        (16_384, 2048, 1536),
        (16_384, 512, 2048),
        (16_384, 512, 5464),
        (16_384, 5464, 512),
        (16_384, 1024, 1024),
        (16_384, 2048, 2048),
        (16_384, 2048, 10_928),
        (16_384, 5464, 2048),
        (4096, 512, 32_000),
        (4096, 2048, 32_000),
    ];
    let bf16 = DType::Bf16;
    let mut tasks = vec![overhead()];
    tasks.extend(instructions(8192, 128, 16));
    for (positions, inputs, outputs) in LINEARS {
        tasks.extend(linear(bf16, positions, inputs, outputs));
    }
    for (positions, inputs, outputs) in [(16_384, 512, 512), (16_384, 2048, 2048)] {
        tasks.extend(linear(DType::F32, positions, inputs, outputs));
    }
    for (rows, sequence, heads, head_dim) in
        [(64, 256, 16, 64), (8, 2048, 16, 64), (64, 256, 8, 128), (8, 2048, 8, 128)]
    {
        tasks.extend(attention(bf16, [rows, sequence, heads, head_dim]));
    }
    for (positions, width) in [(4096, 512), (16_384, 2048)] {
        tasks.extend(streams(bf16, positions, width));
    }
    tasks.extend(optimizer(64 << 20, true));
    tasks
}

/// An operation that takes nothing but its overhead.
fn overhead() -> Task {
    let each = TensorType::f32(&[1, 64]);
    Task {
        name: "overhead".to_owned(),
        op: Op::Pointwise { program: Program::sum(2) },
        operands: vec![each.clone(), each],
        role: Role::Overhead,
    }
}

/// Programs of so many plain instructions, and of so many functions, over the elements of a square.
fn instructions(edge: u64, chain: u64, functions: u64) -> [Task; 2] {
    let shape = TensorType::f32(&[edge, edge]);
    let elements = shape.shape.elements();
    let plain = Program::unary(|builder, x| {
        (0..chain).fold(x, |y, i| {
            builder.binary(if i % 2 == 0 { Binary::Multiply } else { Binary::Add }, y, x)
        })
    });
    let function = Program::unary(|builder, x| {
        (0..functions).fold(x, |y, _| builder.unary(Unary::Sigmoid, y))
    });
    [
        Task {
            name: "arithmetic".to_owned(),
            op: Op::Pointwise { program: plain },
            operands: vec![shape.clone()],
            role: Role::Arithmetic { instructions: elements * chain },
        },
        Task {
            name: "functions".to_owned(),
            op: Op::Pointwise { program: function },
            operands: vec![shape],
            role: Role::Functions { elements, functions: elements * functions },
        },
    ]
}

/// The three products of a linear.
pub(super) fn linear(dtype: DType, positions: u64, inputs: u64, outputs: u64) -> [Task; 3] {
    let matrix = |rows, columns| TensorType::new(dtype, Shape::of(&[rows, columns]));
    let (x, w, dy) =
        (matrix(positions, inputs), matrix(outputs, inputs), matrix(positions, outputs));
    let task = |product: Product, op, operands, rows, columns, inner| Task {
        name: format!("{} {dtype} {rows} × {columns} × {inner}", product.name()),
        op,
        operands,
        role: Role::Product(product, ProductShape { rows, columns, inner }),
    };
    [
        task(Product::Forward, Op::Linear, vec![x.clone(), w.clone()], positions, outputs, inputs),
        task(
            Product::Input,
            Op::LinearBackwardInput,
            vec![dy.clone(), w],
            positions,
            inputs,
            outputs,
        ),
        task(Product::Weight, Op::LinearBackwardWeight, vec![dy, x], outputs, inputs, positions),
    ]
}

/// Causal attention and its derivative, over rows, positions, heads and numbers of a head.
fn attention(dtype: DType, extents: [u64; 4]) -> [Task; 2] {
    let [rows, sequence, heads, head_dim] = extents;
    let scores = Scores::new(Mask::Causal, Real::new(0.125));
    let each = TensorType::new(dtype, Shape::of(&extents));
    let mut all = vec![each.clone(); 5];
    all.push(TensorType::f32(&[rows, heads, sequence]));
    let task = |backward, op, operands| Task {
        name: format!(
            "attention {} {sequence} × {head_dim}",
            if backward { "backward" } else { "forward" }
        ),
        op,
        operands,
        role: Role::Attention { backward, sequence, head_dim },
    };
    [
        task(false, Op::Attention { scores }, vec![each; 3]),
        task(true, Op::AttentionBackward { scores, turned_back: None }, all),
    ]
}

/// Operations between products over `positions` rows of `width` numbers.
fn streams(dtype: DType, positions: u64, width: u64) -> Vec<Task> {
    const SEQUENCE: u64 = 256;
    const VOCABULARY: u64 = 8192;
    let f32 = TensorType::f32;
    let stored = |extents: &[u64]| TensorType::new(dtype, Shape::of(extents));
    let (x, row) = (stored(&[positions, width]), stored(&[width]));
    let statistics = f32(&[positions]);
    let ids = TensorType { dtype: DType::I32, ..f32(&[positions]) };
    let heads = stored(&[positions / SEQUENCE, SEQUENCE, width / 64, 64]);
    let angles = f32(&[SEQUENCE, 32]);
    let draw = TensorType { dtype: DType::I32, ..f32(&[4]) };
    let epsilon = Real::new(1e-6);
    let norm = Op::LayerNorm { epsilon, gain: true, bias: true, prologue: None };
    let list = vec![
        (Op::Pointwise { program: Program::sum(2) }, vec![x.clone(), x.clone()]),
        (Op::RmsNorm { epsilon, gain: true, prologue: None }, vec![x.clone(), row.clone()]),
        (
            Op::RmsNormBackward { gain: true, epilogue: None },
            vec![x.clone(), x.clone(), row.clone(), statistics.clone()],
        ),
        (norm, vec![x.clone(), row.clone(), row.clone()]),
        (
            Op::LayerNormBackward { gain: true, bias: true, epilogue: None },
            vec![x.clone(), x.clone(), row, statistics.clone(), statistics],
        ),
        (Op::Rope { inverse: false, interleaved: false }, vec![heads, angles.clone(), angles]),
        (Op::Embedding, vec![ids.clone(), stored(&[VOCABULARY, width])]),
        (Op::EmbeddingBackward { rows: VOCABULARY }, vec![ids, x.clone()]),
        (Op::Dropout { probability: Real::new(0.1), key: 1 }, vec![x.clone(), draw]),
        (Op::ColumnSum, vec![x.clone()]),
        (Op::Softmax, vec![x.clone()]),
        (Op::Slice { start: 0, length: width / 2 }, vec![x.clone()]),
        (Op::Concat { width: 2 * width, starts: vec![0, width] }, vec![x.clone(), x]),
    ];
    let task = |(op, operands): (Op, Vec<TensorType>)| Task {
        name: format!("{} {positions} × {width}", op.name()),
        op,
        operands,
        role: Role::Stream,
    };
    list.into_iter().map(task).collect()
}

/// The norm of a gradient, and the optimizer, over so many parameters, which may be copies of f32 masters.
fn optimizer(parameters: u64, master: bool) -> [Task; 2] {
    let (flat, scalar) = (TensorType::f32(&[parameters]), TensorType::f32(&[]));
    let range = UpdateRange {
        start: 0,
        length: parameters,
        weight_decay: Real::new(0.01),
        learning_rate_factor: Real::new(1.0),
    };
    let adamw = Op::AdamW {
        beta1: Real::new(0.9),
        beta2: Real::new(0.999),
        epsilon: Real::new(1e-8),
        clip_norm: Real::new(0.5),
        ranges: vec![range],
        master,
    };
    let task = |op: Op, operands| Task {
        name: format!("{} {parameters}", op.name()),
        op,
        operands,
        role: Role::Stream,
    };
    [
        task(Op::GradientNorm, vec![flat.clone()]),
        task(adamw, vec![flat, scalar.clone(), scalar.clone(), scalar]),
    ]
}
