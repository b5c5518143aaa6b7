//! What all checks share: the plan, roots of tensors, and errors that name their place.

use crate::plan::Plan;
use crate::program::{Operation, Program};
use crate::tensor::{Tensor, TensorId};

use super::rule::{Place, Rule, VerifyError, shown};

pub(super) type Checked = Result<(), VerifyError>;

/// A plan whose ids are in range and whose parents form no ring.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) roots: Vec<TensorId>,
}

impl<'a> Context<'a> {
    pub(super) fn tensor(&self, id: TensorId) -> &'a Tensor {
        &self.plan.tensors[id.index()]
    }

    pub(super) fn root(&self, id: TensorId) -> TensorId {
        self.roots[id.index()]
    }

    /// A tensor as errors name it.
    pub(super) fn named(&self, id: TensorId) -> String {
        format!("{id} `{}`", shown(&self.tensor(id).name))
    }

    pub(super) fn at_tensor(&self, id: TensorId) -> Place {
        Place::Tensor { id, name: self.tensor(id).name.clone() }
    }
}

pub(super) fn at_operation(program: &Program, index: usize) -> Place {
    let Operation { op, path, .. } = &program.operations[index];
    Place::Operation { program: program.kind, index, op: op.name(), path: path.clone() }
}

/// An error unless `holds`; place and reason are made only for the error.
pub(super) fn demand(
    holds: bool,
    rule: Rule,
    place: impl FnOnce() -> Place,
    reason: impl FnOnce() -> String,
) -> Checked {
    if holds { Ok(()) } else { Err(VerifyError { rule, place: place(), reason: reason() }) }
}
