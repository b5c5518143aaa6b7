//! Whole numbers as options take them.
//!
//! Owns what is said of a value that is none; the parsers of the standard library speak of digits and types.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::str::FromStr;

/// More threads than any machine has: so many that starting them fails is a mistake of the user's.
const MOST_THREADS: usize = 1024;

/// A whole number, 0 included.
pub(crate) fn natural(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write a whole number such as 0 or 100".to_owned())
}

/// A whole number above 0.
pub(crate) fn steps(text: &str) -> Result<NonZeroU64, String> {
    positive(text)
}

/// The same as a plain number.
pub(crate) fn above_zero(text: &str) -> Result<u64, String> {
    steps(text).map(NonZeroU64::get)
}

/// A number of runs.
pub(crate) fn runs(text: &str) -> Result<NonZeroU32, String> {
    positive(text)
}

/// A number of entries.
pub(crate) fn entries(text: &str) -> Result<NonZeroUsize, String> {
    positive(text)
}

/// A number of threads.
pub(crate) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads: NonZeroUsize = positive(text)?;
    match threads.get() <= MOST_THREADS {
        true => Ok(threads),
        false => Err(format!("write a whole number from 1 to {MOST_THREADS}")),
    }
}

fn positive<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "write a whole number above 0".to_owned())
}
