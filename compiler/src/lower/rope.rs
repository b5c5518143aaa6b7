//! Positions as angles: the tables, how many pairs are turned, which elements make a pair; and the angles as values.
//!
//! Owns the meaning of the arguments of `rope` and `sinusoids`. Must not know how a table is computed: the host does.

use colac_plan::op::{Real, TypeError};
use colac_plan::parameter::{ConstantContent, RopeScaling};
use colac_plan::program::Phase;
use colac_plan::{Axis, DType, Op, Shape, TensorType};

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{Value as Tensor, View};
use crate::language::codes as language_codes;
use crate::language::syntax::Expr;
use crate::lower::call::Arguments;
use crate::lower::{Frame, Lowering, codes};

/// The argument of `rope` that both of the following need.
const LENGTH: &str = "original_length";
/// The arguments that speak of frequencies by their wavelength.
const BANDS: [&str; 3] = ["low_freq_factor", "high_freq_factor", LENGTH];
/// The arguments of YaRN.
const YARN: [&str; 3] = ["beta_fast", "beta_slow", LENGTH];

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
        let (cos, sin) = self.angles(theta, scaling, positions, dims / 2, span);
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

    /// The tables `[positions, pairs]` of cosines and sines; the same ones for equal angles.
    fn angles(
        &mut self,
        theta: Real,
        scaling: RopeScaling,
        positions: &Axis,
        pairs: u64,
        span: Span,
    ) -> (Tensor, Tensor) {
        let key = (theta, scaling, positions.extent, pairs);
        if let Some(tables) = self.tables.get(&key) {
            return *tables;
        }
        let shape = Shape(vec![positions.clone(), Axis::anonymous(pairs)]);
        let (ty, origin) = (TensorType::new(DType::F32, shape), self.origin("rope", span));
        let content = ConstantContent::RopeCos { theta, scaling };
        let cos = self.graph.constant(content, ty.clone(), origin.clone());
        let content = ConstantContent::RopeSin { theta, scaling };
        let sin = self.graph.constant(content, ty, origin);
        self.tables.insert(key, (cos, sin));
        (cos, sin)
    }

    /// A call of `sinusoids`: the angles of `rope` as a table `[seq, width]`, sines before cosines, or in turn; arXiv
    /// 1706.03762, section 3.5.
    pub(super) fn sinusoids(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        ids: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let ty = self.graph.ty(ids).clone();
        let Some(positions) = ty.shape.0.last().filter(|_| ty.dtype == DType::I32) else {
            let error = TypeError::ElementFormat {
                op: "sinusoids",
                operand: 0,
                expected: "ids",
                found: ty.dtype,
            };
            return Err(self.mismatch(&error, &[ids], span));
        };
        let written = arguments.required("width");
        let width = self.extent(frame, written)?;
        if !width.is_multiple_of(2) {
            return Err(self
                .blame_settings(
                    Diagnostic::error(
                        codes::SHAPE_MISMATCH,
                        format!("each angle has a sine and a cosine, but {width} is odd"),
                    )
                    .at(written.span, format!("this is {width}")),
                    [span],
                )
                .help("make the width even"));
        }
        let theta = match arguments.optional("theta") {
            Some(written) => self.positive(frame, written)?,
            None => 10_000.0,
        };
        let interleaved = match arguments.optional("interleaved") {
            Some(written) => self.condition(frame, written)?,
            None => false,
        };
        let (cos, sin) =
            self.angles(Real::new(theta), RopeScaling::None, positions, width / 2, span);
        if !interleaved {
            return self.joined(frame, &[sin, cos], path, span);
        }
        let single = View::SplitHeads { head_dim: 1 };
        let sin = self.view(frame, single, sin, path, span)?;
        let cos = self.view(frame, single, cos, path, span)?;
        let pairs = self.joined(frame, &[sin, cos], path, span)?;
        self.view(frame, View::MergeHeads, pairs, path, span)
    }

    fn rope_scaling(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
    ) -> Result<RopeScaling, Diagnostic> {
        let given = |names: &[&'static str]| -> Vec<(&'static str, &Expr)> {
            let given = |name: &&'static str| Some((*name, arguments.optional(name)?));
            names.iter().filter_map(given).collect()
        };
        let (bands, yarn) = (given(&BANDS), given(&YARN));
        let attention_factor = given(&["attention_factor"]);
        let Some(factor) = arguments.optional("factor") else {
            let Some((name, written)) = [bands, yarn, attention_factor].concat().first().copied()
            else {
                return Ok(RopeScaling::None);
            };
            return Err(Diagnostic::error(
                language_codes::ARGUMENTS,
                format!("`{name}` says which frequencies are divided, but not by what"),
            )
            .at(written.span, "no `factor` beside it")
            .help("add factor = …, or take it away"));
        };
        let by = Real::new(self.positive(frame, factor)?);
        // The original length belongs to both ways.
        let own = |given: &[(&'static str, &Expr)]| {
            given
                .iter()
                .find(|(name, _)| *name != LENGTH)
                .map(|(name, written)| (*name, written.span))
        };
        if let (Some((first, here)), Some((second, there))) = (own(&bands), own(&yarn)) {
            return Err(Diagnostic::error(
                language_codes::ARGUMENTS,
                format!("`{first}` and `{second}` belong to two ways of scaling"),
            )
            .at(there, "of YaRN")
            .at(here, "by wavelength")
            .help(format!("give {}, or {}", BANDS.join(", "), YARN.join(", "))));
        }
        if own(&yarn).is_some() {
            return self.yarn(
                frame,
                by,
                &yarn,
                attention_factor.first().map(|(_, written)| *written),
            );
        }
        if let Some((name, written)) = attention_factor.first() {
            return Err(Diagnostic::error(
                language_codes::ARGUMENTS,
                format!("`{name}` belongs to YaRN"),
            )
            .at(written.span, format!("without {}", YARN.join(", ")))
            .help("give those too, or multiply what `rope` gives"));
        }
        match bands[..] {
            [] => Ok(RopeScaling::Linear { factor: by }),
            [(_, low), (_, high), (_, length)] => {
                let (low, high) = self.ascending(frame, (BANDS[0], low), (BANDS[1], high))?;
                Ok(RopeScaling::Bands {
                    factor: by,
                    low_frequency_factor: low,
                    high_frequency_factor: high,
                    original_length: self.extent(frame, length)?,
                })
            }
            _ => Err(incomplete(&BANDS, &bands)),
        }
    }

    /// YaRN; without a word on the factor of attention it is `0.1 · ln(factor) + 1`, the paper's.
    fn yarn(
        &mut self,
        frame: &mut Frame,
        factor: Real,
        given: &[(&'static str, &Expr)],
        attention_factor: Option<&Expr>,
    ) -> Result<RopeScaling, Diagnostic> {
        let [(_, fast), (_, slow), (_, length)] = given[..] else {
            return Err(incomplete(&YARN, given));
        };
        let (beta_slow, beta_fast) = self.ascending(frame, (YARN[1], slow), (YARN[0], fast))?;
        let attention_factor = match attention_factor {
            Some(written) => self.positive(frame, written)?,
            None => 0.1 * libm::log(factor.get().max(1.0)) + 1.0,
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_length: self.extent(frame, length)?,
            attention_factor: Real::new(attention_factor),
        })
    }

    /// Two numbers above 0 by the names of their arguments, the first less than the second.
    fn ascending(
        &mut self,
        frame: &mut Frame,
        (low_name, low): (&str, &Expr),
        (high_name, high): (&str, &Expr),
    ) -> Result<(Real, Real), Diagnostic> {
        let (small, large) = (self.positive(frame, low)?, self.positive(frame, high)?);
        if small < large {
            return Ok((Real::new(small), Real::new(large)));
        }
        Err(Diagnostic::error(
            codes::OPERAND,
            "the low frequencies must end before the high ones begin",
        )
        .at(low.span, format!("this is {small}"))
        .at(high.span, format!("this is {large}"))
        .help(format!("write a `{low_name}` smaller than `{high_name}`")))
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

/// Some of the arguments of one way of scaling.
fn incomplete(all: &[&'static str; 3], given: &[(&'static str, &Expr)]) -> Diagnostic {
    let missing = all.iter().filter(|name| !given.iter().any(|(given, _)| given == *name));
    let missing: Vec<&str> = missing.copied().collect();
    Diagnostic::error(language_codes::ARGUMENTS, format!("{} belong together", all.join(", ")))
        .at(given[0].1.span, format!("without {}", missing.join(" and ")))
        .help("give all three, or `factor` alone to divide every frequency")
}
