//! From places in the architecture file to its lines.
//!
//! Owns the count of lines. Must not know nodes: it is given their places.

use crate::diagnostics::{SourceId, Span};

/// Where the lines of one text begin.
pub(super) struct Lines {
    source: SourceId,
    starts: Vec<u32>,
}

impl Lines {
    /// The lines of a text that is registered as `source`.
    pub(super) fn new(source: SourceId, text: &str) -> Lines {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(breaks.map(|(at, _)| at as u32 + 1)).collect();
        Lines { source, starts }
    }

    /// The line that a place begins in, counted from 1; none if the place is in another text, as that of a formula in
    /// the spec.
    pub(super) fn of(&self, span: Span) -> Option<u32> {
        let before = self.starts.partition_point(|&start| start <= span.start);
        (span.source == self.source).then_some(before as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one() {
        let lines = Lines::new(SourceId(3), "one\ntwo\n\nfour");
        let of = |start| lines.of(Span::new(SourceId(3), start..start + 1));
        assert_eq!([of(0), of(3), of(4), of(8), of(9)], [1, 1, 2, 3, 4].map(Some));
        assert_eq!(lines.of(Span::new(SourceId(2), 0..1)), None);
    }
}
