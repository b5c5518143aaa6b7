//! Logs of runs as pictures need them, and files of pictures.
//!
//! Owns which folders are runs to draw, what they are called, and that a picture replaces nothing but a picture. Must not
//! know how anything is drawn.

use std::fs;
use std::path::{Path, PathBuf};

use colac_plan::file as plan_file;
use colac_runtime::plot::log::RunLog;
use colac_runtime::plot::{Options, Run, page, svg};
use colac_runtime::race::length::Step;
use colac_runtime::train::metrics::METRICS_FILE;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::files;
use crate::shared::run_folder::PLAN_FILE;

/// The logs that a path stands for: a log itself, a run's, or those of all runs in a folder, by name.
pub(crate) fn logs(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !path.is_dir() {
        return Err(Failure::line(format!("{} does not exist", path.display()))
            .or_help(|| "name run folders, folders of runs, or metrics.jsonl files".to_owned()));
    }
    let own = path.join(METRICS_FILE);
    if own.is_file() {
        return Ok(vec![own]);
    }
    let mut found: Vec<PathBuf> = fs::read_dir(path)
        .map_err(|error| Failure::line(format!("cannot read {}: {error}", path.display())))?
        .filter_map(|entry| Some(entry.ok()?.path().join(METRICS_FILE)))
        .filter(|log| log.is_file())
        .collect();
    found.sort();
    match found.is_empty() {
        true => Err(Failure::line(format!("there is no {METRICS_FILE} in {}", path.display()))
            .or_help(|| "name run folders, or a folder with run folders in it".to_owned())),
        false => Ok(found),
    }
}

/// Reads a log to draw; FLOPs are known where the run's plan lies beside it.
pub(crate) fn read(log: &Path, name: String, group: String) -> Result<Run, Failure> {
    let text = fs::read(log)
        .map_err(|error| Failure::line(format!("cannot read {}: {error}", log.display())))?;
    let parsed = RunLog::parse(&text);
    if parsed.updates.is_empty() {
        let what = if parsed.unreadable > 0 { "is not the log of a run" } else { "has no updates" };
        return Err(Failure::line(format!("{} {what}", log.display()))
            .or_help(|| format!("name the folder of a run, or its {METRICS_FILE}")));
    }
    if parsed.unreadable > 1 {
        console::alert(format!(
            "warning: {} lines of {} are damaged and left out",
            parsed.unreadable,
            log.display()
        ));
    }
    let plan = log.with_file_name(PLAN_FILE);
    let flops_per_step = match plan.is_file() {
        true => Some(Step::of(&plan_file::read_from_path(&plan)?).flops),
        false => None,
    };
    Ok(Run { name, group, log: parsed, flops_per_step })
}

/// Short names for logs: the folders they lie in, or their whole paths where those are not enough to tell them apart.
pub(crate) fn names(logs: &[PathBuf]) -> Vec<String> {
    let whole = |log: &Path| {
        let is_run = log.file_name().is_some_and(|name| name == METRICS_FILE);
        let path = if is_run { log.parent().unwrap_or(log) } else { log };
        let shown = path.canonicalize().ok().filter(|_| path.file_name().is_none());
        shown.unwrap_or_else(|| path.to_owned())
    };
    let paths: Vec<PathBuf> = logs.iter().map(|log| whole(log)).collect();
    let short = |path: &PathBuf| {
        path.file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    let shorts: Vec<String> = paths.iter().map(short).collect();
    let is_unique = |name: &String| shorts.iter().filter(|other| *other == name).count() == 1;
    let choose = |(path, name): (&PathBuf, &String)| match is_unique(name) {
        true => name.clone(),
        false => path.display().to_string(),
    };
    paths.iter().zip(&shorts).map(choose).collect()
}

/// The format of a picture, as the ending of its file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A picture.
    Svg,
    /// A page.
    Html,
}

impl Format {
    /// By the ending of a path.
    pub(crate) fn of(path: &Path) -> Result<Format, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => Ok(Format::Svg),
            Some("html" | "htm") => Ok(Format::Html),
            _ => Err(Failure::line(format!(
                "{} is neither named as an SVG nor as a page",
                path.display()
            ))
            .or_help(|| "end the name in .svg or .html".to_owned())),
        }
    }
}

/// What every picture that a command writes says near its beginning: by `colac plot`, by `colac graph`.
const SIGNATURE: &str = "<!-- drawn by colac ";

/// Refuses to replace anything but an earlier picture.
pub(crate) fn refuse_other_files(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::line(format!("{} is a folder", path.display()))
            .or_help(|| "name a file, such as plot.svg, inside it".to_owned()));
    }
    let Ok(bytes) = fs::read(path) else { return Ok(()) };
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    match bytes.is_empty() || beginning.contains(SIGNATURE) {
        true => Ok(()),
        false => Err(Failure::line(format!(
            "{} exists and was not drawn by colac; it is not replaced",
            path.display()
        ))
        .or_help(|| "name another file, or delete this one".to_owned())),
    }
}

/// Writes a picture.
pub(crate) fn write(path: &Path, runs: &[Run], options: &Options) -> Result<(), Failure> {
    let text = match Format::of(path)? {
        Format::Svg => svg(runs, options),
        Format::Html => page(runs, options),
    };
    write_text(path, &text)
}

/// Writes the text of a picture, with the folders on the way.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Failure> {
    files::make_folder_of(path)?;
    fs::write(path, text).map_err(|error| files::cannot("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_where_that_is_enough() {
        let logs = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let found = names(&logs(&["runs/a-1/metrics.jsonl", "runs/a-2/metrics.jsonl"]));
        assert_eq!(found, ["a-1", "a-2"]);
        let found = names(&logs(&["x/a/metrics.jsonl", "y/a/metrics.jsonl", "old.jsonl"]));
        assert_eq!(found, ["x/a", "y/a", "old.jsonl"]);
    }
}
