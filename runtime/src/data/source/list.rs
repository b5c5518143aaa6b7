//! Which files are read.
//!
//! Owns what a path given as input stands for, and how a file's format is told from its name. Must not open texts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data::error::DataError;

/// Ends of the names that are read in a folder where nothing else is asked for. `.json` is not among them: in folders
/// it is settings more often than text.
pub const KNOWN_EXTENSIONS: [&str; 5] = ["txt", "jsonl", "ndjson", "parquet", "arrow"];

/// Compressions, told from the bytes; the names only matter in folders.
const COMPRESSIONS: [&str; 2] = ["gz", "zst"];

/// What a file of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text as it is.
    Text,
    /// A JSON object a line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, as a file or as a stream.
    Arrow,
}

impl Format {
    /// Told from a file's name; what is not known is text.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let bare = COMPRESSIONS
            .iter()
            .find_map(|compression| name.strip_suffix(compression)?.strip_suffix('.'));
        match bare.unwrap_or(&name).rsplit_once('.').map(|(_, extension)| extension) {
            Some("jsonl" | "ndjson" | "json") => Format::JsonLines,
            Some("parquet") => Format::Parquet,
            Some("arrow") => Format::Arrow,
            _ => Format::Text,
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::JsonLines => "JSON Lines",
            Format::Parquet => "Parquet",
            Format::Arrow => "Arrow",
        }
    }
}

/// A file that was found among the inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it lies.
    pub path: PathBuf,
    /// How manifests name it: the file name, or for a file found in a folder its path below that folder, with `/`
    /// between the parts.
    pub name: String,
    /// What it is.
    pub format: Format,
}

/// Lists the files that `inputs` stand for, in the order of the inputs.
///
/// A file stands for itself, whatever its name. A folder stands for the files below it whose names end in one of
/// `extensions` (`md`, `txt.gz`; without a list those of [`KNOWN_EXTENSIONS`]), each also with `.gz` or `.zst` behind
/// it. They are sorted by name, so that the order does not depend on the file system; names that begin with a dot and
/// symbolic links to folders are passed by. A folder that the `datasets` library wrote stands for the files that its
/// `state.json` lists.
///
/// # Errors
///
/// If an input cannot be read, none of them yields a file, or a folder holds several splits of a data set.
pub fn list_inputs(inputs: &[PathBuf], extensions: &[String]) -> Result<Vec<InputFile>, DataError> {
    let wanted = wanted(extensions);
    let mut files = Vec::new();
    for input in inputs {
        let metadata = fs::metadata(input).map_err(DataError::io("open", input))?;
        if metadata.is_dir() {
            list_folder(input, "", &wanted, &mut files)?;
        } else {
            let name =
                input.file_name().unwrap_or(input.as_os_str()).to_string_lossy().into_owned();
            files.push(InputFile { path: input.clone(), name, format: Format::of(input) });
        }
    }
    if files.is_empty() {
        let extensions = endings(extensions);
        return Err(DataError::NoText { inputs: inputs.to_vec(), extensions });
    }
    Ok(files)
}

/// The extensions that are looked for, in the form they are compared in.
fn wanted(extensions: &[String]) -> Vec<String> {
    match extensions {
        [] => KNOWN_EXTENSIONS.iter().map(|&extension| extension.to_owned()).collect(),
        given => given
            .iter()
            .map(|extension| extension.trim_start_matches(['*', '.']).to_lowercase())
            .collect(),
    }
}

/// The extensions that are looked for, as messages name them.
pub(crate) fn endings(extensions: &[String]) -> Vec<String> {
    wanted(extensions).iter().map(|extension| format!(".{extension}")).collect()
}

fn list_folder(
    folder: &Path,
    prefix: &str,
    wanted: &[String],
    files: &mut Vec<InputFile>,
) -> Result<(), DataError> {
    if let Some(splits) = read_json::<DatasetSplits>(&folder.join("dataset_dict.json")) {
        return Err(DataError::SeveralSplits { path: folder.to_owned(), splits: splits.splits });
    }
    if let Some(state) = read_json::<DatasetState>(&folder.join("state.json")) {
        for file in state.data_files {
            // A name with a path in it would lead out of the folder.
            let Some(name) = Path::new(&file.filename).file_name() else { continue };
            let path = folder.join(name);
            let name = format!("{prefix}{}", name.to_string_lossy());
            files.push(InputFile { format: Format::of(&path), path, name });
        }
        return Ok(());
    }
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
        .map_err(DataError::io("list", folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let file_name = entry.file_name().to_string_lossy().into_owned();
        if file_name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{file_name}");
        let file_type = entry.file_type().map_err(DataError::io("open", &path))?;
        if file_type.is_dir() {
            list_folder(&path, &format!("{name}/"), wanted, files)?;
        } else if is_wanted(&file_name.to_lowercase(), wanted) {
            files.push(InputFile { format: Format::of(&path), path, name });
        }
    }
    Ok(())
}

fn is_wanted(name: &str, wanted: &[String]) -> bool {
    let ends = |name: &str, extension: &str| {
        name.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.'))
    };
    wanted.iter().any(|extension| {
        ends(name, extension)
            || COMPRESSIONS.iter().any(|compression| {
                let bare = name.strip_suffix(compression).and_then(|bare| bare.strip_suffix('.'));
                bare.is_some_and(|bare| ends(bare, extension))
            })
    })
}

/// What the `datasets` library keeps beside the files of one split.
#[derive(Deserialize)]
struct DatasetState {
    #[serde(rename = "_data_files")]
    data_files: Vec<DatasetFile>,
}

#[derive(Deserialize)]
struct DatasetFile {
    filename: String,
}

/// What it keeps above several splits.
#[derive(Deserialize)]
struct DatasetSplits {
    splits: Vec<String>,
}

/// A small JSON file of that form, if there is one; other files of that name mean nothing here.
fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    const LARGEST: u64 = 16 << 20;
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(inputs: &[PathBuf], extensions: &[&str]) -> Vec<String> {
        let extensions: Vec<String> =
            extensions.iter().map(|&extension| extension.to_owned()).collect();
        let files = list_inputs(inputs, &extensions).unwrap();
        files.into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn folders_are_listed_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        for inner in ["b", ".git"] {
            fs::create_dir(folder.path().join(inner)).unwrap();
        }
        for name in [
            "c.txt",
            "a.TXT",
            "b/z.txt",
            "b/notes.md",
            "b/y.jsonl.zst",
            ".git/x.txt",
            ".x.txt",
            "d.txt.gz",
            "state.json",
            "e.gz",
            "nottxt",
        ] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let whole = [folder.path().join("b/notes.md"), folder.path().to_owned()];
        assert_eq!(
            names(&whole, &[]),
            ["notes.md", "a.TXT", "b/y.jsonl.zst", "b/z.txt", "c.txt", "d.txt.gz"]
        );
        assert_eq!(names(&whole[1..], &["md"]), ["b/notes.md"]);
        assert_eq!(names(&whole[1..], &["*.jsonl", ".gz"]), ["b/y.jsonl.zst", "d.txt.gz", "e.gz"]);
    }

    #[test]
    fn inputs_without_text_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.txt");
        assert!(matches!(list_inputs(&[missing], &[]), Err(DataError::Io { .. })));
        let nothing = list_inputs(&[folder.path().to_owned()], &[]).unwrap_err().to_string();
        assert!(nothing.contains(".txt, .jsonl, .ndjson, .parquet, .arrow"), "{nothing}");
    }

    #[test]
    fn folders_of_the_datasets_library_say_what_is_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow", "cache-1.arrow"] {
            fs::write(path(name), "").unwrap();
        }
        fs::write(
            path("state.json"),
            r#"{"_data_files": [{"filename": "data-00000-of-00002.arrow"}, {"filename": "../data-00001-of-00002.arrow"}]}"#,
        )
        .unwrap();
        let inputs = [folder.path().to_owned()];
        assert_eq!(names(&inputs, &[]), ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]);
        fs::write(path("dataset_dict.json"), r#"{"splits": ["train", "test"]}"#).unwrap();
        let splits = list_inputs(&inputs, &[]).unwrap_err().to_string();
        assert!(splits.contains("train, test"), "{splits}");
    }

    #[test]
    fn formats_are_told_from_names() {
        for (name, format) in [
            ("a.txt", Format::Text),
            ("a", Format::Text),
            ("a.md.gz", Format::Text),
            ("A.JSONL", Format::JsonLines),
            ("a.ndjson.zst", Format::JsonLines),
            ("a.json.gz", Format::JsonLines),
            ("a.parquet", Format::Parquet),
            ("data-00000-of-00001.arrow", Format::Arrow),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
