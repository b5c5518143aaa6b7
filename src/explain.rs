//! `colac explain`: what an error code means and how to mend it.
//!
//! Owns finding an entry of `docs/errors.md`, which is carried in the binary and which a test keeps equal to the code
//! tables and the cases.

use clap::Args;
use colac_compiler::compile;
use colac_compiler::diagnostics::nearest;
use serde::Serialize;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::preflight;

/// The documentation of every code.
const ENTRIES: &str = include_str!("../docs/errors.md");

/// Explain an error or warning by its code
///
/// The code stands above each message: `spec::unknown_key`. Without a code, lists all of them.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac explain spec::unknown_key
  colac explain unknown_key                the area may be left out where that is clear
  colac explain                            every code with its meaning")]
pub(crate) struct Arguments {
    /// A code such as spec::unknown_key
    code: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A code with its meaning.
#[derive(Debug, Serialize)]
struct Entry {
    code: &'static str,
    meaning: &'static str,
    /// The whole entry of the documentation.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'static str>,
}

/// Every code of the program.
fn all() -> impl Iterator<Item = Entry> {
    let codes = compile::codes().chain(preflight::codes::ALL.iter().copied());
    codes.map(|(code, meaning)| Entry { code, meaning: meaning.trim(), text: None })
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Some(wanted) = &arguments.code else {
        let entries: Vec<Entry> = all().collect();
        return match arguments.json {
            true => console::out_json(&entries),
            false => {
                let line = |entry: &Entry| format!("{:<36}{}\n", entry.code, entry.meaning);
                console::out(entries.iter().map(line).collect::<String>())
            }
        };
    };
    let wanted = wanted.trim();
    let mut found: Vec<Entry> = all().filter(|entry| entry.code == wanted).collect();
    if found.is_empty() {
        found = all()
            .filter(|entry| entry.code.split_once("::").is_some_and(|c| c.1 == wanted))
            .collect();
    }
    if found.is_empty() {
        let help = match nearest(wanted, all().map(|entry| entry.code)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("list all codes with `{}`", console::command(["explain"])),
        };
        return Err(Failure::line(format!("there is no code `{wanted}`")).or_help(|| help));
    }
    for entry in &mut found {
        entry.text = text(entry.code);
    }
    if arguments.json {
        return console::out_json(&found);
    }
    let shown = |entry: &Entry| match entry.text {
        Some(text) => format!("{}\n", text.trim_end()),
        None => format!("{}: {}\n", entry.code, entry.meaning),
    };
    console::out(found.iter().map(shown).collect::<Vec<_>>().join("\n"))
}

/// The section of the documentation about a code.
fn text(code: &str) -> Option<&'static str> {
    let heading = format!("### `{code}`\n");
    let start = ENTRIES.find(&heading)?;
    let body = &ENTRIES[start..];
    let end = body[heading.len()..].find("\n##").map_or(body.len(), |at| heading.len() + at);
    Some(&body[..end])
}
