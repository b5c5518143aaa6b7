//! The section `[recompute]`: what lives from the forward to the backward pass.
//!
//! Owns the section's types and its decoding. Must not know which values a model has: the pass decides.

use super::decode::{Decoder, Section};
use super::recipe::unused;
use super::spanned::Spanned;
use crate::diagnostics::Span;
use crate::language::selector::Selector;

/// Which forward values live until the backward pass; what each keeps stands in [`crate::passes::recompute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecomputePolicy {
    /// All that are needed.
    None,
    /// What is dear to make again.
    Selective,
    /// Residual streams and r-wide values before the activation.
    ColaM,
    /// R-wide values before the activation, and few residual streams.
    ColaMPlus,
    /// Residual streams and r-wide values behind the activation, as the published code does.
    ColaMReference,
    /// What crosses blocks.
    Block,
}

impl RecomputePolicy {
    /// All, from the one that keeps most.
    pub const ALL: [RecomputePolicy; 6] = [
        RecomputePolicy::None,
        RecomputePolicy::Selective,
        RecomputePolicy::ColaM,
        RecomputePolicy::ColaMReference,
        RecomputePolicy::ColaMPlus,
        RecomputePolicy::Block,
    ];

    /// As specs write it.
    pub const fn name(self) -> &'static str {
        match self {
            RecomputePolicy::None => "none",
            RecomputePolicy::Selective => "selective",
            RecomputePolicy::ColaM => "cola-m",
            RecomputePolicy::ColaMPlus => "cola-m+",
            RecomputePolicy::ColaMReference => "cola-m-reference",
            RecomputePolicy::Block => "block",
        }
    }

    /// The policy of a name.
    pub fn of(name: &str) -> Option<RecomputePolicy> {
        RecomputePolicy::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// The section.
#[derive(Clone, Debug)]
pub struct Recompute {
    /// The policy of every value that no override changes.
    pub policy: Spanned<RecomputePolicy>,
    /// Blocks that are made again together, where the policy has segments; the policy's own choice if absent.
    pub segment: Option<Spanned<u32>>,
    /// Exceptions in the order written; the last one that matches decides.
    pub overrides: Vec<RecomputeOverride>,
}

/// One `[[recompute.override]]`.
#[derive(Clone, Debug)]
pub struct RecomputeOverride {
    /// The operations whose results it speaks of.
    pub targets: Vec<Selector>,
    /// Their policy.
    pub policy: Spanned<RecomputePolicy>,
    /// Where the override stands.
    pub span: Span,
}

impl Recompute {
    /// Decodes `[recompute]`; `None` if a part is wrong, which was then reported.
    pub(super) fn decode<'t>(
        decoder: &mut Decoder<'t>,
        section: &Section<'t>,
    ) -> Option<Recompute> {
        let policy = policy(decoder, section);
        let segment = section.has("segment").then(|| decoder.count(section, "segment"));
        let mut overrides = Vec::new();
        let mut complete = true;
        for section in decoder.tables(section, "override") {
            let targets = decoder.selectors(&section, "targets");
            match (targets, self::policy(decoder, &section)) {
                (Some(targets), Some(policy)) => {
                    overrides.push(RecomputeOverride { targets, policy, span: section.header });
                }
                _ => complete = false,
            }
        }
        let segment = match segment {
            Some(decoded) => Some(decoded?),
            None => None,
        };
        let segmented =
            |policy| matches!(policy, RecomputePolicy::Block | RecomputePolicy::ColaMPlus);
        if let Some(policy) = policy
            && !overrides.iter().map(|one| one.policy.value).any(segmented)
            && !segmented(policy.value)
        {
            let reason = "only `block` and `cola-m+` make several blocks again together";
            unused(decoder, section, "segment", Some(policy.span), reason);
        }
        let recompute = Recompute { policy: policy?, segment, overrides };
        complete.then_some(recompute)
    }
}

fn policy(decoder: &mut Decoder<'_>, section: &Section<'_>) -> Option<Spanned<RecomputePolicy>> {
    let written = decoder.text(section, "policy")?;
    let policy = RecomputePolicy::of(&written.value)?;
    Some(written.map(|_| policy))
}
