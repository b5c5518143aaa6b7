//! The specs, architectures and device profiles carried in the binary.
//!
//! The build script lists the folders `specs/`, `specs/architectures/` and `specs/devices/`, so that no Rust file names a model family.
//! Must not read files at run time.

include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// Name and TOML text of every shipped spec, ordered by name.
pub fn specs() -> &'static [(&'static str, &'static str)] {
    SPECS
}

/// Name and TOML text of every shipped architecture, ordered by name.
pub fn architectures() -> &'static [(&'static str, &'static str)] {
    ARCHITECTURES
}

/// Name and TOML text of every shipped device profile, ordered by name.
pub fn devices() -> &'static [(&'static str, &'static str)] {
    DEVICES
}

/// The text of the shipped spec `name`.
pub fn spec(name: &str) -> Option<&'static str> {
    SPECS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// The text of the shipped architecture `name`.
pub fn architecture(name: &str) -> Option<&'static str> {
    ARCHITECTURES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// Whether an argument means a file instead of a shipped name: it has a `/` (or the platform's separator) or ends in
/// `.toml`.
pub fn is_path(argument: &str) -> bool {
    argument.contains(['/', std::path::MAIN_SEPARATOR]) || argument.ends_with(".toml")
}
