//! The section `[recompute]`: what lives from the forward to the backward pass.
//!
//! Owns the section's types and its decoding. Must not know which values a model has: the pass decides.

use super::codes;
use super::decode::{Decoder, Section};
use super::recipe::unused;
use super::size::parse_bytes;
use super::spanned::Spanned;
use crate::diagnostics::{Diagnostic, Span};
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
    /// For `auto`: what to fit into. Then neither `policy` nor `segment` counts, and there are no overrides.
    pub budget: Option<Budget>,
    /// Exceptions in the order written; the last one that matches decides.
    pub overrides: Vec<RecomputeOverride>,
}

/// What the policy `auto` has to fit into.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes of the whole plan; `None` for the memory of the device that will train it.
    pub bytes: Option<u64>,
    /// Whether the micro-batch may be chosen as well.
    pub choose_micro_batch: bool,
    /// Where the size is written.
    pub span: Span,
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
        let written = decoder.text(section, "policy");
        let budget = match &written {
            Some(written) if written.value == "auto" => Some(budget(decoder, section, written)?),
            Some(written) => {
                for key in ["memory", "choose_micro_batch"] {
                    let reason = "only `auto` fits a plan into a memory";
                    unused(decoder, section, key, Some(written.span), reason);
                }
                None
            }
            None => None,
        };
        let policy = written.map(|written| {
            let policy = RecomputePolicy::of(&written.value);
            written.map(|_| policy.unwrap_or(RecomputePolicy::None))
        });
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
        if let (Some(_), Some(first)) = (budget, overrides.first()) {
            decoder.report(
                Diagnostic::error(codes::CONTRADICTION, "`auto` decides for the whole model")
                    .at(first.span, "this override")
                    .help("remove the overrides, or choose another policy"),
            );
        }
        let recompute = Recompute { policy: policy?, segment, budget, overrides };
        complete.then_some(recompute)
    }
}

fn budget(
    decoder: &mut Decoder<'_>,
    section: &Section<'_>,
    policy: &Spanned<String>,
) -> Option<Budget> {
    let choose = decoder.boolean(section, "choose_micro_batch");
    let Some(memory) = decoder.text(section, "memory") else {
        if !section.has("memory") {
            decoder.report(
                Diagnostic::error(codes::MISSING_KEY, "`recompute.memory` is missing")
                    .at(policy.span, "`auto` needs to know what to fit into")
                    .help("add `memory = \"24 GiB\"`, or `memory = \"device\"` to train at once"),
            );
        }
        return None;
    };
    let bytes = (memory.value != "device").then(|| parse_bytes(&memory.value).ok()).flatten();
    Some(Budget { bytes, choose_micro_batch: choose?.value, span: memory.span })
}

fn policy(decoder: &mut Decoder<'_>, section: &Section<'_>) -> Option<Spanned<RecomputePolicy>> {
    let written = decoder.text(section, "policy")?;
    let policy = RecomputePolicy::of(&written.value)?;
    Some(written.map(|_| policy))
}
