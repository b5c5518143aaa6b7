//! The operations and functions that a body may call, with their arguments.
//!
//! Owns their names and signatures. Must not know what they compute: lowering does.

use crate::diagnostics::{Diagnostic, Span, did_you_mean};
use crate::language::codes;
use crate::language::syntax::{Argument, Call};

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArgumentKind {
    /// A value of the computation.
    Value,
    /// A positive whole number from the configuration.
    Extent,
    /// A number from the configuration.
    Number,
    /// True or false from the configuration.
    Boolean,
    /// The name of an activation: a setting, or a text.
    Activation,
    /// The word `never`.
    Never,
    /// `causal`, `full` or `window(n)`.
    Mask,
    /// The label of another operation, whose weight is used.
    Label,
    /// A distribution: `normal(0, std)`, `uniform(bound)`, `zeros`, `ones`, or one declared by `init`.
    Distribution,
}

/// An argument of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it must be.
    pub(crate) kind: ArgumentKind,
    /// Whether it must be given.
    pub(crate) required: bool,
}

/// Which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationKind {
    /// `y = x wᵀ (+ bias)`.
    Linear,
    /// Rows of a table.
    Embedding,
    /// Root mean square normalisation.
    RmsNorm,
    /// Normalisation of mean and variance.
    LayerNorm,
    /// Indices along the innermost axis.
    Positions,
    /// Sines and cosines of the indices along the innermost axis.
    Sinusoids,
    /// Sets elements to zero at random while training.
    Dropout,
    /// The sum of each row.
    Sum,
    /// The mean of each row.
    Mean,
    /// Softmax of each row.
    Softmax,
    /// Rotary positions.
    Rope,
    /// Splits the innermost axis into heads.
    Heads,
    /// The inverse of `heads`.
    MergeHeads,
    /// Scaled dot product attention.
    SoftmaxAttention,
    /// A nonlinearity by its name.
    Activation,
    /// A learned row, table or number.
    Parameter,
    /// Part of the innermost axis.
    Slice,
    /// Values side by side on the innermost axis.
    Concat,
    /// Each head several times.
    RepeatHeads,
    /// The values of earlier positions.
    Shift,
}

/// An operation.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Its name in bodies.
    pub(crate) name: &'static str,
    /// Which.
    pub(crate) kind: OperationKind,
    /// Its arguments, in order.
    pub(crate) parameters: &'static [Parameter],
    /// Whether it has parameters of its own and so needs a path.
    pub(crate) needs_label: bool,
}

const fn required(name: &'static str, kind: ArgumentKind) -> Parameter {
    Parameter { name, kind, required: true }
}

const fn optional(name: &'static str, kind: ArgumentKind) -> Parameter {
    Parameter { name, kind, required: false }
}

use ArgumentKind as A;

/// Every operation.
pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "linear",
        kind: OperationKind::Linear,
        parameters: &[
            required("x", A::Value),
            required("out", A::Extent),
            optional("bias", A::Boolean),
            optional("cola", A::Never),
            optional("weight", A::Label),
            optional("init", A::Distribution),
        ],
        needs_label: true,
    },
    Operation {
        name: "embedding",
        kind: OperationKind::Embedding,
        parameters: &[
            required("ids", A::Value),
            required("rows", A::Extent),
            required("width", A::Extent),
            optional("init", A::Distribution),
        ],
        needs_label: true,
    },
    Operation {
        name: "rms_norm",
        kind: OperationKind::RmsNorm,
        parameters: &[
            required("x", A::Value),
            required("eps", A::Number),
            optional("gain", A::Boolean),
            optional("init", A::Distribution),
        ],
        needs_label: true,
    },
    Operation {
        name: "layer_norm",
        kind: OperationKind::LayerNorm,
        parameters: &[
            required("x", A::Value),
            required("eps", A::Number),
            optional("gain", A::Boolean),
            optional("bias", A::Boolean),
            optional("init", A::Distribution),
        ],
        needs_label: true,
    },
    Operation {
        name: "positions",
        kind: OperationKind::Positions,
        parameters: &[required("ids", A::Value)],
        needs_label: false,
    },
    Operation {
        name: "sinusoids",
        kind: OperationKind::Sinusoids,
        parameters: &[
            required("ids", A::Value),
            required("width", A::Extent),
            optional("theta", A::Number),
            optional("interleaved", A::Boolean),
        ],
        needs_label: false,
    },
    Operation {
        name: "dropout",
        kind: OperationKind::Dropout,
        parameters: &[required("x", A::Value), required("p", A::Number)],
        needs_label: false,
    },
    Operation {
        name: "sum",
        kind: OperationKind::Sum,
        parameters: &[required("x", A::Value)],
        needs_label: false,
    },
    Operation {
        name: "mean",
        kind: OperationKind::Mean,
        parameters: &[required("x", A::Value)],
        needs_label: false,
    },
    Operation {
        name: "softmax",
        kind: OperationKind::Softmax,
        parameters: &[required("x", A::Value)],
        needs_label: false,
    },
    Operation {
        name: "rope",
        kind: OperationKind::Rope,
        parameters: &[
            required("x", A::Value),
            required("theta", A::Number),
            optional("dims", A::Extent),
            optional("interleaved", A::Boolean),
            optional("factor", A::Number),
            optional("low_freq_factor", A::Number),
            optional("high_freq_factor", A::Number),
            optional("original_length", A::Extent),
            optional("beta_fast", A::Number),
            optional("beta_slow", A::Number),
            optional("attention_factor", A::Number),
        ],
        needs_label: false,
    },
    Operation {
        name: "heads",
        kind: OperationKind::Heads,
        parameters: &[required("x", A::Value), required("head_dim", A::Extent)],
        needs_label: false,
    },
    Operation {
        name: "merge_heads",
        kind: OperationKind::MergeHeads,
        parameters: &[required("x", A::Value)],
        needs_label: false,
    },
    Operation {
        name: "softmax_attention",
        kind: OperationKind::SoftmaxAttention,
        parameters: &[
            required("q", A::Value),
            required("k", A::Value),
            required("v", A::Value),
            required("mask", A::Mask),
            optional("scale", A::Number),
            optional("softcap", A::Number),
            optional("alibi", A::Boolean),
            optional("dropout", A::Number),
        ],
        needs_label: false,
    },
    Operation {
        name: "activation",
        kind: OperationKind::Activation,
        parameters: &[required("x", A::Value), required("kind", A::Activation)],
        needs_label: false,
    },
    Operation {
        name: "parameter",
        kind: OperationKind::Parameter,
        parameters: &[
            optional("width", A::Extent),
            optional("rows", A::Extent),
            optional("init", A::Distribution),
        ],
        needs_label: true,
    },
    Operation {
        name: "slice",
        kind: OperationKind::Slice,
        parameters: &[
            required("x", A::Value),
            required("start", A::Number),
            required("length", A::Extent),
        ],
        needs_label: false,
    },
    Operation {
        name: "concat",
        kind: OperationKind::Concat,
        parameters: &[
            required("a", A::Value),
            required("b", A::Value),
            optional("c", A::Value),
            optional("d", A::Value),
            optional("e", A::Value),
            optional("f", A::Value),
            optional("g", A::Value),
            optional("h", A::Value),
        ],
        needs_label: false,
    },
    Operation {
        name: "repeat_heads",
        kind: OperationKind::RepeatHeads,
        parameters: &[required("x", A::Value), required("times", A::Extent)],
        needs_label: false,
    },
    Operation {
        name: "shift",
        kind: OperationKind::Shift,
        parameters: &[required("x", A::Value), optional("by", A::Number)],
        needs_label: false,
    },
];

/// Distributions with the number of their arguments.
pub(crate) const DISTRIBUTIONS: [(&str, usize); 4] =
    [("normal", 2), ("ones", 0), ("uniform", 1), ("zeros", 0)];

/// What `use … for` may name, with the operation that has such a parameter.
pub(crate) const INITIALIZED: [&str; 6] =
    ["linear", "embedding", "rms_norm", "layer_norm", "bias", "parameter"];

/// The operation of a name.
pub(crate) fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

/// Finds for every parameter the argument of a call that is meant for it; unnamed arguments come in order.
///
/// `parameters` are names and whether they are required. The result is as long as `parameters`.
///
/// # Errors
/// `language::arguments` for unknown names, two values for one parameter, too many, or a required one missing.
pub(crate) fn bind<'a>(
    call: &'a Call,
    span: Span,
    parameters: &[(&str, bool)],
) -> Result<Vec<Option<&'a Argument>>, Diagnostic> {
    let called = &call.name.text;
    let takes = || match parameters {
        [] => format!("`{called}` takes no arguments"),
        _ => format!(
            "`{called}` takes {}",
            parameters.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        ),
    };
    let mut bound: Vec<Option<&Argument>> = vec![None; parameters.len()];
    let mut position = 0;
    for argument in &call.arguments {
        let at = match &argument.name {
            Some(name) => {
                parameters.iter().position(|(known, _)| *known == name.text).ok_or_else(|| {
                    let names = parameters.iter().map(|(known, _)| *known);
                    Diagnostic::error(
                        codes::ARGUMENTS,
                        format!("`{called}` has no argument `{}`", name.text),
                    )
                    .at(name.span, "unknown argument")
                    .help(did_you_mean(&name.text, names, takes))
                })?
            }
            None if position < parameters.len() => {
                position += 1;
                position - 1
            }
            None => {
                return Err(Diagnostic::error(
                    codes::ARGUMENTS,
                    format!("too many arguments for `{called}`"),
                )
                .at(argument.span(), "one too many")
                .help(takes()));
            }
        };
        if let Some(first) = bound[at].replace(argument) {
            return Err(Diagnostic::error(
                codes::ARGUMENTS,
                format!("`{}` is given twice", parameters[at].0),
            )
            .at(argument.span(), "second")
            .at(first.span(), "first")
            .help("take one of them away"));
        }
    }
    match parameters.iter().zip(&bound).find(|((_, required), bound)| *required && bound.is_none())
    {
        Some(((name, _), _)) => {
            Err(Diagnostic::error(codes::ARGUMENTS, format!("`{called}` needs `{name}`"))
                .at(span, format!("no `{name}` here"))
                .help(takes()))
        }
        None => Ok(bound),
    }
}
