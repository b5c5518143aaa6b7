//! Activations: a name such as `silu`, or a formula in x such as `x * sigmoid(1.7 * x)`.
//!
//! Owns the table of names and which formulas are activations. Must not know where an activation is used.

use std::ops::RangeInclusive;

use colac_plan::pointwise::{Binary, Builder, MAX_INSTRUCTIONS, Program, Register, Unary};

use crate::diagnostics::{Diagnostic, SourceId, Span, did_you_mean};
use crate::language::codes;
use crate::language::expression::{parse_tree, unknown_function};
use crate::language::syntax::{BinaryOperator, Expr, ExprKind, UnaryOperator};

/// The named activations and their formulas.
///
/// GELU is the exact one by the error function; `gelu_tanh` is its approximation with sqrt(2/pi) = 0.7978845608…
/// (arXiv 1606.08415, section 2).
const NAMED: [(&str, &str); 18] = [
    ("elu", "where(x > 0, x, exp(min(x, 0)) - 1)"),
    ("gelu", "0.5 * x * (1 + erf(0.7071067811865476 * x))"),
    ("gelu_fast", GELU_TANH),
    ("gelu_new", GELU_TANH),
    ("gelu_pytorch_tanh", GELU_TANH),
    ("gelu_tanh", GELU_TANH),
    ("identity", "x"),
    ("leaky_relu", "where(x > 0, x, 0.01 * x)"),
    ("mish", "x * tanh(softplus(x))"),
    ("quick_gelu", "x * sigmoid(1.702 * x)"),
    ("relu", "max(x, 0)"),
    ("relu2", "max(x, 0) * max(x, 0)"),
    ("relu6", "min(max(x, 0), 6)"),
    ("sigmoid", "sigmoid(x)"),
    ("silu", "x * sigmoid(x)"),
    ("softplus", "softplus(x)"),
    ("swish", "x * sigmoid(x)"),
    ("tanh", "tanh(x)"),
];

const GELU_TANH: &str = "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))";

/// A function that formulas and bodies may use.
struct Function {
    name: &'static str,
    /// How many values it takes.
    takes: RangeInclusive<usize>,
    /// What it computes of so many registers.
    build: fn(&mut Builder, &[Register]) -> Register,
}

const fn of_one(name: &'static str, build: fn(&mut Builder, &[Register]) -> Register) -> Function {
    Function { name, takes: 1..=1, build }
}

/// Every function, by name.
const FUNCTIONS: [Function; 16] = [
    of_one("abs", |b, x| b.unary(Unary::Absolute, x[0])),
    Function {
        name: "clamp",
        takes: 3..=3,
        build: |b, x| {
            let above = b.binary(Binary::Maximum, x[0], x[1]);
            b.binary(Binary::Minimum, above, x[2])
        },
    },
    of_one("cos", |b, x| b.unary(Unary::Cosine, x[0])),
    of_one("erf", |b, x| b.unary(Unary::ErrorFunction, x[0])),
    of_one("exp", |b, x| b.unary(Unary::Exponential, x[0])),
    of_one("log", |b, x| b.unary(Unary::Logarithm, x[0])),
    Function { name: "max", takes: 2..=MOST_VALUES, build: |b, x| fold(b, Binary::Maximum, x) },
    Function { name: "min", takes: 2..=MOST_VALUES, build: |b, x| fold(b, Binary::Minimum, x) },
    Function { name: "pow", takes: 2..=2, build: |b, x| power(b, x[0], x[1]) },
    of_one("rsqrt", |b, x| b.unary(Unary::ReciprocalSquareRoot, x[0])),
    of_one("sigmoid", |b, x| b.unary(Unary::Sigmoid, x[0])),
    of_one("sin", |b, x| b.unary(Unary::Sine, x[0])),
    of_one("softplus", |b, x| softplus(b, x[0])),
    of_one("sqrt", |b, x| b.unary(Unary::SquareRoot, x[0])),
    of_one("tanh", |b, x| b.unary(Unary::HyperbolicTangent, x[0])),
    Function { name: "where", takes: 3..=3, build: |b, x| b.select(x[0], x[1], x[2]) },
];

/// Most values of `max` and `min`.
const MOST_VALUES: usize = 16;

/// Largest whole exponent that is multiplied out.
const MOST_MULTIPLIED: f64 = 16.0;

/// From here on `log(1 + e^x)` is x in f32, and below it nothing overflows.
const SOFTPLUS_LINEAR: f64 = 20.0;

fn fold(b: &mut Builder, extreme: Binary, x: &[Register]) -> Register {
    x[1..].iter().fold(x[0], |best, &next| b.binary(extreme, best, next))
}

/// `x^y`: whole exponents up to 16 are multiplied out, so that x may be negative; roots are roots; all else is
/// `e^(y log x)` for positive x.
fn power(b: &mut Builder, x: Register, y: Register) -> Register {
    let one = b.constant(1.0);
    match b.value(y) {
        Some(n) if n.fract() == 0.0 && n.abs() <= MOST_MULTIPLIED => {
            let power =
                (0..n.abs() as u32).fold(one, |power, _| b.binary(Binary::Multiply, power, x));
            if n < 0.0 { b.binary(Binary::Divide, one, power) } else { power }
        }
        Some(0.5) => b.unary(Unary::SquareRoot, x),
        Some(-0.5) => b.unary(Unary::ReciprocalSquareRoot, x),
        _ => {
            let logarithm = b.unary(Unary::Logarithm, x);
            let exponent = b.binary(Binary::Multiply, y, logarithm);
            b.unary(Unary::Exponential, exponent)
        }
    }
}

/// `log(1 + e^x)`, without overflow and with the right slope everywhere.
fn softplus(b: &mut Builder, x: Register) -> Register {
    let (one, bound) = (b.constant(1.0), b.constant(SOFTPLUS_LINEAR));
    let small = b.binary(Binary::Minimum, x, bound);
    let exponential = b.unary(Unary::Exponential, small);
    let sum = b.binary(Binary::Add, one, exponential);
    let logarithm = b.unary(Unary::Logarithm, sum);
    let large = b.binary(Binary::Greater, x, bound);
    b.select(large, x, logarithm)
}

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

/// The names of all activations and functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|(name, _)| *name).chain(function_names().filter(|name| !is_named(name)))
}

fn function_names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name)
}

/// How many values a function takes, if it is one.
pub(crate) fn takes(name: &str) -> Option<RangeInclusive<usize>> {
    FUNCTIONS.iter().find(|function| function.name == name).map(|function| function.takes.clone())
}

/// The number of values that a function takes, in words.
pub(crate) fn takes_in_words(takes: &RangeInclusive<usize>) -> &'static str {
    match (takes.start(), takes.end()) {
        (1, 1) => "one value",
        (2, 2) => "two values",
        (3, 3) => "three values",
        _ => "two values or more",
    }
}

/// Whether a name is an activation's.
pub(crate) fn is_named(name: &str) -> bool {
    NAMED.iter().any(|(known, _)| *known == name)
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
            match arithmetic(*operator) {
                Some(function) => builder.binary(function, a, b),
                None => comparison(*operator, builder, a, b)
                    .expect("checked: a formula has arithmetic and comparisons only"),
            }
        }
        ExprKind::Conditional { value, .. } => build(value, builder, x),
        // Refused before.
        ExprKind::Element { .. } => x,
        ExprKind::Call(call) => {
            let arguments: Vec<Register> =
                call.arguments.iter().map(|argument| build(&argument.value, builder, x)).collect();
            apply(&call.name.text, builder, &arguments)
        }
    }
}

/// Applies a function to as many registers as it takes.
pub(crate) fn apply(name: &str, builder: &mut Builder, arguments: &[Register]) -> Register {
    let function = FUNCTIONS.iter().find(|function| function.name == name);
    (function.expect("checked: a formula calls functions only").build)(builder, arguments)
}

/// Whether one value is larger than another, or at least as large: 1 or 0.
pub(crate) fn comparison(
    operator: BinaryOperator,
    builder: &mut Builder,
    left: Register,
    right: Register,
) -> Option<Register> {
    let (larger, smaller, negated) = match operator {
        BinaryOperator::Greater => (left, right, false),
        BinaryOperator::Less => (right, left, false),
        BinaryOperator::LessOrEqual => (left, right, true),
        BinaryOperator::GreaterOrEqual => (right, left, true),
        _ => return None,
    };
    let greater = builder.binary(Binary::Greater, larger, smaller);
    if !negated {
        return Some(greater);
    }
    let (zero, one) = (builder.constant(0.0), builder.constant(1.0));
    Some(builder.select(greater, zero, one))
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
        Diagnostic::error(codes::ACTIVATION, what).at(span, "not part of a formula in x").help(
            format!(
                "use x, numbers, + - * /, comparisons, and {}",
                function_names().collect::<Vec<_>>().join(", ")
            ),
        )
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
                | BinaryOperator::Divide
                | BinaryOperator::Greater
                | BinaryOperator::GreaterOrEqual
                | BinaryOperator::Less
                | BinaryOperator::LessOrEqual,
            left,
            right,
        } => check(left).and_then(|()| check(right)),
        ExprKind::Unary { .. } | ExprKind::Binary { .. } | ExprKind::Conditional { .. } => {
            Err(wrong(tree.span, "a formula has no conditions".into()))
        }
        ExprKind::Element { .. } => Err(wrong(tree.span, "a formula has no lists".into())),
        ExprKind::Call(call) => {
            let Some(takes) = takes(&call.name.text) else {
                return Err(unknown_function(call, function_names()));
            };
            let plain = call.label.is_none()
                && call.arguments.iter().all(|argument| argument.name.is_none());
            if !plain || !takes.contains(&call.arguments.len()) {
                return Err(Diagnostic::error(
                    codes::ARGUMENTS,
                    format!("`{}` takes {}", call.name.text, takes_in_words(&takes)),
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
        assert_eq!(program("pow(x, 3) + pow(x, -1)"), "a * a * a + 1 / a");
        assert_eq!(program("pow(x, 0.5) * pow(x, 1.5)"), "sqrt(a) * exp(1.5 * log(a))");
        assert_eq!(program("where(x >= 1, x, 0)"), "select(select((1 > a), 0, 1), a, 0)");
        assert_eq!(program("clamp(x, -1, 1)"), "min(max(a, -1), 1)");
        assert_eq!(
            program("softplus"),
            "select((a > 20), a, log(1 + exp(min(a, 20))))",
            "no overflow, and a slope at 0"
        );
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
            assert_eq!(activation.is_identity(), name == "identity", "{name}");
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
