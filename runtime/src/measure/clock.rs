//! What time is measured by.
//!
//! Owns the choice of clock. With one thread it is the time that the thread spends on a processor: other work on the
//! machine does not lengthen it. Several threads wait for each other, so there is only the time on the wall.

use std::time::Instant;

/// A moment by the clock that suits a number of threads.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// Time on the wall.
    Wall(Instant),
    /// Seconds that this thread has been on a processor.
    Thread(f64),
}

impl Moment {
    /// Now, for work of so many threads, the calling one included.
    pub fn now(threads: usize) -> Moment {
        match (threads, thread_seconds()) {
            (1, Some(seconds)) => Moment::Thread(seconds),
            _ => Moment::Wall(Instant::now()),
        }
    }

    /// Seconds since then. Call it on the thread that took the moment.
    pub fn seconds(self) -> f64 {
        match self {
            Moment::Wall(instant) => instant.elapsed().as_secs_f64(),
            Moment::Thread(before) => (thread_seconds().unwrap_or(before) - before).max(0.0),
        }
    }

    /// What it counts, in words.
    pub fn name(self) -> &'static str {
        match self {
            Moment::Wall(_) => "wall time",
            Moment::Thread(_) => "processor time",
        }
    }
}

/// Seconds that the calling thread has been on a processor; `None` where the system does not say.
#[cfg(unix)]
fn thread_seconds() -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    (failed == 0).then_some(time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64)
}

/// Where it is not to be had.
#[cfg(not(unix))]
fn thread_seconds() -> Option<f64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward() {
        for threads in [1, 2] {
            let moment = Moment::now(threads);
            let sum: u64 = std::hint::black_box((0..2_000_000u64).fold(0, |a, b| a ^ (b * b)));
            assert!(moment.seconds() > 0.0, "{sum}");
        }
        assert_eq!(Moment::now(2).name(), "wall time");
    }
}
