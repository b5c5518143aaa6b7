//! Positions and dropout.
//!
//! Owns what keys the randomness of a dropout, and that a table of positions has a row for each. Must not know how
//! either is computed.

use colac_plan::op::{Real, TypeError};
use colac_plan::parameter::ConstantContent;
use colac_plan::{DType, Op, Shape, TensorType};

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{Input, NodeKind, Value as Tensor};
use crate::lower::call::Arguments;
use crate::lower::{Frame, Lowering, codes};

impl Lowering<'_> {
    /// The positions of ids within their row.
    pub(super) fn positions(&mut self, ids: Tensor, span: Span) -> Result<Tensor, Diagnostic> {
        let ty = self.graph.ty(ids).clone();
        if ty.dtype != DType::I32 || ty.shape.ndim() == 0 {
            let error = TypeError::ElementFormat {
                op: "positions",
                operand: 0,
                expected: "ids",
                found: ty.dtype,
            };
            return Err(self.mismatch(&error, &[ids], span));
        }
        let origin = self.origin("positions", span);
        Ok(self.graph.constant(ConstantContent::Positions, ty, origin))
    }

    /// Refuses rows with more positions than a table has rows.
    pub(super) fn check_positions(
        &self,
        ids: Tensor,
        rows: u64,
        written: Span,
        call: Span,
    ) -> Result<(), Diagnostic> {
        let node = self.graph.node(ids.node);
        let length = self.graph.ty(ids).shape.width();
        if node.kind != NodeKind::Constant(ConstantContent::Positions) || length <= rows {
            return Ok(());
        }
        let mut diagnostic = Diagnostic::error(
            codes::POSITIONS,
            format!("rows have {length} positions, but the table of positions has {rows} rows"),
        )
        .at(written, format!("{rows} rows"));
        if let Some(place) = self.batch.place {
            diagnostic = diagnostic.at(place, format!("{length} positions"));
        }
        Err(self
            .blame_settings(diagnostic, [call])
            .help("use a shorter sequence_length, or give the table more rows"))
    }

    /// Sets elements to zero with a probability; nothing where that is 0.
    pub(super) fn dropout(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let written = arguments.required("p");
        let probability = self.number(frame, written)?;
        if !(0.0..1.0).contains(&probability) {
            return Err(Diagnostic::error(
                codes::OPERAND,
                format!("a probability of {probability} cannot be dropped"),
            )
            .at(written.span, "must be from 0 up and below 1")
            .help("write a number such as 0.1, or 0 for no dropout"));
        }
        self.rows(x, "dropout", "[.., width]", span)?;
        if probability == 0.0 {
            return Ok(x);
        }
        // Calls without labels share the path around them; counting them gives each a mask of its own.
        let count = self.dropouts.entry(path.to_owned()).or_insert(0);
        let key = colac_plan::hash::key(&format!("{path} dropout {count}"));
        *count += 1;
        let ty = TensorType::new(DType::I32, Shape::of(&[4]));
        let origin = self.origin(Input::DropoutDraw.name(), span);
        let draw = self.graph.input(Input::DropoutDraw, ty, origin);
        let op = Op::Dropout { probability: Real::new(probability), key };
        self.op(frame, op, &[x, draw], path, span)
    }
}

/// Attention never holds its probabilities, so nothing can be dropped from them.
pub(super) fn refuse_attention_dropout(probability: f64, written: Span) -> Result<(), Diagnostic> {
    if probability == 0.0 {
        return Ok(());
    }
    Err(Diagnostic::error(
        codes::ATTENTION_DROPOUT,
        format!("a dropout of {probability} in attention is not supported"),
    )
    .at(written, "must be 0")
    .help(
        "use dropout on the block's result: attention is computed without storing its probabilities, and fused \
         kernels of other libraries draw numbers that no other executor could repeat",
    ))
}
