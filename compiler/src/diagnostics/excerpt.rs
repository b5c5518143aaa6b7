//! What is shown of texts that are too long to show: lines of a source, and names inside messages.
//!
//! Owns the shortening alone. Must not know what a text means.

use std::ops::Range;

use super::Span;

/// Bytes of a line that is shown whole.
const LONGEST_LINE: usize = 240;
/// Bytes shown before and behind the place of interest in a longer one.
const AROUND: usize = 60;
/// Characters of a message that is shown whole: room for a list of names, not for a text of a file.
const LONGEST_MESSAGE: usize = 1500;

/// A message without the middle of what is too long in it.
pub(super) fn shortened_message(message: &str) -> String {
    if message.chars().nth(LONGEST_MESSAGE).is_none() {
        return message.to_owned();
    }
    let head: String = message.chars().take(LONGEST_MESSAGE / 3).collect();
    let tail_start = message.char_indices().rev().nth(LONGEST_MESSAGE / 6).map_or(0, |(at, _)| at);
    format!("{head} … {}", &message[tail_start..])
}

/// The text with long lines cut around the spans, and where the spans then lie. A text without long lines stays as it is.
pub(super) fn shortened(text: &str, spans: &[Span]) -> (String, Vec<Range<usize>>) {
    let ranges = spans.iter().map(|span| span.start as usize..span.end as usize);
    if text.lines().all(|line| line.len() <= LONGEST_LINE) {
        return (text.to_owned(), ranges.collect());
    }
    let mut cut = String::new();
    // Pieces that stay: where they began, and where they begin now.
    let mut pieces: Vec<(Range<usize>, usize)> = Vec::new();
    let mut keep = |piece: Range<usize>, cut: &mut String| {
        pieces.push((piece.clone(), cut.len()));
        cut.push_str(&text[piece]);
    };
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.trim_end_matches(['\n', '\r']).len();
        let whole = start..start + line.len();
        if end - start <= LONGEST_LINE {
            keep(whole.clone(), &mut cut);
        } else {
            let places = ranges.clone().filter(|range| range.start <= end && range.end >= start);
            let mut windows: Vec<Range<usize>> = places
                .flat_map(|range| [range.start, range.end])
                .map(|at| at.clamp(start, end))
                .map(|at| at.saturating_sub(AROUND).max(start)..(at + AROUND).min(end))
                .collect();
            windows.push(start..start + AROUND);
            windows.sort_by_key(|window| window.start);
            let mut next = start;
            for window in windows {
                let from = text.floor_char_boundary(window.start.max(next));
                let to = text.ceil_char_boundary(window.end);
                if from >= to {
                    continue;
                }
                if from > next {
                    cut.push('…');
                }
                keep(from.max(next)..to, &mut cut);
                next = to;
            }
            if next < end {
                cut.push('…');
            }
            keep(end..whole.end, &mut cut);
        }
        start = whole.end;
    }
    let moved = |at: usize| {
        let piece = pieces.iter().find(|(piece, _)| (piece.start..=piece.end).contains(&at));
        piece.map_or(cut.len(), |(piece, now)| now + (at - piece.start))
    };
    let moved: Vec<_> = ranges.map(|range| moved(range.start)..moved(range.end)).collect();
    (cut, moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::SourceId;

    #[test]
    fn a_long_line_is_cut_around_its_spans_only() {
        let long = format!("a = [{}\"é\", {}]\n", "1, ".repeat(500), "2, ".repeat(500));
        let text = format!("first = 1\n{long}last = 2\n");
        for wanted in ["\"é\"", "first", "last = 2", "a = [1"] {
            let at = text.find(wanted).expect(wanted);
            let span = Span::new(SourceId(0), at..at + wanted.len());
            let (cut, ranges) = shortened(&text, &[span]);
            assert_eq!(&cut[ranges[0].clone()], wanted);
            assert!(cut.len() < 600 && cut.contains('…'), "{cut}");
            assert!(cut.lines().all(|line| line.len() < 400), "{cut}");
            assert_eq!(cut.lines().count(), 3);
        }
        let whole = Span::new(SourceId(0), 10..10 + long.len() - 1);
        let (cut, ranges) = shortened(&text, &[whole]);
        assert!(
            cut[ranges[0].clone()].starts_with("a = [") && cut[ranges[0].clone()].ends_with(']')
        );
    }

    #[test]
    fn short_texts_stay() {
        let text = "a = 1\r\nb = 2\n";
        let (same, ranges) = shortened(text, &[Span::new(SourceId(0), 7..8)]);
        assert_eq!((same.as_str(), ranges), (text, vec![7..8; 1]));
        let message = "é".repeat(5000);
        assert!(shortened_message(&message).chars().count() < 1000);
        assert_eq!(shortened_message("short"), "short");
    }
}
