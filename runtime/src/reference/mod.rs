//! The oracle: a naive interpreter of programs in f64 that anyone can check by eye.
//!
//! Every operation is written as its definition in [`colac_plan::Op`] reads, one file per family: loops, no blocking,
//! no threads, no rounding to storage formats unless asked for (integers are exact in f64). Values are gathered from their tensors before
//! an operation and scattered after it, so the operations know nothing of strides or of results that lie on operands.
//!
//! Owns [`ReferenceExecutor`] and [`evaluate`], the same for one operation. Must not know how another executor
//! computes anything, and must never become clever: speed belongs elsewhere.

mod attention;
mod copies;
mod dropout;
mod embedding;
mod fused;
mod head_loss;
mod layer_norm;
mod linear;
mod optimizer;
mod pointwise;
mod rms_norm;
mod rope;
mod rows;
mod storage;
mod value;

use std::sync::Arc;

use colac_plan::program::{When, Write};
use colac_plan::{DType, Op, Operation, Plan, ProgramKind, TensorId};

use crate::executor::Executor;
pub(crate) use pointwise::{binary, unary};
use storage::Storage;
pub use value::Value;

/// Executes plans in f64.
///
/// A tensor outside parameters, gradients and optimizer state has memory of its own unless it is a view of another one,
/// and is not a number until it is written: a plan that lets two living tensors overlap, or reads what nothing wrote,
/// gives other values here than elsewhere.
pub struct ReferenceExecutor {
    plan: Arc<Plan>,
    storage: Storage,
    /// Whether what a tensor of bf16 holds is rounded to it.
    rounds: bool,
}

impl ReferenceExecutor {
    /// An executor of a verified plan. Parameters, gradients and optimizer state start as zeros.
    pub fn new(plan: Arc<Plan>) -> ReferenceExecutor {
        let storage = Storage::new(&plan);
        ReferenceExecutor { plan, storage, rounds: false }
    }

    /// As [`ReferenceExecutor::new`], with every value that is stored in bf16 rounded to it once: what an executor of such
    /// a plan computes but for the rounding of f32. Over a whole model that is much closer than no rounding.
    pub fn rounding(plan: Arc<Plan>) -> ReferenceExecutor {
        ReferenceExecutor { rounds: true, ..ReferenceExecutor::new(plan) }
    }

    /// Stores a tensor's elements.
    fn store(&mut self, tensor: TensorId, values: &[f64]) {
        match self.plan.tensor(tensor).ty.dtype {
            DType::Bf16 if self.rounds => {
                let rounded: Vec<f64> = values.iter().map(|&value| nearest_bf16(value)).collect();
                self.storage.scatter(tensor, &rounded);
            }
            DType::Bf16 | DType::F32 | DType::I32 => self.storage.scatter(tensor, values),
        }
    }

    /// Sets a tensor, unrounded; logical order.
    pub fn write_f64(&mut self, tensor: TensorId, values: &[f64]) {
        assert_eq!(
            values.len() as u64,
            self.plan.tensor(tensor).ty.shape.elements(),
            "elements of {tensor}"
        );
        self.storage.scatter(tensor, values);
    }

    /// Reads a tensor, unrounded; logical order.
    pub fn read_f64(&self, tensor: TensorId) -> Vec<f64> {
        self.storage.gather(tensor)
    }

    fn value(&self, tensor: TensorId) -> Value {
        Value::new(&self.plan.tensor(tensor).ty.shape, self.storage.gather(tensor))
    }

    fn execute(&mut self, operation: &Operation) {
        let operands: Vec<Value> = operation.operands.iter().map(|&t| self.value(t)).collect();
        let current: Vec<Value> = operation.results.iter().map(|&t| self.value(t)).collect();
        let format = operation.results.first().map(|&first| self.plan.tensor(first).ty.dtype);
        let stored = format.filter(|_| self.rounds);
        let results = evaluate_rounding(&operation.op, &operands, &current, stored);
        for (((&tensor, write), result), old) in
            operation.results.iter().zip(&operation.writes).zip(results).zip(current)
        {
            let adds = match write {
                Write::Overwrite => false,
                Write::Add => true,
                Write::AddIf(condition) => self.storage.gather(*condition)[0] != 0.0,
            };
            let new = match adds {
                false => result,
                true => old.elements.iter().zip(&result).map(|(old, new)| old + new).collect(),
            };
            self.store(tensor, &new);
        }
    }

    fn check(&self, tensor: TensorId, float: bool, elements: usize) {
        let ty = &self.plan.tensor(tensor).ty;
        assert_eq!(ty.dtype.is_float(), float, "{tensor} is {}", ty.dtype);
        assert_eq!(ty.shape.elements(), elements as u64, "elements of {tensor}");
    }
}

impl Executor for ReferenceExecutor {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        self.check(tensor, true, values.len());
        let values: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        self.store(tensor, &values);
    }

    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        self.check(tensor, false, values.len());
        let values: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        self.storage.scatter(tensor, &values);
    }

    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        self.check(tensor, true, values.len());
        for (value, element) in values.iter_mut().zip(self.storage.gather(tensor)) {
            *value = element as f32;
        }
    }

    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        self.check(tensor, false, values.len());
        debug_assert_eq!(self.plan.tensor(tensor).ty.dtype, DType::I32);
        for (value, element) in values.iter_mut().zip(self.storage.gather(tensor)) {
            *value = element as i32;
        }
    }

    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        let plan = self.plan.clone();
        for operation in &plan.program(program).operations {
            if operation.when == When::Always || last_micro_batch {
                self.execute(operation);
            }
        }
    }
}

/// The nearest number of eight significant bits, ties to even: the nearest bf16, except where numbers are below its
/// smallest normal one.
pub(crate) fn nearest_bf16(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let (_, exponent) = libm::frexp(value);
    let unit = libm::ldexp(1.0, exponent - 8);
    libm::rint(value / unit) * unit
}

/// The results of one operation, each in logical order. `current` holds what the results' tensors contain before: only
/// [`Op::AdamW`], which updates in place, reads it.
pub fn evaluate(op: &Op, operands: &[Value], current: &[Value]) -> Vec<Vec<f64>> {
    evaluate_rounding(op, operands, current, None)
}

/// As [`evaluate`]; with `stored`, the format of the first result, a joined operation has the results of its parts, whose
/// values between were stored: its programs round to bf16 where they say so, and a gradient that is turned back is first
/// rounded to its format.
fn evaluate_rounding(
    op: &Op,
    operands: &[Value],
    current: &[Value],
    stored: Option<DType>,
) -> Vec<Vec<f64>> {
    let o = operands;
    let rounds = stored.is_some();
    match op {
        Op::Linear => vec![linear::forward(&o[0], &o[1])],
        Op::LinearBackwardInput => vec![linear::backward_input(&o[0], &o[1])],
        Op::LinearBackwardWeight => vec![linear::backward_weight(&o[0], &o[1])],
        Op::ColumnSum => vec![linear::column_sum(&o[0])],
        Op::Embedding => vec![embedding::forward(&o[0], &o[1])],
        Op::EmbeddingBackward { rows } => vec![embedding::backward(&o[0], &o[1], *rows as usize)],
        Op::RmsNorm { epsilon, gain, prologue } => {
            let (x, vectors) = fused::before(prologue.as_ref(), o, rounds);
            let results = rms_norm::forward(&x, gain.then(|| &vectors[0]), epsilon.get());
            let made = prologue.as_ref().map(|_| x.elements.clone());
            results.into_iter().chain(made).collect()
        }
        Op::RmsNormBackward { gain, epilogue } => {
            let first = 2 + usize::from(*gain);
            let [dx, dw] = rms_norm::backward(&o[0], &o[1], gain.then(|| &o[2]), &o[first]);
            let dx = fused::after(epilogue.as_ref(), dx, &o[1], &o[first + 1..], rounds);
            [dx].into_iter().chain(gain.then_some(dw)).collect()
        }
        Op::LayerNorm { epsilon, gain, bias, prologue } => {
            let (x, vectors) = fused::before(prologue.as_ref(), o, rounds);
            let w = gain.then(|| &vectors[0]);
            let b = bias.then(|| &vectors[usize::from(*gain)]);
            let results = layer_norm::forward(&x, w, b, epsilon.get());
            let made = prologue.as_ref().map(|_| x.elements.clone());
            results.into_iter().chain(made).collect()
        }
        Op::LayerNormBackward { gain, bias, epilogue } => {
            let first = 2 + usize::from(*gain);
            let (w, mean, rstd) = (gain.then(|| &o[2]), &o[first], &o[first + 1]);
            let [dx, dw, db] = layer_norm::backward(&o[0], &o[1], w, mean, rstd);
            let dx = fused::after(epilogue.as_ref(), dx, &o[1], &o[first + 2..], rounds);
            [dx].into_iter().chain(gain.then_some(dw)).chain(bias.then_some(db)).collect()
        }
        Op::RowSum { mean } => vec![rows::sum(&o[0], *mean)],
        Op::Softmax => vec![rows::softmax(&o[0])],
        Op::Dropout { probability, key } => {
            vec![dropout::forward(&o[0], &o[1], probability.get(), *key)]
        }
        Op::Rope { inverse, interleaved } => {
            vec![rope::rotate(&o[0], &o[1], &o[2], *inverse, *interleaved)]
        }
        Op::Attention { scores } => attention::forward(&o[0], &o[1], &o[2], scores).into(),
        Op::AttentionBackward { scores, turned_back } => {
            let results = attention::backward([&o[0], &o[1], &o[2], &o[3], &o[4], &o[5]], scores);
            let Some(turned_back) = turned_back else { return results.into() };
            let turn = |(result, (gradient, turned)): (usize, (Vec<f64>, bool))| match turned {
                true => {
                    let extents = o[1 + result].extents.clone();
                    let gradient = Value { extents, elements: fused::stored(gradient, stored) };
                    rope::rotate(&gradient, &o[6], &o[7], true, turned_back.interleaved)
                }
                false => gradient,
            };
            results.into_iter().zip(turned_back.results()).enumerate().map(turn).collect()
        }
        Op::Pointwise { program } => pointwise::run(program, o, rounds),
        Op::HeadLoss { chunk: _, bias, transform } => {
            let bias = bias.then(|| &o[3]);
            vec![head_loss::forward(&o[0], &o[1], &o[2], bias, transform.as_ref())]
        }
        Op::HeadLossWithGradient { chunk: _, bias, transform } => {
            let bias = bias.then(|| &o[4]);
            let function = transform.as_ref().map(|transform| &transform.function);
            let mut results = vec![head_loss::forward(&o[0], &o[1], &o[2], bias, function)];
            let scale = o[3].elements[0];
            let transform = transform.as_ref();
            results.extend(head_loss::gradient(&o[0], &o[1], &o[2], scale, bias, transform));
            results
        }
        Op::Slice { start, length } => {
            vec![copies::slice(&o[0], *start as usize, *length as usize)]
        }
        Op::Concat { width, starts } => vec![copies::concat(o, starts, *width as usize)],
        Op::Shift { by } => vec![copies::shift(&o[0], *by)],
        Op::Sum => vec![linear::sum(&o[0])],
        Op::GradientNorm => optimizer::gradient_norm(&o[0]).into(),
        Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master: _ } => {
            let constants = optimizer::Constants {
                beta1: beta1.get(),
                beta2: beta2.get(),
                epsilon: epsilon.get(),
                clip_norm: clip_norm.get(),
            };
            optimizer::adamw(&constants, ranges, o, current)
        }
    }
}
