//! How long a plan takes on a device: a pure function of plan and profile.
//!
//! Owns the model: an operation takes the longer of its arithmetic and its bytes, and the device's overhead. Which rate
//! counts for an operation is decided here; the rates themselves are in [`crate::profile`]. Must not measure anything.
//! All arithmetic is in integers, so that equal plans and profiles give equal predictions everywhere.

use crate::dtype::DType;
use crate::op::Op;
use crate::plan::Plan;
use crate::pointwise::{Instruction, Program as PointwiseProgram};
use crate::profile::{Basis, Figure, Product, ProductShape, Profile};
use crate::program::{Operation, Phase, ProgramKind};
use crate::shape::TensorType;
use crate::tensor::TensorId;

/// What an operation mostly waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Its arithmetic.
    Arithmetic,
    /// Its bytes.
    Bytes,
}

/// The predicted time of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Nanoseconds.
    pub nanoseconds: u64,
    /// The least known of the figures that it rests on.
    pub basis: Basis,
}

impl Time {
    const NONE: Time = Time { nanoseconds: 0, basis: Basis::Measured };
}

impl std::ops::Add for Time {
    type Output = Time;

    fn add(self, other: Time) -> Time {
        Time {
            nanoseconds: self.nanoseconds.saturating_add(other.nanoseconds),
            basis: self.basis.max(other.basis),
        }
    }
}

impl std::iter::Sum for Time {
    fn sum<I: Iterator<Item = Time>>(times: I) -> Time {
        times.fold(Time::NONE, std::ops::Add::add)
    }
}

/// The predicted time of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationTime {
    /// With the overhead.
    pub time: Time,
    /// What it waits for.
    pub limit: Limit,
}

/// The predicted time of one optimizer update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// Forward and backward of one micro-batch.
    pub micro_batch: Time,
    /// Micro-batches in an update.
    pub accumulation: u64,
    /// Of `micro_batch`, the values that are made again.
    pub recompute: Time,
    /// Clipping and optimizer.
    pub update: Time,
    /// All micro-batches and the update.
    pub total: Time,
    /// Token positions of an update.
    pub tokens: u64,
}

impl StepTime {
    /// Tokens a second, rounded down.
    pub fn tokens_per_second(&self) -> u64 {
        let tokens = u128::from(self.tokens) * 1_000_000_000;
        let each = tokens / u128::from(self.total.nanoseconds.max(1));
        u64::try_from(each).unwrap_or(u64::MAX)
    }
}

/// Time of an update: every micro-batch of the recipe's global batch on one device, and the optimizer.
pub fn step(plan: &Plan, profile: &Profile) -> StepTime {
    let recipe = &plan.recipe;
    let accumulation = u64::from((recipe.global_batch / recipe.micro_batch.max(1)).max(1));
    let training = plan.program(ProgramKind::ForwardBackward);
    let (mut micro_batch, mut recompute) = (Time::NONE, Time::NONE);
    for operation in &training.operations {
        let time = self::operation(plan, operation, profile).time;
        micro_batch = micro_batch + time;
        if matches!(operation.phase, Phase::Recompute(_)) {
            recompute = recompute + time;
        }
    }
    let update = program(plan, ProgramKind::Update, profile);
    let all = Time {
        nanoseconds: micro_batch.nanoseconds.saturating_mul(accumulation),
        basis: micro_batch.basis,
    };
    let tokens = accumulation * u64::from(recipe.micro_batch) * u64::from(recipe.sequence_length);
    StepTime { micro_batch, accumulation, recompute, update, total: all + update, tokens }
}

/// Time of one execution of a program.
pub fn program(plan: &Plan, kind: ProgramKind, profile: &Profile) -> Time {
    let operations = &plan.program(kind).operations;
    operations.iter().map(|operation| self::operation(plan, operation, profile).time).sum()
}

/// Time of one execution of an operation.
pub fn operation(plan: &Plan, operation: &Operation, profile: &Profile) -> OperationTime {
    let types = |ids: &[TensorId]| -> Vec<&TensorType> {
        ids.iter().map(|&id| &plan.tensor(id).ty).collect()
    };
    let (operands, results) = (types(&operation.operands), types(&operation.results));
    let model = Model { op: &operation.op, operands: &operands, results: &results, profile };
    let (arithmetic, bytes) = (model.arithmetic(), model.bytes());
    let (work, limit) = match arithmetic.nanoseconds >= bytes.nanoseconds {
        true => (arithmetic, Limit::Arithmetic),
        false => (bytes, Limit::Bytes),
    };
    let overhead = Time { nanoseconds: profile.overhead.value, basis: profile.overhead.basis };
    OperationTime { time: work + overhead, limit }
}

/// Nanoseconds of `work` at a rate for each second.
fn at(work: u64, rate: Figure) -> Time {
    let nanoseconds = u128::from(work) * 1_000_000_000 / u128::from(rate.value.max(1));
    Time { nanoseconds: u64::try_from(nanoseconds).unwrap_or(u64::MAX), basis: rate.basis }
}

/// One operation and the device it runs on.
struct Model<'a> {
    op: &'a Op,
    operands: &'a [&'a TensorType],
    results: &'a [&'a TensorType],
    profile: &'a Profile,
}

impl Model<'_> {
    /// Time that the arithmetic takes.
    fn arithmetic(&self) -> Time {
        let shape = |i: usize| &self.operands[i].shape;
        let dtype = |i: usize| self.operands[i].dtype;
        match self.op {
            Op::Linear => {
                let extents = (shape(0).rows(), self.results[0].shape.width(), shape(0).width());
                self.product(Product::Forward, dtype(1), extents)
            }
            Op::LinearBackwardInput => {
                let extents = (shape(0).rows(), shape(1).width(), shape(0).width());
                self.product(Product::Input, dtype(1), extents)
            }
            Op::LinearBackwardWeight => {
                let extents = (shape(0).width(), shape(1).width(), shape(0).rows());
                self.product(Product::Weight, dtype(0), extents)
            }
            Op::Attention { .. } => self.attention(false, 0),
            Op::AttentionBackward { .. } => self.attention(true, 1),
            Op::HeadLoss { chunk, .. } => self.head(*chunk, false),
            Op::HeadLossWithGradient { chunk, .. } => self.head(*chunk, true),
            Op::Pointwise { program } => self.elements(program, self.results[0].shape.elements()),
            // The norm itself is counted under the bytes, and a program inside it beside them.
            Op::RmsNorm { prologue: program, .. }
            | Op::LayerNorm { prologue: program, .. }
            | Op::RmsNormBackward { epilogue: program, .. }
            | Op::LayerNormBackward { epilogue: program, .. } => program
                .as_ref()
                .map_or(Time::NONE, |p| self.elements(p, self.results[0].shape.elements())),
            Op::Softmax => at(shape(0).elements(), self.profile.functions),
            // Counted under the bytes: what these operations compute for each element is little, and fixed.
            Op::Embedding
            | Op::EmbeddingBackward { .. }
            | Op::Dropout { .. }
            | Op::RowSum { .. }
            | Op::Rope { .. }
            | Op::ColumnSum
            | Op::GradientNorm
            | Op::AdamW { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Shift { .. }
            | Op::Sum => Time::NONE,
        }
    }

    /// Time that operands and results take on their way. Those of products and attention pass while these compute, and
    /// their rates were measured with them.
    fn bytes(&self) -> Time {
        let cost = self.op.cost(self.operands, self.results);
        let bytes = match self.op {
            Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. } => return Time::NONE,
            _ => cost.bytes,
        };
        let name = match cost.products > 0 {
            // By the common rate, which is the least that any operation waits for memory.
            true => "",
            false => self.op.name(),
        };
        at(bytes, self.profile.stream_rate(name, bytes))
    }

    fn product(&self, product: Product, dtype: DType, extents: (u64, u64, u64)) -> Time {
        let (rows, columns, inner) = extents;
        let shape = ProductShape { rows, columns, inner };
        at(shape.flops(), self.profile.product_rate(product, dtype, shape))
    }

    fn attention(&self, backward: bool, queries: usize) -> Time {
        let cost = self.op.cost(self.operands, self.results);
        let q = self.operands[queries];
        if self.profile.attention.iter().all(|rate| rate.backward != backward) {
            // The scores of one head are the product that attention is made of.
            let sequence = q.shape.0[1].extent;
            let shape = ProductShape { rows: sequence, columns: sequence, inner: q.shape.width() };
            return at(cost.products, self.profile.product_rate(Product::Forward, q.dtype, shape));
        }
        let (sequence, width) = (q.shape.0[1].extent, q.shape.width());
        at(cost.products, self.profile.attention_rate(backward, q.dtype, sequence, width))
    }

    /// The loss: products over one chunk of positions after the other, and passes over the logits.
    fn head(&self, chunk: u32, gradient: bool) -> Time {
        let (x, weight) = (self.operands[0], self.operands[1]);
        let (positions, hidden) = (x.shape.rows(), x.shape.width());
        let vocabulary = weight.shape.0[0].extent;
        let each = positions.min(u64::from(chunk)).max(1);
        let mut products = vec![(Product::Forward, (each, vocabulary, hidden))];
        if gradient {
            products.push((Product::Input, (each, hidden, vocabulary)));
            products.push((Product::Weight, (vocabulary, hidden, each)));
        }
        let chunk: Time = products
            .into_iter()
            .map(|(product, extents)| self.product(product, weight.dtype, extents))
            .sum();
        let logits = positions * vocabulary;
        let cost = self.op.cost(self.operands, self.results);
        // Times the chunks, of which the last may be smaller.
        let nanoseconds = u128::from(chunk.nanoseconds) * u128::from(positions) / u128::from(each);
        let products = Time {
            nanoseconds: u64::try_from(nanoseconds).unwrap_or(u64::MAX),
            basis: chunk.basis,
        };
        products
            + at(logits * (1 + u64::from(gradient)), self.profile.functions)
            + at(cost.other, self.profile.arithmetic)
    }

    fn elements(&self, program: &PointwiseProgram, elements: u64) -> Time {
        let functions = program.instructions.iter().filter(|i| is_function(i)).count() as u64;
        let plain = program.arithmetic() - functions;
        at(functions * elements, self.profile.functions)
            + at(plain * elements, self.profile.arithmetic)
    }
}

/// Whether an instruction is a function that takes a series of its own.
fn is_function(instruction: &Instruction) -> bool {
    use crate::pointwise::Unary;
    match instruction {
        Instruction::Unary(unary, _) => !matches!(unary, Unary::Negate | Unary::Absolute),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Mask, Real, Scores};
    use crate::profile::{AttentionRate, DeviceKind, Evidence, ProductRate, StreamRate};

    /// One FLOP and one byte a nanosecond, whatever the shape; a function takes two.
    fn profile() -> Profile {
        let figure = |value| Figure::new(value, Basis::Measured);
        Profile {
            name: "test".into(),
            device: "none".into(),
            kind: DeviceKind::Cpu,
            threads: Some(1),
            memory: None,
            reserved: figure(0),
            overhead: figure(0),
            arithmetic: figure(1_000_000_000),
            functions: figure(500_000_000),
            products: vec![ProductRate {
                product: None,
                dtype: DType::F32,
                shape: None,
                rate: figure(1_000_000_000),
            }],
            attention: Vec::new(),
            streams: vec![StreamRate { operation: None, bytes: None, rate: figure(1_000_000_000) }],
            attainable: None,
            evidence: Vec::<Evidence>::new(),
        }
    }

    /// Nanoseconds of arithmetic and of bytes.
    fn times(op: &Op, operands: &[TensorType], profile: &Profile) -> (u64, u64) {
        let operands: Vec<&TensorType> = operands.iter().collect();
        let results = op.infer(&operands).expect("the shapes fit");
        let results: Vec<&TensorType> = results.iter().collect();
        let model = Model { op, operands: &operands, results: &results, profile };
        (model.arithmetic().nanoseconds, model.bytes().nanoseconds)
    }

    /// At one FLOP a nanosecond a product takes its cost, whichever of the three it is.
    #[test]
    fn products_take_their_flops() {
        let f32 = TensorType::f32;
        let (x, w, dy) = (f32(&[4, 8, 16]), f32(&[32, 16]), f32(&[4, 8, 32]));
        for (op, operands) in [
            (Op::Linear, [x.clone(), w.clone()]),
            (Op::LinearBackwardInput, [dy.clone(), w]),
            (Op::LinearBackwardWeight, [dy, x]),
        ] {
            let bytes = 4 * (32 * 16 + 32 * 32 + 32 * 16);
            assert_eq!(
                times(&op, &operands, &profile()),
                (2 * 32 * 16 * 32, bytes),
                "{}",
                op.name()
            );
        }
    }

    /// Without rates of its own attention takes its FLOPs at the rate of products; with one, at that.
    #[test]
    fn attention_takes_its_flops() {
        let op = Op::Attention { scores: Scores::new(Mask::Causal, Real::new(1.0)) };
        let each = TensorType::f32(&[2, 8, 3, 4]);
        let operands = [each.clone(), each.clone(), each];
        let pairs = 2 * 3 * 8 * 8 / 2;
        let mut profile = profile();
        assert_eq!(times(&op, &operands, &profile).0, pairs * 2 * 8);
        profile.attention.push(AttentionRate {
            backward: false,
            dtype: DType::F32,
            sequence: None,
            head_dim: None,
            rate: Figure::new(2_000_000_000, Basis::Measured),
        });
        assert_eq!(times(&op, &operands, &profile).0, pairs * 8);
    }

    #[test]
    fn pointwise_programs_take_their_instructions_or_their_bytes() {
        let x = TensorType::f32(&[10, 10]);
        let add = Op::Pointwise { program: PointwiseProgram::sum(2) };
        assert_eq!(times(&add, &[x.clone(), x.clone()], &profile()), (100, 1200));
        let sigmoid = PointwiseProgram::unary(|b, x| b.unary(crate::pointwise::Unary::Sigmoid, x));
        assert_eq!(times(&Op::Pointwise { program: sigmoid }, &[x], &profile()), (200, 800));
    }

    /// The loss with its gradient takes three products, and two functions for each logit, whatever the chunk.
    #[test]
    fn the_loss_takes_its_products_in_chunks() {
        let f32 = TensorType::f32;
        let labels = TensorType { dtype: DType::I32, ..f32(&[2, 6]) };
        let operands = [f32(&[2, 6, 4]), f32(&[10, 4]), labels, f32(&[])];
        for chunk in [3, 4, 12, 100] {
            let op = Op::HeadLossWithGradient { chunk, bias: false, transform: None };
            let logits = 12 * 10;
            let expected = 3 * 2 * logits * 4 + 2 * 2 * logits + 5 * logits;
            assert_eq!(times(&op, &operands, &profile()), (expected, 0), "{chunk}");
        }
    }

    /// The sum of times rests on the least known of them.
    #[test]
    fn sums_keep_the_worst_basis() {
        let time = |nanoseconds, basis| Time { nanoseconds, basis };
        let all = [time(1, Basis::Measured), time(2, Basis::DataSheet), time(3, Basis::Assumed)];
        assert_eq!(all.into_iter().sum::<Time>(), time(6, Basis::DataSheet));
        assert_eq!(time(u64::MAX, Basis::Measured) + all[0], time(u64::MAX, Basis::Measured));
    }
}
