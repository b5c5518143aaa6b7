//! The rates of this machine's CPU, for a device profile.
//!
//! Owns the list of what is measured and at which sizes. Must not know how a profile is kept or printed.
//!
//! Products are measured for every shape class that training meets: wide and narrow factors (the low-rank pairs), in all
//! three orientations, and the head's with its chunk of positions. What moves bytes is measured for sizes that fit the
//! caches and for sizes that do not.

use colac_plan::op::{Mask, Real, Scores, UpdateRange};
use colac_plan::pointwise::{Binary, Program, Unary};
use colac_plan::profile::{
    AttentionRate, Basis, DeviceKind, Evidence, Figure, Product, ProductRate, ProductShape,
    Profile, StreamRate,
};
use colac_plan::{DType, Op, TensorType};

use crate::cpu::CpuError;
use crate::measure::Summary;
use crate::measure::single::Single;

/// What a calibration may spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Seconds for each measurement, if its rounds take less.
    pub patience: f64,
    /// Rounds of each measurement at least.
    pub rounds: usize,
}

impl Default for Effort {
    /// About half a minute in all on two cores.
    fn default() -> Effort {
        Effort { patience: 0.1, rounds: 3 }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What was measured, in words.
    pub name: String,
    /// Seconds of one execution.
    pub seconds: Summary,
    /// FLOP/s, where products are counted; this and the next from the lower quartile of the seconds.
    pub flops_per_second: Option<f64>,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// A profile and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The profile.
    pub profile: Profile,
    /// Every measurement, in order.
    pub points: Vec<Point>,
}

/// How a device is called in the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Short name.
    pub name: String,
    /// The device in words.
    pub device: String,
    /// Bytes of memory, if that is known.
    pub memory: Option<u64>,
    /// Date, command, machine.
    pub facts: Vec<(String, String)>,
}

/// Measures the CPU with so many threads. `observe` is told how many measurements are done, and of how many.
///
/// # Errors
/// If the machine has no memory or threads for it.
pub fn calibrate(
    identity: Identity,
    threads: usize,
    effort: Effort,
    observe: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, CpuError> {
    let tasks = tasks();
    let mut points = Vec::with_capacity(tasks.len());
    let measured = |value: f64| Figure::new((value.round() as u64).max(1), Basis::Measured);
    let mut profile = Profile {
        name: identity.name,
        device: identity.device,
        kind: DeviceKind::Cpu,
        threads: u32::try_from(threads).ok(),
        memory: identity.memory.map(|bytes| Figure::new(bytes, Basis::Measured)),
        reserved: Figure::new(RESERVED, Basis::Assumed),
        overhead: Figure::new(0, Basis::Measured),
        arithmetic: Figure::new(1, Basis::Measured),
        functions: Figure::new(1, Basis::Measured),
        products: Vec::new(),
        attention: Vec::new(),
        streams: Vec::new(),
        attainable: None,
        evidence: vec![
            Evidence { basis: Basis::Measured, facts: identity.facts },
            Evidence {
                basis: Basis::Assumed,
                facts: vec![(
                    "reserved".to_owned(),
                    "program, threads and data beside the plan".to_owned(),
                )],
            },
        ],
    };
    let mut plain = 0.0;
    for (done, Task { name, op, operands, role }) in tasks.iter().enumerate() {
        observe(done, tasks.len());
        let mut single = Single::new(op, operands, threads)?;
        let seconds = single.time(effort.rounds, effort.patience);
        let cost = single.cost;
        // Other work on the machine only ever adds time, so the lower quartile is nearer to what the operation takes.
        let time = seconds.lower.max(1e-9);
        let point = Point {
            name: name.clone(),
            seconds,
            flops_per_second: (cost.products > 0).then(|| cost.products as f64 / time),
            bytes_per_second: cost.bytes as f64 / time,
        };
        match *role {
            Role::Product(product, shape) => profile.products.push(ProductRate {
                product: Some(product),
                dtype: DType::F32,
                shape: Some(shape),
                rate: measured(shape.flops() as f64 / time),
            }),
            Role::Attention { backward, sequence, head_dim } => {
                profile.attention.push(AttentionRate {
                    backward,
                    dtype: DType::F32,
                    sequence: Some(sequence),
                    head_dim: Some(head_dim),
                    rate: measured(cost.products as f64 / time),
                });
            }
            Role::Stream => {
                let rate = |operation: Option<&str>| StreamRate {
                    operation: operation.map(str::to_owned),
                    bytes: Some(cost.bytes),
                    rate: measured(cost.bytes as f64 / time),
                };
                profile.streams.push(rate(Some(op.name())));
                // A sum of two rows after another is the common rate: nothing but bytes.
                if matches!(op, Op::Pointwise { .. }) {
                    profile.streams.push(rate(None));
                }
            }
            Role::Overhead => profile.overhead = measured(time * 1e9),
            Role::Arithmetic { elements } => {
                plain = time;
                profile.arithmetic = measured(elements as f64 / time);
            }
            // Beside what the same number of plain instructions would take of the bytes.
            Role::Functions { elements } => {
                profile.functions =
                    measured(elements as f64 / (time - plain / CHAIN as f64).max(time * 0.1));
            }
        }
        points.push(point);
    }
    observe(tasks.len(), tasks.len());
    Ok(Calibration { profile, points })
}

/// FLOP/s of a large product of f32 numbers with so many threads: what other rates are compared with.
///
/// # Errors
/// As [`calibrate`].
pub fn product_rate(threads: usize, effort: Effort) -> Result<f64, CpuError> {
    let operands = [TensorType::f32(&[1024, 1024]), TensorType::f32(&[1024, 1024])];
    let mut single = Single::new(&Op::Linear, &operands, threads)?;
    let seconds = single.time(effort.rounds, effort.patience);
    // The fastest: other work on the machine only ever adds time, and this is a bound.
    Ok(single.cost.products as f64 / seconds.least.max(1e-9))
}

/// Bytes that a run takes beside its plan, about.
const RESERVED: u64 = 64 << 20;

/// Plain instructions of the program that measures them.
const CHAIN: usize = 16;

/// What a measurement is for.
enum Role {
    Product(Product, ProductShape),
    Attention { backward: bool, sequence: u64, head_dim: u64 },
    Stream,
    Overhead,
    Arithmetic { elements: u64 },
    Functions { elements: u64 },
}

struct Task {
    name: String,
    op: Op,
    operands: Vec<TensorType>,
    role: Role,
}

/// Everything that is measured, in order.
fn tasks() -> Vec<Task> {
    let f32 = TensorType::f32;
    let mut tasks = Vec::new();
    tasks.push(Task {
        name: "overhead".to_owned(),
        op: Op::Pointwise { program: Program::sum(2) },
        operands: vec![f32(&[1, 64]), f32(&[1, 64])],
        role: Role::Overhead,
    });
    tasks.extend(instructions());
    // Positions, input and output widths of linears; the last of a model's chunk of positions and its vocabulary.
    const LINEARS: [(u64, u64, u64); 14] = [
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
    ];
    for (positions, inputs, outputs) in LINEARS {
        tasks.extend(linear(positions, inputs, outputs));
    }
    for (positions, hidden, vocabulary) in [(256, 256, 8192), (256, 512, 32_000)] {
        tasks.extend(linear(positions, hidden, vocabulary));
    }
    for (rows, sequence, heads, head_dim) in [(8, 256, 4, 64), (2, 1024, 4, 64), (4, 256, 4, 128)] {
        tasks.extend(attention(rows, sequence, heads, head_dim));
    }
    for (positions, width) in [(2048, 256), (16_384, 512)] {
        tasks.extend(streams(positions, width));
    }
    tasks.extend(optimizer());
    tasks
}

/// Programs of plain instructions, and of one function.
fn instructions() -> [Task; 2] {
    let shape = TensorType::f32(&[1024, 1024]);
    let elements = shape.shape.elements();
    let chain = Program::unary(|builder, x| {
        (0..CHAIN).fold(x, |y, i| {
            builder.binary(if i % 2 == 0 { Binary::Multiply } else { Binary::Add }, y, x)
        })
    });
    let function = Program::unary(|builder, x| builder.unary(Unary::Sigmoid, x));
    [
        Task {
            name: "arithmetic".to_owned(),
            op: Op::Pointwise { program: chain },
            operands: vec![shape.clone()],
            role: Role::Arithmetic { elements: elements * CHAIN as u64 },
        },
        Task {
            name: "functions".to_owned(),
            op: Op::Pointwise { program: function },
            operands: vec![shape],
            role: Role::Functions { elements },
        },
    ]
}

fn linear(positions: u64, inputs: u64, outputs: u64) -> [Task; 3] {
    let (x, w) = (TensorType::f32(&[positions, inputs]), TensorType::f32(&[outputs, inputs]));
    let dy = TensorType::f32(&[positions, outputs]);
    let task = |product: Product, op, operands, rows, columns, inner| Task {
        name: format!("{} {rows} × {columns} × {inner}", product.name()),
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

fn attention(rows: u64, sequence: u64, heads: u64, head_dim: u64) -> [Task; 2] {
    let scores = Scores::new(Mask::Causal, Real::new(0.125));
    let each = TensorType::f32(&[rows, sequence, heads, head_dim]);
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
        task(true, Op::AttentionBackward { scores }, all),
    ]
}

/// Operations between products over `positions` rows of `width` numbers.
fn streams(positions: u64, width: u64) -> Vec<Task> {
    const SEQUENCE: u64 = 256;
    const VOCABULARY: u64 = 8192;
    let f32 = TensorType::f32;
    let (x, row) = (f32(&[positions, width]), f32(&[width]));
    let statistics = f32(&[positions]);
    let ids = TensorType { dtype: DType::I32, ..f32(&[positions]) };
    let heads = f32(&[positions / SEQUENCE, SEQUENCE, width / 64, 64]);
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
        (Op::Embedding, vec![ids.clone(), f32(&[VOCABULARY, width])]),
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

/// The norm of a gradient, and the optimizer, over some millions of parameters.
fn optimizer() -> [Task; 2] {
    const PARAMETERS: u64 = 4 << 20;
    let (flat, scalar) = (TensorType::f32(&[PARAMETERS]), TensorType::f32(&[]));
    let range = UpdateRange {
        start: 0,
        length: PARAMETERS,
        weight_decay: Real::new(0.01),
        learning_rate_factor: Real::new(1.0),
    };
    let adamw = Op::AdamW {
        beta1: Real::new(0.9),
        beta2: Real::new(0.999),
        epsilon: Real::new(1e-8),
        clip_norm: Real::new(0.5),
        ranges: vec![range],
        master: false,
    };
    let task = |op: Op, operands| Task {
        name: format!("{} {PARAMETERS}", op.name()),
        op,
        operands,
        role: Role::Stream,
    };
    [
        task(Op::GradientNorm, vec![flat.clone()]),
        task(adamw, vec![flat, scalar.clone(), scalar.clone(), scalar]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation that is measured can be run; small stands for large, since only the time would differ.
    #[test]
    fn every_measurement_is_of_an_operation_that_runs() {
        for task in tasks() {
            let operands: Vec<&TensorType> = task.operands.iter().collect();
            let results = task.op.infer(&operands);
            assert!(results.is_ok(), "{}: {:?}", task.name, results.err());
        }
    }

    #[test]
    fn a_single_operation_takes_time() {
        let [task, ..] = linear(64, 32, 16);
        let mut single = Single::new(&task.op, &task.operands, 1).unwrap();
        let seconds = single.time(3, 0.0);
        assert!(seconds.median > 0.0 && seconds.count >= 3);
        assert_eq!(single.cost.products, 2 * 64 * 32 * 16);
        let Role::Product(Product::Forward, shape) = task.role else { panic!("a product") };
        assert_eq!(shape.flops(), single.cost.products);
    }
}
