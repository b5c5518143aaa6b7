//! Which micro-batches and recompute policies fit a memory, and which of them is the fastest.
//!
//! Owns the search: the spec that a plan carries is compiled for every policy and micro-batch that divides the global
//! batch, so that every number of bytes is exact. Must not know devices: it is given bytes and rates.

use std::thread;

use colac_plan::predict;
use colac_plan::profile::Profile;
use colac_plan::{Plan, Segment};
use serde::Serialize;

use crate::diagnostics::{Diagnostics, Sources};
use crate::policies;
use crate::view::{Inspection, MemoryReport};

/// What fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Bytes that a plan may take, with what the device holds beside it.
    pub budget_bytes: u64,
    /// What fits, the fastest first; where nothing is predicted, the largest micro-batch first.
    pub rows: Vec<FitRow>,
    /// The variant that needs least, whether it fits or not.
    pub smallest: Option<Smallest>,
}

/// A variant that fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FitRow {
    /// Recompute policy.
    pub policy: String,
    /// Rows in one execution.
    pub micro_batch: u32,
    /// Executions in an update.
    pub accumulation: u32,
    /// Bytes of all segments.
    pub total_bytes: u64,
    /// Bytes that the device holds for the variant beside its segments.
    pub beside_bytes: u64,
    /// Bytes of the arena of activations.
    pub activation_bytes: u64,
    /// FLOPs computed again as a share of all, in hundredths of a percent.
    pub recompute_share: u64,
    /// Predicted nanoseconds of an update.
    pub step_nanoseconds: Option<u64>,
    /// Predicted tokens a second.
    pub tokens_per_second: Option<u64>,
    /// Predicted hours of the whole recipe, without evaluations and checkpoints.
    pub job_hours: Option<f64>,
    /// What the prediction rests on: `measured`, `assumed` or `data sheet`.
    pub basis: Option<&'static str>,
}

/// The least that the spec needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Smallest {
    /// Recompute policy.
    pub policy: String,
    /// Rows in one execution.
    pub micro_batch: u32,
    /// Bytes of all segments.
    pub total_bytes: u64,
    /// Bytes that the device holds beside them.
    pub beside_bytes: u64,
    /// The category with most bytes, as [`MemoryReport`] names them.
    pub dominated_by: &'static str,
    /// Its bytes.
    pub dominating_bytes: u64,
    /// Bytes of weights, gradients and optimizer, which no policy and no micro-batch changes.
    pub state_bytes: u64,
    /// At the peak of activations, the operation that makes it.
    pub peak: String,
}

/// What to try.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    /// Bytes that a plan may take, with what the device holds beside it.
    pub budget_bytes: u64,
    /// Bytes that the device holds for a plan beside the plan's segments.
    pub beside: fn(&Plan) -> u64,
    /// Recompute policies.
    pub policies: Vec<String>,
    /// Micro-batches; those that do not divide the global batch are passed over.
    pub micro_batches: Vec<u32>,
    /// Rates to predict by.
    pub profile: Option<&'a Profile>,
}

/// Every divisor of the global batch of a plan, in order.
pub fn micro_batches(plan: &Plan) -> Vec<u32> {
    let global = plan.recipe.global_batch;
    (1..=global).filter(|each| global.is_multiple_of(*each)).collect()
}

/// Compiles and compares. Memory rises with the micro-batch, so the first that does not fit ends a policy's list. A policy
/// that the spec cannot have, such as one that keeps r-wide values of a full-rank model, has no rows.
///
/// # Errors
/// What the compiler says about the first policy, if the spec can have none of them.
pub fn fit(plan: &Plan, search: &Search<'_>, sources: &mut Sources) -> Result<Fit, Diagnostics> {
    let global = plan.recipe.global_batch;
    let mut sizes: Vec<u32> = search
        .micro_batches
        .iter()
        .copied()
        .filter(|n| *n > 0 && global.is_multiple_of(*n))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    // One thread for each policy; the order of the results is that of the policies.
    let found: Vec<Result<Tried, (Diagnostics, Sources)>> = thread::scope(|scope| {
        let tasks: Vec<_> = search
            .policies
            .iter()
            .map(|policy| {
                let (sizes, mut sources) = (&sizes, sources.clone());
                scope.spawn(move || {
                    try_policy(plan, policy, sizes, search, &mut sources)
                        .map_err(|diagnostics| (diagnostics, sources))
                })
            })
            .collect();
        tasks
            .into_iter()
            .map(|task| task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let (mut rows, mut smallest, mut refused) = (Vec::new(), Vec::new(), None);
    for tried in found {
        match tried {
            Ok(tried) => {
                rows.extend(tried.rows);
                smallest.extend(tried.smallest);
            }
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    if let (true, Some((diagnostics, of_thread))) = (smallest.is_empty(), refused) {
        *sources = of_thread;
        return Err(diagnostics);
    }
    rows.sort_by(|a: &FitRow, b: &FitRow| {
        let key = |row: &FitRow| {
            (
                std::cmp::Reverse(row.tokens_per_second),
                std::cmp::Reverse(row.micro_batch),
                row.recompute_share,
                row.total_bytes + row.beside_bytes,
            )
        };
        key(a).cmp(&key(b)).then_with(|| a.policy.cmp(&b.policy))
    });
    let smallest = smallest
        .into_iter()
        .min_by_key(|variant: &Smallest| variant.total_bytes + variant.beside_bytes);
    Ok(Fit { budget_bytes: search.budget_bytes, rows, smallest })
}

/// What one policy gave.
struct Tried {
    rows: Vec<FitRow>,
    smallest: Option<Smallest>,
}

fn try_policy(
    plan: &Plan,
    policy: &str,
    sizes: &[u32],
    search: &Search<'_>,
    sources: &mut Sources,
) -> Result<Tried, Diagnostics> {
    let mut tried = Tried { rows: Vec::new(), smallest: None };
    for &size in sizes {
        let settings = [format!("train.micro_batch={size}")];
        let variant = policies::with_policy(plan, policy, &settings, sources)?;
        if tried.smallest.is_none() {
            tried.smallest = Some(smallest(policy, &variant, search.beside));
        }
        if variant.total_bytes() > search.budget_bytes {
            break;
        }
        // What is held beside a variant need not rise with it.
        let row = row(policy, &variant, search);
        if row.total_bytes + row.beside_bytes <= search.budget_bytes {
            tried.rows.push(row);
        }
    }
    Ok(tried)
}

fn row(policy: &str, plan: &Plan, search: &Search<'_>) -> FitRow {
    let inspection = Inspection::new(plan);
    let flops = inspection.flops_per_token;
    let time = search.profile.map(|profile| predict::step(plan, profile));
    let tokens_per_second = time.map(|time| time.tokens_per_second());
    let hours = |rate: u64| inspection.batch.tokens as f64 / rate.max(1) as f64 / 3600.0;
    FitRow {
        policy: policy.to_owned(),
        micro_batch: plan.recipe.micro_batch,
        accumulation: plan.recipe.global_batch / plan.recipe.micro_batch.max(1),
        total_bytes: plan.total_bytes(),
        beside_bytes: (search.beside)(plan),
        activation_bytes: plan.bytes(Segment::Activations),
        recompute_share: flops.recompute * 10_000 / flops.total.max(1),
        step_nanoseconds: time.map(|time| time.total.nanoseconds),
        tokens_per_second,
        job_hours: tokens_per_second.map(hours),
        basis: time.map(|time| time.total.basis.name()),
    }
}

fn smallest(policy: &str, plan: &Plan, beside: fn(&Plan) -> u64) -> Smallest {
    let memory = MemoryReport::new(plan);
    let largest = memory.categories.iter().max_by_key(|category| category.bytes);
    let state = [Segment::Parameters, Segment::Gradients, Segment::Optimizer];
    let peak = memory.peak.operation.as_ref();
    Smallest {
        policy: policy.to_owned(),
        micro_batch: plan.recipe.micro_batch,
        total_bytes: memory.total,
        beside_bytes: beside(plan),
        dominated_by: largest.map_or("", |category| category.name),
        dominating_bytes: largest.map_or(0, |category| category.bytes),
        state_bytes: state.into_iter().map(|segment| plan.bytes(segment)).sum(),
        peak: peak.map_or_else(String::new, |place| match place.path.is_empty() {
            true => place.op.to_owned(),
            false => format!("{} of {}", place.op, place.path),
        }),
    }
}
