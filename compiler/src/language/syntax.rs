//! The syntax tree of the language: expressions and the items of a body, every part with its span.
//!
//! Owns the shape of what was written. Must not know what names refer to or which operations exist.

use crate::diagnostics::Span;
use crate::language::expression::Value;

/// A word and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The word.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// One or more words joined by dots: the label of a call, or a reference to a name or label.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// The words joined by dots.
    pub text: String,
    /// From the first word to the last.
    pub span: Span,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What kind of expression, with its parts.
    pub kind: ExprKind,
    /// Its whole extent, brackets included.
    pub span: Span,
}

/// Kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number, truth value or text.
    Literal(Value),
    /// A name, or a dotted label.
    Name(Path),
    /// `-x`, `not x`.
    Unary {
        /// Which.
        operator: UnaryOperator,
        /// Applied to.
        operand: Box<Expr>,
    },
    /// `a + b`, `a == b`, `a and b`.
    Binary {
        /// Which.
        operator: BinaryOperator,
        /// Left of the operator.
        left: Box<Expr>,
        /// Right of the operator.
        right: Box<Expr>,
    },
    /// `a if c else b`; without `else` the value is absent when `c` is false.
    Conditional {
        /// The value when the condition holds.
        value: Box<Expr>,
        /// Reads only the configuration and repeat indices.
        condition: Box<Expr>,
        /// The value when it does not hold.
        otherwise: Option<Box<Expr>>,
    },
    /// `label: name(arguments)`.
    Call(Call),
    /// `list[index]`: a value that was kept under a number.
    Element {
        /// Name of the list.
        list: Name,
        /// Reads only the configuration and repeat indices.
        index: Box<Expr>,
    },
}

/// A call of an operation, a block or a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The path segments it adds, if any.
    pub label: Option<Path>,
    /// What is called.
    pub name: Name,
    /// In the order written.
    pub arguments: Vec<Argument>,
}

/// An argument of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// `name =`, if written.
    pub name: Option<Name>,
    /// The value.
    pub value: Expr,
}

impl Argument {
    /// Name and value together.
    pub fn span(&self) -> Span {
        self.name.as_ref().map_or(self.value.span, |name| name.span.to(self.value.span))
    }
}

/// Operators before an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOperator {
    /// `-x`.
    Negate,
    /// `not x`.
    Not,
}

/// Operators between two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOperator {
    /// `+`.
    Add,
    /// `-`.
    Subtract,
    /// `*`.
    Multiply,
    /// `/`, exact between integers.
    Divide,
    /// `%`, between integers; the result has the sign of the divisor.
    Remainder,
    /// `==`.
    Equal,
    /// `!=`.
    NotEqual,
    /// `<`.
    Less,
    /// `<=`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
    /// `and`; the right side is not evaluated when the left is false.
    And,
    /// `or`; the right side is not evaluated when the left is true.
    Or,
}

impl BinaryOperator {
    /// As written.
    pub fn text(self) -> &'static str {
        match self {
            BinaryOperator::Add => "+",
            BinaryOperator::Subtract => "-",
            BinaryOperator::Multiply => "*",
            BinaryOperator::Divide => "/",
            BinaryOperator::Remainder => "%",
            BinaryOperator::Equal => "==",
            BinaryOperator::NotEqual => "!=",
            BinaryOperator::Less => "<",
            BinaryOperator::LessOrEqual => "<=",
            BinaryOperator::Greater => ">",
            BinaryOperator::GreaterOrEqual => ">=",
            BinaryOperator::And => "and",
            BinaryOperator::Or => "or",
        }
    }
}

impl Expr {
    /// Calls `visit` for this expression and every one inside it, outside first.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        visit(self);
        match &self.kind {
            ExprKind::Literal(_) | ExprKind::Name(_) => {}
            ExprKind::Unary { operand, .. } => operand.walk(visit),
            ExprKind::Binary { left, right, .. } => {
                left.walk(visit);
                right.walk(visit);
            }
            ExprKind::Conditional { value, condition, otherwise } => {
                value.walk(visit);
                condition.walk(visit);
                if let Some(otherwise) = otherwise {
                    otherwise.walk(visit);
                }
            }
            ExprKind::Call(call) => {
                call.arguments.iter().for_each(|argument| argument.value.walk(visit))
            }
            ExprKind::Element { index, .. } => index.walk(visit),
        }
    }
}

/// Everything in a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// `use … for …`.
    pub uses: Vec<Use>,
    /// `init name() = …`.
    pub inits: Vec<InitItem>,
    /// `model(…) {…}`.
    pub model: Model,
    /// `block name(…) {…}`, in the order written.
    pub blocks: Vec<Block>,
}

/// `use normal(0, 0.02) for linear, embedding`: how parameters of these kinds begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// The distribution.
    pub distribution: Expr,
    /// Operations, or `bias`.
    pub kinds: Vec<Name>,
}

/// `init residual() = normal(…)`: a distribution under a name.
#[derive(Clone, Debug, PartialEq)]
pub struct InitItem {
    /// The name.
    pub name: Name,
    /// The distribution.
    pub distribution: Expr,
}

/// The model: its inputs and what it computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The word `model`.
    pub span: Span,
    /// Inputs, in the order written.
    pub inputs: Vec<Input>,
    /// What it computes.
    pub statements: Vec<Statement>,
}

impl Model {
    /// The name of the axis along which the inputs have their positions. In the model it is a number.
    pub(crate) fn positions_axis(&self) -> Option<&Name> {
        self.inputs.first()?.axes.get(1)
    }
}

/// `tokens: ids[batch, seq]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The name.
    pub name: Name,
    /// `ids`, `counts`, `rows`.
    pub kind: Name,
    /// Names of its axes.
    pub axes: Vec<Name>,
}

/// A function of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The name it is called by.
    pub name: Name,
    /// Names of its arguments.
    pub parameters: Vec<Name>,
    /// What it computes.
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `x = …`; binds the name anew.
    Assign {
        /// The name.
        name: Name,
        /// What it stands for from here on.
        value: Expr,
    },
    /// `list[index] = …`; keeps a value under a number, for the rest of the model or block.
    Keep {
        /// Name of the list.
        list: Name,
        /// Reads only the configuration and repeat indices.
        index: Expr,
        /// What is kept.
        value: Expr,
    },
    /// `repeat layers[n] as i {…}`.
    Repeat(Repeat),
    /// `return …`.
    Return {
        /// The word `return`.
        span: Span,
        /// The result.
        value: Expr,
    },
}

/// A scope that is run `count` times, each under its own index.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeat {
    /// Path segment before the index.
    pub label: Path,
    /// How often; reads only the configuration.
    pub count: Expr,
    /// Whether all turns have the parameters of the first.
    pub shared: bool,
    /// The name of the index inside, if wanted.
    pub index: Option<Name>,
    /// What is repeated.
    pub statements: Vec<Statement>,
}
