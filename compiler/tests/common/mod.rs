//! Cases of diagnostics: files that are wrong on purpose, what stands at their head, and how their reports are compared.
//!
//! Owns finding, reading and rendering. Must not know what a case is run through: each test says that.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostic, Rendered, Sources};

/// The folder of an area's cases and snapshots.
pub(crate) fn folder(area: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(area)
}

/// File stems of all cases of an area, ordered.
pub(crate) fn names(area: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder(area)).expect("the cases are part of the repository");
    let paths = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let mut names: Vec<_> =
        paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A case without the directives at its head.
pub(crate) struct Case {
    /// Lines `#! WORD ARGUMENT`, in order: word and argument.
    pub(crate) directives: Vec<(String, String)>,
    /// Everything after them.
    pub(crate) text: String,
}

/// Reads a case.
pub(crate) fn read(area: &str, name: &str) -> Case {
    let text = std::fs::read_to_string(folder(area).join(format!("{name}.toml"))).unwrap();
    let mut directives = Vec::new();
    let mut rest = text.as_str();
    while let Some(after) = rest.strip_prefix("#! ") {
        let (line, next) = after.split_once('\n').expect("a directive ends its line");
        let (word, argument) = line.split_once(' ').expect("a directive has an argument");
        directives.push((word.to_owned(), argument.to_owned()));
        rest = next;
    }
    Case { directives, text: rest.to_owned() }
}

/// Diagnostics as a user sees them, without colours, 100 columns wide.
pub(crate) fn render<'a>(
    diagnostics: impl IntoIterator<Item = &'a Diagnostic>,
    sources: &Sources,
) -> String {
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let handler =
        miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    let mut text = String::new();
    for diagnostic in diagnostics {
        handler.render_report(&mut text, &Rendered::new(diagnostic, sources)).unwrap();
        text.push('\n');
    }
    // Lines of miette's frame end in spaces; snapshots are easier to review without them.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What holds for every diagnostic: it says what to do, and its message is no sentence with a full stop.
pub(crate) fn check_wording(name: &str, diagnostic: &Diagnostic) {
    assert!(diagnostic.help.is_some(), "{name}: {} has no help", diagnostic.code);
    let message = &diagnostic.message;
    assert!(!message.ends_with('.'), "{name}: {} ends with a full stop", diagnostic.code);
}
