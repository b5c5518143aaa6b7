//! `extends`: a spec joined with those that it inherits from.
//!
//! Owns how the chain of files is found and how their trees become one. Must not know any other key: the decoder judges
//! the joined tree, in which every key and value still points at the line of the file where it stands.
//!
//! Tables are joined key by key; everything else, lists included, replaces what is inherited.

use std::path::PathBuf;
use std::sync::Arc;

use super::{SpecInput, codes, shipped};
use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span};
use crate::toml_tree::{self, Entry, Node, Table, Tree};

/// The key that names the inherited spec.
pub(super) const EXTENDS: &str = "extends";

/// The files of a spec, and what they say together.
pub(super) struct Inherited {
    /// The joined tree, without `extends`.
    pub(super) root: Table,
    /// The spec itself first, then what it extends, and so on.
    pub(super) files: Vec<File>,
    /// The texts of all files: the spec itself, and behind it those it extends, each under a comment with the name by
    /// which it was extended. It does not depend on the folders of this machine.
    pub(super) text: Arc<str>,
}

/// One file of a chain.
pub(super) struct File {
    pub(super) source: SourceId,
    pub(super) folder: Option<PathBuf>,
    /// How the file that extends it names it; empty for the spec itself.
    named: String,
    text: Arc<str>,
    identity: Identity,
    /// Where it says which file it extends.
    extends: Option<Span>,
}

/// What makes two files of a chain the same.
#[derive(PartialEq)]
enum Identity {
    Shipped(String),
    File(PathBuf),
    Memory,
}

impl Identity {
    fn of(input: &SpecInput) -> Identity {
        match input {
            SpecInput::Shipped(name) => Identity::Shipped(name.clone()),
            SpecInput::Path(path) => {
                Identity::File(path.canonicalize().unwrap_or_else(|_| path.clone()))
            }
            SpecInput::Text { .. } => Identity::Memory,
        }
    }
}

impl Inherited {
    /// Reads a spec and everything that it extends.
    pub(super) fn read(input: SpecInput, sources: &mut Sources) -> Result<Inherited, Diagnostics> {
        let mut files: Vec<File> = Vec::new();
        let mut trees = Vec::new();
        let mut next = Some((input, String::new()));
        while let Some((input, named)) = next.take() {
            let identity = Identity::of(&input);
            let named_at = files.last().and_then(|file| file.extends);
            if let Some(again) = files.iter().position(|file| file.identity == identity)
                && identity != Identity::Memory
            {
                return Err(cycle(&files[again..], sources).into());
            }
            let read = input.read().map_err(|mut error| {
                if let Some(span) = named_at {
                    error = error.at(span, "extended here");
                }
                error
            })?;
            let text: Arc<str> = read.text.into();
            let source = sources.add(read.name, Arc::clone(&text));
            let mut tree = toml_tree::parse(source, codes::SYNTAX, sources)?;
            let parent = tree
                .0
                .iter()
                .position(|entry| entry.key == EXTENDS)
                .map(|at| tree.0.remove(at).node)
                .map(parent)
                .transpose()?;
            if let Some((name, _)) = &parent {
                let input = match (shipped::is_path(name), &read.folder) {
                    (true, Some(folder)) => SpecInput::Path(folder.join(name)),
                    _ => SpecInput::from_argument(name),
                };
                next = Some((input, name.clone()));
            }
            let extends = parent.map(|(_, span)| span);
            files.push(File { source, folder: read.folder, named, text, identity, extends });
            trees.push(tree);
        }
        let mut root = trees.pop().expect("the spec itself was read");
        while let Some(over) = trees.pop() {
            join(&mut root, over);
        }
        let text = joined_text(&files);
        Ok(Inherited { root, files, text })
    }
}

/// The texts of a chain as one.
fn joined_text(files: &[File]) -> Arc<str> {
    if let [only] = files {
        return Arc::clone(&only.text);
    }
    let mut text = String::new();
    for file in files {
        if !text.is_empty() {
            let end = if text.ends_with('\n') { "" } else { "\n" };
            text.push_str(&format!("{end}\n# extended: {}\n", file.named.escape_debug()));
        }
        text.push_str(&file.text);
    }
    text.into()
}

/// The name in `extends` and its place.
fn parent(node: Node) -> Result<(String, Span), Diagnostic> {
    let help = "write the name of a shipped spec, or the path of a file relative to this one";
    match node.value {
        Tree::Text(text, _) if text.trim().is_empty() => {
            Err(Diagnostic::error(codes::EMPTY, format!("`{EXTENDS}` must not be empty"))
                .at(node.span, "names no spec")
                .help(help))
        }
        Tree::Text(text, _) => Ok((text, node.span)),
        Tree::List(_) => Err(Diagnostic::error(codes::WRONG_TYPE, "a spec extends one other spec")
            .at(node.span, "this is a list")
            .help("name one spec; let that one extend the next")),
        other => Err(Diagnostic::error(
            codes::WRONG_TYPE,
            format!("`{EXTENDS}` takes another type of value"),
        )
        .at(node.span, format!("this is {}", other.type_name()))
        .help(help)),
    }
}

/// Specs that extend each other in a circle, the first one being extended again by the last.
fn cycle(files: &[File], sources: &Sources) -> Diagnostic {
    let mut names: Vec<&str> =
        files.iter().map(|file| sources.get(file.source).name.as_str()).collect();
    let message = match names.as_slice() {
        [_] => "a spec cannot extend itself".to_owned(),
        _ => {
            names.push(names[0]);
            format!("specs extend each other in a circle: {}", names.join(" → "))
        }
    };
    let mut diagnostic = Diagnostic::error(codes::EXTENDS_CYCLE, message);
    for span in files.iter().filter_map(|file| file.extends) {
        diagnostic = diagnostic.at(span, "extended here");
    }
    diagnostic.help("remove one `extends`, so that one of the specs stands by itself")
}

/// Puts the keys of `over` into `base`.
fn join(base: &mut Table, over: Table) {
    for entry in over.0 {
        let Some(at) = base.0.iter().position(|known| known.key == entry.key) else {
            base.0.push(entry);
            continue;
        };
        let old = std::mem::replace(&mut base.0[at], entry);
        let new = &mut base.0[at];
        if let (Tree::Table(_), Tree::Table(over)) = (&old.node.value, &mut new.node.value)
            && let Entry { node: Node { value: Tree::Table(mut inherited), .. }, .. } = old
        {
            join(&mut inherited, std::mem::take(over));
            *over = inherited;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Table {
        let mut sources = Sources::default();
        let source = sources.add("text", text);
        toml_tree::parse(source, codes::SYNTAX, &mut sources).expect(text)
    }

    #[test]
    fn tables_are_joined_and_everything_else_is_replaced() {
        let mut base =
            tree("a = 1\nb = 2\n[s]\nx = 1\ny = [1, 2]\n[s.t]\nz = 1\n[[l]]\nk = 1\n[o]\n");
        join(
            &mut base,
            tree("b = 3\nc = 4\no = false\n[s]\ny = [3]\n[s.t]\nw = 2\n[[l]]\nk = 2\n"),
        );
        assert_eq!(
            Tree::Table(base).to_string(),
            r#"{ "a" = 1, "b" = 3, "s" = { "x" = 1, "y" = [3], "t" = { "z" = 1, "w" = 2 } }, "l" = [{ "k" = 2 }], "o" = false, "c" = 4 }"#
        );
    }
}
