//! Readers of columns behind a wall: what they panic about in a damaged file becomes an error that names the file.
//!
//! The libraries for Parquet and Arrow trust offsets of a file in places and assert where they are wrong, so a damaged
//! file would end the program with a message about a bug. Owns the wall. Must not know what is read.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{Documents, Next};
use crate::data::error::{DataError, one_line};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is about to become an error, so that a program's hook need not report it.
pub fn panic_becomes_an_error() -> bool {
    GUARDED.get()
}

/// Documents of a file in a format whose library may panic.
pub(super) struct Guarded<D> {
    path: PathBuf,
    format: &'static str,
    documents: D,
    /// After a panic the library's reader is in no state to be asked again.
    broken: bool,
}

impl<D: Documents> Guarded<D> {
    /// The documents that `open` gives.
    pub(super) fn open(
        path: &Path,
        format: &'static str,
        open: impl FnOnce() -> Result<D, DataError>,
    ) -> Result<Guarded<D>, DataError> {
        let documents = guard(path, format, open)?;
        Ok(Guarded { path: path.to_owned(), format, documents, broken: false })
    }
}

impl<D: Documents> Documents for Guarded<D> {
    fn next(&mut self, text: &mut String) -> Result<Next, DataError> {
        if self.broken {
            return Ok(Next::End);
        }
        let documents = &mut self.documents;
        let next = guard(&self.path, self.format, || documents.next(text));
        self.broken = next.is_err();
        next
    }
}

/// Runs code of a library on a file; a panic is an error like any other.
pub(super) fn guard<T>(
    path: &Path,
    format: &'static str,
    run: impl FnOnce() -> Result<T, DataError>,
) -> Result<T, DataError> {
    let outer = GUARDED.replace(true);
    let caught = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(outer);
    caught.unwrap_or_else(|panic| {
        let reason = one_line(said(&*panic));
        Err(DataError::NotColumns { path: path.to_owned(), format, reason })
    })
}

/// The message of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "its parts contradict each other".to_owned())
}
