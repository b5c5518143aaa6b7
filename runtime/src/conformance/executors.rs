//! Executors against the reference: every sample, in every layout and every way of writing its results.
//!
//! [`verify`] takes any way of making an executor, so a new device runs the same suite. The reference itself runs it too:
//! in slices, in place and accumulating it must give exactly what [`evaluate`] gives.

use std::sync::Arc;

use colac_plan::{DType, Op, Plan};
use serde::Serialize;

use super::layout::{Layout, Mode, OneOperation, Padding};
use super::precisions::{self, rounded};
use super::samples::{self, Sample, draw};
use crate::executor::Executor;
use crate::reference::{Value, evaluate};

/// Makes an executor of a plan.
pub(crate) type Make<'a> = &'a dyn Fn(Arc<Plan>) -> Box<dyn Executor>;

/// One way of running a sample.
struct Case<'a> {
    sample: &'a Sample,
    layout: Layout,
    mode: Mode,
    in_place: Option<(usize, usize)>,
    /// What the results hold before.
    old: Vec<Vec<f64>>,
    /// What they must hold after, exactly.
    expected: Vec<Vec<f64>>,
}

impl Case<'_> {
    fn run(&self, make: Make<'_>, padding: Padding) -> Result<Vec<Vec<f64>>, String> {
        let one = OneOperation::new(self.sample, self.layout, self.mode, self.in_place);
        one.run(make(one.plan.clone()).as_mut(), self.sample, &self.old, padding)
    }

    /// Runs it, and adds what comes out to a verdict.
    fn judge(&self, make: Make<'_>, arithmetic: Arithmetic, verdict: &mut Verdict) {
        let old: Vec<Vec<f64>> = (self.old.iter().enumerate())
            .map(|(i, old)| if self.adds(i) { old.clone() } else { vec![0.0; old.len()] })
            .collect();
        let inner = arithmetic.inner(self.sample);
        let bounds = precisions::bounds_of(self.sample, Some(&old), &self.expected, inner);
        verdict.cases += 1;
        match self.run(make, arithmetic.padding()) {
            Ok(found) => {
                for result in 0..found.len() {
                    compare(self, result, &found[result], &bounds[result], verdict);
                }
            }
            Err(beside) => verdict.fail(beside),
        }
    }

    fn describe(&self) -> String {
        let in_place =
            self.in_place.map_or(String::new(), |(operand, _)| format!(", on operand {operand}"));
        format!("{} ({:?}, {:?}{in_place})", self.sample.name, self.layout, self.mode)
    }

    fn adds(&self, result: usize) -> bool {
        self.mode.adds() && self.sample.op.accumulates(result)
    }
}

/// Elements of a sample above which it is there for the kernels that only its size gets: slices, results in the places
/// of operands and sums onto old contents are a matter of smaller ones.
const LARGE: u64 = 1 << 17;

/// Every way of running a sample.
fn cases(sample: &Sample) -> Vec<Case<'_>> {
    let old: Vec<Vec<f64>> = match &sample.current {
        Some(current) => current.clone(),
        None => (sample.results.iter().enumerate())
            .map(|(i, ty)| {
                let drawn =
                    draw(&format!("{} old {i}", sample.name), ty.shape.elements() as usize, 1.0);
                drawn.into_iter().map(|value| rounded(ty.dtype, value)).collect()
            })
            .collect(),
    };
    let current: Vec<Value> = sample
        .results
        .iter()
        .zip(&old)
        .map(|(ty, old)| Value::new(&ty.shape, old.clone()))
        .collect();
    let exact = evaluate(&sample.op, &sample.values(), &current);
    let accumulates = (0..sample.results.len()).any(|i| sample.op.accumulates(i));
    let mut modes = if accumulates { &Mode::ALL[..] } else { &[Mode::Overwrite] };
    let mut places = vec![None];
    for operand in 0..sample.operands.len() {
        for result in 0..sample.results.len() {
            let (read, made) = (&sample.operands[operand].ty, &sample.results[result]);
            let same = read.shape.same_extents(&made.shape) && read.dtype == made.dtype;
            if same && sample.op.in_place(operand, result) {
                places.push(Some((operand, result)));
            }
        }
    }
    let mut layouts = Layout::of(sample);
    let types = sample.operands.iter().map(|operand| &operand.ty).chain(&sample.results);
    if types.map(|ty| ty.shape.elements()).sum::<u64>() > LARGE {
        layouts.retain(|layout| *layout != Layout::Slices);
        places.truncate(1);
        modes = &[Mode::Overwrite];
    }
    let mut cases = Vec::new();
    for &mode in modes {
        let expected: Vec<Vec<f64>> = (exact.iter().zip(&old).enumerate())
            .map(|(i, (exact, old))| match mode.adds() && sample.op.accumulates(i) {
                true => exact.iter().zip(old).map(|(exact, old)| old + exact).collect(),
                false => exact.clone(),
            })
            .collect();
        for &layout in &layouts {
            for &in_place in &places {
                let (old, expected) = (old.clone(), expected.clone());
                cases.push(Case { sample, layout, mode, in_place, old, expected });
            }
        }
    }
    cases
}

/// Every sample in every precision.
pub(super) fn all_precisions() -> impl Iterator<Item = Sample> {
    samples::all().into_iter().flat_map(|sample| {
        let others = precisions::of(&sample);
        [sample].into_iter().chain(others)
    })
}

/// The plan of every case, so that a device can prepare for all of them at once.
pub(crate) fn plans(wanted: &dyn Fn(&Op) -> bool) -> Vec<Arc<Plan>> {
    let samples: Vec<Sample> = all_precisions().filter(|sample| wanted(&sample.op)).collect();
    let plan =
        |case: Case<'_>| OneOperation::new(case.sample, case.layout, case.mode, case.in_place).plan;
    samples.iter().flat_map(|sample| cases(sample).into_iter().map(plan)).collect()
}

/// How an executor computes, as far as it widens what a result may be off by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// Everything inside an operation is f32.
    #[cfg_attr(not(test), expect(dead_code, reason = "the CPU's, which only tests hold to it"))]
    F32,
    /// Where operands are bf16, factors that an operation computes itself (attention's probabilities, the gradient of
    /// logits) are rounded to bf16 before they are multiplied: matrix units take no others.
    Bf16Factors,
}

impl Arithmetic {
    /// What becomes of the padding of rows: products of matrix units count it in.
    pub(super) fn padding(self) -> Padding {
        match self {
            Arithmetic::F32 => Padding::Left,
            Arithmetic::Bf16Factors => Padding::Zero,
        }
    }

    /// Relative error of a factor that a sample's operation makes itself.
    fn inner(self, sample: &Sample) -> f64 {
        let narrow = sample.operands.first().is_some_and(|o| o.ty.dtype == DType::Bf16);
        match self {
            Arithmetic::Bf16Factors if narrow => precisions::BF16_UNIT,
            Arithmetic::F32 | Arithmetic::Bf16Factors => 0.0,
        }
    }
}

/// What the suite found for one kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// Printed name of the operation.
    pub name: &'static str,
    /// Executions, each of a sample in a precision, a layout, a way of writing.
    pub cases: usize,
    /// The largest error as a share of its bound; above 1 is a failure.
    pub worst: f64,
    /// The first few failures, in words.
    pub failures: Vec<String>,
}

/// Failures that are put into words.
const MOST_FAILURES: usize = 5;

/// Runs the suite on an executor, for the operations that are wanted.
pub(crate) fn verify(
    make: Make<'_>,
    arithmetic: Arithmetic,
    wanted: &dyn Fn(&Op) -> bool,
) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    for sample in all_precisions().filter(|sample| wanted(&sample.op)) {
        if verdicts.last().is_none_or(|verdict| verdict.name != sample.op.name()) {
            verdicts.push(Verdict { name: sample.op.name(), ..Verdict::default() });
        }
        let verdict = verdicts.last_mut().expect("one was pushed");
        for case in cases(&sample) {
            case.judge(make, arithmetic, verdict);
        }
    }
    verdicts
}

/// Runs the suite up to the first failure.
#[cfg(test)]
pub(crate) fn first_failure(
    make: Make<'_>,
    arithmetic: Arithmetic,
    wanted: &dyn Fn(&Op) -> bool,
) -> Option<String> {
    let mut verdict = Verdict::default();
    for sample in all_precisions().filter(|sample| wanted(&sample.op)) {
        for case in cases(&sample) {
            case.judge(make, arithmetic, &mut verdict);
            if let Some(failure) = verdict.failures.pop() {
                return Some(failure);
            }
        }
    }
    None
}

impl Verdict {
    /// Counts in what another run of the suite found for the same kind of operation.
    pub(crate) fn add(&mut self, other: Verdict) {
        self.cases += other.cases;
        self.worst = self.worst.max(other.worst);
        let room = MOST_FAILURES.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
    }

    fn fail(&mut self, message: String) {
        if self.failures.len() < MOST_FAILURES {
            self.failures.push(message);
        }
        self.worst = self.worst.max(f64::INFINITY);
    }
}

/// Runs the suite and ends at what does not conform.
#[cfg(test)]
pub(crate) fn check(make: Make<'_>, arithmetic: Arithmetic, wanted: &dyn Fn(&Op) -> bool) {
    let failures: Vec<String> =
        verify(make, arithmetic, wanted).into_iter().flat_map(|verdict| verdict.failures).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn compare(case: &Case<'_>, result: usize, found: &[f64], bounds: &[f64], verdict: &mut Verdict) {
    let expected = &case.expected[result];
    assert_eq!(found.len(), expected.len());
    assert_eq!(bounds.len(), expected.len());
    for (i, ((&found, &expected), &bound)) in found.iter().zip(expected).zip(bounds).enumerate() {
        let off = (found - expected).abs();
        let fits = match expected.is_finite() {
            true => off <= bound,
            // The norm of gradients that are not finite.
            false => !found.is_finite(),
        };
        if !fits {
            verdict.fail(format!(
                "{}: element {i} of result {result} is {found}, not {expected}: off by {off:e}, bound {bound:e}",
                case.describe(),
            ));
            return;
        }
        if bound > 0.0 && expected.is_finite() {
            verdict.worst = verdict.worst.max(off / bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{ArenaPlacement, CpuExecutor, CpuOptions};
    use crate::reference::ReferenceExecutor;

    /// Bounds that say nothing prove nothing: on the whole they are a small part of the result. The worst case of a sum of
    /// `K` terms is about `K^1.5 u` of a random one: 1.3e-3 for the longest sample but those of whole vocabularies, whose
    /// two sums of 32,000 positive terms may be off by `K u` each, and their quotients by as much.
    #[test]
    fn bounds_are_tight() {
        for sample in samples::all() {
            let case = cases(&sample).swap_remove(0);
            let bounds = precisions::bounds_of(&sample, None, &case.expected, 0.0);
            for (result, (bounds, expected)) in bounds.iter().zip(&case.expected).enumerate() {
                if expected.iter().any(|e| !e.is_finite()) {
                    continue;
                }
                let vocabulary =
                    matches!(sample.op, Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. })
                        && sample.operands[1].ty.shape.rows() > 10_000;
                let share = if vocabulary { 1e-2 } else { 2e-3 };
                let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
                assert!(
                    norm(bounds) <= share * norm(expected) + 1e-5 * (expected.len() as f64).sqrt(),
                    "{}, result {result}: bound {:e} of {:e}",
                    sample.name,
                    norm(bounds),
                    norm(expected)
                );
            }
        }
    }

    #[test]
    fn the_reference_honours_layouts_and_writes() {
        let make =
            |plan: Arc<Plan>| -> Box<dyn Executor> { Box::new(ReferenceExecutor::new(plan)) };
        for sample in samples::all() {
            for case in cases(&sample) {
                let found = case.run(&make, Padding::Left).expect("nothing beside");
                for (found, expected) in found.iter().zip(&case.expected) {
                    // Values leave an executor as f32.
                    let same = |(found, expected): (&f64, &f64)| {
                        *found == f64::from(*expected as f32)
                            || (found.is_nan() && expected.is_nan())
                    };
                    assert!(found.iter().zip(expected).all(same), "{}", case.describe());
                }
            }
        }
    }

    fn cpu(options: CpuOptions) -> impl Fn(Arc<Plan>) -> Box<dyn Executor> {
        move |plan| Box::new(CpuExecutor::new(plan, options).expect("a plan of one operation"))
    }

    /// With a workspace that holds signalling NaNs before each operation and an arena that ends at a protected page.
    #[test]
    fn the_cpu_conforms() {
        let arena = if cfg!(unix) {
            ArenaPlacement::BeforeProtectedPage
        } else {
            ArenaPlacement::PageStart
        };
        check(&cpu(CpuOptions { threads: 2, checking: true, arena }), Arithmetic::F32, &|_| true);
    }

    /// With 1, 2 and 3 threads, and run twice, the CPU gives the same bits.
    #[test]
    fn cpu_threads_do_not_change_a_bit() {
        for sample in all_precisions() {
            for case in cases(&sample).iter().filter(|case| case.in_place.is_none()) {
                let bits = |threads| {
                    let make = cpu(CpuOptions { threads, ..CpuOptions::default() });
                    let found = case.run(&make, Padding::Left);
                    let found = found.expect("nothing beside");
                    found.concat().iter().map(|v| v.to_bits()).collect::<Vec<u64>>()
                };
                let one = bits(1);
                for threads in [2, 3, 2] {
                    assert!(bits(threads) == one, "{} with {threads} threads", case.describe());
                }
            }
        }
    }
}
