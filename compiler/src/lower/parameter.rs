//! Parameters: paths, start values, names in checkpoints.
//!
//! Owns the meeting of labels, `use`, `init` and `[weights]`. Must not know what an operation does with a parameter.

use colac_plan::op::Real;
use colac_plan::parameter::{CheckpointName, Initialization, Role};
use colac_plan::{Shape, TensorType};

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{ParameterId, ParameterInfo, Value as Tensor};
use crate::language::check::not_a_distribution;
use crate::language::expression::{self, Value};
use crate::language::syntax::{Expr, ExprKind};
use crate::language::weights::Layout;
use crate::lower::joined::Member;
use crate::lower::{Frame, Labelled, Lowering, MOST_ELEMENTS, codes, too_large};

/// What a new parameter is.
pub(super) struct Parameter<'a> {
    /// Path of the operation: `layers.3.self_attn.q_proj`.
    pub(super) path: &'a str,
    /// `weight` or `bias`; empty for a parameter that is all there is under its path.
    pub(super) tensor: &'static str,
    /// The kind that `use` speaks of: `linear`, `embedding`, `rms_norm`, `bias` or `parameter`.
    pub(super) kind: &'static str,
    /// Extents.
    pub(super) extents: &'a [u64],
    /// What it is in the model.
    pub(super) role: Role,
    /// How it starts where neither the call nor a `use` says.
    pub(super) default: Option<f64>,
    /// `init =` of the call.
    pub(super) init: Option<&'a Expr>,
    /// Widths that distributions may read: input and output of the operation.
    pub(super) features: (u64, u64),
    /// The call.
    pub(super) span: Span,
}

impl Lowering<'_> {
    /// Remembers the matrix of a labelled operation, which others may share.
    pub(super) fn set_weight(&mut self, path: &str, weight: (ParameterId, Tensor)) {
        if let Some(labelled) = self.paths.get_mut(path) {
            labelled.weight = Some(weight);
        }
    }

    /// Takes a path for a labelled operation.
    pub(super) fn name(&mut self, path: String, span: Span) -> Result<(), Diagnostic> {
        match self.paths.get(&path) {
            None => {
                self.paths.insert(path, Labelled { span, weight: None });
                Ok(())
            }
            // What stands in this turn of a repeat stood in the first.
            Some(_) if self.replaying > 0 => Ok(()),
            Some(first) => {
                let mut diagnostic = Diagnostic::error(
                    codes::DUPLICATE_PATH,
                    format!("two operations have the path `{path}`"),
                )
                .at(span, "second");
                if first.span != span {
                    diagnostic = diagnostic.at(first.span, "first");
                }
                Err(diagnostic.help(
                    "give them different labels, or label the calls of the block they stand in",
                ))
            }
        }
    }

    /// Makes a parameter and the node that reads it.
    pub(super) fn parameter(
        &mut self,
        frame: &Frame,
        parameter: &Parameter<'_>,
    ) -> Result<(ParameterId, Tensor), Diagnostic> {
        let Parameter { path, tensor, kind, extents, role, span, .. } = *parameter;
        self.check_size(extents, span)?;
        let with_kind = |path: &str| match tensor {
            "" => path.to_owned(),
            tensor => format!("{path}.{tensor}"),
        };
        if self.replaying > 0
            && let Some(&made) = self.parameters.get(&with_kind(path))
        {
            return self.shared_parameter(made, extents, span);
        }
        self.elements = self.elements.saturating_add(extents.iter().product());
        if self.elements > MOST_ELEMENTS {
            return Err(too_large(span, "more than 2^48 parameters"));
        }
        let initialization = self.initialization(frame, parameter)?;
        let name = |(name, layout): (String, Layout)| CheckpointName {
            name: with_kind(&name),
            transposed: role == Role::Matrix && layout == Layout::InOut,
            part: None,
        };
        let joined = self
            .joined_name(path)
            .map(|(rule, alternative, tensor)| (rule, alternative, name(tensor)));
        let checkpoint = name(self.unjoined_name(path));
        let name = checkpoint.name.clone();
        if let Some(first) = self.checkpoint_names.insert(name.clone(), span) {
            return Err(Diagnostic::error(
                codes::DUPLICATE_PATH,
                format!("two tensors of a checkpoint are called `{name}`"),
            )
            .at(span, format!("`{path}` is called so"))
            .at(first, "and so is this one")
            .help("make the rules of `[weights]` give them different names"));
        }
        let info = ParameterInfo {
            path: with_kind(path),
            ty: TensorType::new(colac_plan::DType::F32, Shape::of(extents)),
            initialization,
            role,
            checkpoint,
            unjoined: None,
            scope: frame.scope,
        };
        let origin = self.origin(path, span);
        let (id, value) = self.graph.parameter(info, origin);
        self.parameters.insert(with_kind(path), (id, value));
        if let Some((rule, alternative, checkpoint)) = joined {
            let member = Member {
                rule,
                alternative,
                id,
                span,
                is_linear: matches!(kind, "linear" | "bias"),
                transposed: checkpoint.transposed,
            };
            self.joined.entry(checkpoint.name).or_default().push(member);
        }
        Ok((id, value))
    }

    /// The parameter of the first turn, which must be of the same size.
    fn shared_parameter(
        &self,
        made: (ParameterId, Tensor),
        extents: &[u64],
        span: Span,
    ) -> Result<(ParameterId, Tensor), Diagnostic> {
        let first = &self.graph.ty(made.1).shape;
        if first.extents() == extents {
            return Ok(made);
        }
        Err(Diagnostic::error(
            codes::SHAPE_MISMATCH,
            "the turns of a repeat that shares its parameters need them in different sizes",
        )
        .at(span, format!("{} here, {first} in the first turn", Shape::of(extents)))
        .help("make the sizes independent of the index, or take `shared` away"))
    }

    /// How a parameter starts: as the call says, else as the last `use` of its kind says, else its kind's default.
    fn initialization(
        &mut self,
        frame: &Frame,
        parameter: &Parameter<'_>,
    ) -> Result<Initialization, Diagnostic> {
        let uses = &self.architecture.body.uses;
        let used = uses
            .iter()
            .rev()
            .find(|item| item.kinds.iter().any(|kind| kind.text == parameter.kind));
        if let Some(written) = parameter.init.or(used.map(|item| &item.distribution)) {
            return self.distribution(frame, written, parameter);
        }
        match parameter.default {
            Some(value) => Ok(Initialization::Constant { value: Real::new(value) }),
            None => Err(Diagnostic::error(
                codes::START_VALUES,
                match parameter.tensor {
                    "" => format!("nothing says how `{}` starts", parameter.path),
                    tensor => {
                        format!("nothing says how the {tensor} of `{}` starts", parameter.path)
                    }
                },
            )
            .at(parameter.span, "no start values")
            .help(format!(
                "write `use normal(0, 0.02) for {}` in the body, or `init =` in the call",
                parameter.kind
            ))),
        }
    }

    fn distribution(
        &mut self,
        frame: &Frame,
        written: &Expr,
        parameter: &Parameter<'_>,
    ) -> Result<Initialization, Diagnostic> {
        let (name, arguments) = match &written.kind {
            ExprKind::Name(path) => (path.text.as_str(), [].as_slice()),
            ExprKind::Call(call) => (call.name.text.as_str(), call.arguments.as_slice()),
            ExprKind::Conditional { value, condition, otherwise } => {
                if self.condition(frame, condition)? {
                    return self.distribution(frame, value, parameter);
                }
                return match otherwise {
                    Some(otherwise) => self.distribution(frame, otherwise, parameter),
                    // Without an `else` the call says nothing: the `use` of the kind holds.
                    None => self.initialization(frame, &Parameter { init: None, ..*parameter }),
                };
            }
            _ => return Err(not_a_distribution(written.span)),
        };
        if let Some(declared) =
            self.architecture.body.inits.iter().find(|init| init.name.text == name)
        {
            return self.distribution(frame, &declared.distribution, parameter);
        }
        let (in_features, out_features) = parameter.features;
        let names = |name: &str| match name {
            "in_features" => Some(Value::Integer(in_features.cast_signed())),
            "out_features" => Some(Value::Integer(out_features.cast_signed())),
            _ => self.config.get(name).cloned(),
        };
        let mut numbers = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let value = expression::evaluate(&argument.value, &names)?;
            numbers.push((
                value.as_number().ok_or_else(|| not_a_distribution(argument.value.span))?,
                argument.value.span,
            ));
        }
        let not_negative = |(number, span): (f64, Span)| {
            if number >= 0.0 {
                return Ok(Real::new(number));
            }
            Err(Diagnostic::error(codes::START_VALUES, format!("a spread of {number} is negative"))
                .at(span, "must not be negative")
                .help("write a number from 0 up"))
        };
        match (name, numbers.as_slice()) {
            ("normal", &[(mean, span), std]) => {
                if mean != 0.0 {
                    return Err(Diagnostic::error(
                        codes::START_VALUES,
                        format!("a mean of {mean} is not supported"),
                    )
                    .at(span, "must be 0")
                    .help("write normal(0, std)"));
                }
                Ok(Initialization::Normal { std: not_negative(std)? })
            }
            ("uniform", &[bound]) => Ok(Initialization::Uniform { bound: not_negative(bound)? }),
            ("zeros", []) => Ok(Initialization::Constant { value: Real::new(0.0) }),
            ("ones", []) => Ok(Initialization::Constant { value: Real::new(1.0) }),
            _ => Err(not_a_distribution(written.span)),
        }
    }
}
