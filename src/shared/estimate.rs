//! How long a run would take on this machine.
//!
//! Owns the guess: FLOPs that the plan counts, divided by a rate measured on a small model. Must not be used for
//! anything but telling a user what to expect.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use colac_compiler::compile::{Compiled, Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::spec::SpecInput;
use colac_compiler::view::{Inspection, text};
use colac_plan::{Plan, ProgramKind};
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;

use crate::shared::console;

/// The shipped spec that the rate is measured with: large enough for its products to run at full speed, and a fraction
/// of a second for a pass.
const PROBE: &str = "llama-tiny";
/// Rows of the probe: one, because a user waits for it.
const PROBE_ROWS: [&str; 2] = ["train.micro_batch=1", "train.global_batch=1"];
/// A first pass that took longer than this is not repeated: what a first pass costs besides, pages of memory that are
/// touched for the first time, is little beside so much arithmetic.
const LONG_PASS: f64 = 0.25;

/// A sentence about the time that the whole recipe of a plan takes.
pub(crate) fn sentence(plan: &Plan, threads: NonZeroUsize) -> String {
    let inspection = Inspection::new(plan);
    let flops = inspection.flops_per_token.total as f64 * inspection.batch.tokens as f64;
    let work = format!(
        "the whole recipe is {} steps on {} tokens, {}FLOP",
        text::grouped(inspection.batch.steps),
        text::count(inspection.batch.tokens as f64),
        spaced(flops),
    );
    match measure(threads) {
        Some(rate) => format!(
            "{work}: about {} on this CPU, at the {}FLOP/s that {PROBE} reaches with {threads} thread{}",
            days(flops / rate),
            spaced(rate),
            if threads.get() == 1 { "" } else { "s" },
        ),
        None => work,
    }
}

/// The time that the whole recipe of a plan takes, if a rate can be measured.
pub(crate) fn seconds(plan: &Plan, threads: NonZeroUsize) -> Option<f64> {
    let inspection = Inspection::new(plan);
    let flops = inspection.flops_per_token.total as f64 * inspection.batch.tokens as f64;
    Some(flops / measure(threads)?)
}

/// A count with its unit's prefix: `7.49 E`, for `7.49 EFLOP`.
fn spaced(count: f64) -> String {
    let text = text::count(count);
    if text.contains(' ') { text } else { text + " " }
}

/// In days if it takes one or more.
fn days(seconds: f64) -> String {
    let days = seconds / 86_400.0;
    match days {
        d if d >= 10.0 => format!("{} days", text::grouped(d.round() as u64)),
        d if d >= 1.0 => format!("{d:.1} days"),
        _ => console::duration(seconds),
    }
}

/// FLOPs a second of a forward and backward pass of a small model, or of the better of two where they are quick; `None`
/// if it cannot be run.
fn measure(threads: NonZeroUsize) -> Option<f64> {
    let request = Request {
        input: SpecInput::Shipped(PROBE.to_owned()),
        settings: PROBE_ROWS.map(str::to_owned).to_vec(),
        full_rank: false,
        dump: None,
    };
    let Compiled { plan, .. } = compile(request, &mut Sources::default()).ok()?;
    let inspection = Inspection::new(&plan);
    let recipe = &plan.recipe;
    let tokens = u64::from(recipe.micro_batch) * u64::from(recipe.sequence_length);
    let flops = (inspection.flops_per_token.total * tokens) as f64;
    let inputs = plan.roles.train.clone();
    let (scale, accumulate) = (plan.roles.loss_scale, plan.roles.accumulate);
    let options = CpuOptions { threads: threads.get(), ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(Arc::new(plan), options).ok()?;
    initialize(&mut executor);
    let ids = vec![1; tokens as usize];
    executor.write_i32(inputs.tokens, &ids);
    executor.write_i32(inputs.labels, &ids);
    executor.write_f32(scale, &[1.0 / tokens as f32]);
    executor.write_f32(accumulate, &[0.0]);
    let mut seconds = f64::INFINITY;
    for _ in 0..2 {
        let begin = Instant::now();
        executor.run(ProgramKind::ForwardBackward, true);
        seconds = seconds.min(begin.elapsed().as_secs_f64());
        if seconds > LONG_PASS {
            break;
        }
    }
    Some(flops / seconds.max(f64::MIN_POSITIVE))
}
