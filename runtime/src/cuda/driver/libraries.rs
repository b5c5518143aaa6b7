//! Finding NVIDIA's libraries, and saying what is missing.
//!
//! Nothing of CUDA is needed to build or start: the driver, NVRTC, cuBLASLt and cuDNN are opened here, by full path where
//! the loader does not know them, before anything calls them. Owns the places to look. Must not know what they are used
//! for.

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
    /// `CUDA driver`, `NVRTC`, `cuBLASLt`, `cuDNN`.
    pub name: &'static str,
    /// Where it was found; the bare name where the system's loader found it.
    pub path: PathBuf,
}

/// Why a library cannot be used.
#[derive(Clone, Debug)]
enum Absent {
    Nowhere,
    /// An older version, say: calling what is not there would end the process.
    Lacks {
        path: PathBuf,
        function: &'static str,
    },
}

/// What a library is called and what to do where it is missing.
struct Wanted {
    name: &'static str,
    /// Opened first if it lies beside; needed, but never called.
    companion: Option<&'static str>,
    /// In order of preference.
    files: &'static [&'static str],
    /// What it must have, where versions that lack something are about.
    functions: &'static [&'static str],
    install: &'static str,
}

/// Everything of the driver that is called.
const DRIVER_FUNCTIONS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocHost_v2",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyHtoD_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

const DRIVER: Wanted = Wanted {
    name: "CUDA driver",
    companion: None,
    files: &["libcuda.so.1"],
    functions: DRIVER_FUNCTIONS,
    install: "install NVIDIA's driver for this system, version 580 or later",
};
const NVRTC: Wanted = Wanted {
    name: "NVRTC",
    companion: Some("libnvrtc-builtins.so.13.0"),
    files: &["libnvrtc.so.13"],
    functions: &[],
    install: "install it with `pip install nvidia-cuda-nvrtc` or CUDA's toolkit 13, and name its folder in COLAC_CUDA_LIB_PATH if it lies elsewhere",
};
const CUBLASLT: Wanted = Wanted {
    name: "cuBLASLt",
    companion: None,
    files: &["libcublasLt.so.13"],
    functions: &[],
    install: "install it with `pip install nvidia-cublas` or CUDA's toolkit 13, and name its folder in COLAC_CUDA_LIB_PATH if it lies elsewhere",
};
/// What to do where cuDNN is missing, or another version than is needed.
pub(super) const CUDNN_INSTALL: &str = "install it with `pip install nvidia-cudnn-cu13`, and name its folder in COLAC_CUDA_LIB_PATH if it lies elsewhere";
const CUDNN: Wanted = Wanted {
    name: "cuDNN",
    companion: None,
    files: &["libcudnn.so.9"],
    // The others are asked for when they are taken.
    functions: &["cudnnGetVersion"],
    install: CUDNN_INSTALL,
};

/// Opens the driver.
///
/// # Errors
/// If there is none, or none that is new enough.
pub(crate) fn driver() -> Result<&'static Library, CudaError> {
    static FOUND: Found = OnceLock::new();
    opened(&DRIVER, &FOUND)
}

/// Opens the compiler of kernels.
///
/// # Errors
/// If it is not installed.
pub(crate) fn nvrtc() -> Result<&'static Library, CudaError> {
    static FOUND: Found = OnceLock::new();
    opened(&NVRTC, &FOUND)
}

/// Opens the library of products.
///
/// # Errors
/// If it is not installed.
pub(crate) fn cublaslt() -> Result<&'static Library, CudaError> {
    static FOUND: Found = OnceLock::new();
    opened(&CUBLASLT, &FOUND)
}

/// Opens the library of attention.
///
/// # Errors
/// If it is not installed.
pub(crate) fn cudnn() -> Result<&'static Library, CudaError> {
    static FOUND: Found = OnceLock::new();
    opened(&CUDNN, &FOUND)
}

/// A function of a library that was opened.
///
/// # Errors
/// If the library has none of that name; `install` says what to do then.
///
/// # Safety
/// `T` is the type of a pointer to that function.
pub(super) unsafe fn function<T: Copy>(
    library: &Library,
    install: &'static str,
    function: &'static str,
) -> Result<T, CudaError> {
    let (name, path) = (library.name, library.path.clone());
    let incomplete = || CudaError::Incomplete { name, path, function, install };
    // It stays open, so this opens nothing, and what is taken from it stays valid.
    let library = open(&library.path).ok_or_else(incomplete.clone())?;
    // SAFETY: the caller's.
    unsafe { library.get::<T>(function.as_bytes()) }.map(|found| *found).map_err(|_| incomplete())
}

/// What came of looking for a library, once for the process.
type Found = OnceLock<Result<Library, Absent>>;

fn opened(wanted: &Wanted, found: &'static Found) -> Result<&'static Library, CudaError> {
    let found = found.get_or_init(|| find(wanted));
    let &Wanted { name, install, .. } = wanted;
    found.as_ref().map_err(|absent| match absent.clone() {
        Absent::Nowhere => CudaError::Library { name, install },
        Absent::Lacks { path, function } => CudaError::Incomplete { name, path, function, install },
    })
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
            for folder in ["cu13/lib", "cuda_nvrtc/lib", "cublas/lib", "cudnn/lib"] {
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
fn find(wanted: &Wanted) -> Result<Library, Absent> {
    let mut absent = Absent::Nowhere;
    for folder in folders() {
        for file in wanted.files {
            let path = folder.join(file);
            if path.is_absolute() && !path.exists() {
                continue;
            }
            let companion = wanted.companion.map(|name| folder.join(name));
            let beside = companion.and_then(|path| open(&path));
            let Some(library) = open(&path) else { continue };
            // SAFETY: only whether there is such a name is asked for.
            let lacks =
                |name: &&&str| unsafe { library.get::<*const ()>(name.as_bytes()).is_err() };
            if let Some(&function) = wanted.functions.iter().find(lacks) {
                absent = Absent::Lacks { path, function };
                continue;
            }
            std::mem::forget((library, beside));
            return Ok(Library { name: wanted.name, path });
        }
    }
    Err(absent)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::DRIVER_FUNCTIONS;

    /// What is called and not asked for first would end the process where it is missing.
    #[test]
    fn the_driver_is_asked_for_everything_that_is_called() {
        let sources =
            [include_str!("gpu.rs"), include_str!("product.rs"), include_str!("transfers.rs")];
        let mut called = BTreeSet::new();
        for source in sources {
            for (at, _) in source.match_indices("::cu") {
                let name = &source[at + 2..];
                let end =
                    name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
                if name[2..].starts_with(char::is_uppercase) && name[end..].starts_with('(') {
                    called.insert(&name[..end]);
                }
            }
        }
        assert_eq!(called, DRIVER_FUNCTIONS.iter().copied().collect());
    }
}
