//! What is wrong with a user's text: spans into named sources, diagnostics with code, reason and help, and their
//! collection.
//!
//! Owns the vocabulary of errors and how they are rendered (miette). Must not know what a spec, a graph or a plan is:
//! every stage builds its own diagnostics with these types.

mod excerpt;

use std::fmt;
use std::sync::Arc;

/// Names a text of [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// A half-open byte range of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The text pointed into.
    pub source: SourceId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// A span of `source` over the bytes `range`.
    pub fn new(source: SourceId, range: std::ops::Range<usize>) -> Span {
        Span { source, start: range.start as u32, end: range.end as u32 }
    }

    /// The smallest span that covers both; both must lie in one source.
    pub fn to(self, other: Span) -> Span {
        debug_assert_eq!(self.source, other.source);
        Span {
            source: self.source,
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

/// One text that was read: a spec, an architecture, or an argument of the command line.
#[derive(Clone, Debug)]
pub struct Source {
    /// What to call it in messages: a path as the user wrote it, `NAME (built in)`, `--set`.
    pub name: String,
    /// The whole text.
    pub text: Arc<str>,
}

/// Every text that spans may point into.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Registers a text.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> SourceId {
        self.0.push(Source { name: name.into(), text: text.into() });
        SourceId(self.0.len() as u32 - 1)
    }

    /// The text behind an id made by [`Sources::add`].
    pub fn get(&self, id: SourceId) -> &Source {
        &self.0[id.0 as usize]
    }

    /// The bytes of a span.
    pub fn slice(&self, span: Span) -> &str {
        &self.get(span.source).text[span.start as usize..span.end as usize]
    }

    /// `name:line` of a span's start, lines counted from 1: how reports and pictures name a place.
    pub fn place(&self, span: Span) -> String {
        let source = self.get(span.source);
        let line = source.text[..span.start as usize].bytes().filter(|&b| b == b'\n').count() + 1;
        format!("{}:{line}", source.name)
    }
}

/// Does it stop the compiler?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is compiled.
    Error,
    /// The plan is made; the user should look.
    Warning,
}

/// A span and what to say about it.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What stands there, in a few words without a full stop.
    pub text: String,
}

/// One thing that is wrong: a stable code (`spec::unknown_key`), the reason, where, and what to write instead.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Stable, lower case, `area::what`; every code has a case file and an entry in the documentation.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// The reason, one sentence without a full stop.
    pub message: String,
    /// First the place that is wrong, then others involved.
    pub labels: Vec<Label>,
    /// What to do, in the imperative.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without labels yet.
    pub fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            labels: Vec::new(),
            help: None,
        }
    }

    /// A warning without labels yet.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message) }
    }

    /// Adds a labelled place.
    #[must_use]
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Sets the help line.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

/// Diagnostics in the order they were found; stages go on after an error where they can, so that a user sees several
/// mistakes at once.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds all of another collection.
    pub fn extend(&mut self, other: Diagnostics) {
        self.0.extend(other.0);
    }

    /// Whether any of them stops the compiler.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// The same with every warning as an error.
    #[must_use]
    pub fn denied(mut self) -> Diagnostics {
        for diagnostic in &mut self.0 {
            diagnostic.severity = Severity::Error;
        }
        self
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order found.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(diagnostics: I) -> Diagnostics {
        Diagnostics(diagnostics.into_iter().collect())
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Diagnostics {
        Diagnostics(vec![diagnostic])
    }
}

/// A diagnostic together with the texts it points into, ready for miette's renderer.
///
/// miette shows one source per diagnostic: labels that lie in other sources follow as related diagnostics, which are
/// advice without a code, so that nobody counts them as mistakes of their own.
#[derive(Debug)]
pub struct Rendered {
    message: String,
    code: Option<&'static str>,
    severity: miette::Severity,
    help: Option<String>,
    source: Option<miette::NamedSource<String>>,
    labels: Vec<miette::LabeledSpan>,
    related: Vec<Rendered>,
}

impl Rendered {
    /// Prepares a diagnostic for rendering.
    pub fn new(diagnostic: &Diagnostic, sources: &Sources) -> Rendered {
        let mut groups: Vec<(SourceId, Vec<&Label>)> = Vec::new();
        for label in &diagnostic.labels {
            match groups.iter_mut().find(|(id, _)| *id == label.span.source) {
                Some((_, labels)) => labels.push(label),
                None => groups.push((label.span.source, vec![label])),
            }
        }
        let mut parts = groups.into_iter().map(|(id, labels)| {
            let source = sources.get(id);
            let spans: Vec<Span> = labels.iter().map(|label| label.span).collect();
            let (text, ranges) = excerpt::shortened(&source.text, &spans);
            let spans = labels.iter().zip(ranges).map(|(label, range)| {
                let text = excerpt::shortened_message(&label.text);
                miette::LabeledSpan::new_with_span(Some(text), range)
            });
            (miette::NamedSource::new(&source.name, text), spans.collect::<Vec<_>>())
        });
        let (source, labels) = parts.next().map_or((None, Vec::new()), |(s, l)| (Some(s), l));
        let related = parts.map(|(source, labels)| Rendered {
            message: format!("see also {}", source.name()),
            code: None,
            severity: miette::Severity::Advice,
            help: None,
            source: Some(source),
            labels,
            related: Vec::new(),
        });
        Rendered {
            message: excerpt::shortened_message(&diagnostic.message),
            code: Some(diagnostic.code),
            severity: match diagnostic.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            },
            help: diagnostic.help.as_deref().map(excerpt::shortened_message),
            source,
            labels,
            related: related.collect(),
        }
    }
}

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Rendered {}

impl miette::Diagnostic for Rendered {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.code.map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|s| s as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.related.iter().map(|r| r as &dyn miette::Diagnostic)))
    }
}

/// The name among `names` nearest to `wrong` by edit distance, if it is near enough to be meant: an edit for every three
/// letters, at least one. Up to three letters a name is so easily hit by chance that the first must agree too.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No name is so long, and the distance to a text of a megabyte takes its time.
    const LONGEST: usize = 100;
    let length = wrong.chars().take(LONGEST + 1).count();
    if length > LONGEST {
        return None;
    }
    let limit = (length / 3).max(1);
    names
        .into_iter()
        .filter(|name| length > 3 || wrong.chars().next() == name.chars().next())
        .map(|name| (edit_distance(wrong, name), name))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// The help for a wrong name: the nearest of `names` if one is near enough to be meant, else what `otherwise` says.
pub fn did_you_mean<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    nearest(wrong, names).map_or_else(otherwise, |near| format!("did you mean `{near}`?"))
}

/// Characters to insert, remove or replace, or neighbours to swap, until `a` is `b`: the optimal string alignment
/// distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // The distances of the beginnings of `b` from those of `a` that end two, one and no characters before here.
    let mut rows: [Vec<usize>; 3] = [Vec::new(), Vec::new(), (0..=b.len()).collect()];
    for i in 1..=a.len() {
        rows.rotate_left(1);
        let [two_before, before, row] = &mut rows;
        row.clear();
        row.push(i);
        for j in 1..=b.len() {
            let replaced = before[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(before[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(two_before[j - 2] + 1);
            }
            row.push(least);
        }
    }
    rows[2][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("mpl", "mlp", 1),
            ("lenght", "length", 1),
            ("é", "e", 1),
            ("ab", "ba", 1),
            ("abcd", "badc", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn short_names_are_not_hit_by_chance() {
        let names = ["exp", "log", "max", "min", "tanh", "relu", "silu", "eps", "a"];
        let near = |wrong: &str| nearest(wrong, names);
        for wrong in ["foo", "q", "x", "bog", "fin", "abs", "", "nim", "cosh", "base"] {
            assert_eq!(near(wrong), None, "{wrong}");
        }
        for (wrong, meant) in [
            ("lg", "log"),
            ("mxa", "max"),
            ("mn", "min"),
            ("tan", "tanh"),
            ("sillu", "silu"),
            ("ep", "eps"),
        ] {
            assert_eq!(near(wrong), Some(meant), "{wrong}");
        }
        assert_eq!(nearest("hiden_sizes", ["hidden_size", "head_size"]), Some("hidden_size"));
        assert_eq!(nearest("width", ["hidden_size", "head_size"]), None);
    }

    /// A diagnostic with labels in two sources, and its texts.
    fn in_two_sources() -> (Diagnostic, Sources) {
        let mut sources = Sources::default();
        let spec = sources.add("spec.toml", "steps = 3\n");
        let argument = sources.add("--set", "train.steps=50");
        let diagnostic = Diagnostic::error("test::code", "two places disagree")
            .at(Span::new(spec, 8..9), "three")
            .at(Span::new(argument, 12..14), "fifty")
            .help("change one");
        (diagnostic, sources)
    }

    #[test]
    fn a_second_source_is_pointed_out_and_is_no_second_error() {
        let (diagnostic, sources) = in_two_sources();
        let rendered = Rendered::new(&diagnostic, &sources);
        let mut drawn = String::new();
        miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor())
            .render_report(&mut drawn, &rendered)
            .expect("a text takes any report");
        let mut told = String::new();
        miette::NarratableReportHandler::new()
            .render_report(&mut told, &rendered)
            .expect("a text takes any report");
        // The frames of both end some lines in spaces, which no one sees.
        let text: String = format!("{drawn}\n{told}")
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect();
        insta::assert_snapshot!(text, @r"
    test::code

      × two places disagree
       ╭─[spec.toml:1:9]
     1 │ steps = 3
       ·         ┬
       ·         ╰── three
       ╰────
      help: change one

    Advice:
      ☞ see also --set
       ╭─[--set:1:13]
     1 │ train.steps=50
       ·             ─┬
       ·              ╰── fifty
       ╰────

    two places disagree
        Diagnostic severity: error
    Begin snippet for spec.toml starting at line 1, column 1

    snippet line 1: steps = 3
        label at line 1, column 9: three
    diagnostic help: change one
    diagnostic code: test::code

    Advice: see also --set
        Diagnostic severity: advice

    Begin snippet for --set starting at line 1, column 1

    snippet line 1: train.steps=50
        label at line 1, columns 13 to 14: fifty
    ");
    }
}
