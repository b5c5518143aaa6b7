//! `[compiler]`: passes that may be switched off. They change how fast a model trains and what it needs, not what it is.
//!
//! Must not know what the passes do.

use super::decode::Decoder;

/// The section `[compiler]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Run [`crate::passes::group`].
    pub group: bool,
}

impl Compiler {
    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Option<Compiler> {
        let section = decoder.section("compiler");
        let group = decoder.boolean(&section, "group");
        Some(Compiler { group: group?.value })
    }
}
