//! Shared libraries from kernels' sources.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::cuda::launch::Kernel;
use crate::cuda::shim::Fault;
use crate::cuda::signature;

/// Runs a kernel: blocks, threads of a block, bytes of shared memory, seed, places of the arguments.
pub(crate) type Function = unsafe extern "C" fn(u32, u32, u32, u32, *mut *mut c_void);

/// A kernel, and the mistake in its text.
type Built = (Kernel, Option<Fault>);

static BUILT: Mutex<BTreeMap<Built, Function>> = Mutex::new(BTreeMap::new());

const HEADER: &str = include_str!("cushim.h");

/// Kernels in one translation unit.
const UNIT: usize = 48;

/// What is missing to build anything.
pub(super) fn missing() -> Option<&'static str> {
    match Command::new("g++").arg("--version").output() {
        Ok(output) if output.status.success() => None,
        _ => Some("there is no g++, which builds kernels for the CPU"),
    }
}

/// What a kernel is called with a fault that may be none of its own.
fn named(kernel: &Kernel, fault: Option<Fault>) -> Built {
    (kernel.clone(), fault.filter(|fault| fault.family == kernel.source.family))
}

/// Builds the kernels that have not been built.
pub(crate) fn all(kernels: &[Kernel], fault: Option<Fault>) -> Result<(), String> {
    let wanted = kernels.iter().map(|kernel| named(kernel, fault));
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<Built> = wanted.filter(|kernel| !built.contains_key(kernel)).collect();
    let units: Vec<&[Built]> = missing.chunks(UNIT).collect();
    for pair in units.chunks(2) {
        let results: Vec<Result<Vec<Function>, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = pair.iter().map(|unit| scope.spawn(|| one(unit))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for (unit, functions) in pair.iter().zip(results) {
            built.extend(unit.iter().cloned().zip(functions?));
        }
    }
    Ok(())
}

/// A kernel that was built.
pub(crate) fn function(kernel: &Kernel, fault: Option<Fault>) -> Function {
    BUILT.lock().unwrap_or_else(PoisonError::into_inner)[&named(kernel, fault)]
}

/// The text of a translation unit: each kernel's source in a namespace, with a function that unpacks its arguments.
fn text(kernels: &[Built]) -> Result<String, String> {
    let mut text = String::from("#define COLAC_SHIM\n#include \"cushim.h\"\n");
    for (index, (kernel, fault)) in kernels.iter().enumerate() {
        let mut source = kernel.source.text();
        if let Some(Fault { from, to, .. }) = fault {
            assert_eq!(source.matches(from).count(), 1, "{from}");
            source = source.replace(from, to);
        }
        let types = signature::parameters(&source, kernel.entry)?;
        let arguments: Vec<String> =
            types.iter().enumerate().map(|(i, ty)| format!("*({ty}*)arguments[{i}]")).collect();
        let _ = writeln!(text, "namespace kernel{index} {{\n{source}");
        let _ = writeln!(
            text,
            "extern \"C\" void run{index}(u32 grid, u32 threads, u32 shared, u32 seed, void** arguments) {{\n\
             cushim::launch(grid, threads, shared, seed, [&] {{ {}({}); }});\n}}\n}}",
            kernel.entry,
            arguments.join(", ")
        );
        let mut names: Vec<&str> = (source.lines())
            .filter_map(|line| line.trim_start().strip_prefix("#define "))
            .filter_map(|line| line.split([' ', '(']).next())
            .filter(|name| !matches!(*name, "KERNEL" | "DEVICE" | "DYNAMIC_SHARED"))
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let _ = writeln!(text, "#undef {name}");
        }
    }
    Ok(text)
}

fn one(kernels: &[Built]) -> Result<Vec<Function>, String> {
    let text = text(kernels)?;
    let hash = blake3::hash(format!("{HEADER}{text}").as_bytes()).to_hex();
    let folder = folder();
    let library = folder.join(format!("{hash}.so"));
    if !library.exists() {
        compile(&text, &folder, &library)?;
    }
    // SAFETY: the library was built from our text and has no initialisers of note. It stays open for the process.
    unsafe {
        let opened = libloading::Library::new(&library).map_err(|error| error.to_string())?;
        let functions = (0..kernels.len())
            .map(|index| {
                let name = format!("run{index}");
                opened.get::<Function>(name.as_bytes()).map(|f| *f).map_err(|e| e.to_string())
            })
            .collect();
        std::mem::forget(opened);
        functions
    }
}

fn folder() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/shim");
    std::fs::create_dir_all(&target).expect("the build's folder can be written");
    target
}

/// A compiler call with the options that everything here is compiled with.
fn compiler() -> Command {
    let mut command = Command::new("g++");
    command.args(["-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-w"]);
    command.args(["-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]);
    command
}

/// The folder of the header, and of the same precompiled: reading it takes longer than most kernels do.
fn header(folder: &Path) -> Result<&'static Path, String> {
    static HEADER_FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = HEADER_FOLDER.get_or_init(|| {
        let folder = folder.join(&blake3::hash(HEADER.as_bytes()).to_hex()[..16]);
        let precompiled = folder.join("cushim.h.gch");
        if !precompiled.exists() {
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            let source = folder.join("cushim.h");
            std::fs::write(&source, HEADER).map_err(|error| error.to_string())?;
            let beside = folder.join(format!("{}.gch", std::process::id()));
            run(compiler().args(["-x", "c++-header", "-o"]).arg(&beside).arg(&source), &source)?;
            std::fs::rename(&beside, precompiled).map_err(|error| error.to_string())?;
        }
        Ok(folder)
    });
    made.as_deref().map_err(Clone::clone)
}

fn run(command: &mut Command, source: &Path) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("g++: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr))),
    }
}

fn compile(text: &str, folder: &Path, library: &Path) -> Result<(), String> {
    let name = library.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let unit = folder.join(format!("{name}.cpp"));
    let beside = folder.join(format!("{name}.{}.so", std::process::id()));
    std::fs::write(&unit, text).map_err(|error| error.to_string())?;
    let mut command = compiler();
    command.arg("-shared").arg("-I").arg(header(folder)?).arg("-o").arg(&beside).arg(&unit);
    run(&mut command, &unit)?;
    std::fs::rename(&beside, library).map_err(|error| error.to_string())
}
