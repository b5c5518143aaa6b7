//! The grammar of expressions, shared by configuration, activations and bodies.
//!
//! Precedence, loosest first: `a if c else b`; `or`; `and`; `not`; comparison (not chained); `+ -`; `* / %`; unary `-`;
//! a label binds tighter than any operator. Owns syntax only: which names and calls make sense where is decided by
//! those who read the tree.

use nom::Parser;
use nom::branch::alt;
use nom::combinator::{cut, opt};
use nom::multi::many0;
use nom::sequence::preceded;

use crate::language::expression::Value;
use crate::language::lexer::TokenKind;
use crate::language::syntax::{
    Argument, BinaryOperator, Call, Expr, ExprKind, Name, Path, UnaryOperator,
};
use crate::language::tokens::{Parsed, SyntaxError, Tokens, keyword, name, symbol};

/// Brackets and operators before an operand may not nest deeper than this, so that no text exhausts the stack.
const MAX_DEPTH: usize = 32;

/// Operators of one precedence in a row.
const MAX_CHAIN: usize = 64;

/// Parts inside each other: those who read the tree recurse as deep as it is.
const MAX_TREE_DEPTH: usize = 256;

/// An expression.
pub(crate) fn expression(tokens: Tokens<'_>) -> Parsed<'_, Expr> {
    let (rest, tree) = conditional(tokens, 0)?;
    if depth_of(&tree) > MAX_TREE_DEPTH {
        let expected = "an expression of fewer parts: assign some of them to names first";
        return Err(nom::Err::Failure(SyntaxError::new(tokens, expected)));
    }
    Ok((rest, tree))
}

fn depth_of(tree: &Expr) -> usize {
    1 + match &tree.kind {
        ExprKind::Literal(_) | ExprKind::Name(_) => 0,
        ExprKind::Unary { operand, .. } => depth_of(operand),
        ExprKind::Binary { left, right, .. } => depth_of(left).max(depth_of(right)),
        ExprKind::Conditional { value, condition, otherwise } => {
            let otherwise = otherwise.as_deref().map_or(0, depth_of);
            depth_of(value).max(depth_of(condition)).max(otherwise)
        }
        ExprKind::Call(call) => {
            call.arguments.iter().map(|a| depth_of(&a.value)).max().unwrap_or(0)
        }
        ExprKind::Element { index, .. } => depth_of(index),
    }
}

fn conditional(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    if depth > MAX_DEPTH {
        return Err(nom::Err::Failure(SyntaxError::new(
            tokens,
            "an expression with fewer brackets inside each other",
        )));
    }
    let (rest, value) = disjunction(tokens, depth)?;
    let (rest, Some(_)) = opt(keyword("if", "`if`")).parse(rest)? else { return Ok((rest, value)) };
    let (rest, condition) = cut(|tokens| disjunction(tokens, depth)).parse(rest)?;
    let (rest, otherwise) =
        opt(preceded(keyword("else", "`else`"), cut(|tokens| conditional(tokens, depth + 1))))
            .parse(rest)?;
    let end = otherwise.as_ref().map_or(condition.span, |otherwise| otherwise.span);
    let span = value.span.to(end);
    let kind = ExprKind::Conditional {
        value: Box::new(value),
        condition: Box::new(condition),
        otherwise: otherwise.map(Box::new),
    };
    Ok((rest, Expr { kind, span }))
}

fn binary(operator: BinaryOperator, left: Expr, right: Expr) -> Expr {
    let span = left.span.to(right.span);
    Expr { kind: ExprKind::Binary { operator, left: Box::new(left), right: Box::new(right) }, span }
}

/// Operands with operators between them, which bind to the left.
fn chain<'a>(
    tokens: Tokens<'a>,
    operator: impl Parser<Tokens<'a>, Output = BinaryOperator, Error = SyntaxError>,
    mut operand: impl FnMut(Tokens<'a>) -> Parsed<'a, Expr>,
) -> Parsed<'a, Expr> {
    let (rest, first) = operand(tokens)?;
    let (rest, others) = many0((operator, cut(operand))).parse(rest)?;
    if others.len() > MAX_CHAIN {
        let expected = "an expression of fewer operators: assign parts of it to names first";
        return Err(nom::Err::Failure(SyntaxError::new(tokens, expected)));
    }
    Ok((
        rest,
        others.into_iter().fold(first, |left, (operator, right)| binary(operator, left, right)),
    ))
}

fn disjunction(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let operator = keyword("or", "an operator").map(|_| BinaryOperator::Or);
    chain(tokens, operator, |tokens| conjunction(tokens, depth))
}

fn conjunction(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let operator = keyword("and", "an operator").map(|_| BinaryOperator::And);
    chain(tokens, operator, |tokens| negation(tokens, depth))
}

fn negation(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let (rest, not) = opt(keyword("not", "`not`")).parse(tokens)?;
    let Some(start) = not else { return comparison(rest, depth) };
    if depth > MAX_DEPTH {
        return Err(nom::Err::Failure(SyntaxError::new(tokens, "fewer `not` after each other")));
    }
    let (rest, operand) = cut(|tokens| negation(tokens, depth + 1)).parse(rest)?;
    let span = start.to(operand.span);
    Ok((
        rest,
        Expr {
            kind: ExprKind::Unary { operator: UnaryOperator::Not, operand: Box::new(operand) },
            span,
        },
    ))
}

/// One of the operators of a precedence level.
fn one_operator<'a>(
    operators: &'static [BinaryOperator],
) -> impl Parser<Tokens<'a>, Output = BinaryOperator, Error = SyntaxError> {
    move |tokens: Tokens<'a>| {
        let found = match &tokens.first().kind {
            TokenKind::Symbol(found) => operators.iter().find(|operator| operator.text() == *found),
            _ => None,
        };
        match found {
            Some(operator) => Ok((tokens.advance(), *operator)),
            None => Err(nom::Err::Error(SyntaxError::new(tokens, "an operator"))),
        }
    }
}

fn comparison(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    use BinaryOperator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let operators = &[Equal, NotEqual, LessOrEqual, GreaterOrEqual, Less, Greater];
    let (rest, left) = sum(tokens, depth)?;
    let (rest, Some(operator)) = opt(one_operator(operators)).parse(rest)? else {
        return Ok((rest, left));
    };
    let (rest, right) = cut(|tokens| sum(tokens, depth)).parse(rest)?;
    Ok((rest, binary(operator, left, right)))
}

fn sum(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let operators = &[BinaryOperator::Add, BinaryOperator::Subtract];
    chain(tokens, one_operator(operators), |tokens| product(tokens, depth))
}

fn product(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let operators = &[BinaryOperator::Multiply, BinaryOperator::Divide, BinaryOperator::Remainder];
    chain(tokens, one_operator(operators), |tokens| sign(tokens, depth))
}

fn sign(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let (rest, minus) = opt(symbol("-", "`-`")).parse(tokens)?;
    let Some(start) = minus else { return operand(rest, depth) };
    if depth > MAX_DEPTH {
        return Err(nom::Err::Failure(SyntaxError::new(tokens, "fewer `-` after each other")));
    }
    let (rest, operand) = cut(|tokens| sign(tokens, depth + 1)).parse(rest)?;
    let span = start.to(operand.span);
    Ok((
        rest,
        Expr {
            kind: ExprKind::Unary { operator: UnaryOperator::Negate, operand: Box::new(operand) },
            span,
        },
    ))
}

fn operand(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    alt((literal, |tokens| brackets(tokens, depth), |tokens| named(tokens, depth))).parse(tokens)
}

fn literal(tokens: Tokens<'_>) -> Parsed<'_, Expr> {
    let token = tokens.first();
    let value = match &token.kind {
        TokenKind::Integer(number) => Value::Integer(*number),
        TokenKind::Float(number) => Value::Float(*number),
        TokenKind::Text(text) => Value::Text(text.clone()),
        TokenKind::Keyword("true") => Value::Boolean(true),
        TokenKind::Keyword("false") => Value::Boolean(false),
        _ => return Err(nom::Err::Error(SyntaxError::new(tokens, "a value"))),
    };
    Ok((tokens.advance(), Expr { kind: ExprKind::Literal(value), span: token.span }))
}

fn brackets(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let (rest, open) = symbol("(", "a value").parse(tokens)?;
    let (rest, inner) = cut(|tokens| conditional(tokens, depth + 1)).parse(rest)?;
    let (rest, close) = cut(symbol(")", "`)`")).parse(rest)?;
    Ok((rest, Expr { kind: inner.kind, span: open.to(close) }))
}

/// Words joined by dots.
pub(crate) fn path<'a>(
    expected: &'static str,
) -> impl Parser<Tokens<'a>, Output = Path, Error = SyntaxError> {
    move |tokens: Tokens<'a>| {
        let (rest, first) = name(expected).parse(tokens)?;
        let (rest, others) =
            many0(preceded(symbol(".", "`.`"), cut(name("a name after the dot")))).parse(rest)?;
        let path =
            others.into_iter().fold(Path { text: first.text, span: first.span }, |path, next| {
                Path { text: format!("{}.{}", path.text, next.text), span: path.span.to(next.span) }
            });
        Ok((rest, path))
    }
}

/// A name, a dotted label, an element of a list, a call, or a labelled call.
fn named(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Expr> {
    let (rest, first) = path("a value").parse(tokens)?;
    let (rest, colon) = opt(symbol(":", "`:`")).parse(rest)?;
    if colon.is_some() {
        let (rest, called) =
            cut(name("the operation or block that the label names")).parse(rest)?;
        let (rest, (arguments, close)) = cut(|tokens| arguments(tokens, depth)).parse(rest)?;
        let span = first.span.to(close);
        return Ok((
            rest,
            Expr {
                kind: ExprKind::Call(Call { label: Some(first), name: called, arguments }),
                span,
            },
        ));
    }
    let opens = matches!(rest.first().kind, TokenKind::Symbol("("));
    if opens && !first.text.contains('.') {
        let (rest, (arguments, close)) = arguments(rest, depth)?;
        let span = first.span.to(close);
        let called = Name { text: first.text, span: first.span };
        return Ok((
            rest,
            Expr { kind: ExprKind::Call(Call { label: None, name: called, arguments }), span },
        ));
    }
    if matches!(rest.first().kind, TokenKind::Symbol("[")) && !first.text.contains('.') {
        let list = Name { text: first.text, span: first.span };
        let (rest, (index, close)) = element(rest, depth)?;
        let span = list.span.to(close);
        return Ok((rest, Expr { kind: ExprKind::Element { list, index: Box::new(index) }, span }));
    }
    let span = first.span;
    Ok((rest, Expr { kind: ExprKind::Name(first), span }))
}

/// `[index]` and the span of the closing bracket.
pub(crate) fn element(
    tokens: Tokens<'_>,
    depth: usize,
) -> Parsed<'_, (Expr, crate::diagnostics::Span)> {
    let (rest, _) = symbol("[", "`[`").parse(tokens)?;
    let (rest, index) = cut(|tokens| conditional(tokens, depth + 1)).parse(rest)?;
    let (rest, close) = cut(symbol("]", "`]`")).parse(rest)?;
    Ok((rest, (index, close)))
}

/// `(a, name = b)` and the span of the closing bracket.
fn arguments(
    tokens: Tokens<'_>,
    depth: usize,
) -> Parsed<'_, (Vec<Argument>, crate::diagnostics::Span)> {
    let (mut rest, _) = symbol("(", "`(`").parse(tokens)?;
    let mut arguments = Vec::new();
    loop {
        let (after, close) = opt(symbol(")", "`)`")).parse(rest)?;
        if let Some(close) = close {
            return Ok((after, (arguments, close)));
        }
        let (after, argument) = cut(|tokens| argument(tokens, depth)).parse(rest)?;
        arguments.push(argument);
        let (after, comma) = opt(symbol(",", "`,`")).parse(after)?;
        rest = after;
        if comma.is_none() {
            let (after, close) = cut(alt((symbol(")", "`)`"), symbol(",", "`,`")))).parse(rest)?;
            return Ok((after, (arguments, close)));
        }
    }
}

fn argument(tokens: Tokens<'_>, depth: usize) -> Parsed<'_, Argument> {
    let (rest, name) = opt((name("a name"), symbol("=", "`=`"))).parse(tokens)?;
    let (rest, value) = cut(|tokens| conditional(tokens, depth + 1)).parse(rest)?;
    Ok((rest, Argument { name: name.map(|(name, _)| name), value }))
}
