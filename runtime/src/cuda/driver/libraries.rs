//! Finding NVIDIA's libraries, and saying what is missing.
//!
//! Nothing of CUDA is needed to build or start: the driver, NVRTC and cuBLASLt are opened here, by full path where the
//! loader does not know them, before anything calls them. Owns the places to look. Must not know what they are used for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::cuda::error::CudaError;

/// Environment variable with folders, separated by colons, that are looked into first.
pub const PATH_VARIABLE: &str = "COLAC_CUDA_LIB_PATH";

/// A library that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// `CUDA driver`, `NVRTC`, `cuBLASLt`.
    pub name: &'static str,
    /// Where it was found; the bare name where the system's loader found it.
    pub path: PathBuf,
}

/// What a library is called and what to do where it is missing.
struct Wanted {
    name: &'static str,
    /// Opened first if it lies beside; needed, but never called.
    companion: Option<&'static str>,
    /// In order of preference.
    files: &'static [&'static str],
    install: &'static str,
}

const DRIVER: Wanted = Wanted {
    name: "CUDA driver",
    companion: None,
    files: &["libcuda.so.1"],
    install: "install NVIDIA's driver for this system, version 580 or later",
};
const NVRTC: Wanted = Wanted {
    name: "NVRTC",
    companion: Some("libnvrtc-builtins.so.13.0"),
    files: &["libnvrtc.so.13"],
    install: "install it with `pip install nvidia-cuda-nvrtc` or CUDA's toolkit 13, and name its folder in COLAC_CUDA_LIB_PATH if it lies elsewhere",
};
const CUBLASLT: Wanted = Wanted {
    name: "cuBLASLt",
    companion: None,
    files: &["libcublasLt.so.13"],
    install: "install it with `pip install nvidia-cublas` or CUDA's toolkit 13, and name its folder in COLAC_CUDA_LIB_PATH if it lies elsewhere",
};

/// Opens the driver.
///
/// # Errors
/// If there is none.
pub(crate) fn driver() -> Result<&'static Library, CudaError> {
    static FOUND: OnceLock<Option<Library>> = OnceLock::new();
    opened(&DRIVER, &FOUND)
}

/// Opens the compiler of kernels.
///
/// # Errors
/// If it is not installed.
pub(crate) fn nvrtc() -> Result<&'static Library, CudaError> {
    static FOUND: OnceLock<Option<Library>> = OnceLock::new();
    opened(&NVRTC, &FOUND)
}

/// Opens the library of products.
///
/// # Errors
/// If it is not installed.
pub(crate) fn cublaslt() -> Result<&'static Library, CudaError> {
    static FOUND: OnceLock<Option<Library>> = OnceLock::new();
    opened(&CUBLASLT, &FOUND)
}

fn opened(
    wanted: &Wanted,
    found: &'static OnceLock<Option<Library>>,
) -> Result<&'static Library, CudaError> {
    let found = found.get_or_init(|| find(wanted));
    found.as_ref().ok_or(CudaError::Library { name: wanted.name, install: wanted.install })
}

/// The folders to look into: those named, what the loader knows (an empty path), Python's packages, the toolkit's.
fn folders() -> &'static [PathBuf] {
    static FOLDERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FOLDERS.get_or_init(|| {
        let mut folders: Vec<PathBuf> = std::env::var_os(PATH_VARIABLE)
            .map(|paths| std::env::split_paths(&paths).collect())
            .unwrap_or_default();
        folders.push(PathBuf::new());
        for packages in python_packages() {
            for folder in ["cu13/lib", "cuda_nvrtc/lib", "cublas/lib"] {
                folders.push(packages.join("nvidia").join(folder));
            }
        }
        for folder in [
            "/usr/local/cuda/lib64",
            "/usr/local/cuda-13/lib64",
            "/usr/local/cuda-13.0/lib64",
            "/usr/local/cuda-13.1/lib64",
            "/opt/cuda/lib64",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/local/nvidia/lib64",
            "/usr/local/nvidia/lib",
            "/usr/lib/wsl/lib",
        ] {
            folders.push(folder.into());
        }
        folders
    })
}

/// Where Python keeps packages: the active virtual environment, else what `python3` says.
fn python_packages() -> Vec<PathBuf> {
    let print = "import sys; print('\\n'.join(p for p in sys.path if p.endswith('packages')))";
    let mut pythons: Vec<OsString> = Vec::new();
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV") {
        pythons.push(Path::new(&environment).join("bin/python").into());
    }
    pythons.push("python3".into());
    let mut packages = Vec::new();
    for python in pythons {
        let Ok(output) = Command::new(python).args(["-c", print]).output() else { continue };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            packages.push(PathBuf::from(line));
        }
    }
    packages
}

/// Opens the first that can be opened, and leaves it open for the process.
fn find(wanted: &Wanted) -> Option<Library> {
    for folder in folders() {
        for file in wanted.files {
            let path = folder.join(file);
            if path.is_absolute() && !path.exists() {
                continue;
            }
            let companion = wanted.companion.map(|name| folder.join(name));
            let beside = companion.and_then(|path| open(&path));
            if let Some(library) = open(&path) {
                std::mem::forget((library, beside));
                return Some(Library { name: wanted.name, path });
            }
        }
    }
    None
}

#[cfg(unix)]
fn open(path: &Path) -> Option<libloading::os::unix::Library> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};
    // SAFETY: NVIDIA's libraries have initialisers that only set up their own state.
    unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_GLOBAL).ok() }
}

#[cfg(not(unix))]
fn open(path: &Path) -> Option<libloading::Library> {
    // SAFETY: as above.
    unsafe { libloading::Library::new(path).ok() }
}
