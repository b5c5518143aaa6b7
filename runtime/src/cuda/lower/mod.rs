//! From an operation of the plan to steps of a device.
//!
//! Owns the one match over [`Op`]; a file for each family of operations chooses kernels, sizes and arguments. Must not
//! know drivers.

mod copies;
mod dropout;
mod embedding;
mod head;
mod product;
mod rope;

use colac_plan::op::cost::REDUCTION_ROWS;
use colac_plan::program::Write;
use colac_plan::{Op, Operation, Plan, Segment, Tensor, TensorId};

use crate::cpu::{LayoutProblem, OperationProblem};
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Step, WriteMode};
use crate::cuda::view::{Heads, Rows, Segments};

/// One operation on its way to steps.
pub(crate) struct Lowering<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) segments: &'a Segments,
    pub(crate) operation: &'a Operation,
    pub(crate) operands: Vec<&'a Tensor>,
    pub(crate) results: Vec<&'a Tensor>,
}

/// Steps of an operation, or why there are none.
pub(crate) type Steps = Result<Vec<Step>, CudaError>;

impl Lowering<'_> {
    /// A whole operation that the executor does not take.
    pub(crate) fn problem(&self, problem: OperationProblem) -> CudaError {
        let (path, op) = (self.operation.path.clone(), self.operation.op.name());
        CudaError::Operation { path, op, problem }
    }

    fn layout(&self, operand: String, problem: LayoutProblem) -> CudaError {
        let (path, op) = (self.operation.path.clone(), self.operation.op.name());
        CudaError::Layout { path, op, operand, problem }
    }

    /// An operand as rows.
    pub(crate) fn operand(&self, index: usize) -> Result<Rows, CudaError> {
        Rows::new(self.segments, self.operands[index])
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
        Rows::new(self.segments, self.results[index])
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
