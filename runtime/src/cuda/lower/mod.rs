//! From an operation of the plan to steps of a device.
//!
//! Owns the one match over [`Op`]; a file for each family of operations chooses kernels, sizes and arguments. Must not
//! know drivers.

mod adamw;
mod attention;
mod copies;
mod dropout;
mod embedding;
mod head;
mod linear;
mod norm;
mod pointwise;
pub(crate) mod product;
mod reduce;
mod rope;
mod rows;

use std::collections::BTreeMap;

use colac_plan::op::cost::REDUCTION_ROWS;
use colac_plan::program::Write;
use colac_plan::tensor::PADDED_TO;
use colac_plan::{Op, Operation, Plan, Segment, Tensor, TensorId};

use crate::contract::{self, Checked, LayoutProblem, OperationError};
use crate::cuda::attention::AttentionShape;
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Argument, Launch, Step, WriteMode};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::{Heads, Rows, Segments};

/// One operation on its way to steps.
pub(crate) struct Lowering<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) segments: &'a Segments,
    pub(crate) operation: &'a Operation,
    pub(crate) operands: Vec<&'a Tensor>,
    pub(crate) results: Vec<&'a Tensor>,
    /// Where the sort orders of ids lie, by the ids' tensor.
    orders: &'a BTreeMap<TensorId, u64>,
    target: Target<'a>,
}

/// What is asked of a device.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// How many multiprocessors it has.
    pub(crate) multiprocessors: u64,
    /// Whether a library of the device computes an attention.
    pub(crate) takes: &'a Takes<'a>,
}

/// Asks a device whether a library of its computes an attention.
pub(crate) type Takes<'a> = dyn Fn(&AttentionShape) -> Result<bool, CudaError> + 'a;

/// Steps of an operation, or why there are none.
pub(crate) type Steps = Result<Vec<Step>, CudaError>;

/// Multiprocessors of the devices that kernels are made for: an H100's and an H200's.
pub(crate) const LARGE: u64 = 132;

/// Whether kernels of an operation are chosen by how many multiprocessors there are.
pub(crate) fn depends_on_multiprocessors(op: &Op) -> bool {
    matches!(op, Op::RmsNormBackward { .. } | Op::LayerNormBackward { .. })
}

/// Lowers an operation. `orders` are the places of the sort orders that embeddings' gradients read; attentions that a
/// library of the `target` takes are left to it.
///
/// # Errors
/// An operation that contradicts its definition, or a layout that no kernel takes.
pub(crate) fn lower(
    plan: &Plan,
    segments: &Segments,
    orders: &BTreeMap<TensorId, u64>,
    operation: &Operation,
    target: Target<'_>,
) -> Steps {
    let Checked { operands, results } = contract::check(plan, operation)?;
    let lowering = Lowering { plan, segments, operation, operands, results, orders, target };
    let mut steps = lowering.steps()?;
    lowering.clear_padding(&mut steps)?;
    Ok(steps)
}

impl Lowering<'_> {
    /// The match over all operations.
    fn steps(&self) -> Steps {
        match &self.operation.op {
            Op::Linear => self.linear(),
            Op::LinearBackwardInput => self.linear_backward_input(),
            Op::LinearBackwardWeight => self.linear_backward_weight(),
            Op::RmsNorm { .. } | Op::LayerNorm { .. } => self.norm(),
            Op::RmsNormBackward { gain, epilogue } => {
                self.rms_norm_backward(*gain, epilogue.as_ref())
            }
            Op::LayerNormBackward { gain, bias, epilogue } => {
                self.layer_norm_backward(*gain, *bias, epilogue.as_ref())
            }
            Op::RowSum { mean } => self.row_sum(*mean),
            Op::Softmax => self.softmax(),
            Op::Attention { scores } => self.attention(scores),
            Op::AttentionBackward { scores, turned_back } => {
                self.attention_backward(scores, *turned_back)
            }
            Op::Pointwise { program } => self.pointwise(program),
            Op::ColumnSum => self.column_sum(),
            Op::HeadLoss { chunk, bias, transform } => {
                self.head_loss(*chunk, *bias, transform.as_ref())
            }
            Op::HeadLossWithGradient { chunk, bias, transform } => {
                self.head_loss_with_gradient(*chunk, *bias, transform.as_ref())
            }
            Op::GradientNorm => self.gradient_norm(),
            Op::AdamW { .. } => self.adamw(),
            Op::Sum => self.sum(),
            Op::Embedding => self.embedding(),
            Op::EmbeddingBackward { .. } => {
                let order = self.orders.get(&self.operation.operands[0]);
                let order = order.ok_or_else(|| {
                    self.layout("the order of the ids".to_owned(), LayoutProblem::Missing)
                })?;
                self.embedding_backward(*order)
            }
            Op::Dropout { probability, key } => self.dropout(probability.get(), *key),
            Op::Rope { inverse, interleaved } => self.rope(*inverse, *interleaved),
            Op::Slice { start, length } => self.slice(*start, *length),
            Op::Concat { width: _, starts } => self.concat(starts),
            Op::Shift { by } => self.shift(*by),
        }
    }

    fn layout(&self, operand: String, problem: LayoutProblem) -> CudaError {
        OperationError::layout(self.operation, operand, problem).into()
    }

    /// The rows of a tensor with what pads them.
    fn rows(&self, tensor: &Tensor) -> Result<Rows, LayoutProblem> {
        let rows = Rows::new(self.segments, tensor)?;
        let (padding, more_rows) = (self.padding(tensor), self.more_rows(tensor));
        Ok(Rows { padding, more_rows, ..rows })
    }

    /// What pads the rows of a result is 0 afterwards: products and pointwise programs see to that themselves where they
    /// can, for the others it is cleared. A result that is part of wider rows pads those.
    fn clear_padding(&self, steps: &mut Vec<Step>) -> Result<(), CudaError> {
        let mut cleared: Vec<u64> = Vec::new();
        for (index, result) in self.results.iter().enumerate() {
            if result.segment != Segment::Activations || !result.ty.dtype.is_float() {
                continue;
            }
            let whole = self.owner(result);
            let at = |problem| self.layout(format!("result {index}"), problem);
            let padding = self.padding(whole);
            if padding == 0 || cleared.contains(&whole.offset) {
                continue;
            }
            let own = std::ptr::eq(whole, *result);
            if own && self.pads_results()? {
                continue;
            }
            let rows = Rows::new(self.segments, whole).map_err(at)?;
            let address = rows.address + rows.width * rows.dtype.bytes();
            let rows = Rows { address, width: padding, ..rows };
            steps.push(Step::Launch(copies::clear(rows, WriteMode::Overwrite)));
            cleared.push(whole.offset);
        }
        Ok(())
    }

    /// The widest rows that a tensor is part of.
    fn owner<'t>(&'t self, tensor: &'t Tensor) -> &'t Tensor {
        let parent = tensor.parent.and_then(|id| self.plan.tensors.get(id.index()));
        match parent {
            Some(parent) if parent.ty.shape.ndim() > 1 => self.owner(parent),
            _ => tensor,
        }
    }

    /// Whether the steps of the operation write zeros where its results are padded.
    fn pads_results(&self) -> Result<bool, CudaError> {
        match &self.operation.op {
            Op::Linear | Op::LinearBackwardInput => self.product_pads(),
            Op::Pointwise { program } => self.pointwise_pads(program),
            _ => Ok(false),
        }
    }

    /// Rows of zeros that a parameter or its gradient owns behind its last row.
    fn more_rows(&self, tensor: &Tensor) -> u64 {
        let whole = tensor.parent.and_then(|id| self.plan.tensors.get(id.index()));
        match whole.is_some_and(|whole| whole.ty.shape.ndim() == 1) {
            true => Tensor::padded_rows(&tensor.ty) - tensor.ty.shape.rows(),
            false => 0,
        }
    }

    /// Unused elements behind each row of a tensor, where they belong to it: where it is no part of wider rows.
    fn padding(&self, tensor: &Tensor) -> u64 {
        if tensor.is_packed() || tensor.strides != Tensor::padded_strides(&tensor.ty) {
            return 0;
        }
        let mut parent = tensor.parent;
        while let Some(outer) = parent.and_then(|id| self.plan.tensors.get(id.index())) {
            let width = outer.ty.shape.width();
            if outer.ty.shape.ndim() > 1 && width != tensor.ty.shape.width() {
                return 0;
            }
            parent = outer.parent;
        }
        tensor.ty.shape.width().next_multiple_of(PADDED_TO) - tensor.ty.shape.width()
    }

    /// An operand as rows.
    pub(crate) fn operand(&self, index: usize) -> Result<Rows, CudaError> {
        self.rows(self.operands[index])
            .map_err(|problem| self.layout(format!("operand {index}"), problem))
    }

    /// An operand without gaps, as one row.
    pub(crate) fn packed_operand(&self, index: usize) -> Result<Rows, CudaError> {
        Rows::packed(self.segments, self.operands[index])
            .map_err(|problem| self.layout(format!("operand {index}"), problem))
    }

    /// An operand `[batch, seq, heads, dim]`.
    pub(crate) fn operand_heads(&self, index: usize) -> Result<Heads, CudaError> {
        Heads::new(self.segments, self.operands[index])
            .map_err(|problem| self.layout(format!("operand {index}"), problem))
    }

    /// A result as rows.
    pub(crate) fn result(&self, index: usize) -> Result<Rows, CudaError> {
        self.rows(self.results[index])
            .map_err(|problem| self.layout(format!("result {index}"), problem))
    }

    /// A result without gaps, as one row.
    pub(crate) fn packed_result(&self, index: usize) -> Result<Rows, CudaError> {
        Rows::packed(self.segments, self.results[index])
            .map_err(|problem| self.layout(format!("result {index}"), problem))
    }

    /// A result `[batch, seq, heads, dim]`.
    pub(crate) fn result_heads(&self, index: usize) -> Result<Heads, CudaError> {
        Heads::new(self.segments, self.results[index])
            .map_err(|problem| self.layout(format!("result {index}"), problem))
    }

    /// How a result meets what is there.
    pub(crate) fn write(&self, result: usize) -> Result<WriteMode, CudaError> {
        Ok(match self.operation.writes[result] {
            Write::Overwrite => WriteMode::Overwrite,
            Write::Add => WriteMode::Add,
            Write::AddIf(id) => WriteMode::AddIf(self.scalar(id, result)?),
        })
    }

    fn scalar(&self, id: TensorId, result: usize) -> Result<u64, CudaError> {
        let name = || format!("the scalar of result {result}");
        let tensor = self.plan.tensors.get(id.index());
        let tensor = tensor.ok_or_else(|| self.layout(name(), LayoutProblem::Missing))?;
        self.segments.locate(tensor).map_err(|problem| self.layout(name(), problem))
    }

    /// The address of a byte of the workspace.
    pub(crate) fn workspace(&self, from: u64) -> u64 {
        self.segments.addresses[Segment::Workspace.index()] + from
    }

    /// Batch rows times sequence of the first operand.
    pub(crate) fn positions(&self) -> u64 {
        let axes = &self.operands[0].ty.shape.0;
        (axes[0].extent * axes[1].extent).max(1)
    }
}

/// Partial rows of an operation that reduces over so many rows.
pub(crate) fn partial_rows(rows: u64) -> u64 {
    rows.div_ceil(REDUCTION_ROWS)
}

/// The launch that fills `words` words of 32 bits with noise.
pub(crate) fn noise(address: u64, words: u64) -> Launch {
    Launch {
        source: Source::new(Family::Fill),
        entry: "fill_noise",
        grid: words.div_ceil(256).min(LARGE * 32),
        threads: 256,
        shared: 0,
        arguments: vec![Argument::Address(address), Argument::U64(words)],
    }
}
