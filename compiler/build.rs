//! Embeds the files of `specs/`, `specs/architectures/` and `specs/devices/`, so that the binary knows them by bare name.
//!
//! Lists the folders instead of naming files: a new spec, model family or device needs no change in Rust.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let variable = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other(format!("cargo did not set {name}")))
    };
    let specs = variable("CARGO_MANIFEST_DIR")?.join("../specs");
    let mut code = String::new();
    for (constant, folder) in
        [("SPECS", ""), ("ARCHITECTURES", "architectures"), ("DEVICES", "devices")]
    {
        let folder = specs.join(folder);
        // Watching the folder notices new and removed files; watching each file notices edits.
        println!("cargo::rerun-if-changed={}", folder.display());
        let _ = writeln!(code, "const {constant}: &[(&str, &str)] = &[");
        for file in toml_files(&folder)? {
            println!("cargo::rerun-if-changed={}", file.display());
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let path = file.canonicalize()?;
            let _ =
                writeln!(code, "    ({name:?}, include_str!({:?})),", path.display().to_string());
        }
        code.push_str("];\n");
    }
    fs::write(variable("OUT_DIR")?.join("shipped.rs"), code)
}

/// The TOML files of a folder, ordered by name so that the binary does not depend on the file system's order.
fn toml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let explain =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    let entries = fs::read_dir(folder).map_err(explain)?;
    let mut files = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(explain)?;
    files.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    files.sort();
    Ok(files)
}
