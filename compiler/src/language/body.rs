//! The grammar of a body: `use`, `init`, `model`, `block` and the statements inside them.
//!
//! After an error the parser goes on at the next statement or item, so that a user sees several mistakes at once. Owns
//! syntax only: names, calls and labels are judged by [`crate::language::check`].

use nom::Parser;
use nom::combinator::{cut, opt};
use nom::multi::separated_list1;
use nom::sequence::preceded;

use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Span};
use crate::language::codes;
use crate::language::grammar::{element, expression, path};
use crate::language::lexer::{Token, TokenKind, lex};
use crate::language::syntax::{Block, Body, InitItem, Input, Model, Name, Repeat, Statement, Use};
use crate::language::tokens::{Parsed, SyntaxError, Tokens, keyword, name, symbol};

/// Scopes may not nest deeper than this, so that no text exhausts the stack.
const MAX_DEPTH: usize = 32;

/// The words that items begin with.
const ITEMS: [&str; 4] = ["use", "init", "model", "block"];

/// An item of a body.
enum Item {
    Use(Use),
    Init(InitItem),
    Model(Model),
    Block(Block),
}

/// Reads a body that stands at byte `offset` of `source`.
///
/// # Errors
/// Every syntax error found, a missing or second `model`.
pub(crate) fn parse(text: &str, source: SourceId, offset: usize) -> Result<Body, Diagnostics> {
    let tokens = lex(text, source, offset)?;
    let mut errors = Vec::new();
    let mut items = Vec::new();
    let mut rest = Tokens(&tokens);
    while rest.first().kind != TokenKind::End {
        match item(rest, &mut errors) {
            Ok((after, item)) => {
                items.push(item);
                rest = after;
            }
            Err(error) => {
                errors.push(unwrap(error, rest));
                rest = skip_to_item(rest.advance());
            }
        }
    }
    let mut diagnostics = Diagnostics::default();
    errors.into_iter().for_each(|error| diagnostics.push(error.into_diagnostic()));
    let had_syntax_errors = diagnostics.has_errors();
    let (mut uses, mut inits, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    let mut model: Option<Model> = None;
    for item in items {
        match item {
            Item::Use(item) => uses.push(item),
            Item::Init(item) => inits.push(item),
            Item::Block(item) => blocks.push(item),
            Item::Model(item) => match &model {
                Some(first) => diagnostics.push(
                    Diagnostic::error(codes::MODEL, "a body has one model, not two")
                        .at(item.span, "second model")
                        .at(first.span, "first model")
                        .help("make one of them a block"),
                ),
                None => model = Some(item),
            },
        }
    }
    match model {
        Some(model) if !diagnostics.has_errors() => Ok(Body { uses, inits, model, blocks }),
        Some(_) => Err(diagnostics),
        // The error in the model's head says enough.
        None if had_syntax_errors => Err(diagnostics),
        None => {
            let end = Span::new(source, offset + text.len()..offset + text.len());
            diagnostics.push(
                Diagnostic::error(codes::MODEL, "a body needs a model")
                    .at(end, "no model up to here")
                    .help("write `model(tokens: ids[batch, seq]) { … }`"),
            );
            Err(diagnostics)
        }
    }
}

/// The error inside nom's.
fn unwrap(error: nom::Err<SyntaxError>, tokens: Tokens<'_>) -> SyntaxError {
    match error {
        nom::Err::Error(error) | nom::Err::Failure(error) => error,
        nom::Err::Incomplete(_) => SyntaxError::new(tokens, "more text"),
    }
}

/// The next `use`, `init`, `model` or `block` at the beginning of a line, or the end.
fn skip_to_item(mut tokens: Tokens<'_>) -> Tokens<'_> {
    loop {
        if tokens.first().kind == TokenKind::End || begins_item(tokens.0) {
            return tokens;
        }
        tokens = tokens.advance();
    }
}

/// The next line that looks like a statement, the closing brace of the scope, or an item, whichever comes first.
fn skip_to_statement(mut tokens: Tokens<'_>) -> Tokens<'_> {
    let mut depth = 0usize;
    loop {
        let token = tokens.first();
        match &token.kind {
            TokenKind::End => return tokens,
            _ if begins_item(tokens.0) => return tokens,
            TokenKind::Symbol("}") if depth == 0 => return tokens,
            TokenKind::Symbol("}") => depth -= 1,
            TokenKind::Symbol("{") => depth += 1,
            _ if depth == 0 && token.starts_line && begins_statement(tokens.0) => return tokens,
            _ => {}
        }
        tokens = tokens.advance();
    }
}

/// Whether a line begins with the word of an item and not with an assignment or argument of that name.
fn begins_item(tokens: &[Token]) -> bool {
    let word = matches!(&tokens[0].kind, TokenKind::Name(word) if ITEMS.contains(&word.as_str()));
    word && tokens[0].starts_line && !matches!(tokens[1].kind, TokenKind::Symbol("="))
}

fn begins_statement(tokens: &[Token]) -> bool {
    match &tokens[0].kind {
        TokenKind::Keyword("repeat" | "return") => true,
        TokenKind::Name(_) => {
            matches!(tokens.get(1).map(|token| &token.kind), Some(TokenKind::Symbol("=" | "[")))
        }
        _ => false,
    }
}

fn item<'a>(tokens: Tokens<'a>, errors: &mut Vec<SyntaxError>) -> Parsed<'a, Item> {
    let word = match &tokens.first().kind {
        TokenKind::Name(word) => word.as_str(),
        _ => "",
    };
    match word {
        "use" => {
            let (rest, distribution) = cut(expression).parse(tokens.advance())?;
            let (rest, _) = cut(keyword("for", "`for`")).parse(rest)?;
            let kind = name("an operation, or `bias`");
            let (rest, kinds) = cut(separated_list1(symbol(",", "`,`"), kind)).parse(rest)?;
            Ok((rest, Item::Use(Use { distribution, kinds })))
        }
        "init" => {
            let (rest, name) = cut(name("a name for the distribution")).parse(tokens.advance())?;
            let brackets = (symbol("(", "`()`"), symbol(")", "`)`"));
            let (rest, _) = cut(brackets).parse(rest)?;
            let (rest, distribution) = cut(preceded(symbol("=", "`=`"), expression)).parse(rest)?;
            Ok((rest, Item::Init(InitItem { name, distribution })))
        }
        "model" => {
            let (rest, inputs) = cut(list("(", "`(`", ")", input)).parse(tokens.advance())?;
            let (rest, statements) = scope(rest, errors, 0)?;
            Ok((rest, Item::Model(Model { span: tokens.first().span, inputs, statements })))
        }
        "block" => {
            let (rest, block) = cut(name("a name for the block")).parse(tokens.advance())?;
            let (rest, parameters) =
                cut(list("(", "`(`", ")", |tokens| name("a name for the argument").parse(tokens)))
                    .parse(rest)?;
            let (rest, statements) = scope(rest, errors, 0)?;
            Ok((rest, Item::Block(Block { name: block, parameters, statements })))
        }
        _ => Err(nom::Err::Failure(SyntaxError::new(tokens, "`use`, `init`, `model` or `block`"))),
    }
}

/// Parts between brackets, separated by commas.
fn list<'a, T>(
    open: &'static str,
    open_expected: &'static str,
    close: &'static str,
    mut part: impl FnMut(Tokens<'a>) -> Parsed<'a, T>,
) -> impl FnMut(Tokens<'a>) -> Parsed<'a, Vec<T>> {
    move |tokens| {
        let (mut rest, _) = symbol(open, open_expected).parse(tokens)?;
        let mut parts = Vec::new();
        loop {
            let closing = if parts.is_empty() { "a name" } else { "`,` or a closing bracket" };
            if let (after, Some(_)) = opt(symbol(close, closing)).parse(rest)? {
                return Ok((after, parts));
            }
            if !parts.is_empty() {
                (rest, _) = symbol(",", closing).parse(rest)?;
            }
            let (after, next) = part(rest)?;
            parts.push(next);
            rest = after;
        }
    }
}

fn input(tokens: Tokens<'_>) -> Parsed<'_, Input> {
    let (rest, input) = name("a name for the input").parse(tokens)?;
    let (rest, kind) = preceded(symbol(":", "`:`"), name("`ids`")).parse(rest)?;
    let (rest, axes) =
        list("[", "`[`", "]", |tokens| name("a name for the axis").parse(tokens))(rest)?;
    Ok((rest, Input { name: input, kind, axes }))
}

/// Statements between braces. Errors inside are collected; only a missing brace fails.
fn scope<'a>(
    tokens: Tokens<'a>,
    errors: &mut Vec<SyntaxError>,
    depth: usize,
) -> Parsed<'a, Vec<Statement>> {
    let (mut rest, _) = cut(symbol("{", "`{`")).parse(tokens)?;
    let mut statements = Vec::new();
    loop {
        let token = rest.first();
        match &token.kind {
            TokenKind::Symbol("}") => return Ok((rest.advance(), statements)),
            TokenKind::Symbol(";") => {
                rest = rest.advance();
                continue;
            }
            TokenKind::End => return Err(nom::Err::Failure(SyntaxError::new(rest, "`}`"))),
            _ if begins_item(rest.0) => {
                return Err(nom::Err::Failure(SyntaxError::new(
                    rest,
                    "`}` before the next part of the body",
                )));
            }
            _ => {}
        }
        match statement(rest, errors, depth) {
            Ok((after, statement)) => {
                statements.push(statement);
                rest = after;
            }
            Err(error) => {
                errors.push(unwrap(error, rest));
                rest = skip_to_statement(rest.advance());
            }
        }
    }
}

fn statement<'a>(
    tokens: Tokens<'a>,
    errors: &mut Vec<SyntaxError>,
    depth: usize,
) -> Parsed<'a, Statement> {
    let token = tokens.first();
    match &token.kind {
        TokenKind::Keyword("return") => {
            let (rest, value) = cut(expression).parse(tokens.advance())?;
            Ok((rest, Statement::Return { span: token.span, value }))
        }
        TokenKind::Keyword("repeat") if depth >= MAX_DEPTH => {
            Err(nom::Err::Failure(SyntaxError::new(tokens, "fewer scopes inside each other")))
        }
        TokenKind::Keyword("repeat") => {
            let (rest, label) = cut(path("a label")).parse(tokens.advance())?;
            let (rest, _) = cut(symbol("[", "`[`")).parse(rest)?;
            let (rest, count) = cut(expression).parse(rest)?;
            let (rest, _) = cut(symbol("]", "`]`")).parse(rest)?;
            let shared = matches!(&rest.first().kind, TokenKind::Name(word) if word == "shared");
            let rest = if shared { rest.advance() } else { rest };
            let (rest, index) =
                opt(preceded(keyword("as", "`as` or `{`"), cut(name("a name for the index"))))
                    .parse(rest)?;
            let (rest, statements) = scope(rest, errors, depth + 1)?;
            Ok((rest, Statement::Repeat(Repeat { label, count, shared, index, statements })))
        }
        TokenKind::Name(text) => {
            let name = Name { text: text.clone(), span: token.span };
            let rest = tokens.advance();
            let (rest, index) = match &rest.first().kind {
                TokenKind::Symbol("[") => {
                    let (rest, (index, _)) = element(rest, 0)?;
                    (rest, Some(index))
                }
                _ => (rest, None),
            };
            let (rest, _) = cut(symbol("=", "`=`")).parse(rest)?;
            let (rest, value) = cut(expression).parse(rest)?;
            let statement = match index {
                Some(index) => Statement::Keep { list: name, index, value },
                None => Statement::Assign { name, value },
            };
            Ok((rest, statement))
        }
        _ => Err(nom::Err::Failure(SyntaxError::new(
            tokens,
            "`name = …`, `repeat`, `return` or `}`",
        ))),
    }
}
