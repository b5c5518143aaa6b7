//! Tokens as an input of nom, and the error its parsers make: the furthest place and what was expected there.
//!
//! Owns the smallest parsers (a symbol, a keyword, a name). Must not know the grammar.

use nom::Needed;
use nom::Parser;
use nom::error::{ErrorKind, ParseError};

use crate::diagnostics::{Diagnostic, Span};
use crate::language::codes;
use crate::language::lexer::{Token, TokenKind};
use crate::language::syntax::Name;

/// A slice of the tokens of one text. The last token is always [`TokenKind::End`], which no parser consumes, so the
/// slice is never empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens<'a>(pub(crate) &'a [Token]);

impl<'a> Tokens<'a> {
    /// The next token.
    pub(crate) fn first(self) -> &'a Token {
        &self.0[0]
    }

    /// After the next token, which is not the end.
    pub(crate) fn advance(self) -> Tokens<'a> {
        Tokens(&self.0[1..])
    }
}

impl<'a> nom::Input for Tokens<'a> {
    type Item = &'a Token;
    type Iter = std::slice::Iter<'a, Token>;
    type IterIndices = std::iter::Enumerate<std::slice::Iter<'a, Token>>;

    fn input_len(&self) -> usize {
        self.0.len()
    }

    fn take(&self, index: usize) -> Self {
        Tokens(&self.0[..index])
    }

    fn take_from(&self, index: usize) -> Self {
        Tokens(&self.0[index..])
    }

    fn take_split(&self, index: usize) -> (Self, Self) {
        (self.take_from(index), self.take(index))
    }

    fn position<P: Fn(Self::Item) -> bool>(&self, predicate: P) -> Option<usize> {
        self.0.iter().position(predicate)
    }

    fn iter_elements(&self) -> Self::Iter {
        self.0.iter()
    }

    fn iter_indices(&self) -> Self::IterIndices {
        self.0.iter().enumerate()
    }

    fn slice_index(&self, count: usize) -> Result<usize, Needed> {
        if count <= self.0.len() { Ok(count) } else { Err(Needed::new(count - self.0.len())) }
    }
}

/// Where parsing stopped and what would have let it go on.
#[derive(Clone, Debug)]
pub(crate) struct SyntaxError {
    /// The token that does not fit.
    at: Span,
    /// How a message names it.
    found: String,
    /// What could stand there.
    expected: Vec<&'static str>,
}

impl SyntaxError {
    /// At the next token.
    pub(crate) fn new(tokens: Tokens<'_>, expected: &'static str) -> SyntaxError {
        SyntaxError {
            at: tokens.first().span,
            found: tokens.first().describe(),
            expected: vec![expected],
        }
    }

    /// For the user.
    pub(crate) fn into_diagnostic(self) -> Diagnostic {
        let mut expected = self.expected;
        expected.dedup();
        let expected = match expected.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => "something else".to_owned(),
        };
        Diagnostic::error(codes::SYNTAX, format!("{} does not fit here", self.found))
            .at(self.at, format!("expected {expected}"))
            .help(format!("write {expected}"))
    }
}

impl<'a> ParseError<Tokens<'a>> for SyntaxError {
    fn from_error_kind(tokens: Tokens<'a>, _: ErrorKind) -> SyntaxError {
        SyntaxError {
            at: tokens.first().span,
            found: tokens.first().describe(),
            expected: Vec::new(),
        }
    }

    fn append(_: Tokens<'a>, _: ErrorKind, other: SyntaxError) -> SyntaxError {
        other
    }

    /// The one that got further says what is wrong; at the same place both do.
    fn or(mut self, mut other: SyntaxError) -> SyntaxError {
        match self.at.start.cmp(&other.at.start) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Equal => {
                other.expected.retain(|what| !self.expected.contains(what));
                self.expected.append(&mut other.expected);
                self
            }
        }
    }
}

/// What parsers over tokens return.
pub(crate) type Parsed<'a, T> = nom::IResult<Tokens<'a>, T, SyntaxError>;

/// Exactly this symbol; its span.
pub(crate) fn symbol<'a>(
    wanted: &'static str,
    expected: &'static str,
) -> impl Parser<Tokens<'a>, Output = Span, Error = SyntaxError> {
    move |tokens: Tokens<'a>| match &tokens.first().kind {
        TokenKind::Symbol(found) if *found == wanted => Ok((tokens.advance(), tokens.first().span)),
        _ => Err(nom::Err::Error(SyntaxError::new(tokens, expected))),
    }
}

/// Exactly this keyword; its span.
pub(crate) fn keyword<'a>(
    wanted: &'static str,
    expected: &'static str,
) -> impl Parser<Tokens<'a>, Output = Span, Error = SyntaxError> {
    move |tokens: Tokens<'a>| match &tokens.first().kind {
        TokenKind::Keyword(found) if *found == wanted => {
            Ok((tokens.advance(), tokens.first().span))
        }
        _ => Err(nom::Err::Error(SyntaxError::new(tokens, expected))),
    }
}

/// A word that is not a keyword.
pub(crate) fn name<'a>(
    expected: &'static str,
) -> impl Parser<Tokens<'a>, Output = Name, Error = SyntaxError> {
    move |tokens: Tokens<'a>| match &tokens.first().kind {
        TokenKind::Name(text) => {
            Ok((tokens.advance(), Name { text: text.clone(), span: tokens.first().span }))
        }
        _ => Err(nom::Err::Error(SyntaxError::new(tokens, expected))),
    }
}
