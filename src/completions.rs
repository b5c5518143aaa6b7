//! `colac completions`: what a shell needs to complete this command line.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::manual;
use crate::shared::console;
use crate::shared::failure::Failure;

/// Print the completions of a shell
///
/// The script goes to the standard output; where it belongs depends on the shell.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac completions bash > ~/.local/share/bash-completion/completions/colac
  colac completions zsh > ~/.zfunc/_colac                    # with fpath+=~/.zfunc before compinit
  colac completions fish > ~/.config/fish/completions/colac.fish
  colac completions powershell >> $PROFILE")]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { shell } = arguments;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut manual::commands(), "colac", &mut script);
    console::out(String::from_utf8(script).map_err(|error| {
        let shell = shell.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        Failure::line(format!("the completions of {shell} are not text: {error}"))
    })?)
}
