//! Expressions over a configuration: `hidden_size / 4`, `num_attention_heads % num_key_value_heads == 0`.
//!
//! Owns their values and how they are computed, exactly and equally on every machine. Must not know where the names
//! come from.

#[cfg(test)]
mod tests;

use crate::diagnostics::{Diagnostic, SourceId, Span, did_you_mean};
use crate::language::architecture::ConfigKind;
use crate::language::codes;
use crate::language::grammar;
use crate::language::lexer::{TokenKind, lex};
use crate::language::syntax::{BinaryOperator, Call, Expr, ExprKind, Path, UnaryOperator};
use crate::language::tokens::{SyntaxError, Tokens};

/// What an expression is worth.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A word, such as the name of an activation.
    Text(String),
}

impl Value {
    /// What a message calls the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Boolean(_) => "true or false",
            Value::Text(_) => "a text",
        }
    }

    /// The number, whole or not.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Boolean(_) | Value::Text(_) => None,
        }
    }

    /// The whole number.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth value.
    pub fn as_boolean(&self) -> Option<bool> {
        match self {
            Value::Boolean(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl std::fmt::Display for Value {
    /// As it would be written in a spec.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Integer(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number:?}"),
            Value::Boolean(truth) => write!(f, "{truth}"),
            Value::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// The functions of expressions, with the number of their arguments.
pub(crate) const CONSTANT_FUNCTIONS: [(&str, std::ops::RangeInclusive<usize>); 9] = [
    ("ceil", 1..=1),
    ("exp", 1..=1),
    ("floor", 1..=1),
    ("log", 1..=1),
    ("max", 2..=16),
    ("min", 2..=16),
    ("pow", 2..=2),
    ("round_up", 2..=2),
    ("sqrt", 1..=1),
];

/// How a value is looked up by its name.
pub type Names<'a> = dyn Fn(&str) -> Option<Value> + 'a;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    text: String,
    tree: Expr,
}

impl Expression {
    /// Reads an expression that stands at byte `offset` of `source`.
    ///
    /// # Errors
    /// `language::syntax` and the errors of tokens.
    pub fn parse(text: &str, source: SourceId, offset: usize) -> Result<Expression, Diagnostic> {
        Ok(Expression { text: text.to_owned(), tree: parse_tree(text, source, offset)? })
    }

    /// Its value.
    ///
    /// Integers stay integers: `/` between them must divide exactly, except inside `floor`, `ceil`, `round_up`, `sqrt`,
    /// `exp`, `log` and `pow`, which take any number. All else is IEEE arithmetic of 64 bits without functions of the platform.
    ///
    /// # Errors
    /// Unknown names, wrong types, inexact or undefined division, overflow, an absent value.
    pub fn evaluate(&self, names: &Names<'_>) -> Result<Value, Diagnostic> {
        evaluate(&self.tree, names)
    }

    /// Every name it reads, in the order written.
    pub fn names(&self) -> Vec<&Path> {
        names(&self.tree)
    }

    /// Makes sure that it reads only `known` names.
    ///
    /// # Errors
    /// `language::unknown_name` with the nearest known name.
    pub fn check_names<'a>(
        &self,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Result<(), Diagnostic> {
        match self
            .names()
            .into_iter()
            .find(|name| !known.clone().into_iter().any(|known| known == name.text))
        {
            Some(name) => Err(unknown_name(&name.text, name.span, known)),
            None => Ok(()),
        }
    }

    /// What kind of value it gives, from the kinds of the names it reads; `None` while one of those is not known.
    pub fn kind(&self, names: &dyn Fn(&str) -> Option<ConfigKind>) -> Option<ConfigKind> {
        kind(&self.tree, names)
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it is written.
    pub fn span(&self) -> Span {
        self.tree.span
    }
}

/// The kind of a tree: integers stay integers, since division between them is exact; a fraction or a root anywhere in
/// an arithmetic expression makes it a number.
fn kind(tree: &Expr, names: &dyn Fn(&str) -> Option<ConfigKind>) -> Option<ConfigKind> {
    let wider = |a: ConfigKind, b: ConfigKind| if a == ConfigKind::Number { a } else { b };
    match &tree.kind {
        ExprKind::Literal(Value::Integer(_)) => Some(ConfigKind::Integer),
        ExprKind::Literal(Value::Float(_)) => Some(ConfigKind::Number),
        ExprKind::Literal(Value::Boolean(_)) => Some(ConfigKind::Boolean),
        ExprKind::Literal(Value::Text(text)) => Some(ConfigKind::OneOf(vec![text.clone()])),
        ExprKind::Name(path) => names(&path.text),
        ExprKind::Unary { operator: UnaryOperator::Not, .. } => Some(ConfigKind::Boolean),
        ExprKind::Unary { operator: UnaryOperator::Negate, operand } => kind(operand, names),
        ExprKind::Binary { operator, left, right } => match operator {
            BinaryOperator::Add
            | BinaryOperator::Subtract
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Remainder => Some(wider(kind(left, names)?, kind(right, names)?)),
            _ => Some(ConfigKind::Boolean),
        },
        ExprKind::Conditional { value, otherwise, .. } => {
            let value = kind(value, names)?;
            match otherwise {
                Some(otherwise) => Some(wider(value, kind(otherwise, names)?)),
                None => Some(value),
            }
        }
        ExprKind::Call(call) => match call.name.text.as_str() {
            "exp" | "log" | "pow" | "sqrt" => Some(ConfigKind::Number),
            "min" | "max" => {
                call.arguments.iter().try_fold(ConfigKind::Integer, |widest, argument| {
                    Some(wider(widest, kind(&argument.value, names)?))
                })
            }
            _ => Some(ConfigKind::Integer),
        },
        ExprKind::Element { .. } => None,
    }
}

/// Parses a whole text as one expression.
pub(crate) fn parse_tree(text: &str, source: SourceId, offset: usize) -> Result<Expr, Diagnostic> {
    let tokens = lex(text, source, offset)?;
    match grammar::expression(Tokens(&tokens)) {
        Ok((rest, tree)) if rest.first().kind == TokenKind::End => Ok(tree),
        Ok((rest, _)) => Err(SyntaxError::new(rest, "an operator or the end").into_diagnostic()),
        Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(error.into_diagnostic()),
        Err(nom::Err::Incomplete(_)) => {
            Err(SyntaxError::new(Tokens(&tokens), "an expression").into_diagnostic())
        }
    }
}

/// Every name that a tree reads, in the order written.
pub(crate) fn names(tree: &Expr) -> Vec<&Path> {
    let mut names = Vec::new();
    tree.walk(&mut |part| {
        if let ExprKind::Name(path) = &part.kind {
            names.push(path);
        }
    });
    names
}

/// The diagnostic for a name that stands for nothing.
pub(crate) fn unknown_name<'a>(
    name: &str,
    span: Span,
    known: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    let known: Vec<&str> = known.into_iter().collect();
    let help = did_you_mean(name, known.iter().copied(), || match known.as_slice() {
        [] => "write a number, or the name of a setting of the model".to_owned(),
        known => format!("known names are {}", known.join(", ")),
    });
    Diagnostic::error(codes::UNKNOWN_NAME, format!("`{name}` stands for nothing here"))
        .at(span, "unknown name")
        .help(help)
}

/// The value of a tree; an absent one is an error.
pub(crate) fn evaluate(tree: &Expr, names: &Names<'_>) -> Result<Value, Diagnostic> {
    evaluate_optional(tree, names)?.ok_or_else(|| {
        Diagnostic::error(codes::ABSENT, "a value is needed here, but the condition is false")
            .at(tree.span, "absent")
            .help("say what it is otherwise: `a if condition else b`")
    })
}

/// The value of a tree, or `None` where a conditional without `else` does not hold.
pub(crate) fn evaluate_optional(
    tree: &Expr,
    names: &Names<'_>,
) -> Result<Option<Value>, Diagnostic> {
    Evaluator { names, real_division: false }.optional(tree)
}

#[derive(Clone, Copy)]
struct Evaluator<'a> {
    names: &'a Names<'a>,
    /// Inside functions that round, integers may divide with a remainder.
    real_division: bool,
}

impl Evaluator<'_> {
    fn optional(self, tree: &Expr) -> Result<Option<Value>, Diagnostic> {
        match &tree.kind {
            ExprKind::Conditional { value, condition, otherwise } => {
                if self.truth(condition)? {
                    self.optional(value)
                } else {
                    otherwise.as_ref().map_or(Ok(None), |otherwise| self.optional(otherwise))
                }
            }
            _ => self.value(tree).map(Some),
        }
    }

    fn value(self, tree: &Expr) -> Result<Value, Diagnostic> {
        match &tree.kind {
            ExprKind::Literal(value) => Ok(value.clone()),
            ExprKind::Name(path) => (self.names)(&path.text)
                .ok_or_else(|| unknown_name(&path.text, path.span, std::iter::empty())),
            ExprKind::Unary { operator: UnaryOperator::Not, operand } => {
                Ok(Value::Boolean(!self.truth(operand)?))
            }
            ExprKind::Unary { operator: UnaryOperator::Negate, operand } => {
                match self.value(operand)? {
                    Value::Integer(number) => {
                        number.checked_neg().map(Value::Integer).ok_or_else(|| overflow(tree.span))
                    }
                    Value::Float(number) => Ok(Value::Float(-number)),
                    other => Err(wrong_type(operand.span, "a number", &other)),
                }
            }
            ExprKind::Binary { operator: BinaryOperator::And, left, right } => {
                Ok(Value::Boolean(self.truth(left)? && self.truth(right)?))
            }
            ExprKind::Binary { operator: BinaryOperator::Or, left, right } => {
                Ok(Value::Boolean(self.truth(left)? || self.truth(right)?))
            }
            ExprKind::Binary { operator, left, right } => self.binary(tree, *operator, left, right),
            ExprKind::Conditional { .. } => evaluate_present(self, tree),
            ExprKind::Call(call) => self.call(tree, call),
            ExprKind::Element { list, .. } => Err(Diagnostic::error(
                codes::TYPE,
                "only settings can be read here",
            )
            .at(tree.span, format!("`{}` is a list of values", list.text))
            .help("conditions, sizes and attributes read the configuration and repeat indices")),
        }
    }

    fn truth(self, tree: &Expr) -> Result<bool, Diagnostic> {
        let value = self.value(tree)?;
        value.as_boolean().ok_or_else(|| wrong_type(tree.span, "true or false", &value))
    }

    fn number(self, tree: &Expr) -> Result<f64, Diagnostic> {
        let value = self.value(tree)?;
        value.as_number().ok_or_else(|| wrong_type(tree.span, "a number", &value))
    }

    fn binary(
        self,
        tree: &Expr,
        operator: BinaryOperator,
        left: &Expr,
        right: &Expr,
    ) -> Result<Value, Diagnostic> {
        use BinaryOperator as B;
        let (a, b) = (self.value(left)?, self.value(right)?);
        if let (B::Equal | B::NotEqual, Value::Text(_), Value::Text(_))
        | (B::Equal | B::NotEqual, Value::Boolean(_), Value::Boolean(_)) = (operator, &a, &b)
        {
            return Ok(Value::Boolean((a == b) == (operator == B::Equal)));
        }
        let Some(x) = a.as_number() else { return Err(wrong_type(left.span, "a number", &a)) };
        let Some(y) = b.as_number() else { return Err(wrong_type(right.span, "a number", &b)) };
        if matches!(operator, B::Divide | B::Remainder) && y == 0.0 {
            return Err(Diagnostic::error(codes::UNDEFINED, "division by zero")
                .at(right.span, "this is zero")
                .at(tree.span, "divided here")
                .help("divide by something that is not zero"));
        }
        let integers = a.as_integer().zip(b.as_integer());
        let result = match (operator, integers) {
            (B::Add, Some((m, n))) => m.checked_add(n).map(Value::Integer),
            (B::Subtract, Some((m, n))) => m.checked_sub(n).map(Value::Integer),
            (B::Multiply, Some((m, n))) => m.checked_mul(n).map(Value::Integer),
            (B::Divide, Some((m, n))) => match m.checked_rem(n) {
                // Only the smallest integer over -1 overflows.
                None => None,
                Some(0) => Some(Value::Integer(m / n)),
                Some(_) if self.real_division => finite(x / y),
                Some(remainder) => return Err(inexact(m, n, remainder, tree.span)),
            },
            (B::Remainder, Some((m, n))) => {
                let remainder = m.wrapping_rem(n);
                let wrong_sign = remainder != 0 && (remainder < 0) != (n < 0);
                Some(Value::Integer(if wrong_sign { remainder + n } else { remainder }))
            }
            (B::Remainder, None) => {
                let wrong =
                    if a.as_integer().is_none() { (left.span, &a) } else { (right.span, &b) };
                return Err(wrong_type(wrong.0, "an integer", wrong.1));
            }
            (B::Add, None) => finite(x + y),
            (B::Subtract, None) => finite(x - y),
            (B::Multiply, None) => finite(x * y),
            (B::Divide, None) => finite(x / y),
            (compare, integers) => {
                let order = integers.map_or_else(|| x.partial_cmp(&y), |(m, n)| Some(m.cmp(&n)));
                order.map(|order| {
                    Value::Boolean(match compare {
                        B::Equal => order.is_eq(),
                        B::NotEqual => order.is_ne(),
                        B::Less => order.is_lt(),
                        B::LessOrEqual => order.is_le(),
                        B::Greater => order.is_gt(),
                        _ => order.is_ge(),
                    })
                })
            }
        };
        result.ok_or_else(|| overflow(tree.span))
    }

    fn call(self, tree: &Expr, call: &Call) -> Result<Value, Diagnostic> {
        let Some((function, arity)) =
            CONSTANT_FUNCTIONS.iter().find(|(name, _)| *name == call.name.text)
        else {
            return Err(unknown_function(call, CONSTANT_FUNCTIONS.map(|(name, _)| name)));
        };
        if let Some(label) = &call.label {
            return Err(Diagnostic::error(
                codes::ARGUMENTS,
                format!("a function of numbers has no label, but `{}` is one", label.text),
            )
            .at(label.span, "label")
            .help("take the label away: only operations and blocks have paths"));
        }
        if let Some(name) = call.arguments.iter().find_map(|argument| argument.name.as_ref()) {
            return Err(Diagnostic::error(
                codes::ARGUMENTS,
                format!("`{function}` has no argument `{}`", name.text),
            )
            .at(name.span, "named argument")
            .help("write the values alone, in order"));
        }
        let arguments: Vec<&Expr> = call.arguments.iter().map(|argument| &argument.value).collect();
        if !arity.contains(&arguments.len()) {
            let wanted = match (arity.start(), arity.end()) {
                (1, 1) => "one value".to_owned(),
                (2, 2) => "two values".to_owned(),
                (from, _) => format!("{from} values or more"),
            };
            return Err(Diagnostic::error(
                codes::ARGUMENTS,
                format!("`{function}` takes {wanted}, not {}", arguments.len()),
            )
            .at(tree.span, "called here")
            .help(format!("give it {wanted}")));
        }
        let real = Evaluator { real_division: true, ..self };
        let result = match *function {
            "min" | "max" => return self.extreme(*function == "max", &arguments),
            "sqrt" => {
                let x = real.number(arguments[0])?;
                if x < 0.0 {
                    return Err(Diagnostic::error(
                        codes::UNDEFINED,
                        format!("the square root of {x} is not a number"),
                    )
                    .at(arguments[0].span, "negative")
                    .help("take the root of something that is not negative"));
                }
                finite(x.sqrt())
            }
            "exp" => finite(libm::exp(real.number(arguments[0])?)),
            "log" => {
                let x = real.number(arguments[0])?;
                if x <= 0.0 {
                    return Err(not_positive("the logarithm", x, arguments[0].span));
                }
                finite(libm::log(x))
            }
            "pow" => {
                let (x, exponent) = (real.number(arguments[0])?, real.number(arguments[1])?);
                if x <= 0.0 {
                    return Err(not_positive("a power", x, arguments[0].span));
                }
                finite(libm::pow(x, exponent))
            }
            "floor" | "ceil" => match real.value(arguments[0])? {
                Value::Integer(number) => Some(Value::Integer(number)),
                other => {
                    let x = other
                        .as_number()
                        .ok_or_else(|| wrong_type(arguments[0].span, "a number", &other))?;
                    integer(if *function == "floor" { x.floor() } else { x.ceil() })
                }
            },
            _ => {
                let value = real.value(arguments[0])?;
                let multiple = self.value(arguments[1])?;
                let multiple =
                    multiple.as_integer().filter(|multiple| *multiple > 0).ok_or_else(|| {
                        Diagnostic::error(
                            codes::TYPE,
                            format!("cannot round up to a multiple of {multiple}"),
                        )
                        .at(arguments[1].span, "must be a positive integer")
                        .help("round up to a positive integer")
                    })?;
                let whole = match value {
                    Value::Integer(number) => Some(number),
                    ref other => {
                        let x = other
                            .as_number()
                            .ok_or_else(|| wrong_type(arguments[0].span, "a number", other))?;
                        integer(x.ceil()).and_then(|value| value.as_integer())
                    }
                };
                whole
                    .and_then(|whole| {
                        whole.checked_add((multiple - whole.rem_euclid(multiple)) % multiple)
                    })
                    .map(Value::Integer)
            }
        };
        result.ok_or_else(|| overflow(tree.span))
    }

    /// The smallest or largest; an integer if all are.
    fn extreme(self, largest: bool, arguments: &[&Expr]) -> Result<Value, Diagnostic> {
        let values = arguments
            .iter()
            .map(|tree| Ok((*tree, self.value(tree)?)))
            .collect::<Result<Vec<_>, _>>()?;
        let integers: Option<Vec<i64>> =
            values.iter().map(|(_, value)| value.as_integer()).collect();
        if let Some(integers) = integers {
            let best = if largest { integers.iter().max() } else { integers.iter().min() };
            return Ok(Value::Integer(*best.expect("at least two arguments were counted")));
        }
        let mut best: Option<f64> = None;
        for (tree, value) in &values {
            let x = value.as_number().ok_or_else(|| wrong_type(tree.span, "a number", value))?;
            best = Some(best.map_or(x, |best| if largest { best.max(x) } else { best.min(x) }));
        }
        Ok(Value::Float(best.expect("at least two arguments were counted")))
    }
}

/// A conditional inside a larger expression must have a value.
fn evaluate_present(evaluator: Evaluator<'_>, tree: &Expr) -> Result<Value, Diagnostic> {
    evaluator.optional(tree)?.ok_or_else(|| {
        Diagnostic::error(codes::ABSENT, "a value is needed here, but the condition is false")
            .at(tree.span, "absent")
            .help("say what it is otherwise: `a if condition else b`")
    })
}

fn not_positive(what: &str, x: f64, span: Span) -> Diagnostic {
    Diagnostic::error(codes::UNDEFINED, format!("{what} of {x} is not defined"))
        .at(span, "not above 0")
        .help("take it of something above 0")
}

fn finite(number: f64) -> Option<Value> {
    number.is_finite().then_some(Value::Float(number))
}

/// A whole float as an integer, if 53 bits hold it exactly.
fn integer(number: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.abs() <= EXACT).then_some(Value::Integer(number as i64))
}

fn inexact(m: i64, n: i64, remainder: i64, span: Span) -> Diagnostic {
    Diagnostic::error(
        codes::INEXACT_DIVISION,
        format!("{m} / {n} leaves a remainder of {}", remainder.abs()),
    )
    .at(span, format!("{m} does not divide by {n}"))
    .help("choose numbers that divide, or say how to round: floor(a / b), ceil(a / b), round_up(a / b, multiple)")
}

fn overflow(span: Span) -> Diagnostic {
    Diagnostic::error(codes::OVERFLOW, "the result is too large")
        .at(span, "does not fit 64 bits")
        .help("use smaller numbers")
}

fn wrong_type(span: Span, wanted: &str, found: &Value) -> Diagnostic {
    Diagnostic::error(codes::TYPE, format!("{wanted} is needed here, not {}", found.type_name()))
        .at(span, format!("this is {found}"))
        .help(format!("write {wanted}"))
}

/// The diagnostic for a call of something unknown.
pub(crate) fn unknown_function<'a>(
    call: &Call,
    known: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    let known: Vec<&str> = known.into_iter().collect();
    let name = &call.name.text;
    let all = || format!("known are {}", known.join(", "));
    Diagnostic::error(codes::UNKNOWN_FUNCTION, format!("there is no `{name}` to call here"))
        .at(call.name.span, "unknown")
        .help(did_you_mean(name, known.iter().copied(), all))
}
