//! Text to tokens, for everything the project writes in its own notation: expressions, activations, bodies.
//!
//! Owns the spelling of names, numbers, texts, symbols and comments, and the spans of all that follows. Must not know
//! what the tokens mean.

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::{char, digit1, one_of, satisfy};
use nom::combinator::{opt, recognize, value};
use nom::error::Error;
use nom::sequence::preceded;

use crate::diagnostics::{Diagnostic, SourceId, Span};
use crate::language::codes;

/// Words that can be neither a name of a value nor a label. `use`, `init`, `model` and `block` are words only where an
/// item may begin: a call has an argument `init`.
pub(crate) const KEYWORDS: [&str; 11] =
    ["and", "as", "else", "false", "for", "if", "not", "or", "repeat", "return", "true"];

/// Punctuation, longest first, so that `<=` is not read as `<` and `=`.
const SYMBOLS: [&str; 22] = [
    "==", "!=", "<=", ">=", "<", ">", "=", "+", "-", "*", "/", "%", "(", ")", "[", "]", "{", "}",
    ",", ":", ".", ";",
];

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    /// A word that is not a keyword.
    Name(String),
    /// One of [`KEYWORDS`].
    Keyword(&'static str),
    /// A whole number.
    Integer(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// A quoted text, quotes taken off.
    Text(String),
    /// One of the symbols.
    Symbol(&'static str),
    /// After the last token; keeps the place for "something is missing here".
    End,
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: TokenKind,
    /// Where it stands.
    pub(crate) span: Span,
    /// Whether it is the first of its line: where a parser may start again after an error.
    pub(crate) starts_line: bool,
}

impl Token {
    /// How a message names the token.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            TokenKind::Name(name) => format!("`{name}`"),
            TokenKind::Keyword(word) => format!("`{word}`"),
            TokenKind::Integer(number) => format!("`{number}`"),
            TokenKind::Float(number) => format!("`{number}`"),
            TokenKind::Text(text) => format!("the text \"{text}\""),
            TokenKind::Symbol(symbol) => format!("`{symbol}`"),
            TokenKind::End => "the end of the text".into(),
        }
    }
}

type Lexed<'a, T> = nom::IResult<&'a str, T, Error<&'a str>>;

fn word(text: &str) -> Lexed<'_, &str> {
    recognize((
        satisfy(|c| c.is_ascii_alphabetic() || c == '_'),
        take_while(|c: char| c.is_ascii_alphanumeric() || c == '_'),
    ))
    .parse(text)
}

/// Digits in groups, `60_000`.
fn digits(text: &str) -> Lexed<'_, &str> {
    recognize((digit1, take_while(|c: char| c.is_ascii_digit() || c == '_'))).parse(text)
}

/// The text of a number and whether it has a fraction or an exponent.
fn number(text: &str) -> Lexed<'_, (&str, bool)> {
    let fraction = preceded(char('.'), digits);
    let exponent = (one_of("eE"), opt(one_of("+-")), digit1);
    let (rest, (_, fraction, exponent)) = (digits, opt(fraction), opt(exponent)).parse(text)?;
    let written = &text[..text.len() - rest.len()];
    Ok((rest, (written, fraction.is_some() || exponent.is_some())))
}

/// A text between equal quotes on one line; there are no escapes.
fn quoted(text: &str) -> Lexed<'_, &str> {
    let (rest, quote) = one_of("\"'").parse(text)?;
    let (rest, inner) = take_while(|c| c != quote && c != '\n').parse(rest)?;
    let (rest, _) = char(quote).parse(rest)?;
    Ok((rest, inner))
}

fn symbol(text: &str) -> Lexed<'_, &'static str> {
    SYMBOLS
        .iter()
        .find_map(|&symbol| text.strip_prefix(symbol).map(|rest| (rest, symbol)))
        .ok_or_else(|| nom::Err::Error(Error::new(text, nom::error::ErrorKind::OneOf)))
}

/// Blanks and comments; whether a line break was among them.
fn blank(text: &str) -> Lexed<'_, bool> {
    let line_break = value::<_, _, Error<&str>, _>(true, take_while1(|c| c == '\n' || c == '\r'));
    let space = value(false, take_while1(|c| c == ' ' || c == '\t'));
    let comment = value(false, recognize((tag("#"), take_while(|c| c != '\n'))));
    let mut piece = alt((line_break, space, comment));
    let (mut rest, mut any) = (text, false);
    while let Ok((after, broke)) = piece.parse(rest) {
        (rest, any) = (after, any || broke);
    }
    Ok((rest, any))
}

/// Splits `text`, which stands at byte `offset` of `source`, into tokens; the last one is [`TokenKind::End`].
///
/// # Errors
/// A character that no token begins with, a text without its closing quote, a number that does not fit.
pub(crate) fn lex(text: &str, source: SourceId, offset: usize) -> Result<Vec<Token>, Diagnostic> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut starts_line = true;
    loop {
        if let Ok((after, broke)) = blank(rest) {
            starts_line |= broke;
            rest = after;
        }
        let start = text.len() - rest.len();
        let span = |length: usize| Span::new(source, offset + start..offset + start + length);
        let Some(first) = rest.chars().next() else {
            tokens.push(Token { kind: TokenKind::End, span: span(0), starts_line });
            return Ok(tokens);
        };
        let (after, kind) = if let Ok((after, name)) = word(rest) {
            let kind = match KEYWORDS.iter().find(|&&keyword| keyword == name) {
                Some(keyword) => TokenKind::Keyword(keyword),
                None => TokenKind::Name(name.to_owned()),
            };
            (after, kind)
        } else if let Ok((after, (written, is_float))) = number(rest) {
            let plain = written.replace('_', "");
            let parsed = if is_float {
                plain.parse().ok().filter(|number: &f64| number.is_finite()).map(TokenKind::Float)
            } else {
                plain.parse().ok().map(TokenKind::Integer)
            };
            let kind = parsed.ok_or_else(|| {
                Diagnostic::error(codes::OVERFLOW, format!("the number {written} is too large"))
                    .at(span(written.len()), "does not fit 64 bits")
                    .help("write a smaller number")
            })?;
            (after, kind)
        } else if let Ok((after, inner)) = quoted(rest) {
            (after, TokenKind::Text(inner.to_owned()))
        } else if let Ok((after, symbol)) = symbol(rest) {
            (after, TokenKind::Symbol(symbol))
        } else if first == '"' || first == '\'' {
            let length = rest.find('\n').unwrap_or(rest.len());
            return Err(Diagnostic::error(codes::UNCLOSED_TEXT, "a quoted text has no end")
                .at(span(length), "begins here")
                .help(format!("close it with {first} on the same line")));
        } else {
            return Err(Diagnostic::error(
                codes::UNKNOWN_CHARACTER,
                format!("the character `{first}` has no meaning here"),
            )
            .at(span(first.len_utf8()), "unknown character")
            .help("names are made of letters, digits and `_`; comments begin with `#`"));
        };
        tokens.push(Token { kind, span: span(rest.len() - after.len()), starts_line });
        starts_line = false;
        rest = after;
    }
}
