//! Stopping in time.
//!
//! Owns the decision whether another update fits before a deadline, from how long updates, evaluations and saving took.
//! Must not know what they are.

use std::time::{Duration, Instant};

/// What is allowed for above the longest time that something took so far.
const MARGIN: f64 = 1.25;
/// Time that is always kept in hand, for ending the process.
const RESERVE: Duration = Duration::from_secs(2);
/// Bytes a second that a checkpoint is written with as long as none was; disks are faster, file servers may not be.
const ASSUMED_BYTES_PER_SECOND: f64 = 50e6;

/// How long the parts of a run take, at most, and when it must be over.
#[derive(Clone, Debug)]
pub(crate) struct TimeLimit {
    deadline: Option<Instant>,
    update: Duration,
    save: Duration,
    evaluation: Option<Duration>,
    /// Rows of an evaluation for each row of an update.
    evaluation_rows: f64,
}

impl TimeLimit {
    /// For a run whose checkpoints have so many bytes and whose evaluations have so many rows for each row of an update.
    pub(crate) fn new(
        deadline: Option<Instant>,
        checkpoint_bytes: u64,
        evaluation_rows: f64,
    ) -> TimeLimit {
        let save = Duration::from_secs_f64(checkpoint_bytes as f64 / ASSUMED_BYTES_PER_SECOND);
        TimeLimit { deadline, update: Duration::ZERO, save, evaluation: None, evaluation_rows }
    }

    /// An update took so long.
    pub(crate) fn updated(&mut self, elapsed: Duration) {
        self.update = self.update.max(elapsed);
    }

    /// Saving took so long; the first time replaces the assumption.
    pub(crate) fn saved(&mut self, elapsed: Duration, first: bool) {
        self.save = if first { elapsed } else { self.save.max(elapsed) };
    }

    /// An evaluation took so long.
    pub(crate) fn evaluated(&mut self, elapsed: Duration) {
        self.evaluation = Some(self.evaluation.unwrap_or_default().max(elapsed));
    }

    /// An evaluation that was not measured yet is taken to cost as much for each row as an update, though it lacks the
    /// backward pass.
    fn evaluation(&self) -> Duration {
        self.evaluation.unwrap_or_else(|| {
            Duration::try_from_secs_f64(self.update.as_secs_f64() * self.evaluation_rows)
                .unwrap_or(Duration::MAX)
        })
    }

    /// Whether an evaluation and then saving can be done before the deadline.
    pub(crate) fn allows_evaluation(&self, now: Instant) -> bool {
        self.allows(now, self.evaluation().saturating_add(self.save))
    }

    /// Whether an update can be done before the deadline, then an evaluation if there is one, then saving: twice if it
    /// is due anyway, since what follows it must be saved too.
    pub(crate) fn allows_update(&self, now: Instant, evaluates: bool, saves: bool) -> bool {
        let mut needed = self.update.saturating_add(self.save);
        if evaluates {
            needed = needed.saturating_add(self.evaluation());
        }
        if saves {
            needed = needed.saturating_add(self.save);
        }
        self.allows(now, needed)
    }

    /// Whether the update behind the next one can be done, too, with what comes after it: else the device should not begin
    /// it, since whatever it has begun is waited for before anything is saved.
    pub(crate) fn allows_update_behind(&self, now: Instant, evaluates: bool, saves: bool) -> bool {
        let done = now.checked_add(self.update.mul_f64(MARGIN));
        done.is_none_or(|done| self.allows_update(done, evaluates, saves))
    }

    fn allows(&self, now: Instant, needed: Duration) -> bool {
        let Some(deadline) = self.deadline else { return true };
        let needed = needed.as_secs_f64() * MARGIN + RESERVE.as_secs_f64();
        deadline.saturating_duration_since(now).as_secs_f64() > needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    #[test]
    fn without_a_deadline_everything_fits() {
        let mut limit = TimeLimit::new(None, u64::MAX, f64::INFINITY);
        limit.updated(seconds(1e9));
        assert!(limit.allows_update(Instant::now(), true, true));
        assert!(limit.allows_evaluation(Instant::now()));
    }

    #[test]
    fn what_follows_must_fit() {
        let now = Instant::now();
        let fits = |limit: &TimeLimit, evaluates, saves| limit.allows_update(now, evaluates, saves);
        let mut limit = TimeLimit::new(Some(now + seconds(100.0)), 500_000_000, 4.0);
        // Ten seconds of saving are assumed.
        assert!(fits(&limit, true, true));
        limit.updated(seconds(10.0));
        // 20 · 1.25 + 2; the evaluation is taken for 40.
        assert!(fits(&limit, false, true) && fits(&limit, true, false));
        limit.updated(seconds(30.0));
        limit.updated(seconds(1.0));
        assert!(fits(&limit, false, true) && !fits(&limit, true, false));
        // Two of 30 and 10 of saving: 70 · 1.25 + 2.
        assert!(limit.allows_update_behind(now, false, false));
        assert!(!limit.allows_update_behind(now + seconds(11.0), false, false));
        limit.evaluated(seconds(20.0));
        assert!(fits(&limit, true, true) && limit.allows_evaluation(now));
        limit.saved(seconds(30.0), true);
        assert!(fits(&limit, false, false) && !fits(&limit, true, false));
        limit.saved(seconds(1.0), true);
        assert!(fits(&limit, true, true));
        limit.saved(seconds(60.0), false);
        assert!(!fits(&limit, false, false) && !limit.allows_evaluation(now));
    }

    #[test]
    fn a_deadline_that_has_passed_allows_nothing() {
        let now = Instant::now();
        let limit = TimeLimit::new(Some(now), 0, 0.0);
        assert!(!limit.allows_update(now + seconds(5.0), false, false));
        assert!(!limit.allows_evaluation(now));
    }
}
