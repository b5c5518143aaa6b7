//! The codes of everything that can be wrong with a device profile.
//!
//! Owns the one table; must not hold messages: those are made where the mistake is found. Every code has a case under
//! `tests/cases/device/`; a test compares the two lists.

use crate::language::codes::declare;

declare! {
    /// No file and no known device has the given name.
    NOT_FOUND = "device::not_found";
    /// The profile's file exists and cannot be read as text.
    UNREADABLE = "device::unreadable";
    /// The text is not TOML.
    SYNTAX = "device::syntax";
    /// The profile was written for another version of the format.
    FORMAT = "device::format";
    /// A key or section that profiles do not have.
    UNKNOWN_KEY = "device::unknown_key";
    /// A key or section that every profile has is absent.
    MISSING_KEY = "device::missing_key";
    /// A value of the wrong type, out of range, or not one of those there are.
    WRONG_VALUE = "device::wrong_value";
    /// Figures say how they are known, and the section that says where from is absent.
    NO_EVIDENCE = "device::no_evidence";
}
