//! Ctrl-C and the signal that ends a service.
//!
//! Owns the stop flag. Must not know what is being stopped.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::shared::failure::Failure;

/// A flag that the first SIGINT or SIGTERM sets; the second one ends the process at once.
///
/// From here on the caller has to look at the flag: until this is called, a signal ends the process.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for (signal, exit_code) in [(SIGINT, 130), (SIGTERM, 143)] {
        // Registered first, so that it sees the flag as the signal before left it.
        let registered = flag::register_conditional_shutdown(signal, exit_code, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)));
        registered.map_err(|error| Failure::line(format!("cannot listen to signals: {error}")))?;
    }
    Ok(stop)
}
