//! What a kernel's parameters are, read off its text, and whether a launch's arguments fit them.
//!
//! A launch hands over untyped memory, so nothing else notices an argument too many or of another width. Must not know
//! devices.

use crate::cuda::launch::{Argument, Launch};

/// The types of a kernel's parameters, macros of the text's own replaced.
pub(crate) fn parameters(text: &str, entry: &str) -> Result<Vec<String>, String> {
    let head = format!(" {entry}(");
    let start = text
        .match_indices(&head)
        .find(|(at, _)| {
            let line = text[..*at].rfind('\n').map_or(0, |newline| newline + 1);
            text[line..*at].starts_with("KERNEL void")
        })
        .map(|(at, _)| at + head.len());
    let start = start.ok_or_else(|| format!("no kernel {entry}"))?;
    let list = &text[start..];
    let end = list.find(')').ok_or("a parameter list without an end")?;
    let mut list = list[..end].to_owned();
    for line in text.lines().filter_map(|line| line.strip_prefix("#define ")) {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        if name.ends_with("_PARAMS") {
            list = list.replace(name, value);
        }
    }
    let types = list.split(',').map(str::trim).filter(|parameter| !parameter.is_empty());
    types
        .map(|parameter| {
            let name = parameter.rfind(|c: char| !c.is_alphanumeric() && c != '_');
            let name = name.ok_or_else(|| format!("{entry}: {parameter} has no type"))?;
            Ok(parameter[..=name].replace("__restrict__", "").trim().to_owned())
        })
        .collect()
}

/// Whether each argument is what the parameter at its place takes.
pub(crate) fn check(launch: &Launch) -> Result<(), String> {
    let text = launch.source.text();
    let types = parameters(&text, launch.entry)?;
    let fits = |(argument, ty): (&Argument, &String)| match argument {
        Argument::Address(_) => ty.ends_with('*'),
        Argument::U64(_) => ty == "u64",
        Argument::I64(_) => ty == "i64",
        Argument::U32(_) => ty == "u32",
        Argument::F32(_) => ty == "float",
        Argument::F64(_) => ty == "double",
    };
    let wrong = launch.arguments.iter().zip(&types).position(|pair| !fits(pair));
    match wrong {
        _ if types.len() != launch.arguments.len() => Err(format!(
            "{} takes {} arguments, not {}: {types:?}",
            launch.entry,
            types.len(),
            launch.arguments.len()
        )),
        Some(at) => Err(format!(
            "{}: argument {at} is {:?}, the parameter {}",
            launch.entry, launch.arguments[at], types[at]
        )),
        None => Ok(()),
    }
}
