//! The learning rate of each update.
//!
//! Owns the schedules' formulas. Uses `libm` so that a run has the same learning rates on every machine. Must not know
//! the optimizer.

use colac_plan::recipe::{Schedule, ScheduleKind};

/// Learning rate of the update with index `step`, counted from 0.
pub fn learning_rate(schedule: &Schedule, step: u64) -> f64 {
    schedule.learning_rate * factor(schedule, step)
}

/// The factor on the peak learning rate for the update with index `step`, counted from 0.
///
/// During the warm-up of `W` updates it is `step / W`, so the first update has factor 0 and changes no weight, as in the
/// published training code. From the horizon `T` on it is the final factor `f`. Between:
///
/// - cosine: `f + (1 - f) · (1 + cos(π · (step - W) / (T - W))) / 2`; with `f` = 0.1 the published schedule,
/// - linear: `1 - (1 - f) · (step - W) / (T - W)`,
/// - constant: 1, also beyond the horizon,
/// - warm-up-stable-decay of `D` updates: 1 up to `T - D` (or `W`, if that is later), then a straight line to `f` at `T`.
pub fn factor(schedule: &Schedule, step: u64) -> f64 {
    let (warmup, horizon) = (schedule.warmup_steps, schedule.steps);
    if step >= horizon && schedule.kind != ScheduleKind::Constant {
        return schedule.final_factor;
    }
    if step < warmup {
        return step as f64 / warmup as f64;
    }
    let fall = 1.0 - schedule.final_factor;
    match schedule.kind {
        ScheduleKind::Constant => 1.0,
        ScheduleKind::Cosine => {
            let progress = (step - warmup) as f64 / (horizon - warmup) as f64;
            schedule.final_factor + fall * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress))
        }
        ScheduleKind::Linear => 1.0 - fall * ((step - warmup) as f64 / (horizon - warmup) as f64),
        ScheduleKind::WarmupStableDecay { decay_steps } => {
            let start = horizon.saturating_sub(decay_steps).max(warmup);
            if step < start {
                1.0
            } else {
                1.0 - fall * ((step - start) as f64 / (horizon - start) as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule {
            kind,
            learning_rate: 0.006,
            warmup_steps: 2_000,
            steps: 10_000,
            final_factor: 0.1,
        }
    }

    fn check(schedule: &Schedule, points: &[(u64, f64)]) {
        for &(step, expected) in points {
            let found = factor(schedule, step);
            assert!(
                (found - expected).abs() < 1e-12,
                "{:?} at {step}: {found}, not {expected}",
                schedule.kind
            );
        }
    }

    /// The points are those of the published 60m recipe; the last one before the horizon is worked out by the
    /// double-angle formula `1 + cos(π - x) = 2 sin²(x/2)` instead of the schedule's own expression.
    #[test]
    fn cosine_passes_through_the_published_points() {
        let half = std::f64::consts::PI / 8_000.0 / 2.0;
        let last = 0.1 + 0.9 * half.sin() * half.sin();
        check(
            &schedule(ScheduleKind::Cosine),
            &[
                (0, 0.0),
                (500, 0.25),
                (1_999, 0.9995),
                (2_000, 1.0),
                (6_000, 0.55),
                (9_999, last),
                (10_000, 0.1),
                (u64::MAX, 0.1),
            ],
        );
        assert_eq!(learning_rate(&schedule(ScheduleKind::Cosine), 500), 0.0015);
    }

    #[test]
    fn straight_lines() {
        let points = [
            (0, 0.0),
            (1_000, 0.5),
            (2_000, 1.0),
            (4_000, 0.775),
            (6_000, 0.55),
            (10_000, 0.1),
            (20_000, 0.1),
        ];
        check(&schedule(ScheduleKind::Linear), &points);
        let decay = ScheduleKind::WarmupStableDecay { decay_steps: 1_000 };
        let points = [
            (1_000, 0.5),
            (2_000, 1.0),
            (9_000, 1.0),
            (9_500, 0.55),
            (9_900, 0.19),
            (10_000, 0.1),
            (10_001, 0.1),
        ];
        check(&schedule(decay), &points);
        check(
            &schedule(ScheduleKind::Constant),
            &[(1_000, 0.5), (2_000, 1.0), (9_999, 1.0), (10_000, 1.0), (99_999, 1.0)],
        );
    }

    #[test]
    fn without_warmup_the_first_update_has_the_whole_rate() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Constant] {
            check(&Schedule { warmup_steps: 0, ..schedule(kind) }, &[(0, 1.0)]);
        }
    }

    /// Horizon, warm-up and decay in every relation: never outside 0 to 1, never not a number.
    #[test]
    fn degenerate_settings_stay_in_bounds() {
        for (warmup_steps, steps) in [(0, 0), (5, 0), (0, 1), (5, 5), (7, 5), (5, 6)] {
            let decays =
                [0, 1, 5, 99].map(|decay_steps| ScheduleKind::WarmupStableDecay { decay_steps });
            for kind in [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Constant]
                .into_iter()
                .chain(decays)
            {
                let schedule = Schedule { warmup_steps, steps, ..schedule(kind) };
                for step in 0..12 {
                    let factor = factor(&schedule, step);
                    assert!((0.0..=1.0).contains(&factor), "{schedule:?} at {step}: {factor}");
                }
            }
        }
    }
}
