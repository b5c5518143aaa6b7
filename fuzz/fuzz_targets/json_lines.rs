//! JSON Lines, plain, gzip or zstd: what two readings of one file find must agree, and a line whose text another parser
//! finds must be found.
#![no_main]

use std::collections::VecDeque;

use colac_runtime::data::{ReadOptions, source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = colac_fuzz::file("a.jsonl", bytes);
    let strict = ReadOptions::default();
    let lenient = ReadOptions { skip_bad: true, ..ReadOptions::default() };
    let nested = ReadOptions { text_field: "meta.body".to_owned(), skip_bad: true, ..ReadOptions::default() };
    let read = |options: &ReadOptions| {
        let mut texts = Vec::new();
        let found = source::for_each_document(std::slice::from_ref(&path), options, |_, text| {
            texts.push(text.to_owned());
            true
        });
        if let Err(error) = &found {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        (texts, found)
    };
    let ((all, strict), (some, lenient)) = (read(&strict), read(&lenient));
    match (strict, lenient) {
        (Ok(_), Ok(bad)) => assert!(bad.count == 0 && all == some),
        (Err(_), Ok(bad)) => assert!(bad.count > 0 && some.starts_with(&all)),
        (Err(_), Err(_)) => assert!(some.starts_with(&all)),
        (Ok(_), Err(error)) => panic!("only the lenient reading fails: {error}"),
    }
    let _ = read(&nested);
    let mut some = VecDeque::from(some);
    for line in plain_lines(bytes) {
        let found = some.iter().position(|text| *text == line);
        some.drain(..=found.unwrap_or_else(|| panic!("not found: {line}")));
    }
});

/// The texts of the lines that say plainly what they are: one field `text`, named once, without an escape.
fn plain_lines(bytes: &[u8]) -> Vec<String> {
    let compressed = bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    // Frames of zstd may be preceded by frames to be skipped; a whole file in one array is refused.
    if compressed || bytes.starts_with(&[0x50]) || bytes.trim_ascii_start().starts_with(b"[") {
        return Vec::new();
    }
    let lines = bytes.split(|&byte| byte == b'\n').skip(1);
    let parsed = lines.filter_map(|line| {
        let text = std::str::from_utf8(line).ok()?;
        if text.contains('\\') || text.matches("\"text\"").count() != 1 {
            return None;
        }
        match serde_json::from_str::<serde_json::Value>(text).ok()? {
            serde_json::Value::Object(object) => Some(object.get("text")?.as_str()?.to_owned()),
            _ => None,
        }
    });
    parsed.collect()
}
