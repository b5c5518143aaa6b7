//! The codes of everything that can be wrong with a spec by itself, in the order in which a spec is checked.
//!
//! Owns the one table; must not hold messages: those are made where the mistake is found. Every code has a case under
//! `tests/cases/spec/`; a test compares the two lists.

use crate::language::codes::declare;

declare! {
    /// No file and no shipped spec has the given name.
    NOT_FOUND = "spec::not_found";
    /// The spec's file exists and cannot be read as text.
    UNREADABLE = "spec::unreadable";
    /// A spec is larger than any spec can be.
    TOO_LARGE = "spec::too_large";
    /// The text is not TOML.
    SYNTAX = "spec::syntax";
    /// Specs extend each other in a circle.
    EXTENDS_CYCLE = "spec::extends_cycle";
    /// An argument of --set is not `section.key=value`.
    INVALID_SETTING = "spec::invalid_setting";
    /// A section that specs do not have.
    UNKNOWN_SECTION = "spec::unknown_section";
    /// A key that its section does not have.
    UNKNOWN_KEY = "spec::unknown_key";
    /// A section with required keys is absent.
    MISSING_SECTION = "spec::missing_section";
    /// A required key is absent.
    MISSING_KEY = "spec::missing_key";
    /// A value is of another type than its key takes.
    WRONG_TYPE = "spec::wrong_type";
    /// A number lies outside the range of its key.
    OUT_OF_RANGE = "spec::out_of_range";
    /// A text is none of the names its key takes.
    UNKNOWN_VALUE = "spec::unknown_value";
    /// The spec's name cannot name a folder.
    BAD_NAME = "spec::bad_name";
    /// A text or a list has nothing in it.
    EMPTY = "spec::empty";
    /// The global batch is not a whole number of micro-batches.
    BATCH_NOT_DIVISIBLE = "spec::batch_not_divisible";
    /// The phases of the schedule are longer than the run.
    SCHEDULE_EXCEEDS_STEPS = "spec::schedule_exceeds_steps";
    /// The warm-up lasts until the end of the run.
    WARMUP_IS_ALL = "spec::warmup_is_all";
    /// A key has no effect because of another key.
    UNUSED_KEY = "spec::unused_key";
    /// A [[cola.override]] changes nothing.
    EMPTY_OVERRIDE = "spec::empty_override";
    /// Two keys exclude each other.
    CONTRADICTION = "spec::contradiction";
    /// The rank is not a whole number from 1 up for the given model.
    BAD_RANK = "spec::bad_rank";
}
