//! Signals that ask a command to come to an end: Ctrl-C, the signal that ends a service, and the one by which SLURM warns
//! that time is nearly up.
//!
//! Owns the stop flag. Must not know what is being stopped.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::consts::{SIGUSR1, SIGXFSZ};
use signal_hook::flag;

use crate::shared::failure::Failure;

/// The signals that stop a command.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// A flag that the first SIGINT, SIGTERM or SIGUSR1 sets; the second one ends the process at once, with 128 and its
/// number as the exit code.
///
/// From here on the caller has to look at the flag: until this is called, a signal ends the process. Also from here on, a
/// limit on the size of files is an error of the write that exceeds it, and no signal.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = |error| Failure::line(format!("cannot listen to signals: {error}"));
    for signal in SIGNALS {
        // Registered first, so that it sees the flag as the signal before left it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(failed)?;
    }
    #[cfg(unix)]
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    Ok(stop)
}
