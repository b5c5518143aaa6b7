//! What every executor holds an operation to before it takes it.
//!
//! Owns the checks that do not depend on a device: types, ways of writing, workspace, and that no result shares bytes with
//! another tensor of the operation unless the operation allows it in place; and the words for what is wrong. Must not know
//! kernels.

use colac_plan::op::TypeError;
use colac_plan::program::Write;
use colac_plan::{DType, Operation, Plan, Segment, Tensor, TensorId};
use thiserror::Error;

use crate::cpu::view::{disjoint, is_injective};

/// An operation that an executor does not take.
#[derive(Debug, Error)]
pub enum OperationError {
    /// Operands or results do not have the types that the operation's rule gives.
    #[error("operation {path}: {source}")]
    Type {
        /// Path of the operation.
        path: String,
        /// What does not fit.
        source: TypeError,
    },
    /// A tensor's place or strides are not what the operation takes.
    #[error("operation {path}: {operand} of {op} {problem}")]
    Layout {
        /// Path of the operation.
        path: String,
        /// Printed name of the operation.
        op: &'static str,
        /// `operand 1`, `result 0`.
        operand: String,
        /// What is wrong with it.
        problem: LayoutProblem,
    },
    /// The operation as a whole contradicts its definition.
    #[error("operation {path}: {op} {problem}")]
    Whole {
        /// Path of the operation.
        path: String,
        /// Printed name of the operation.
        op: &'static str,
        /// What is wrong.
        problem: OperationProblem,
    },
}

impl OperationError {
    /// A tensor that the operation does not take.
    pub(crate) fn layout(operation: &Operation, operand: String, problem: LayoutProblem) -> Self {
        let (path, op) = (operation.path.clone(), operation.op.name());
        OperationError::Layout { path, op, operand, problem }
    }

    /// A whole operation that is wrong.
    pub(crate) fn whole(operation: &Operation, problem: OperationProblem) -> Self {
        let (path, op) = (operation.path.clone(), operation.op.name());
        OperationError::Whole { path, op, problem }
    }
}

/// What is wrong with a tensor's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutProblem {
    /// Another element format.
    #[error("must be {expected}, not {found}")]
    ElementFormat {
        /// What it must be.
        expected: DType,
        /// What it is.
        found: DType,
    },
    /// Part of it is outside.
    #[error("lies outside the {0} segment")]
    OutsideSegment(Segment),
    /// Its rows do not step evenly, or it must be packed and is not.
    #[error("has strides that this operation does not take")]
    Strides,
    /// It does not start at a whole element.
    #[error("starts between two elements")]
    Alignment,
    /// The operation names a tensor that the plan does not have.
    #[error("names a tensor that the plan does not have")]
    Missing,
}

/// What is wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OperationProblem {
    /// A result lies where an operand or another result lies.
    #[error("writes a result onto bytes that it still needs")]
    Overlap,
    /// Results or ways of writing are missing or too many.
    #[error("has another number of results than its rule gives")]
    ResultCount,
    /// A result's type is not what the rule gives.
    #[error("has a result of another type than its rule gives")]
    ResultType,
    /// A result that cannot accumulate is marked to be added.
    #[error("adds to a result that cannot accumulate")]
    Accumulation,
    /// The workspace it was given is smaller than it needs.
    #[error("has less workspace than it needs")]
    Workspace,
}

/// An operation with its tensors.
pub(crate) struct Checked<'a> {
    pub(crate) operands: Vec<&'a Tensor>,
    pub(crate) results: Vec<&'a Tensor>,
}

/// Finds the tensors of an operation and checks all of it.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check<'a>(
    plan: &'a Plan,
    operation: &Operation,
) -> Result<Checked<'a>, OperationError> {
    let find = |(i, id): (usize, &TensorId), name: &str| {
        let missing =
            || OperationError::layout(operation, format!("{name} {i}"), LayoutProblem::Missing);
        plan.tensors.get(id.index()).ok_or_else(missing)
    };
    let operands = operation.operands.iter().enumerate().map(|id| find(id, "operand"));
    let results = operation.results.iter().enumerate().map(|id| find(id, "result"));
    let checked = Checked {
        operands: operands.collect::<Result<_, _>>()?,
        results: results.collect::<Result<_, _>>()?,
    };
    checked.types(plan, operation)?;
    checked.places(plan, operation)?;
    Ok(checked)
}

impl Checked<'_> {
    /// Types, ways of writing and workspace are what the operation's rules say.
    fn types(&self, plan: &Plan, operation: &Operation) -> Result<(), OperationError> {
        let wrong = |problem| Err(OperationError::whole(operation, problem));
        let op = &operation.op;
        let operand_types: Vec<_> = self.operands.iter().map(|t| &t.ty).collect();
        let result_types: Vec<_> = self.results.iter().map(|t| &t.ty).collect();
        let inferred = op
            .infer(&operand_types)
            .map_err(|source| OperationError::Type { path: operation.path.clone(), source })?;
        if inferred.len() != self.results.len() || operation.writes.len() != self.results.len() {
            return wrong(OperationProblem::ResultCount);
        }
        let mut results = inferred.iter().zip(&result_types).enumerate();
        if !results.all(|(index, (inferred, found))| op.gives(index, inferred, found)) {
            return wrong(OperationProblem::ResultType);
        }
        let mut writes = operation.writes.iter().enumerate();
        if writes.any(|(index, write)| *write != Write::Overwrite && !op.accumulates(index)) {
            return wrong(OperationProblem::Accumulation);
        }
        let needed = op.workspace_bytes(&operand_types, &result_types);
        if needed > operation.workspace || operation.workspace > plan.bytes(Segment::Workspace) {
            return wrong(OperationProblem::Workspace);
        }
        Ok(())
    }

    /// No result shares bytes with anything but, in place, the operand it may lie on.
    fn places(&self, plan: &Plan, operation: &Operation) -> Result<(), OperationError> {
        let wrong = |problem| Err(OperationError::whole(operation, problem));
        for (index, result) in self.results.iter().enumerate() {
            if !is_injective(result) {
                let name = format!("result {index}");
                return Err(OperationError::layout(operation, name, LayoutProblem::Strides));
            }
            let others = self.results[..index].iter().all(|other| disjoint(result, other));
            let operands = self.operands.iter().enumerate().all(|(operand, tensor)| {
                disjoint(result, tensor)
                    || (operation.op.in_place(operand, index) && same_place(result, tensor))
            });
            let scalars = operation.writes.iter().all(|write| match write {
                Write::AddIf(id) => {
                    plan.tensors.get(id.index()).is_none_or(|scalar| disjoint(result, scalar))
                }
                Write::Overwrite | Write::Add => true,
            });
            if !(others && operands && scalars) {
                return wrong(OperationProblem::Overlap);
            }
        }
        let scratch = |tensor: &&Tensor| tensor.segment == Segment::Workspace;
        if operation.workspace > 0 && self.operands.iter().chain(&self.results).any(scratch) {
            return wrong(OperationProblem::Overlap);
        }
        Ok(())
    }
}

/// Whether two tensors of equal extents hold each element at the same place.
fn same_place(a: &Tensor, b: &Tensor) -> bool {
    let steps =
        |(i, axis): (usize, &colac_plan::Axis)| axis.extent == 1 || a.strides[i] == b.strides[i];
    a.segment == b.segment
        && a.offset == b.offset
        && a.ty.dtype == b.ty.dtype
        && a.ty.shape.same_extents(&b.ty.shape)
        && a.ty.shape.0.iter().enumerate().all(steps)
}
