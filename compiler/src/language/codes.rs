//! The codes of everything that can be wrong in expressions, selectors, activations and architecture files.
//!
//! Owns the one table. Every code has a case under `tests/cases/language/`; a test compares the two lists.

/// Declares codes and the table of all of them.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $code;)+

        /// Every code with its explanation, in the order of this file.
        pub const ALL: &[(&str, &str)] = &[$(($name, concat!($($doc),+))),+];
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
    /// Text that is not TOML, or a TOML value that no key takes.
    TOML = "language::toml";
    /// A file of another version of the language.
    VERSION = "language::version";
    /// A required key of an architecture is absent.
    MISSING_KEY = "language::missing_key";
    /// A key that its section does not have.
    UNKNOWN_KEY = "language::unknown_key";
    /// A key's value is of the wrong type.
    WRONG_VALUE = "language::wrong_value";
    /// An objective that is not known.
    OBJECTIVE = "language::objective";
    /// A body in quotes that allow escapes.
    BODY_QUOTES = "language::body_quotes";
    /// A name or layout of checkpoint tensors that is not one.
    WEIGHTS = "language::weights";
    /// No model in a body, or two.
    MODEL = "language::model";
    /// An input that the objective does not supply so.
    INPUT = "language::input";
    /// A name declared twice, or one of the language's own.
    DUPLICATE = "language::duplicate";
    /// A value that has the name of a setting.
    SHADOWED_NAME = "language::shadowed_name";
    /// A `return` that is missing, inside a repeat, or not last.
    RETURN = "language::return";
    /// An operation with parameters and without a label.
    LABEL = "language::label";
    /// A label that no operation has.
    UNKNOWN_LABEL = "language::unknown_label";
    /// A distribution or kind of parameter that is not known, or parameters that no `use` speaks of.
    INITIALIZATION = "language::initialization";
    /// A setting, value, block or distribution that nothing uses.
    UNUSED = "language::unused";
    /// A block that calls itself.
    RECURSION = "language::recursion";
    /// Settings computed from each other in a circle.
    CYCLE = "language::cycle";
    /// A setting in a spec that the architecture does not have.
    UNKNOWN_SETTING = "language::unknown_setting";
    /// A required setting that a spec does not give.
    MISSING_SETTING = "language::missing_setting";
    /// A setting of the wrong type.
    SETTING_TYPE = "language::setting_type";
    /// A text that is none of the setting's values.
    SETTING_CHOICE = "language::setting_choice";
    /// A condition of `[check]` that does not hold.
    CHECK_FAILED = "language::check_failed";
}

pub(crate) use codes as declare;
