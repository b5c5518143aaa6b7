//! Kernels from source to machine code: NVRTC, and a cache of what it made.
//!
//! A cache entry is the cubin behind its hash, in a folder that only its user may enter; an entry that is damaged or of
//! another compiler is made anew. Owns options and cache. Must not know what kernels compute.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::nvrtc::{result, sys};

use crate::cuda::driver::libraries;
use crate::cuda::error::CudaError;
use crate::cuda::source::Source;

/// Environment variable that names the folder of the cache.
pub(crate) const CACHE_VARIABLE: &str = "COLAC_CACHE";

/// Machine code of a text.
pub(crate) type Cubin = Vec<u8>;

/// What NVRTC said about a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) cubin: Cubin,
    /// Warnings, and with `verbose` what the assembler says about registers.
    #[cfg_attr(
        not(any(test, feature = "cuda-shim")),
        expect(dead_code, reason = "read by the tests that look for spills")
    )]
    pub(crate) log: String,
}

/// Version of NVRTC: major and minor.
///
/// # Errors
/// If it is not installed.
pub(crate) fn version() -> Result<(i32, i32), CudaError> {
    libraries::nvrtc()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is open; both are places for a number.
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    status.result().map_err(|error| CudaError::Compiler(error.to_string()))?;
    Ok((major, minor))
}

/// Compiles a text for an architecture, e.g. `sm_90`.
///
/// # Errors
/// Without NVRTC, or if it refuses the text: then its log is the message.
pub(crate) fn compile(text: &str, architecture: &str) -> Result<Compiled, CudaError> {
    libraries::nvrtc()?;
    let failed = |error: result::NvrtcError| CudaError::Compiler(error.to_string());
    let source = CString::new(text).map_err(|error| CudaError::Compiler(error.to_string()))?;
    let program = result::create_program(&source, Some(c"kernels.cu")).map_err(failed)?;
    let options = [
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
        "--fmad=false".to_owned(),
        "--diag-suppress=177".to_owned(),
        "--ptxas-options=-v".to_owned(),
    ];
    // SAFETY: the program was just created and is destroyed below, once.
    unsafe {
        let compiled = result::compile_program(program, &options);
        let log = result::get_program_log(program).map_err(failed)?;
        let log = CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned();
        if compiled.is_err() {
            let _ = result::destroy_program(program);
            return Err(CudaError::Compiler(log));
        }
        let mut size = 0;
        sys::nvrtcGetCUBINSize(program, &mut size).result().map_err(failed)?;
        let mut cubin = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result().map_err(failed)?;
        result::destroy_program(program).map_err(failed)?;
        Ok(Compiled { cubin, log })
    }
}

/// Machine code of all sources, from the cache or by a few compilers side by side.
///
/// # Errors
/// The first text that does not compile.
pub(crate) fn compile_all(
    sources: &[Source],
    architecture: &str,
) -> Result<BTreeMap<Source, Cubin>, CudaError> {
    let version = version()?;
    let cache = Cache::new(architecture, version);
    let next = AtomicUsize::new(0);
    let made = Mutex::new(BTreeMap::new());
    let failure = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let text = source.text();
                    let cubin = match cache.read(&text) {
                        Some(cubin) => Ok(cubin),
                        None => compile(&text, architecture).map(|compiled| {
                            cache.write(&text, &compiled.cubin);
                            compiled.cubin
                        }),
                    };
                    match cubin {
                        Ok(cubin) => {
                            lock(&made).insert(source.clone(), cubin);
                        }
                        Err(error) => {
                            lock(&failure).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(made.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The folder that kernels and choices of products are kept in: `COLAC_CACHE`, else the user's cache folder.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(CACHE_VARIABLE) {
        return Some(folder.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("colac"))
}

/// Machine code by the hash of its text. Whatever goes wrong with it, kernels are compiled anew.
struct Cache {
    folder: Option<PathBuf>,
    key: String,
}

impl Cache {
    fn new(architecture: &str, (major, minor): (i32, i32)) -> Cache {
        let folder = cache_folder().map(|folder| folder.join("kernels"));
        if let Some(folder) = &folder {
            private_folder(folder);
        }
        Cache { folder, key: format!("{architecture} NVRTC {major}.{minor}") }
    }

    fn path(&self, text: &str) -> Option<PathBuf> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.key.as_bytes());
        hasher.update(&[0]);
        hasher.update(text.as_bytes());
        Some(self.folder.as_ref()?.join(format!("{}.cubin", hasher.finalize().to_hex())))
    }

    fn read(&self, text: &str) -> Option<Cubin> {
        let bytes = std::fs::read(self.path(text)?).ok()?;
        let (hash, cubin) = bytes.split_at_checked(blake3::OUT_LEN)?;
        (blake3::hash(cubin).as_bytes() == hash).then(|| cubin.to_vec())
    }

    fn write(&self, text: &str, cubin: &[u8]) {
        let Some(path) = self.path(text) else { return };
        let mut bytes = blake3::hash(cubin).as_bytes().to_vec();
        bytes.extend_from_slice(cubin);
        // Written beside and renamed, since several processes may start at once.
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        if std::fs::write(&beside, bytes).is_ok() {
            let _ = std::fs::rename(&beside, &path);
        }
    }
}

/// Creates a folder that only its user may enter: machine code in it is loaded without another check than its hash.
pub(crate) fn private_folder(folder: &std::path::Path) {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let _ = builder.create(folder);
}
