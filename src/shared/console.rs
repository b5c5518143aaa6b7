//! The two output streams and how numbers and commands are written on them.
//!
//! Owns the rule that results go to the standard output and everything else to the error output, and that a closed pipe
//! is no error. Must not know what is printed.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;

use clap::{Args, ColorChoice};
use serde::Serialize;

use crate::shared::failure::Failure;

/// Options of every command: what is said beside the result, and how it looks.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputOptions {
    /// Say nothing but results, warnings and errors: no progress, no notes
    #[arg(short, long, global = true, help_heading = "Output options")]
    quiet: bool,

    /// Colours in messages: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "Output options"
    )]
    color: ColorChoice,
}

static OPTIONS: OnceLock<OutputOptions> = OnceLock::new();

/// Makes the options of the command line hold from here on.
pub(crate) fn set_up(options: OutputOptions) {
    // Only the first command line counts, and a process has no other.
    let _ = OPTIONS.set(options);
}

fn is_quiet() -> bool {
    OPTIONS.get().is_some_and(|options| options.quiet)
}

/// What `--color` says, before the command line is parsed: its own errors and the manual obey it too.
pub(crate) fn color_as_typed() -> ColorChoice {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let value = arguments.iter().enumerate().find_map(|(i, argument)| {
        let next = || arguments.get(i + 1).map(String::as_str);
        if argument == "--color" { next() } else { argument.strip_prefix("--color=") }
    });
    value.and_then(|value| value.parse().ok()).unwrap_or(ColorChoice::Auto)
}

/// Prints a result as it is, without a line end of its own.
pub(crate) fn out(text: impl Display) -> Result<(), Failure> {
    let mut stream = io::stdout().lock();
    match write!(stream, "{text}").and_then(|()| stream.flush()) {
        Ok(()) => Ok(()),
        // Whoever read the output has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ClosedPipe),
        Err(error) => Err(Failure::line(format!("cannot write to the standard output: {error}"))),
    }
}

/// Prints a result for machines.
pub(crate) fn out_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("a report has a JSON form");
    out(format_args!("{text}\n"))
}

/// Prints a line about what is going on to the error output, unless the user wants quiet.
pub(crate) fn note(line: impl Display) {
    if !is_quiet() {
        alert(line);
    }
}

/// Prints a line that has to be seen to the error output. Nothing can be said where that is closed.
pub(crate) fn alert(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether results are read on a terminal.
pub(crate) fn out_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether the error output is a terminal that can move its cursor.
pub(crate) fn is_interactive() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether progress may be drawn over itself.
pub(crate) fn draws_progress() -> bool {
    is_interactive() && !is_quiet()
}

/// Whether the error output takes colours: as `--color` says; if it leaves that open, where the error output is a
/// terminal and `NO_COLOR` is not set to anything.
pub(crate) fn has_colors() -> bool {
    match OPTIONS.get().map_or(ColorChoice::Auto, |options| options.color) {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            is_interactive() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    }
}

/// A text from a model without what a terminal would obey: its control characters but line ends and tabs are shown as
/// the replacement character.
pub(crate) fn printable(text: &str) -> String {
    let show = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(show).collect()
}

/// How this program is called, so that the commands it prints can be typed as they stand: as it was called if that was
/// by a path, else `colac`.
pub(crate) fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| "colac".into());
    let path = Path::new(&called);
    if path.components().count() < 2 {
        return "colac".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).unwrap_or(path);
    quoted(path.as_os_str())
}

/// A command line of this program.
pub(crate) fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> String {
    let mut line = program();
    for argument in arguments {
        line.push(' ');
        line.push_str(&quoted(argument.as_ref()));
    }
    line
}

/// An argument as a shell reads it back.
fn quoted(argument: &OsStr) -> String {
    let text = argument.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%\\".contains(c);
    match !text.is_empty() && text.chars().all(plain) && !text.contains('\\') {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// A time in its two largest units: `2 min 5 s`, `3 days 4 h`.
pub(crate) fn duration(seconds: f64) -> String {
    const UNITS: [(&str, u64); 4] = [("day", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    if !seconds.is_finite() || seconds >= 365.0 * 86_400.0 * 10.0 {
        return "more than ten years".to_owned();
    }
    if seconds < 10.0 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let mut whole = seconds.round() as u64;
    let mut parts = Vec::new();
    for (name, size) in UNITS {
        let amount = whole / size;
        whole %= size;
        if amount > 0 {
            let plural = if name == "day" && amount > 1 { "s" } else { "" };
            parts.push(format!("{amount} {name}{plural}"));
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

/// Several names as a sentence lists them: `a, b and c`.
pub(crate) fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(duration(0.04), "0.0 s");
        assert_eq!(duration(9.94), "9.9 s");
        assert_eq!(duration(125.4), "2 min 5 s");
        assert_eq!(duration(3600.0), "1 h");
        assert_eq!(duration(90_061.0), "1 day 1 h");
        assert_eq!(duration(86_400.0 * 3.0 + 60.0), "3 days");
        assert_eq!(duration(f64::INFINITY), "more than ten years");
    }

    #[test]
    fn arguments_survive_a_shell() {
        assert_eq!(quoted(OsStr::new("runs/a-1")), "runs/a-1");
        assert_eq!(quoted(OsStr::new("It is a truth")), "'It is a truth'");
        assert_eq!(quoted(OsStr::new("don't")), "'don'\\''t'");
        assert_eq!(quoted(OsStr::new("")), "''");
    }

    #[test]
    fn a_model_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[31m\r\tb\n\u{9b}é"), "a\u{fffd}[31m\u{fffd}\tb\n\u{fffd}é");
    }

    #[test]
    fn lists_read_well() {
        let names =
            |n: usize| ["a", "b", "c"][..n].iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(listed(&names(1)), "a");
        assert_eq!(listed(&names(2)), "a and b");
        assert_eq!(listed(&names(3)), "a, b and c");
    }
}
