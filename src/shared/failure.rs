//! How a command ends when it does not succeed, and what the user then sees.
//!
//! Owns the form of errors on the screen and the exit codes. Must not know what can go wrong: the libraries' errors say
//! that themselves, in one line each or as diagnostics with places.

use std::process::ExitCode;

use colac_compiler::diagnostics::{Diagnostics, Rendered, Severity, Sources};
use miette::{GraphicalReportHandler, GraphicalTheme};

use crate::shared::console;

/// The exit codes, as `--help` documents them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    an error, printed as `error: …` or with the place in the spec
  2    the command line itself is wrong
  130  interrupted by SIGINT, SIGTERM or SIGUSR1, or out of time (--max-hours); a training run has saved its state
       first and goes on with --resume. A second signal N ends the command at once, with 128 + N";

/// Exit code of an interrupted command: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is wrong in texts that the user wrote.
    Texts(Diagnostics, Sources),
    /// Anything else: one line, and if there is one the way out.
    Line {
        /// What is wrong and where, without a full stop.
        message: String,
        /// What to do; may have several lines.
        help: Option<String>,
    },
    /// What is wrong has been said in the command's own report.
    Reported,
    /// The user stopped it; everything has been said.
    Interrupted,
    /// The reader of the output closed it.
    ClosedPipe,
}

impl Failure {
    /// An error of one line.
    pub(crate) fn line(message: impl Into<String>) -> Failure {
        Failure::Line { message: message.into(), help: None }
    }

    /// Adds what to do, if nothing is said of that yet.
    #[must_use]
    pub(crate) fn or_help(self, help: impl FnOnce() -> String) -> Failure {
        match self {
            Failure::Line { message, help: None } => Failure::Line { message, help: Some(help()) },
            other => other,
        }
    }

    /// Shows it and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Texts(diagnostics, sources) => {
                show(&diagnostics, &sources);
                let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
                if errors > 1 {
                    console::alert(format!("error: {errors} errors; nothing was compiled"));
                }
                ExitCode::FAILURE
            }
            Failure::Line { message, help } => {
                console::alert(format!("{}: {message}", heading("error")));
                if let Some(help) = help {
                    let mut lines = help.lines();
                    console::alert(format!("  help: {}", lines.next().unwrap_or_default()));
                    for line in lines {
                        console::alert(format!("        {line}").trim_end());
                    }
                }
                ExitCode::FAILURE
            }
            Failure::Reported => ExitCode::FAILURE,
            Failure::Interrupted => ExitCode::from(INTERRUPTED),
            Failure::ClosedPipe => ExitCode::SUCCESS,
        }
    }
}

fn heading(word: &str) -> String {
    match console::has_colors() {
        true => format!("\x1b[1;31m{word}\x1b[0m"),
        false => word.to_owned(),
    }
}

/// More messages than this nobody reads at once.
const MOST_SHOWN: usize = 50;

/// Shows diagnostics with the lines they point to: drawn on a terminal, plain letters elsewhere.
pub(crate) fn show(diagnostics: &Diagnostics, sources: &Sources) {
    let theme = match (console::is_interactive(), console::has_colors()) {
        (_, true) => GraphicalTheme::unicode(),
        (true, false) => GraphicalTheme::unicode_nocolor(),
        (false, false) => GraphicalTheme::none(),
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(100);
    for diagnostic in diagnostics.iter().take(MOST_SHOWN) {
        let mut text = String::new();
        let rendered = Rendered::new(diagnostic, sources);
        match handler.render_report(&mut text, &rendered) {
            Ok(()) => console::alert(text.trim_end_matches('\n')),
            // A span outside its text cannot be drawn; its message still says what is wrong.
            Err(_) => console::alert(format!("{}: {}", heading("error"), diagnostic.message)),
        }
    }
    let more = diagnostics.iter().count().saturating_sub(MOST_SHOWN);
    if more > 0 {
        console::alert(format!("… and {more} more like these; mend the first ones first"));
    }
}

/// The libraries' errors are one line each that names the file and, where there is one, the way out.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::line(error.to_string())
    }
}
