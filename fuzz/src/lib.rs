//! What the fuzz targets share: drawing diagnostics, so that a span outside its text is found, a file for readers that
//! want a path, and the questions that training asks of tokens.

use std::cell::OnceCell;
use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostic, Diagnostics, Rendered, Sources};
use colac_runtime::data::TokenCorpus;
use miette::{GraphicalReportHandler, GraphicalTheme};

/// Draws what the user would see. An error without a code or a message, or one that cannot be drawn, is a finding.
pub fn draw(diagnostics: &Diagnostics, sources: &Sources) {
    for diagnostic in diagnostics.iter() {
        draw_one(diagnostic, sources);
    }
}

/// Draws one.
pub fn draw_one(diagnostic: &Diagnostic, sources: &Sources) {
    assert!(diagnostic.code.contains("::") && !diagnostic.message.is_empty(), "{diagnostic:?}");
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::none()).with_links(false);
    let mut text = String::new();
    handler
        .render_report(&mut text, &Rendered::new(diagnostic, sources))
        .unwrap_or_else(|error| panic!("{error}: {diagnostic:?}"));
}

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A file that holds these bytes until the next call with the same name.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
        folder.path().join(name)
    });
    std::fs::write(&path, bytes).expect("a temporary file can be written");
    path
}

/// Asks of tokens what training asks: ids are those that the header promises, documents lie within the corpus.
pub fn ask(corpus: &TokenCorpus) {
    let count = corpus.token_count().min(4096) as usize;
    let mut ids = vec![0; count];
    for start in [0, corpus.token_count() - count as u64] {
        corpus.copy_ids(start, &mut ids);
        assert!(ids.iter().all(|&id| (0..=i64::from(corpus.max_id())).contains(&i64::from(id))));
    }
    for document in 0..corpus.document_count().min(64) {
        let range = corpus.document(document);
        assert!(range.start < range.end && range.end <= corpus.token_count());
    }
    let lengths = corpus.token_byte_lengths();
    assert!(lengths.is_none_or(|lengths| lengths.len() > corpus.max_id() as usize));
}
