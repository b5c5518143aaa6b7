//! `colac man`: the manual as man pages.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;

use crate::manual;
use crate::shared::console;
use crate::shared::failure::Failure;

/// Print the manual as a man page
///
/// The pages say what `--help` says. Without --out the page of the whole program goes to the standard output.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac man | man -l -
  colac man train | man -l -
  colac man --out ~/.local/share/man/man1                    # colac.1, colac-train.1, ...")]
pub(crate) struct Arguments {
    /// The command to explain, as `train` or `data prepare`
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,

    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let pages = pages();
    if let Some(folder) = &arguments.out {
        let failed =
            |path: &Path, error| Failure::line(format!("cannot write {}: {error}", path.display()));
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        for (name, page) in &pages {
            let path = folder.join(format!("{name}.1"));
            std::fs::write(&path, page).map_err(|error| failed(&path, error))?;
        }
        return console::out(format_args!("{} pages in {}\n", pages.len(), folder.display()));
    }
    let words = ["colac".to_owned()].into_iter().chain(arguments.command.iter().cloned());
    let wanted = words.collect::<Vec<_>>().join("-");
    let Some((_, page)) = pages.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<String> = pages
            .iter()
            .filter_map(|(name, _)| Some(name.strip_prefix("colac-")?.to_owned()))
            .collect();
        return Err(Failure::line(format!("there is no command {}", arguments.command.join(" ")))
            .or_help(|| format!("the commands are {}", console::listed(&names))));
    };
    console::out(page)
}

/// The name and the text of every page.
fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    collect(&manual::commands(), &mut pages);
    pages
}

fn collect(command: &Command, pages: &mut Vec<(String, String)>) {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).expect("writing to memory does not fail");
    // With the words joined, once the tree of commands is built: `colac-data-prepare`.
    let name = command.get_display_name().unwrap_or(command.get_name());
    pages.push((name.to_owned(), String::from_utf8_lossy(&page).into_owned()));
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        collect(sub, pages);
    }
}
