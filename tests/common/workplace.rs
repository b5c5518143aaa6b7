//! A folder with a small spec and its data, in which the built program is run.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::repository;

/// The folder; it vanishes with its owner.
pub(crate) struct Workplace(tempfile::TempDir);

impl Workplace {
    /// With the spec `small.toml` and the text and tokenizer it names.
    pub(crate) fn with_data() -> Workplace {
        let workplace = Workplace(tempfile::tempdir().expect("a folder"));
        let copied = fs::copy(repository("tests/cli/small.toml"), workplace.path("small.toml"));
        copied.expect("the spec can be copied");
        let text = fs::read_to_string(repository("examples/corpus/validation/persuasion.txt"));
        let text = text.expect("the corpus is there");
        let (train, rest) = text.split_at(text.floor_char_boundary(30_000));
        for (name, text) in
            [("train.txt", train), ("validation.txt", &rest[..rest.floor_char_boundary(4_000)])]
        {
            fs::write(workplace.path(name), text).expect("the folder is ours");
        }
        let arguments =
            ["data", "train-tokenizer", "train.txt", "--vocab-size", "400", "-o", "tokenizer.json"];
        let output = workplace.run(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        workplace
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The program, to be run in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_colac"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program was built")
    }
}
