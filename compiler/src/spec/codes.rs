//! Every error code of the spec stage with its explanation: the one table that documentation and tests read.
//!
//! Must not hold messages: those are made where the mistake is found.

/// A stable code and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// As shown to the user and looked up in the documentation.
    pub code: &'static str,
    /// When it is reported, one sentence.
    pub explanation: &'static str,
}

macro_rules! codes {
    ($($name:ident = $code:literal, $explanation:literal;)*) => {
        $(pub(crate) const $name: &str = $code;)*

        /// Every code of this stage, in the order in which a spec is checked.
        pub const CODES: &[Code] = &[$(Code { code: $code, explanation: $explanation }),*];
    };
}

codes! {
    NOT_FOUND = "spec::not_found", "No file and no shipped spec has the given name.";
    UNREADABLE = "spec::unreadable", "The spec's file exists and cannot be read as text.";
    SYNTAX = "spec::syntax", "The text is not TOML.";
    INVALID_SETTING = "spec::invalid_setting", "An argument of --set is not `section.key=value`.";
    UNKNOWN_SECTION = "spec::unknown_section", "A section that specs do not have.";
    UNKNOWN_KEY = "spec::unknown_key", "A key that its section does not have.";
    MISSING_SECTION = "spec::missing_section", "A section with required keys is absent.";
    MISSING_KEY = "spec::missing_key", "A required key is absent.";
    WRONG_TYPE = "spec::wrong_type", "A value is of another type than its key takes.";
    OUT_OF_RANGE = "spec::out_of_range", "A number lies outside the range of its key.";
    UNKNOWN_VALUE = "spec::unknown_value", "A text is none of the names its key takes.";
    BAD_NAME = "spec::bad_name", "The spec's name cannot name a folder.";
    EMPTY = "spec::empty", "A text or a list has nothing in it.";
    UNSUPPORTED_PRECISION = "spec::unsupported_precision", "A known precision that this version makes no plans for.";
    BATCH_NOT_DIVISIBLE = "spec::batch_not_divisible", "The global batch is not a whole number of micro-batches.";
    SCHEDULE_EXCEEDS_STEPS = "spec::schedule_exceeds_steps", "The phases of the schedule are longer than the run.";
    UNUSED_KEY = "spec::unused_key", "A key has no effect because of another key.";
    EMPTY_OVERRIDE = "spec::empty_override", "A [[cola.override]] changes nothing.";
    CONTRADICTION = "spec::contradiction", "Two keys exclude each other.";
    BAD_RANK = "spec::bad_rank", "The rank is not a whole number from 1 up for the given model.";
}
