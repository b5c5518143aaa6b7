//! Activations: a name such as `silu`, or a formula in x such as `x * sigmoid(1.7 * x)`.
//!
//! Owns the table of names and which formulas are activations. Must not know where an activation is used.

use crate::diagnostics::{Diagnostic, SourceId, Span, nearest};
use crate::language::codes;
use crate::language::expression::{parse_tree, unknown_function};
use crate::language::syntax::{BinaryOperator, Expr, ExprKind, UnaryOperator};

/// The named activations and their formulas.
///
/// GELU is the exact one by the error function; `gelu_tanh` is its approximation with sqrt(2/pi) = 0.7978845608…
/// (arXiv 1606.08415, section 2).
const NAMED: [(&str, &str); 7] = [
    ("gelu", "0.5 * x * (1 + erf(0.7071067811865476 * x))"),
    ("gelu_tanh", "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))"),
    ("identity", "x"),
    ("relu", "max(x, 0)"),
    ("relu2", "max(x, 0) * max(x, 0)"),
    ("silu", "x * sigmoid(x)"),
    ("tanh", "tanh(x)"),
];

/// Functions of one value that a formula may use; `max` and `min` take two.
const FUNCTIONS: [&str; 6] = ["erf", "exp", "log", "sigmoid", "sqrt", "tanh"];

/// A function of one number, applied to every element.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    text: String,
    span: Span,
    formula: Expr,
}

impl Activation {
    /// Reads a name or a formula that stands at byte `offset` of `source`.
    ///
    /// # Errors
    /// `language::activation` for a name that is not known or a formula that is not one in x alone; syntax errors.
    pub fn parse(text: &str, source: SourceId, offset: usize) -> Result<Activation, Diagnostic> {
        let written = parse_tree(text, source, offset)?;
        let formula = match &written.kind {
            ExprKind::Name(name) if name.text != "x" => {
                let known = NAMED.iter().find(|(known, _)| *known == name.text);
                let (_, formula) = known.ok_or_else(|| {
                    let names: Vec<&str> = NAMED.iter().map(|(known, _)| *known).collect();
                    let near = nearest(&name.text, names.iter().copied());
                    let diagnostic = Diagnostic::error(
                        codes::ACTIVATION,
                        format!("there is no activation `{}`", name.text),
                    )
                    .at(name.span, "unknown activation");
                    diagnostic.help(near.map_or_else(
                        || {
                            format!(
                                "use one of {}, or a formula in x such as \"x * sigmoid(1.7 * x)\"",
                                names.join(", ")
                            )
                        },
                        |near| format!("did you mean `{near}`?"),
                    ))
                })?;
                parse_tree(formula, source, offset)?
            }
            _ => written,
        };
        check(&formula)?;
        Ok(Activation {
            text: text.to_owned(),
            span: Span::new(source, offset..offset + text.len()),
            formula,
        })
    }

    /// As written: the name or the formula.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it is written.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Whether it changes nothing.
    pub fn is_identity(&self) -> bool {
        matches!(&self.formula.kind, ExprKind::Name(_))
    }
}

/// Makes sure that a tree is made of x, numbers, arithmetic and known functions.
fn check(tree: &Expr) -> Result<(), Diagnostic> {
    let wrong = |span: Span, what: String| {
        Diagnostic::error(codes::ACTIVATION, what)
            .at(span, "not part of a formula in x")
            .help("use x, numbers, + - * /, max, min, and erf, exp, log, sigmoid, sqrt, tanh")
    };
    match &tree.kind {
        ExprKind::Literal(value) if value.as_number().is_some() => Ok(()),
        ExprKind::Literal(value) => Err(wrong(tree.span, format!("{value} is not a number"))),
        ExprKind::Name(name) if name.text == "x" => Ok(()),
        ExprKind::Name(name) => {
            Err(wrong(name.span, format!("a formula knows only x, not `{}`", name.text)))
        }
        ExprKind::Unary { operator: UnaryOperator::Negate, operand } => check(operand),
        ExprKind::Binary {
            operator:
                BinaryOperator::Add
                | BinaryOperator::Subtract
                | BinaryOperator::Multiply
                | BinaryOperator::Divide,
            left,
            right,
        } => check(left).and_then(|()| check(right)),
        ExprKind::Unary { .. } | ExprKind::Binary { .. } | ExprKind::Conditional { .. } => {
            Err(wrong(tree.span, "a formula has no conditions".into()))
        }
        ExprKind::Call(call) => {
            let binary = matches!(call.name.text.as_str(), "max" | "min");
            if !binary && !FUNCTIONS.contains(&call.name.text.as_str()) {
                return Err(unknown_function(call, FUNCTIONS.into_iter().chain(["max", "min"])));
            }
            let plain = call.label.is_none()
                && call.arguments.iter().all(|argument| argument.name.is_none());
            let arity = if binary { 2 } else { 1 };
            if !plain || call.arguments.len() != arity {
                return Err(Diagnostic::error(
                    codes::ARGUMENTS,
                    format!(
                        "`{}` takes {arity} value{}",
                        call.name.text,
                        if binary { "s" } else { "" }
                    ),
                )
                .at(tree.span, "called here")
                .help("write the values alone, in order"));
            }
            call.arguments.iter().try_for_each(|argument| check(&argument.value))
        }
    }
}
