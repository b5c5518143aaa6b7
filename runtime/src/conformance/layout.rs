//! A plan of one operation, built in memory, and how to run it.
//!
//! Owns the layout of such a plan: packed, as slices of wider rows whose other elements must stay as they are, or with rows
//! that are padded as a model's. Such a plan is not a whole model, so the verifier would refuse it; an executor runs it all
//! the same.

use std::sync::Arc;

use colac_plan::op::cost::aligned;
use colac_plan::pointwise::InputForm;
use colac_plan::program::{Phase, When, Write};
use colac_plan::{DType, Op, Operation, Plan, ProgramKind, Segment, Tensor, TensorId, TensorType};

use crate::bare_plan::bare_plan;
use crate::executor::Executor;

use super::samples::Sample;

/// How tensors of rows are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Without gaps.
    Packed,
    /// As a slice of wider rows that begins at their second element, as where one product makes q, k and v.
    Slices,
    /// With rows that are padded as [`Tensor::padded_strides`] says.
    Padded,
}

impl Layout {
    /// Those in which the tensors of a sample lie differently.
    pub(crate) fn of(sample: &Sample) -> Vec<Layout> {
        let operands = sample.operands.iter().map(|operand| &operand.ty);
        let padded = |ty: &TensorType| Tensor::padded_strides(ty) != Tensor::packed_strides(ty);
        let mut layouts = vec![Layout::Packed, Layout::Slices];
        layouts.extend(operands.chain(&sample.results).any(padded).then_some(Layout::Padded));
        layouts
    }
}

/// Zeros or what is no number: what pads rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// An executor leaves the padding of activations alone.
    Left,
    /// It is 0 after every operation: products count it in.
    Zero,
}

/// How results that can accumulate are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Overwrite,
    Add,
    /// [`Write::AddIf`] with the scalar at 0.
    AddIfZero,
    /// [`Write::AddIf`] with the scalar at 1.
    AddIfOne,
}

impl Mode {
    pub(crate) const ALL: [Mode; 4] = [Mode::Overwrite, Mode::Add, Mode::AddIfZero, Mode::AddIfOne];

    /// Whether the old contents count.
    pub(crate) fn adds(self) -> bool {
        matches!(self, Mode::Add | Mode::AddIfOne)
    }
}

/// Elements by which a row of [`Layout::Slices`] is wider than the slice; odd, so that nothing is aligned.
const EXTRA: u64 = 3;

/// The plan of one operation.
pub(crate) struct OneOperation {
    pub(crate) plan: Arc<Plan>,
    pub(crate) operands: Vec<TensorId>,
    pub(crate) results: Vec<TensorId>,
    /// The wider rows that slices belong to.
    parents: Vec<TensorId>,
    /// Each padded result and its rows with what pads them.
    padded: Vec<(TensorId, TensorId)>,
    condition: TensorId,
    mode: Mode,
}

/// Tensors and segments of a plan in the making.
#[derive(Default)]
struct Table {
    tensors: Vec<Tensor>,
    parents: Vec<TensorId>,
    bytes: [u64; Segment::ALL.len()],
}

impl Table {
    fn push(&mut self, tensor: Tensor) -> TensorId {
        self.tensors.push(tensor);
        TensorId(self.tensors.len() as u32 - 1)
    }

    fn packed(&mut self, name: &str, ty: &TensorType, segment: Segment) -> TensorId {
        let offset = self.bytes[segment.index()];
        self.bytes[segment.index()] += aligned(ty.bytes());
        let strides = Tensor::packed_strides(ty);
        self.push(Tensor {
            name: name.into(),
            ty: ty.clone(),
            strides,
            segment,
            offset,
            parent: None,
        })
    }

    /// Rows that are padded, and the same with what pads them, if there is any.
    fn padded(&mut self, name: &str, ty: &TensorType, segment: Segment) -> (TensorId, TensorId) {
        let strides = Tensor::padded_strides(ty);
        let (rows, width) = (ty.shape.rows(), strides[strides.len() - 2]);
        let whole = TensorType::new(ty.dtype, colac_plan::Shape::of(&[rows, width]));
        let whole = self.packed(&format!("{name}.padded"), &whole, segment);
        let place = self.tensors[whole.index()].clone();
        let (name, ty) = (name.into(), ty.clone());
        (self.push(Tensor { name, ty, strides, ..place }), whole)
    }

    /// A slice of wider rows. Where an operation sees `[batch, seq, heads, head_dim]`, rows are positions: `heads` says
    /// that they stay together.
    fn slice(&mut self, name: &str, ty: &TensorType, segment: Segment, heads: bool) -> TensorId {
        let inner = if heads && ty.shape.ndim() == 4 { 2 } else { 1 };
        let (outer, inner) = ty.shape.0.split_at(ty.shape.ndim() - inner);
        let rows: u64 = outer.iter().map(|axis| axis.extent).product();
        let width = inner.iter().map(|axis| axis.extent).product::<u64>() + EXTRA;
        let whole = TensorType::new(ty.dtype, colac_plan::Shape::of(&[rows, width]));
        let parent = self.packed(&format!("{name}.rows"), &whole, segment);
        self.parents.push(parent);
        let mut strides = Tensor::packed_strides(ty);
        let mut stride = width;
        for axis in (0..outer.len()).rev() {
            strides[axis] = stride;
            stride *= outer[axis].extent;
        }
        let offset = self.tensors[parent.index()].offset + ty.dtype.bytes();
        let ty = ty.clone();
        self.push(Tensor { name: name.into(), ty, strides, segment, offset, parent: Some(parent) })
    }
}

impl OneOperation {
    /// The plan of a sample. `in_place` puts a result on the bytes of an operand: (operand, result).
    pub(crate) fn new(
        sample: &Sample,
        layout: Layout,
        mode: Mode,
        in_place: Option<(usize, usize)>,
    ) -> OneOperation {
        let mut table = Table::default();
        let scalar = TensorType::f32(&[]);
        let condition = table.packed("condition", &scalar, Segment::Scalars);
        let heads = matches!(
            sample.op,
            Op::Rope { .. } | Op::Attention { .. } | Op::AttentionBackward { .. }
        );
        let mut padded = Vec::new();
        let mut add = |name: String, ty: &TensorType, segment: Segment, rows: bool| {
            let sliceable = rows && ty.dtype.is_float() && ty.shape.ndim() >= 2;
            match layout {
                Layout::Slices if sliceable => table.slice(&name, ty, segment, heads),
                Layout::Padded if sliceable => {
                    let (tensor, whole) = table.padded(&name, ty, segment);
                    padded.push((tensor, whole));
                    tensor
                }
                _ => table.packed(&name, ty, segment),
            }
        };
        let operands: Vec<TensorId> = (sample.operands.iter().enumerate())
            .map(|(i, operand)| {
                let segment = if operand.ty.shape.ndim() == 0 {
                    Segment::Scalars
                } else {
                    Segment::Activations
                };
                add(format!("operand {i}"), &operand.ty, segment, operand_has_rows(&sample.op, i))
            })
            .collect();
        let mut results: Vec<TensorId> = (sample.results.iter().enumerate())
            .map(|(i, ty)| {
                add(
                    format!("result {i}"),
                    ty,
                    result_segment(&sample.op, i),
                    result_has_rows(&sample.op, i),
                )
            })
            .collect();
        if let Some((operand, result)) = in_place {
            let place = table.tensors[operands[operand].index()].clone();
            results[result] = table.push(Tensor { name: "in place".into(), ..place });
        }
        padded.retain(|(tensor, _)| results.contains(tensor));
        let operand_types: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
        let result_types: Vec<&TensorType> = sample.results.iter().collect();
        let workspace = sample.op.workspace_bytes(&operand_types, &result_types);
        table.bytes[Segment::Workspace.index()] = workspace;
        let write = match mode {
            Mode::Overwrite => Write::Overwrite,
            Mode::Add => Write::Add,
            Mode::AddIfZero | Mode::AddIfOne => Write::AddIf(condition),
        };
        let writes = (0..results.len())
            .map(|i| if sample.op.accumulates(i) { write } else { Write::Overwrite })
            .collect();
        let operation = Operation {
            op: sample.op.clone(),
            operands: operands.clone(),
            results: results.clone(),
            writes,
            when: When::Always,
            phase: Phase::Forward,
            after: Vec::new(),
            workspace,
            path: sample.name.clone(),
            scope: None,
            line: None,
        };
        let parents = std::mem::take(&mut table.parents);
        let plan = Arc::new(plan(table, operation));
        OneOperation { plan, operands, results, parents, padded, condition, mode }
    }

    /// Runs the operation once. An error is a write beside a slice. Results hold `old` before where that counts and otherwise something that is not a
    /// number. Gives the results and checks that nothing beside the slices changed and that rows are padded as they should.
    pub(crate) fn run(
        &self,
        executor: &mut dyn Executor,
        sample: &Sample,
        old: &[Vec<f64>],
        padding: Padding,
    ) -> Result<Vec<Vec<f64>>, String> {
        let plan = &self.plan;
        for &(_, whole) in &self.padded {
            // What pads parameters and their gradients is 0 from the start.
            let what = match plan.tensor(whole).segment {
                Segment::Activations => f64::NAN,
                _ => 0.0,
            };
            let elements = plan.tensor(whole).ty.shape.elements() as usize;
            write(executor, whole, &vec![what; elements]);
        }
        for &parent in &self.parents {
            let elements = plan.tensor(parent).ty.shape.elements() as usize;
            write(executor, parent, &vec![f64::NAN; elements]);
        }
        for (index, &result) in self.results.iter().enumerate() {
            let counts =
                sample.current.is_some() || (self.mode.adds() && sample.op.accumulates(index));
            match counts {
                true => write(executor, result, &old[index]),
                false if plan.tensor(result).ty.dtype.is_float() => {
                    write(executor, result, &vec![f64::NAN; old[index].len()]);
                }
                false => write(executor, result, &vec![-7.0; old[index].len()]),
            }
        }
        for (&operand, sample) in self.operands.iter().zip(&sample.operands) {
            write(executor, operand, &sample.values);
        }
        let condition = if self.mode == Mode::AddIfOne { 1.0 } else { 0.0 };
        write(executor, self.condition, &[condition]);
        executor.run(ProgramKind::ForwardBackward, true);
        for &parent in &self.parents {
            self.check_surroundings(executor, sample, parent)?;
        }
        for &(result, whole) in &self.padded {
            self.check_padding(executor, sample, [result, whole], padding)?;
        }
        Ok(self.results.iter().map(|&result| read(executor, result)).collect())
    }

    fn check_surroundings(
        &self,
        executor: &dyn Executor,
        sample: &Sample,
        parent: TensorId,
    ) -> Result<(), String> {
        let rows = self.plan.tensor(parent);
        let width = rows.ty.shape.width() as usize;
        for (position, element) in read(executor, parent).into_iter().enumerate() {
            let column = position % width;
            let beside = column == 0 || column > width - EXTRA as usize;
            if beside && !element.is_nan() {
                return Err(format!("{}: wrote beside its slice into {}", sample.name, rows.name));
            }
        }
        Ok(())
    }

    fn check_padding(
        &self,
        executor: &dyn Executor,
        sample: &Sample,
        [result, whole]: [TensorId; 2],
        padding: Padding,
    ) -> Result<(), String> {
        let own = self.plan.tensor(result).ty.shape.width() as usize;
        let rows = self.plan.tensor(whole);
        let width = rows.ty.shape.width() as usize;
        let left = padding == Padding::Left && rows.segment == Segment::Activations;
        for (position, element) in read(executor, whole).into_iter().enumerate() {
            let right = if left { element.is_nan() } else { element == 0.0 };
            if position % width >= own && !right {
                return Err(format!("{}: {} is padded with {element}", sample.name, rows.name));
            }
        }
        Ok(())
    }
}

/// Sets a tensor of any format.
pub(crate) fn write(executor: &mut dyn Executor, tensor: TensorId, values: &[f64]) {
    match executor.plan().tensor(tensor).ty.dtype {
        DType::I32 => {
            executor.write_i32(tensor, &values.iter().map(|&v| v as i32).collect::<Vec<_>>())
        }
        DType::F32 | DType::Bf16 => {
            executor.write_f32(tensor, &values.iter().map(|&v| v as f32).collect::<Vec<_>>());
        }
    }
}

/// Reads a tensor of any format.
pub(crate) fn read(executor: &dyn Executor, tensor: TensorId) -> Vec<f64> {
    let ty = &executor.plan().tensor(tensor).ty;
    let elements = ty.shape.elements() as usize;
    match ty.dtype {
        DType::I32 => {
            let mut values = vec![0; elements];
            executor.read_i32(tensor, &mut values);
            values.into_iter().map(f64::from).collect()
        }
        DType::F32 | DType::Bf16 => {
            let mut values = vec![0.0; elements];
            executor.read_f32(tensor, &mut values);
            values.into_iter().map(f64::from).collect()
        }
    }
}

/// Whether an operand consists of rows that may be slices or padded: not statistics, tables of angles or whole
/// segments.
fn operand_has_rows(op: &Op, operand: usize) -> bool {
    match op {
        Op::RmsNormBackward { gain, .. } | Op::LayerNormBackward { gain, .. } => {
            operand < 2 + usize::from(*gain)
                || op.program_input(operand) == Some(InputForm::Elements)
        }
        Op::Dropout { .. } => operand == 0,
        Op::Rope { .. } => operand == 0,
        Op::AttentionBackward { .. } => operand < 5,
        Op::Pointwise { program } => program.inputs[operand] == InputForm::Elements,
        _ => true,
    }
}

/// As [`operand_has_rows`] for results.
fn result_has_rows(op: &Op, result: usize) -> bool {
    match op {
        Op::RmsNorm { .. } => result != 1,
        Op::LayerNorm { .. } => !matches!(result, 1 | 2),
        Op::Attention { .. } => result == 0,
        Op::RowSum { .. } => false,
        _ => true,
    }
}

fn result_segment(op: &Op, result: usize) -> Segment {
    match op {
        Op::GradientNorm => Segment::Scalars,
        Op::AdamW { .. } if result == 0 => Segment::Parameters,
        Op::AdamW { .. } => Segment::Optimizer,
        _ if op.accumulates(result) => Segment::Gradients,
        _ => Segment::Activations,
    }
}

/// The plan of an operation over a table's tensors.
fn plan(table: Table, operation: Operation) -> Plan {
    let (inputs, outputs) = (operation.operands.clone(), operation.results.clone());
    let mut plan = bare_plan(table.tensors, table.bytes.map(aligned), vec![operation]);
    (plan.programs[0].inputs, plan.programs[0].outputs) = (inputs, outputs);
    plan
}
