//! Norms: their gains and biases.
//!
//! Owns which vectors a norm has, how they are called and how they start. Must not know how a norm is computed.

use colac_plan::Op;
use colac_plan::op::Real;
use colac_plan::parameter::Role;

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::Value as Tensor;
use crate::lower::call::Arguments;
use crate::lower::parameter::Parameter;
use crate::lower::{Bound, Frame, Lowering};

/// A vector of a norm.
struct Vector {
    /// The argument that says whether it is there; it is where nothing says.
    argument: &'static str,
    /// `weight` or `bias`.
    tensor: &'static str,
    /// The kind that `use` speaks of.
    kind: &'static str,
    /// How it starts where nothing says.
    start: f64,
}

const BIAS: Vector = Vector { argument: "bias", tensor: "bias", kind: "bias", start: 0.0 };

const fn gain(kind: &'static str) -> Vector {
    Vector { argument: "gain", tensor: "weight", kind, start: 1.0 }
}

impl Lowering<'_> {
    pub(super) fn rms_norm(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let epsilon = Real::new(self.number(frame, arguments.required("eps"))?);
        let width = self.rows(x, "rms_norm", "[.., width]", span)?.width();
        let gain = self.vector(frame, arguments, &gain("rms_norm"), width, path, span)?;
        let operands: Vec<Tensor> = [x].into_iter().chain(gain).collect();
        let op = Op::RmsNorm { epsilon, gain: gain.is_some(), prologue: None };
        self.op(frame, op, &operands, path, span).map(Bound::Tensor)
    }

    pub(super) fn layer_norm(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let epsilon = Real::new(self.number(frame, arguments.required("eps"))?);
        let width = self.rows(x, "layer_norm", "[.., width]", span)?.width();
        let gain = self.vector(frame, arguments, &gain("layer_norm"), width, path, span)?;
        let bias = self.vector(frame, arguments, &BIAS, width, path, span)?;
        let operands: Vec<Tensor> = [x].into_iter().chain(gain).chain(bias).collect();
        let op =
            Op::LayerNorm { epsilon, gain: gain.is_some(), bias: bias.is_some(), prologue: None };
        self.op(frame, op, &operands, path, span).map(Bound::Tensor)
    }

    /// The parameter of a norm's vector, unless it is switched off.
    fn vector(
        &mut self,
        frame: &Frame,
        arguments: &Arguments<'_>,
        vector: &Vector,
        width: u64,
        path: &str,
        span: Span,
    ) -> Result<Option<Tensor>, Diagnostic> {
        if let Some(condition) = arguments.optional(vector.argument)
            && !self.condition(frame, condition)?
        {
            return Ok(None);
        }
        let parameter = Parameter {
            path,
            tensor: vector.tensor,
            kind: vector.kind,
            extents: &[width],
            role: Role::Vector,
            default: Some(vector.start),
            // What a call says of its start is said of the gain, as that of a linear is of its matrix.
            init: if vector.argument == "gain" { arguments.optional("init") } else { None },
            features: (width, width),
            span,
        };
        self.parameter(frame, &parameter).map(|(_, tensor)| Some(tensor))
    }
}
