//! Tests that a machine cannot run.

use std::io::Write;

/// Records that a test was not run, in the file that `tests/run` reads.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var("COLAC_REQUIRE_ALL").as_deref() != Ok("1"),
        "{test} was skipped: {reason}"
    );
    let line = format!("{test}: {reason}\n");
    match std::env::var_os("COLAC_SKIP_FILE") {
        Some(file) => {
            let mut file = std::fs::OpenOptions::new()
                .append(true)
                .open(file)
                .expect("the skip file is there");
            file.write_all(line.as_bytes()).expect("the skip file can be written");
        }
        None => eprint!("skipped {line}"),
    }
}
