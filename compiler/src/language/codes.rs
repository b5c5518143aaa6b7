//! The codes of everything that can be wrong in expressions, selectors, activations and architecture files.
//!
//! Owns the one table. Every code has a case under `tests/cases/language/`; a test compares the two lists.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $code;)+
        /// Every code, in the order of this file.
        pub const ALL: &[&str] = &[$($name),+];
    };
}

codes! {
    /// A character that no token begins with.
    UNKNOWN_CHARACTER = "language::unknown_character";
    /// A quoted text without its closing quote.
    UNCLOSED_TEXT = "language::unclosed_text";
    /// Tokens in an order that the grammar has no place for.
    SYNTAX = "language::syntax";
    /// A selector that is not one.
    SELECTOR_SYNTAX = "language::selector_syntax";
    /// A name that stands for nothing here.
    UNKNOWN_NAME = "language::unknown_name";
    /// A call of something that is neither an operation, a block nor a function.
    UNKNOWN_FUNCTION = "language::unknown_function";
    /// An argument that the called has no place for, one given twice, one missing, or too many.
    ARGUMENTS = "language::arguments";
    /// An operator or function applied to a type it is not defined for.
    TYPE = "language::type";
    /// Integers that do not divide without a remainder.
    INEXACT_DIVISION = "language::inexact_division";
    /// Division by zero, or a root of a negative number.
    UNDEFINED = "language::undefined";
    /// A result that does not fit 64 bits.
    OVERFLOW = "language::overflow";
    /// A value that is absent where one is needed.
    ABSENT = "language::absent";
    /// An activation that is neither a known name nor a formula in x.
    ACTIVATION = "language::activation";
}
