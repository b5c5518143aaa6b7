//! Selectors: patterns over the paths of a model's parts, `layers.*.{self_attn,mlp}.**`.
//!
//! Owns the notation, matching, captures (for the names of checkpoint tensors) and the suggestion for a selector that
//! matches nothing. Must not know what the paths stand for.

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::{tag, take_while1};
use nom::character::complete::char;
use nom::combinator::{all_consuming, map, value};
use nom::multi::{many1, separated_list1};
use nom::sequence::delimited;

use crate::diagnostics::{Diagnostic, SourceId, Span, nearest};
use crate::language::codes;

/// Alternatives multiply; more than this many pieces in all of them together is a mistake, not a selector.
const MAX_PIECES: usize = 1 << 16;

/// Braces inside each other, so that no text exhausts the stack.
const MAX_NESTING: usize = 8;

/// A pattern over dotted paths.
///
/// `*` stands for one segment, or for any run of characters inside one (`*_proj`); `**` for any number of segments,
/// none included; `{a,b.c}` for either.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    text: String,
    span: Span,
    /// One list of segments per combination of alternatives, in the order written.
    alternatives: Vec<Vec<Segment>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Segment {
    /// `**`.
    Any,
    /// Literal pieces between single stars: `["", "_proj"]` is `*_proj`, `["mlp"]` is `mlp`.
    Glob(Vec<String>),
}

/// The notation as written, before alternatives are multiplied out.
#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Star,
    DoubleStar,
    Dot,
    Choice(Vec<Vec<Piece>>),
}

fn pieces(text: &str) -> nom::IResult<&str, Vec<Piece>> {
    let literal =
        map(take_while1(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-'), |s: &str| {
            Piece::Literal(s.to_owned())
        });
    let choice =
        map(delimited(char('{'), separated_list1(char(','), pieces), char('}')), Piece::Choice);
    let piece = alt((
        value(Piece::DoubleStar, tag("**")),
        value(Piece::Star, char('*')),
        value(Piece::Dot, char('.')),
        choice,
        literal,
    ));
    many1(piece).parse(text)
}

/// Every combination of the alternatives, each a flat list without [`Piece::Choice`]; `None` if they have more than
/// [`MAX_PIECES`] together.
fn multiply_out(pieces: &[Piece]) -> Option<Vec<Vec<Piece>>> {
    let mut all: Vec<Vec<Piece>> = vec![Vec::new()];
    // An empty alternative counts as well: it takes its place in the list.
    let weight = |lists: &[Vec<Piece>]| lists.iter().map(|list| list.len() + 1).sum::<usize>();
    let mut total = 1;
    for piece in pieces {
        let Piece::Choice(choices) = piece else {
            all.iter_mut().for_each(|head| head.push(piece.clone()));
            total += all.len();
            if total > MAX_PIECES {
                return None;
            }
            continue;
        };
        let mut endings = Vec::new();
        for choice in choices {
            endings.extend(multiply_out(choice)?);
        }
        total = total * endings.len() + weight(&endings) * all.len();
        if total > MAX_PIECES {
            return None;
        }
        all = all
            .iter()
            .flat_map(|head| endings.iter().map(|tail| [head.as_slice(), tail].concat()))
            .collect();
    }
    Some(all)
}

fn segments(pieces: &[Piece]) -> Result<Vec<Segment>, &'static str> {
    let mut segments = Vec::new();
    for part in pieces.split(|piece| matches!(piece, Piece::Dot)) {
        match part {
            [Piece::DoubleStar] if segments.last() == Some(&Segment::Any) => {
                return Err("one `**` stands for any number of segments already");
            }
            [] => return Err("a segment is empty: two dots in a row, or a dot at an end"),
            [Piece::DoubleStar] => segments.push(Segment::Any),
            _ => {
                let mut glob = vec![String::new()];
                for piece in part {
                    match piece {
                        Piece::Literal(text) => {
                            glob.last_mut().expect("never empty").push_str(text)
                        }
                        Piece::Star => glob.push(String::new()),
                        _ => {
                            return Err(
                                "`**` stands for whole segments: it must stand between dots",
                            );
                        }
                    }
                }
                segments.push(Segment::Glob(glob));
            }
        }
    }
    Ok(segments)
}

/// Matches one segment; on success the text each star stood for is appended to `captured`.
fn match_glob(glob: &[String], segment: &str, captured: &mut Vec<String>) -> bool {
    let [first, rest @ ..] = glob else { return segment.is_empty() };
    let Some(mut remaining) = segment.strip_prefix(first.as_str()) else { return false };
    let Some((last, middle)) = rest.split_last() else { return remaining.is_empty() };
    for piece in middle {
        let Some(at) = remaining.find(piece.as_str()) else { return false };
        captured.push(remaining[..at].to_owned());
        remaining = &remaining[at + piece.len()..];
    }
    match remaining.strip_suffix(last.as_str()) {
        Some(star) => {
            captured.push(star.to_owned());
            true
        }
        None => false,
    }
}

/// Matches a whole path; returns the text each star stood for. Where several readings are possible, every `**` takes
/// as few segments as it can, the first one first.
///
/// Whether an ending of the pattern matches an ending of the path is found once for every pair of endings, so that
/// the time grows with the product of both lengths, whatever stars stand in the pattern.
fn match_segments(pattern: &[Segment], path: &[&str]) -> Option<Vec<String>> {
    let glob_matches = |glob: &[String], segment: &str| match_glob(glob, segment, &mut Vec::new());
    // matches[i][j]: the pattern from its i-th segment on matches the path from its j-th.
    let mut matches = vec![vec![false; path.len() + 1]; pattern.len() + 1];
    matches[pattern.len()][path.len()] = true;
    for (i, segment) in pattern.iter().enumerate().rev() {
        for j in (0..=path.len()).rev() {
            matches[i][j] = match segment {
                // Either it takes no more segments, or one more and then what it can.
                Segment::Any => matches[i + 1][j] || (j < path.len() && matches[i][j + 1]),
                Segment::Glob(glob) => {
                    j < path.len() && matches[i + 1][j + 1] && glob_matches(glob, path[j])
                }
            };
        }
    }
    if !matches[0][0] {
        return None;
    }
    let (mut captured, mut j) = (Vec::new(), 0);
    for (i, segment) in pattern.iter().enumerate() {
        let start = j;
        match segment {
            Segment::Any => {
                while !matches[i + 1][j] {
                    j += 1;
                }
                captured.push(path[start..j].join("."));
            }
            Segment::Glob(glob) => {
                match_glob(glob, path[j], &mut captured);
                j += 1;
            }
        }
    }
    Some(captured)
}

/// How far two patterns are apart: a segment more, less or different costs 6, a near word 2, a star for a word 3.
fn distance(a: &[String], b: &[String]) -> usize {
    let cost = |x: &str, y: &str| {
        if x == y {
            0
        } else if nearest(x, [y]).is_some() && !x.starts_with('*') && !y.starts_with('*') {
            2
        } else if x.contains(['*', '{']) || y.contains('*') {
            3
        } else {
            6
        }
    };
    let mut row: Vec<usize> = (0..=b.len()).map(|j| 6 * j).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = 6 * (i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + cost(x, y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 6).min(diagonal + 6);
        }
    }
    row[b.len()]
}

impl Selector {
    /// Reads a selector that stands at byte `offset` of `source`.
    ///
    /// # Errors
    /// `language::selector_syntax` with what is wrong.
    pub fn parse(text: &str, source: SourceId, offset: usize) -> Result<Selector, Diagnostic> {
        let span = Span::new(source, offset..offset + text.len());
        let wrong = |span: Span, reason: &str| {
            Diagnostic::error(codes::SELECTOR_SYNTAX, format!("`{text}` is not a selector"))
                .at(span, reason)
                .help("write segments between dots: `*` is one segment, `**` any number, `{a,b}` one of several, as in `layers.*.{self_attn,mlp}.**`")
        };
        let nesting = text.bytes().scan(0usize, |depth, byte| {
            match byte {
                b'{' => *depth += 1,
                b'}' => *depth = depth.saturating_sub(1),
                _ => {}
            }
            Some(*depth)
        });
        if nesting.max().unwrap_or(0) > MAX_NESTING {
            return Err(wrong(span, "too many braces inside each other"));
        }
        let (_, written) = all_consuming(pieces).parse(text).map_err(|_| {
            let rest = pieces(text).map_or(text, |(rest, _)| rest);
            let start = offset + text.len() - rest.len();
            let length = rest.chars().next().map_or(0, char::len_utf8);
            wrong(
                Span::new(source, start..start + length),
                if rest.is_empty() { "nothing to select" } else { "not understood from here" },
            )
        })?;
        let combinations =
            multiply_out(&written).ok_or_else(|| wrong(span, "too many alternatives"))?;
        let alternatives =
            combinations.iter().map(|pieces| segments(pieces)).collect::<Result<_, _>>();
        let alternatives = alternatives.map_err(|reason| wrong(span, reason))?;
        Ok(Selector { text: text.to_owned(), span, alternatives })
    }

    /// Whether the dotted path is selected.
    pub fn matches(&self, path: &str) -> bool {
        self.captures(path).is_some()
    }

    /// What the stars stood for, in order, if the path is selected; the first alternative that matches counts.
    pub fn captures(&self, path: &str) -> Option<Vec<String>> {
        self.matching_alternative(path).map(|(_, captures)| captures)
    }

    /// The first alternative that selects the path, in the order written, and what its stars stood for.
    pub(crate) fn matching_alternative(&self, path: &str) -> Option<(usize, Vec<String>)> {
        let path: Vec<&str> = path.split('.').collect();
        let captures = |pattern: &Vec<Segment>| match_segments(pattern, &path);
        let found = self.alternatives.iter().enumerate();
        found.filter_map(|(index, pattern)| Some((index, captures(pattern)?))).next()
    }

    /// The alternatives that the braces make, in the order written.
    pub(crate) fn alternatives(&self) -> impl ExactSizeIterator<Item = String> {
        self.alternatives.iter().map(|segments| {
            let text = |segment: &Segment| match segment {
                Segment::Any => "**".to_owned(),
                Segment::Glob(pieces) => pieces.join("*"),
            };
            segments.iter().map(text).collect::<Vec<_>>().join(".")
        })
    }

    /// The stars of every alternative, in order: `*` or `**`.
    pub(crate) fn wildcards(&self) -> Vec<Vec<&'static str>> {
        let stars = |segment: &Segment| match segment {
            Segment::Any => vec!["**"],
            Segment::Glob(pieces) => vec!["*"; pieces.len() - 1],
        };
        self.alternatives.iter().map(|segments| segments.iter().flat_map(stars).collect()).collect()
    }

    /// A pattern near to this one that selects some of `paths`, for a selector that selects none of them.
    ///
    /// Candidates are the paths with numbers made `*`, and their beginnings with `**` behind; the one with the fewest
    /// differing segments wins.
    pub fn suggest<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let wanted: Vec<String> = self.text.split('.').map(str::to_owned).collect();
        let mut candidates: Vec<Vec<String>> = Vec::new();
        for path in paths {
            let is_number = |segment: &str| segment.bytes().all(|b| b.is_ascii_digit());
            let general: Vec<String> = path
                .split('.')
                .map(|s| if is_number(s) { "*".to_owned() } else { s.to_owned() })
                .collect();
            for length in 1..general.len() {
                let mut beginning = general[..length].to_vec();
                beginning.push("**".to_owned());
                candidates.push(beginning);
            }
            candidates.push(general);
        }
        candidates.sort();
        candidates.dedup();
        let best = candidates.into_iter().min_by_key(|candidate| distance(&wanted, candidate))?;
        Some(best.join("."))
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it is written.
    pub fn span(&self) -> Span {
        self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        Selector::parse(text, SourceId(0), 0).expect(text)
    }

    #[test]
    fn matching() {
        let check = |text: &str, selected: &[&str], others: &[&str]| {
            for path in selected {
                assert!(selector(text).matches(path), "{text} selects {path}");
            }
            for path in others {
                assert!(!selector(text).matches(path), "{text} does not select {path}");
            }
        };
        check("**", &["a", "a.b.c"], &[]);
        check("*", &["a"], &["a.b"]);
        check(
            "layers.*.mlp",
            &["layers.0.mlp", "layers.11.mlp"],
            &["layers.mlp", "layers.0.mlp.up", "layers.0.1.mlp"],
        );
        check("layers.0.**", &["layers.0", "layers.0.mlp.up"], &["layers.01.mlp"]);
        check("**.q", &["q", "a.q", "a.b.q"], &["a.qq"]);
        check("**.attn.**.q", &["attn.q", "a.attn.b.c.q"], &["a.q"]);
        check(
            "layers.*.{self_attn,mlp}.*",
            &["layers.3.mlp.up", "layers.3.self_attn.q"],
            &["layers.3.norm"],
        );
        check("h.*.{attn.out,mlp.*}", &["h.0.attn.out", "h.0.mlp.in"], &["h.0.attn.q"]);
        check(
            "layers.{0,1,2{3,4}}.x",
            &["layers.0.x", "layers.23.x", "layers.24.x"],
            &["layers.2.x"],
        );
        check("*_proj", &["q_proj", "_proj"], &["q_project", "a.q_proj"]);
        check("a*b*c", &["abc", "a1b2c", "abbc"], &["ab", "ac"]);
    }

    #[test]
    fn captures_are_what_the_stars_stood_for() {
        assert_eq!(
            selector("h.*.**").captures("h.3.mlp.up"),
            Some(vec!["3".into(), "mlp.up".into()])
        );
        assert_eq!(selector("h.*.**").captures("h.3"), Some(vec!["3".into(), String::new()]));
        assert_eq!(selector("{a,b}.*_x").captures("b.q_x"), Some(vec!["q".into()]));
        assert_eq!(selector("a").captures("b"), None);
    }

    #[test]
    fn many_double_stars_take_time_that_grows_with_the_lengths_only() {
        // Tried one way after the other, the readings of these would not end.
        let path = vec!["a"; 400].join(".");
        let stars = |count: usize, last: &str| format!("{}{last}", "**.a.".repeat(count));
        assert!(!selector(&stars(100, "b")).matches(&path));
        assert!(!selector(&stars(401, "**")).matches(&path));
        let captured = selector(&stars(100, "**")).captures(&path).expect("400 segments of `a`");
        assert_eq!(captured.len(), 101);
        assert!(captured[..100].iter().all(String::is_empty), "the first take as few as they can");
        assert_eq!(captured[100], vec!["a"; 300].join("."));
        let globs = format!("{}b", "*a".repeat(200));
        assert!(!selector(&globs).matches(&"a".repeat(2_000)));
    }

    #[test]
    fn the_first_double_star_takes_the_fewest_segments() {
        assert_eq!(
            selector("**.x.**").captures("a.x.b.x.c"),
            Some(vec!["a".into(), "b.x.c".into()])
        );
        assert_eq!(selector("**.x").captures("x.a.x"), Some(vec!["x.a".into()]));
        assert_eq!(
            selector("**.*_q.**.x").captures("a_q.b_q.x"),
            Some(vec![String::new(), "a".into(), "b_q".into()])
        );
    }

    #[test]
    fn suggestions_are_patterns_that_select() {
        let paths: Vec<String> = (0..2)
            .flat_map(|i| ["attn.q", "attn.k", "mlp.up"].map(|name| format!("h.{i}.{name}")))
            .chain(["head".to_owned()])
            .collect();
        let suggest = |text: &str| {
            selector(text).suggest(paths.iter().map(String::as_str)).expect("there are paths")
        };
        assert_eq!(suggest("h.*.atn.*"), "h.*.attn.**");
        assert_eq!(suggest("h.*.mpl.up"), "h.*.mlp.up");
        assert_eq!(suggest("haed"), "head");
        for text in ["h.*.atn.*", "layers.*.self_attn.*", "q"] {
            let suggested = selector(&suggest(text));
            assert!(
                paths.iter().any(|path| suggested.matches(path)),
                "{text} suggests {}",
                suggested.text()
            );
        }
        assert_eq!(selector("a").suggest([]), None);
    }

    #[test]
    fn too_many_alternatives_are_refused_not_tried() {
        let text = vec!["{a,b,c,d}"; 40].join(".");
        let error = Selector::parse(&text, SourceId(0), 0).expect_err("4^40 patterns");
        assert_eq!(error.code, codes::SELECTOR_SYNTAX);
        assert!(Selector::parse(&"{".repeat(100_000), SourceId(0), 0).is_err());
        assert!(Selector::parse("a.**.**.b", SourceId(0), 0).is_err());
        let long = format!("{}{}", "{a,b}".repeat(11), ".a".repeat(50_000));
        assert!(Selector::parse(&long, SourceId(0), 0).is_err());
        assert!(Selector::parse(&"{a,b}".repeat(11), SourceId(0), 0).is_ok());
    }
}
