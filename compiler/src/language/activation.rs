//! Activations: a name such as `silu`, or a formula in x such as `x * sigmoid(1.7 * x)`.
//!
//! Owns the table of names and which formulas are activations. Must not know where an activation is used.

use colac_plan::pointwise::{Binary, Builder, MAX_INSTRUCTIONS, Program, Register, Unary};

use crate::diagnostics::{Diagnostic, SourceId, Span, did_you_mean};
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

/// Functions of one value that formulas and bodies may use; `max` and `min` take two or more.
const FUNCTIONS: [(&str, Unary); 7] = [
    ("abs", Unary::Absolute),
    ("erf", Unary::ErrorFunction),
    ("exp", Unary::Exponential),
    ("log", Unary::Logarithm),
    ("sigmoid", Unary::Sigmoid),
    ("sqrt", Unary::SquareRoot),
    ("tanh", Unary::HyperbolicTangent),
];

/// Formulas larger than this would not fit a program.
const MAX_SIZE: usize = MAX_INSTRUCTIONS / 2;

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
                parse_tree(formula_of(&name.text, name.span)?, source, offset)?
            }
            _ => written,
        };
        check(&formula)?;
        let mut size = 0;
        formula.walk(&mut |_| size += 1);
        if size > MAX_SIZE {
            return Err(Diagnostic::error(
                codes::ACTIVATION,
                format!("a formula of {size} parts is too long"),
            )
            .at(formula.span, format!("more than {MAX_SIZE} numbers, names and operators"))
            .help("write a shorter formula"));
        }
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

    /// The program of one input and one f32 output that computes it.
    pub fn program(&self) -> Program {
        Program::unary(|builder, x| build(&self.formula, builder, x))
    }
}

/// The names of all activations.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let functions = FUNCTIONS.iter().map(|(name, _)| *name);
    NAMED
        .iter()
        .map(|(name, _)| *name)
        .chain(functions.filter(|name| *name != "tanh"))
        .chain(["max", "min"])
}

/// Whether a name is a function of one number.
pub(crate) fn is_function(name: &str) -> bool {
    function(name).is_some()
}

/// Whether a name is an activation's.
pub(crate) fn is_named(name: &str) -> bool {
    NAMED.iter().any(|(known, _)| *known == name)
}

/// The function of one number with a name.
pub(crate) fn function(name: &str) -> Option<Unary> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
}

/// The formula in x of a named activation.
///
/// # Errors
/// `language::activation` with the nearest name.
pub(crate) fn formula_of(name: &str, span: Span) -> Result<&'static str, Diagnostic> {
    let known = NAMED.iter().find(|(known, _)| *known == name);
    known.map(|(_, formula)| *formula).ok_or_else(|| {
        let names = NAMED.map(|(known, _)| known);
        let help = did_you_mean(name, names, || {
            format!(
                "use one of {}, or a formula in x such as \"x * sigmoid(1.7 * x)\"",
                names.join(", ")
            )
        });
        let message = format!("there is no activation `{name}`");
        Diagnostic::error(codes::ACTIVATION, message).at(span, "unknown activation").help(help)
    })
}

/// Computes a checked formula of the register `x`.
fn build(tree: &Expr, builder: &mut Builder, x: Register) -> Register {
    match &tree.kind {
        ExprKind::Literal(value) => builder.constant(value.as_number().unwrap_or_default()),
        ExprKind::Name(_) => x,
        ExprKind::Unary { operand, .. } => {
            let operand = build(operand, builder, x);
            builder.unary(Unary::Negate, operand)
        }
        ExprKind::Binary { operator, left, right } => {
            let (a, b) = (build(left, builder, x), build(right, builder, x));
            builder.binary(arithmetic(*operator).unwrap_or(Binary::Add), a, b)
        }
        ExprKind::Conditional { value, .. } => build(value, builder, x),
        ExprKind::Call(call) => {
            let arguments: Vec<Register> =
                call.arguments.iter().map(|argument| build(&argument.value, builder, x)).collect();
            apply(&call.name.text, builder, &arguments)
        }
    }
}

/// Applies a function to registers: one, or two and more for `max` and `min`.
pub(crate) fn apply(name: &str, builder: &mut Builder, arguments: &[Register]) -> Register {
    let extreme = if name == "max" { Binary::Maximum } else { Binary::Minimum };
    match function(name) {
        Some(function) => builder.unary(function, arguments[0]),
        None => arguments[1..]
            .iter()
            .fold(arguments[0], |best, &next| builder.binary(extreme, best, next)),
    }
}

/// The pointwise function of an operator, if it is arithmetic that values know.
pub(crate) fn arithmetic(operator: BinaryOperator) -> Option<Binary> {
    match operator {
        BinaryOperator::Add => Some(Binary::Add),
        BinaryOperator::Subtract => Some(Binary::Subtract),
        BinaryOperator::Multiply => Some(Binary::Multiply),
        BinaryOperator::Divide => Some(Binary::Divide),
        _ => None,
    }
}

/// Makes sure that a tree is made of x, numbers, arithmetic and known functions.
fn check(tree: &Expr) -> Result<(), Diagnostic> {
    let wrong = |span: Span, what: String| {
        Diagnostic::error(codes::ACTIVATION, what)
            .at(span, "not part of a formula in x")
            .help("use x, numbers, + - * /, max, min, and abs, erf, exp, log, sigmoid, sqrt, tanh")
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
            let extreme = matches!(call.name.text.as_str(), "max" | "min");
            if !extreme && !is_function(&call.name.text) {
                return Err(unknown_function(
                    call,
                    FUNCTIONS.iter().map(|(name, _)| *name).chain(["max", "min"]),
                ));
            }
            let plain = call.label.is_none()
                && call.arguments.iter().all(|argument| argument.name.is_none());
            let count = call.arguments.len();
            if !plain || !(if extreme { count >= 2 } else { count == 1 }) {
                let wanted = if extreme { "two values or more" } else { "one value" };
                return Err(Diagnostic::error(
                    codes::ARGUMENTS,
                    format!("`{}` takes {wanted}", call.name.text),
                )
                .at(tree.span, "called here")
                .help("write the values alone, in order"));
            }
            call.arguments.iter().try_for_each(|argument| check(&argument.value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(text: &str) -> String {
        Activation::parse(text, SourceId(0), 0).expect(text).program().to_string()
    }

    #[test]
    fn names_and_formulas_become_programs() {
        assert_eq!(program("silu"), "a * sigmoid(a)");
        assert_eq!(program("relu"), "max(a, 0)");
        assert_eq!(program("relu2"), "max(a, 0) * max(a, 0)");
        assert_eq!(program("tanh"), "tanh(a)");
        assert_eq!(program("identity"), "a");
        assert_eq!(program("x * sigmoid(1.7 * x)"), "a * sigmoid(1.7 * a)");
        assert_eq!(program("max(x, -x, 2) - x / 3"), "max(max(a, -a), 2) - a / 3");
        assert_eq!(program("gelu"), "0.5 * a * (1 + erf(0.7071067811865476 * a))");
        for (name, _) in NAMED {
            assert_eq!(
                Activation::parse(name, SourceId(0), 0).expect(name).program().check(),
                Ok(()),
                "{name}"
            );
        }
    }

    #[test]
    fn only_identity_changes_nothing() {
        for (name, _) in NAMED {
            let activation = Activation::parse(name, SourceId(0), 0).expect(name);
            assert_eq!(activation.is_identity(), name == "identity");
        }
        assert!(Activation::parse("x", SourceId(0), 0).expect("x is a formula").is_identity());
    }

    #[test]
    fn formulas_that_would_not_fit_a_program_are_refused() {
        let text = vec![vec!["x"; 40].join(" * "); 4].join(" + ");
        let error = Activation::parse(&text, SourceId(0), 0).expect_err("too long");
        assert_eq!(error.code, codes::ACTIVATION);
    }
}
