//! What the same plan would cost under each recompute policy.
//!
//! Owns the comparison. Must not know what a policy does: the spec that a plan carries is compiled again for each.

use colac_plan::predict::{self, StepTime};
use colac_plan::profile::{Basis, Profile};
use colac_plan::{Plan, Segment};
use serde::Serialize;

use crate::compile::recompile;
use crate::diagnostics::{Diagnostics, Sources};
use crate::spec::RecomputePolicy;
use crate::view::{Inspection, MemoryReport};

/// The names of all policies that need no setting beside their name, from the one that keeps most.
pub fn all() -> Vec<&'static str> {
    RecomputePolicy::ALL.into_iter().map(RecomputePolicy::name).collect()
}

/// What one policy costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyRow {
    /// Its name.
    pub policy: String,
    /// Whether it is the plan's own.
    pub current: bool,
    /// Bytes of the arena of activations.
    pub activation_bytes: u64,
    /// Of the bytes alive at the peak, those kept for the backward pass.
    pub kept_bytes: u64,
    /// Bytes of all segments.
    pub total_bytes: u64,
    /// FLOPs of products and attention that are computed again, for each token.
    pub recompute_flops_per_token: u64,
    /// The same as a share of all FLOPs, in hundredths of a percent.
    pub recompute_share: u64,
    /// The predicted time of an update in nanoseconds, where there is a profile.
    pub step_nanoseconds: Option<u64>,
    /// What the prediction rests on: `measured`, `assumed` or `data sheet`.
    pub basis: Option<&'static str>,
}

/// The setting that gives a spec a policy.
pub fn setting(policy: &str) -> String {
    format!("recompute.policy=\"{policy}\"")
}

/// A plan as it would be with one policy for the whole model, whatever its own section `[recompute]` says, and with other
/// settings beside.
///
/// # Errors
/// As [`recompile`].
pub fn with_policy(
    plan: &Plan,
    policy: &str,
    settings: &[String],
    sources: &mut Sources,
) -> Result<Plan, Diagnostics> {
    let mut plan = plan.clone();
    // A budget or exceptions of the plan's own policy mean nothing to another one.
    if let Ok(mut spec) = plan.origin.resolved_spec.parse::<toml::Table>() {
        spec.remove("recompute");
        plan.origin.resolved_spec = spec.to_string();
    }
    let settings = [&[setting(policy)], settings].concat();
    recompile(&plan, settings, sources).map(|compiled| compiled.plan)
}

/// One row for each policy, in the order given, and before them one for the plan itself where none of them gives it.
/// Policies that this plan cannot have are left out, with what is said about them.
pub fn compare(
    plan: &Plan,
    policies: &[&str],
    profile: Option<&Profile>,
    sources: &mut Sources,
) -> (Vec<PolicyRow>, Vec<(String, Diagnostics)>) {
    let (mut rows, mut refused) = (Vec::new(), Vec::new());
    for &policy in policies {
        match with_policy(plan, policy, &[], sources) {
            Ok(other) => rows.push(row(plan, policy, &other, profile)),
            Err(diagnostics) => refused.push((policy.to_owned(), diagnostics)),
        }
    }
    if rows.iter().all(|row: &PolicyRow| !row.current) {
        rows.insert(0, row(plan, "as it is", plan, profile));
    }
    (rows, refused)
}

fn row(plan: &Plan, policy: &str, other: &Plan, profile: Option<&Profile>) -> PolicyRow {
    let flops = Inspection::new(other).flops_per_token;
    let time: Option<StepTime> = profile.map(|profile| predict::step(other, profile));
    PolicyRow {
        policy: policy.to_owned(),
        current: plan.programs == other.programs,
        activation_bytes: other.bytes(Segment::Activations),
        kept_bytes: MemoryReport::new(other).peak.kept_bytes,
        total_bytes: other.total_bytes(),
        recompute_flops_per_token: flops.recompute,
        recompute_share: flops.recompute * 10_000 / flops.total.max(1),
        step_nanoseconds: time.map(|time| time.total.nanoseconds),
        basis: time.map(|time| Basis::name(time.total.basis)),
    }
}
