//! The built program, run in an empty folder, as a user meets it.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::repository;

/// What a command did.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn succeeds(self) -> Done {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, pieces: &[&str]) -> Done {
        for piece in pieces {
            assert!(
                self.out.contains(piece) || self.err.contains(piece),
                "not there: {piece}\n{}\n{}",
                self.out,
                self.err
            );
        }
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

/// An empty folder to run commands in.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// With the small spec and the text and tokenizer it names.
    pub(crate) fn with_data() -> Folder {
        let folder = Folder::new();
        fs::copy(repository("tests/cli/small.toml"), folder.path("small.toml")).unwrap();
        let text =
            fs::read_to_string(repository("examples/corpus/validation/persuasion.txt")).unwrap();
        let (train, validation) = text.split_at(text.floor_char_boundary(30_000));
        fs::write(folder.path("train.txt"), train).unwrap();
        fs::write(
            folder.path("validation.txt"),
            &validation[..validation.floor_char_boundary(4_000)],
        )
        .unwrap();
        folder
            .run(&[
                "data",
                "train-tokenizer",
                "train.txt",
                "--vocab-size",
                "400",
                "-o",
                "tokenizer.json",
            ])
            .succeeds();
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_colac"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command; none may panic, and none draws colours off a terminal.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let done =
            Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!done.err.contains("bug in colac"), "{arguments:?}\n{}", done.err);
        assert!(
            !done.err.contains('\x1b') && !done.out.contains('\x1b'),
            "{arguments:?} draws colours"
        );
        done
    }

    /// Runs a command that fails with an error of one line and perhaps help.
    #[track_caller]
    pub(crate) fn fails(&self, arguments: &[&str], pieces: &[&str]) {
        let done = self.run(arguments).says(pieces);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{arguments:?}\n{}", done.err);
        let errors = done.err.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{arguments:?}\n{}", done.err);
        let expected = |line: &&str| {
            ["error: ", "  ", "tokenizing "].iter().any(|start| line.starts_with(start))
        };
        let stray = done.err.lines().find(|line| !expected(line));
        assert_eq!(stray, None, "{arguments:?}");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(self.0.path()).unwrap().next().is_none()
    }
}
