//! The section `[compiler]`: passes that may be switched off. They change how fast a model trains and what it needs, not
//! what it is.
//!
//! Owns the section's types and the names of the fuse rules. Must not know what a rule does: the passes do.

use super::decode::{Decoder, Section};

/// The section, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Run [`crate::passes::group`].
    pub group: bool,
    /// The rules by which operations are joined, in the order of [`FuseRule::ALL`].
    pub fuse: Vec<FuseRule>,
}

/// A rule of the pass that joins operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FuseRule {
    /// A program makes a value again that is a function of what it reads anyway.
    Remake,
    /// A program joins the program that reads it.
    Vertical,
    /// Programs that read the same values become one.
    Horizontal,
    /// A residual addition joins the norm that follows.
    Norm,
    /// The addition of a residual's gradient joins the derivative of the norm before it.
    NormBackward,
    /// The derivative of attention turns the gradients of queries and keys back itself.
    AttentionBackward,
}

impl FuseRule {
    /// Every rule.
    pub const ALL: [FuseRule; 6] = [
        FuseRule::Remake,
        FuseRule::Vertical,
        FuseRule::Horizontal,
        FuseRule::Norm,
        FuseRule::NormBackward,
        FuseRule::AttentionBackward,
    ];

    /// The names of [`FuseRule::ALL`], as specs write them.
    pub(super) const NAMES: &'static [&'static str] = &[
        FuseRule::Remake.name(),
        FuseRule::Vertical.name(),
        FuseRule::Horizontal.name(),
        FuseRule::Norm.name(),
        FuseRule::NormBackward.name(),
        FuseRule::AttentionBackward.name(),
    ];

    /// The name in specs.
    pub const fn name(self) -> &'static str {
        match self {
            FuseRule::Remake => "remake",
            FuseRule::Vertical => "vertical",
            FuseRule::Horizontal => "horizontal",
            FuseRule::Norm => "norm",
            FuseRule::NormBackward => "norm-backward",
            FuseRule::AttentionBackward => "attention-backward",
        }
    }
}

impl Compiler {
    /// Decodes the section; `None` if a part is wrong, which was then reported.
    pub(super) fn decode(decoder: &mut Decoder<'_>, section: &Section<'_>) -> Option<Compiler> {
        let group = decoder.boolean(section, "group");
        let names = decoder.switches(section, "fuse", FuseRule::NAMES)?;
        let on = |rule: &FuseRule| names.iter().any(|name| name == rule.name());
        Some(Compiler { group: group?.value, fuse: FuseRule::ALL.into_iter().filter(on).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_all_rules() {
        assert_eq!(FuseRule::ALL.map(FuseRule::name).as_slice(), FuseRule::NAMES);
    }
}
