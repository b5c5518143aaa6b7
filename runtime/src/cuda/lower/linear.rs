//! Linears and their derivatives: one product each.
//!
//! Matrix units want extents that are multiples of eight elements. Where what pads an odd axis belongs to its tensors and
//! is 0 in all of them, the product includes it: it adds zeros, and makes the zeros that pad the result.

use colac_plan::Op;

use super::{Lowering, Steps};
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Factor, Product, Step, WriteMode};
use crate::cuda::view::Rows;

/// A factor or result of a product, and how many zeros stand behind each of its two axes.
#[derive(Clone, Copy)]
struct Side {
    factor: Factor,
    /// Behind the rows and the columns of the product.
    more: [u64; 2],
}

impl Side {
    fn of(rows: Rows) -> Side {
        Side { factor: Factor::of(rows), more: [rows.more_rows, rows.padding] }
    }

    fn transposed(self) -> Side {
        Side { factor: self.factor.transposed(), more: [self.more[1], self.more[0]] }
    }

    /// With so many more rows and columns.
    fn extended(self, rows: u64, columns: u64) -> Factor {
        let (rows, columns) =
            if self.factor.transposed { (columns, rows) } else { (rows, columns) };
        let (rows, columns) = (self.factor.rows + rows, self.factor.columns + columns);
        Factor { rows, columns, ..self.factor }
    }
}

/// `c = a b` with every axis extended by the zeros that both tensors have behind it.
fn product(a: Side, b: Side, c: Side, write: WriteMode) -> Step {
    let rows = a.more[0].min(c.more[0]);
    let inner = a.more[1].min(b.more[0]);
    let columns = b.more[1].min(c.more[1]);
    Step::Product(Product {
        a: a.extended(rows, inner),
        b: b.extended(inner, columns),
        c: c.extended(rows, columns),
        write,
    })
}

impl Lowering<'_> {
    /// `y = x wᵀ`.
    pub(super) fn linear(&self) -> Steps {
        let (x, w) = (Side::of(self.operand(0)?), Side::of(self.operand(1)?));
        Ok(vec![product(x, w.transposed(), Side::of(self.result(0)?), WriteMode::Overwrite)])
    }

    /// `dx = dy w`.
    pub(super) fn linear_backward_input(&self) -> Steps {
        let (dy, w) = (Side::of(self.operand(0)?), Side::of(self.operand(1)?));
        Ok(vec![product(dy, w, Side::of(self.result(0)?), WriteMode::Overwrite)])
    }

    /// Whether the product of a linear, or of its derivative by the input, makes all of the zeros that pad its result.
    pub(super) fn product_pads(&self) -> Result<bool, CudaError> {
        let (w, y) = (self.operand(1)?, self.result(0)?);
        Ok(match self.operation.op {
            Op::Linear => w.more_rows >= y.padding,
            _ => w.padding >= y.padding,
        })
    }

    /// `dw = dyᵀ x`.
    pub(super) fn linear_backward_weight(&self) -> Steps {
        let (dy, x) = (Side::of(self.operand(0)?), Side::of(self.operand(1)?));
        let c = Side::of(self.result(0)?);
        Ok(vec![product(dy.transposed(), x, c, self.write(0)?)])
    }
}
