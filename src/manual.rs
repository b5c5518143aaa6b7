//! The first page of the manual: `colac --help`.
//!
//! Owns the headings under which commands are listed and what stands behind the list. Must not know what a command does:
//! its own page says that.

use std::fmt::Write;

use clap::{Command, CommandFactory};
use colac_compiler::spec::shipped;

use crate::Cli;
use crate::shared::failure::EXIT_CODES;

/// The headings of the list of commands, and what stands under each; every command is under exactly one.
const GROUPS: &[(&str, &[&str])] = &[
    ("Build", &["compile", "spec"]),
    ("Look", &["inspect", "graph", "diff", "fit", "plot", "explain"]),
    ("Train", &["train", "race", "eval", "generate"]),
    ("Data", &["data"]),
    ("Machine", &["doctor", "calibrate", "bench", "completions", "man", "help"]),
];

/// The whole command line, as it is parsed and explained.
pub(crate) fn command() -> Command {
    let command = commands();
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}{{all-args}}{{after-help}}",
        list(&command)
    );
    // Their list stands in the template, so the one that clap would write is left out.
    command
        .help_template(template)
        .override_usage("colac [OPTIONS] <COMMAND>")
        .mut_subcommands(|sub| sub.hide(true))
}

/// The commands with their options, as shells complete them and man pages list them.
pub(crate) fn commands() -> Command {
    let mut command = Cli::command().after_long_help(after_list());
    // Adds what clap adds by itself, so that `help` is listed as the others are.
    command.build();
    command
}

/// The commands under their headings.
fn list(command: &Command) -> String {
    let styles = command.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let names = command.get_subcommands().map(|sub| sub.get_name().len());
    let width = names.max().unwrap_or_default();
    let mut text = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(text, "{header}{heading}:{header:#}");
        for name in *names {
            let Some(sub) = command.find_subcommand(name) else { continue };
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {literal}{name:<width$}{literal:#}  {about}");
        }
        text.push('\n');
    }
    text
}

/// What `colac --help` says behind the options.
fn after_list() -> String {
    let specs: Vec<&str> = shipped::specs().iter().map(|(name, _)| *name).collect();
    format!(
        "\
Words:
  spec        a TOML file: model, rank and activation, training recipe, data
  plan        the compiled form, a file; wherever a plan is accepted, a spec is compiled on the fly
  run         a folder with plan, log and checkpoints
  checkpoint  a folder in a run; the weights are safetensors under Hugging Face names

Shipped specs, known by name from any folder:
  {}

Examples:
  colac train llama-nano                       train on the shipped corpus, a few minutes
  colac generate runs/llama-nano-1 --prompt 'She was'
  colac compile llama-350m                     write plan.bin and say what it costs
  colac inspect llama-350m --full-rank         what the dense model would cost
  colac graph llama-60m --open                 see it in the browser
  colac fit llama-1b --device h200             what fits, and how fast it would be
  colac calibrate                              measure this machine, for such predictions
  colac compile llama-nano --set cola.rank=16 --set cola.activation=gelu -o small.bin

Each command has a page of its own: colac train --help

{EXIT_CODES}",
        specs.join("  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_listed_once() {
        let mut listed: Vec<&str> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = command();
        let mut there: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        listed.sort_unstable();
        there.sort_unstable();
        assert_eq!(listed, there);
    }

    /// Names, defaults and conflicts of arguments make sense; clap checks that when asked.
    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    /// Every command says in its long help how it is used, with examples that it accepts.
    #[test]
    fn every_example_parses() {
        fn examples(command: &Command, found: &mut Vec<(String, String)>) {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let own = help.lines().map(str::trim).filter(|line| line.starts_with("colac "));
            let own: Vec<_> =
                own.map(|line| (command.get_name().to_owned(), line.to_owned())).collect();
            let is_leaf = command.get_subcommands().next().is_none();
            assert!(
                !own.is_empty() || !is_leaf || command.get_name() == "help",
                "{} has no example",
                command.get_name()
            );
            found.extend(own);
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                examples(sub, found);
            }
        }
        let mut found = Vec::new();
        examples(&command(), &mut found);
        for (name, line) in found {
            let words = split(&line);
            let parsed = command().try_get_matches_from(&words);
            let shows_help = words.iter().any(|word| word == "--help");
            assert!(parsed.is_ok() || shows_help, "{name}: {line}\n{}", parsed.unwrap_err());
        }
    }

    /// The words of an example, up to the two spaces or the `#`, `|`, `>` that end the command.
    fn split(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        let mut spaces = 0;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => {
                    spaces += 1;
                    if spaces == 2 {
                        break;
                    }
                    words.push(String::new());
                    continue;
                }
                '#' | '|' | '>' | '&' if !quoted => break,
                c => words.last_mut().unwrap().push(c),
            }
            spaces = 0;
        }
        let empty_argument = line.contains("''");
        words.retain(|word| !word.is_empty() || empty_argument);
        while words.last().is_some_and(String::is_empty) {
            words.pop();
        }
        words
    }
}
