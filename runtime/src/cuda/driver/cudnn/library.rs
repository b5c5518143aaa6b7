//! cuDNN's functions, taken from the library where it was found.
//!
//! Owns their types and the oldest version that is used. Statuses are plain numbers here: a newer library may give one
//! that no list knows. Must not know what is computed.

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use crate::cuda::driver::cudnn::names;
use crate::cuda::driver::libraries::{self, Library};
use crate::cuda::error::CudaError;

/// The oldest version that is used, as the library numbers them: 9.12.0, the first for CUDA 13.
const OLDEST: usize = 91_200;

/// An object of the library.
pub(super) type Raw = *mut c_void;

/// Functions by the names that `cudnn_graph.h` gives them.
pub(super) struct Functions {
    pub(super) create: unsafe extern "C" fn(*mut Raw) -> i32,
    pub(super) destroy: unsafe extern "C" fn(Raw) -> i32,
    pub(super) set_stream: unsafe extern "C" fn(Raw, Raw) -> i32,
    pub(super) create_descriptor: unsafe extern "C" fn(i32, *mut Raw) -> i32,
    pub(super) destroy_descriptor: unsafe extern "C" fn(Raw) -> i32,
    pub(super) set_attribute: unsafe extern "C" fn(Raw, i32, i32, i64, *const c_void) -> i32,
    pub(super) get_attribute:
        unsafe extern "C" fn(Raw, i32, i32, i64, *mut i64, *mut c_void) -> i32,
    pub(super) finalize: unsafe extern "C" fn(Raw) -> i32,
    pub(super) execute: unsafe extern "C" fn(Raw, Raw, Raw) -> i32,
    error_string: unsafe extern "C" fn(i32) -> *const c_char,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
}

impl Functions {
    /// Turns a status into an error that says what was being done and what the library says about it.
    pub(super) fn check(&self, status: i32, doing: &'static str) -> Result<(), CudaError> {
        if status == names::STATUS_SUCCESS {
            return Ok(());
        }
        let mut text = [0 as c_char; 512];
        // SAFETY: the library gives a string that lives for ever, and writes no more than it is told, a zero at the end.
        let (name, said) = unsafe {
            (self.last_error)(text.as_mut_ptr(), text.len());
            let name = (self.error_string)(status);
            let name = if name.is_null() {
                String::new()
            } else {
                CStr::from_ptr(name).to_string_lossy().into_owned()
            };
            text[text.len() - 1] = 0;
            (name, CStr::from_ptr(text.as_ptr()).to_string_lossy().trim().to_owned())
        };
        Err(CudaError::Cudnn {
            doing,
            message: format!("{name} ({status}) {said}").trim().to_owned(),
        })
    }
}

/// Opens the library and takes its functions.
///
/// # Errors
/// If it is not installed, or too old.
pub(super) fn functions() -> Result<&'static Functions, CudaError> {
    static FOUND: OnceLock<Functions> = OnceLock::new();
    let library = libraries::cudnn()?;
    let found = version(library)?;
    if found < OLDEST {
        return Err(CudaError::Outdated {
            name: library.name,
            path: library.path.clone(),
            found: written(found),
            needed: written(OLDEST),
            install: libraries::CUDNN_INSTALL,
        });
    }
    if let Some(functions) = FOUND.get() {
        return Ok(functions);
    }
    macro_rules! function {
        ($name:literal) => {
            // SAFETY: the type is that of the function in the library's header.
            unsafe { libraries::function(library, libraries::CUDNN_INSTALL, $name)? }
        };
    }
    let functions = Functions {
        create: function!("cudnnCreate"),
        destroy: function!("cudnnDestroy"),
        set_stream: function!("cudnnSetStream"),
        create_descriptor: function!("cudnnBackendCreateDescriptor"),
        destroy_descriptor: function!("cudnnBackendDestroyDescriptor"),
        set_attribute: function!("cudnnBackendSetAttribute"),
        get_attribute: function!("cudnnBackendGetAttribute"),
        finalize: function!("cudnnBackendFinalize"),
        execute: function!("cudnnBackendExecute"),
        error_string: function!("cudnnGetErrorString"),
        last_error: function!("cudnnGetLastErrorString"),
    };
    Ok(FOUND.get_or_init(|| functions))
}

/// Version and place of the library, in words.
///
/// # Errors
/// As [`functions`].
pub(super) fn described() -> Result<(String, &'static Library), CudaError> {
    functions()?;
    let library = libraries::cudnn()?;
    Ok((written(version(library)?), library))
}

/// The version as the library numbers it: 91900 for 9.19.0.
fn version(library: &Library) -> Result<usize, CudaError> {
    // SAFETY: the type is that of the function in the library's header, and it takes nothing.
    unsafe {
        let get: unsafe extern "C" fn() -> usize =
            libraries::function(library, libraries::CUDNN_INSTALL, "cudnnGetVersion")?;
        Ok(get())
    }
}

fn written(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}
