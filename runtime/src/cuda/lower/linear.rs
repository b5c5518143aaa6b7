//! Linears and their derivatives: one product each.

use super::{Lowering, Steps};
use crate::cuda::launch::{Factor, Product, Step, WriteMode};

impl Lowering<'_> {
    /// `y = x wᵀ`.
    pub(super) fn linear(&self) -> Steps {
        let (x, w) = (Factor::of(self.operand(0)?), Factor::of(self.operand(1)?));
        let c = Factor::of(self.result(0)?);
        Ok(vec![product(x, w.transposed(), c, WriteMode::Overwrite)])
    }

    /// `dx = dy w`.
    pub(super) fn linear_backward_input(&self) -> Steps {
        let (dy, w) = (Factor::of(self.operand(0)?), Factor::of(self.operand(1)?));
        Ok(vec![product(dy, w, Factor::of(self.result(0)?), WriteMode::Overwrite)])
    }

    /// `dw = dyᵀ x`.
    pub(super) fn linear_backward_weight(&self) -> Steps {
        let (dy, x) = (Factor::of(self.operand(0)?), Factor::of(self.operand(1)?));
        let c = Factor::of(self.result(0)?);
        Ok(vec![product(dy.transposed(), x, c, self.write(0)?)])
    }
}

fn product(a: Factor, b: Factor, c: Factor, write: WriteMode) -> Step {
    Step::Product(Product { a, b, c, write })
}
