//! How fast this machine runs plans: training steps, single operations, and the rates of a device profile.
//!
//! Owns the making of inputs that need no data, the order and number of runs, and what is made of their times. Must not
//! know profiles' files, specs, or how anything is printed.

pub mod calibrate;
pub mod clock;
pub mod gpu;
mod single;
pub mod steps;
pub mod summary;
pub mod trace;

pub use summary::Summary;
