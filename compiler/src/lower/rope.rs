//! Rotary positions: the tables, how many pairs are turned, and which elements make a pair.
//!
//! Owns the meaning of the arguments of `rope`. Must not know how a table is computed: the host does.

use colac_plan::op::{Real, TypeError};
use colac_plan::parameter::{ConstantContent, RopeScaling};
use colac_plan::program::Phase;
use colac_plan::{Axis, DType, Op, Shape, TensorType};

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::Value as Tensor;
use crate::language::codes as language_codes;
use crate::language::syntax::Expr;
use crate::lower::call::Arguments;
use crate::lower::{Frame, Lowering, codes};

/// The arguments of `rope` that speak of frequencies by their wavelength.
const BANDS: [&str; 3] = ["low_freq_factor", "high_freq_factor", "original_length"];

impl Lowering<'_> {
    /// A call of `rope`.
    pub(super) fn rope(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let theta = Real::new(self.positive(frame, arguments.required("theta"))?);
        let shape = self.graph.ty(x).shape.clone();
        let [_, positions, _, head_dim] = shape.0.as_slice() else {
            let expected = "[batch, seq, heads, head_dim]";
            let error = TypeError::Form { op: "rope", operand: 0, expected, found: shape };
            return Err(self.mismatch(&error, &[x], span));
        };
        let dims = match arguments.optional("dims") {
            Some(written) => {
                let dims = self.extent(frame, written)?;
                if dims > head_dim.extent {
                    let made = self.graph.node(x.node).origin.span;
                    let mut diagnostic = Diagnostic::error(
                        codes::SHAPE_MISMATCH,
                        format!(
                            "{dims} elements of a head cannot be turned, because it has {}",
                            head_dim.extent
                        ),
                    )
                    .at(written.span, format!("this is {dims}"));
                    if let Some(made) = made {
                        diagnostic = diagnostic.at(made, format!("this is {shape}"));
                    }
                    return Err(diagnostic.help("write at most the width of a head"));
                }
                dims
            }
            None => head_dim.extent,
        };
        if !dims.is_multiple_of(2) {
            let written = arguments.optional("dims").map_or(span, |written| written.span);
            return Err(self
                .blame_settings(
                    Diagnostic::error(
                        codes::SHAPE_MISMATCH,
                        format!("rope turns pairs of elements, but {dims} is odd"),
                    )
                    .at(written, format!("turns {dims} elements of each head")),
                    self.graph.node(x.node).origin.span.into_iter().chain([span]),
                )
                .help("make it even: by the settings that head_dim comes from, or by `dims`"));
        }
        let interleaved = match arguments.optional("interleaved") {
            Some(written) => self.condition(frame, written)?,
            None => false,
        };
        let scaling = self.rope_scaling(frame, arguments)?;
        let pairs = Axis::anonymous(dims / 2);
        let key = (theta, scaling, positions.extent, pairs.extent);
        let ty = TensorType::new(DType::F32, Shape(vec![positions.clone(), pairs]));
        let (cos, sin) = match self.tables.get(&key) {
            Some(tables) => *tables,
            None => {
                let origin = self.origin("rope", span);
                let content = ConstantContent::RopeCos { theta, scaling };
                let cos = self.graph.constant(content, ty.clone(), origin.clone());
                let content = ConstantContent::RopeSin { theta, scaling };
                let sin = self.graph.constant(content, ty, origin);
                self.tables.insert(key, (cos, sin));
                (cos, sin)
            }
        };
        let made = self.graph.op(
            Op::Rope { inverse: false, interleaved },
            &[x, cos, sin],
            self.origin(path, span),
            Phase::Forward,
            frame.scope,
        );
        // The tables are ours: only the value rotated is the user's.
        made.map(|results| results[0]).map_err(|error| self.mismatch(&error, &[x], span))
    }

    fn rope_scaling(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
    ) -> Result<RopeScaling, Diagnostic> {
        let given: Vec<(&str, &Expr)> = BANDS
            .iter()
            .filter_map(|name| arguments.optional(name).map(|written| (*name, written)))
            .collect();
        let factor = arguments.optional("factor");
        let Some(factor) = factor else {
            let Some((name, written)) = given.first() else { return Ok(RopeScaling::None) };
            return Err(Diagnostic::error(
                language_codes::ARGUMENTS,
                format!("`{name}` says which frequencies are divided, but not by what"),
            )
            .at(written.span, "no `factor` beside it")
            .help("add factor = …, or take it away"));
        };
        let by = Real::new(self.positive(frame, factor)?);
        match given[..] {
            [] => Ok(RopeScaling::Linear { factor: by }),
            [(_, low), (_, high), (_, length)] => {
                let low_number = self.positive(frame, low)?;
                let high_number = self.positive(frame, high)?;
                if low_number >= high_number {
                    return Err(Diagnostic::error(
                        codes::OPERAND,
                        "the low frequencies must end before the high ones begin",
                    )
                    .at(low.span, format!("this is {low_number}"))
                    .at(high.span, format!("this is {high_number}"))
                    .help("write a `low_freq_factor` smaller than `high_freq_factor`"));
                }
                Ok(RopeScaling::Bands {
                    factor: by,
                    low_frequency_factor: Real::new(low_number),
                    high_frequency_factor: Real::new(high_number),
                    original_length: self.extent(frame, length)?,
                })
            }
            [(_, first), ..] => {
                let missing: Vec<&str> = BANDS
                    .into_iter()
                    .filter(|name| !given.iter().any(|(given, _)| given == name))
                    .collect();
                Err(Diagnostic::error(
                    language_codes::ARGUMENTS,
                    format!("{} belong together", BANDS.join(", ")),
                )
                .at(first.span, format!("without {}", missing.join(" and ")))
                .help("give all three, or `factor` alone to divide every frequency"))
            }
        }
    }

    /// A number above 0.
    fn positive(&mut self, frame: &Frame, written: &Expr) -> Result<f64, Diagnostic> {
        let number = self.number(frame, written)?;
        if number > 0.0 {
            return Ok(number);
        }
        Err(Diagnostic::error(codes::OPERAND, format!("{number} is not above 0"))
            .at(written.span, "must be positive")
            .help("write a positive number such as 10000"))
    }
}
