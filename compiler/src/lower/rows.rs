//! Parts of values: slices, joins, shared heads, values of other positions; and learned rows and numbers.
//!
//! Owns the meaning of these calls. Must not know shape rules: those are in [`colac_plan::op::infer`].

use colac_plan::op::TypeError;
use colac_plan::parameter::Role;
use colac_plan::{DType, Op};

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{Value as Tensor, View};
use crate::language::codes as language_codes;
use crate::language::expression::Value;
use crate::lower::call::Arguments;
use crate::lower::parameter::Parameter;
use crate::lower::{Bound, Frame, Lowering, codes};

/// Most parts that one operation joins.
const MOST_PARTS: u64 = 128;

impl Lowering<'_> {
    /// `parameter(width, rows)`: a learned row, a learned table, or a learned number.
    pub(super) fn learned(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        path: &str,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let width = match arguments.optional("width") {
            Some(written) => Some(self.extent(frame, written)?),
            None => None,
        };
        let rows = match arguments.optional("rows") {
            Some(written) if width.is_none() => {
                return Err(Diagnostic::error(
                    language_codes::ARGUMENTS,
                    "a table needs the width of its rows",
                )
                .at(written.span, "no `width` beside it")
                .help("add width = …; one number for each row is width = 1"));
            }
            Some(written) => Some(self.extent(frame, written)?),
            None => None,
        };
        let extents: Vec<u64> = rows.into_iter().chain(width).collect();
        let width = width.unwrap_or(1);
        let (_, value) = self.parameter(
            frame,
            &Parameter {
                path,
                tensor: "",
                kind: "parameter",
                extents: &extents,
                role: Role::Vector,
                default: None,
                init: arguments.optional("init"),
                features: (width, rows.unwrap_or(width)),
                span,
            },
        )?;
        Ok(Bound::Tensor(value))
    }

    /// `slice(x, start, length)` of the innermost axis.
    pub(super) fn slice(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let written = arguments.required("start");
        let value = self.setting(frame, written)?;
        let Value::Integer(start @ 0..) = value else {
            return Err(Diagnostic::error(
                codes::EXTENT,
                "a slice starts at a whole number from 0 up",
            )
            .at(written.span, format!("this is {value}"))
            .help("count elements from 0"));
        };
        let length = self.extent(frame, arguments.required("length"))?;
        let width = self.rows(x, "slice", "[.., width]", span)?.width();
        let start = start.unsigned_abs();
        if start == 0 && length == width {
            return Ok(x);
        }
        self.op(frame, Op::Slice { start, length }, &[x], path, span)
    }

    /// `concat(a, b, …)` on the innermost axis.
    pub(super) fn concat(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        path: &str,
        span: Span,
    ) -> Result<Option<Tensor>, Diagnostic> {
        let mut parts = Vec::new();
        for written in arguments.given() {
            let Some(part) = self.tensor(frame, written)? else { return Ok(None) };
            self.rows(part, "concat", "[.., width]", span)?;
            parts.push(part);
        }
        self.joined(frame, &parts, path, span).map(Some)
    }

    pub(super) fn joined(
        &mut self,
        frame: &Frame,
        parts: &[Tensor],
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        if let [single] = parts {
            return Ok(*single);
        }
        let mut starts = Vec::with_capacity(parts.len());
        let mut width = 0;
        for &part in parts {
            starts.push(width);
            width += self.graph.ty(part).shape.width();
        }
        let rows = self.graph.ty(parts[0]).shape.rows();
        self.check_size(&[rows, width], span)?;
        self.op(frame, Op::Concat { width, starts }, parts, path, span)
    }

    /// `repeat_heads(x, times)`: each head as many times one after the other.
    pub(super) fn repeat_heads(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let written = arguments.required("times");
        let times = self.extent(frame, written)?;
        if times > MOST_PARTS {
            return Err(Diagnostic::error(
                codes::EXTENT,
                format!("a head can be repeated up to {MOST_PARTS} times"),
            )
            .at(written.span, format!("this is {times}"))
            .help("repeat it fewer times; `softmax_attention` shares key/value heads by itself"));
        }
        let shape = self.rows(x, "repeat_heads", "[.., heads, head_dim]", span)?;
        if shape.ndim() < 2 {
            let expected = "[.., heads, head_dim]";
            let error = TypeError::Form { op: "repeat_heads", operand: 0, expected, found: shape };
            return Err(self.mismatch(&error, &[x], span));
        }
        if times == 1 {
            return Ok(x);
        }
        let parts = vec![x; times as usize];
        let wide = self.joined(frame, &parts, path, span)?;
        let merged = self.view(frame, View::MergeHeads, wide, path, span)?;
        self.view(frame, View::SplitHeads { head_dim: shape.width() }, merged, path, span)
    }

    /// `shift(x, by)`: the values of earlier positions, zeros where there are none.
    pub(super) fn shift(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let by = match arguments.optional("by") {
            None => 1,
            Some(written) => {
                let value = self.setting(frame, written)?;
                let Value::Integer(by @ 0..) = value else {
                    return Err(Diagnostic::error(
                        codes::EXTENT,
                        "values are shifted by a whole number of positions from 0 up",
                    )
                    .at(written.span, format!("this is {value}"))
                    .help(
                        "write how many positions back a position looks; it never sees later ones",
                    ));
                };
                by
            }
        };
        if self.graph.ty(x).dtype == DType::I32 {
            self.rows(x, "shift", "[batch, seq, ..]", span)?;
        }
        if by == 0 {
            return Ok(x);
        }
        self.op(frame, Op::Shift { by }, &[x], path, span)
    }
}
