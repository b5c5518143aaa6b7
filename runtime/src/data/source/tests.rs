//! Every format gives its documents, and no bytes make a reader panic or hold more than it should.

use std::fs;
use std::io::Write;

use proptest::prelude::*;

use super::*;

/// What a file gives: documents joined from their parts, and bad records.
fn read(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Vec<String>, String> {
    read_parts(name, bytes, options, true).map(|found| found.0)
}

fn read_parts(
    name: &str,
    bytes: &[u8],
    options: &ReadOptions,
    whole: bool,
) -> Result<(Vec<String>, Vec<String>, usize), String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    let hidden = |error: DataError| {
        error.to_string().replace(&directory.path().display().to_string(), "DIR")
    };
    let file = list_inputs(std::slice::from_ref(&path), &[]).unwrap().remove(0);
    let mut reader = FileReader::open(&file, options, whole).map_err(hidden)?;
    let (mut documents, mut current, mut text) = (Vec::new(), String::new(), String::new());
    let (mut bad, mut parts) = (BadRecords::default(), 0);
    loop {
        match reader.next(&mut text, &mut bad).map_err(hidden)? {
            Next::Part => {
                parts += 1;
                current.push_str(&text);
            }
            Next::Last => {
                parts += 1;
                current.push_str(&text);
                documents.push(std::mem::take(&mut current));
            }
            Next::Bad { .. } => current.clear(),
            Next::End => break,
        }
    }
    let identity = reader.identity();
    if !matches!(file.format, Format::Parquet) {
        assert_eq!(identity.bytes, bytes.len() as u64, "all of the file was hashed");
        assert_eq!(identity.blake3, blake3::hash(bytes).to_hex().as_str());
    }
    let bad =
        bad.first.iter().map(|line| line.replace(&directory.path().display().to_string(), "DIR"));
    Ok((documents, bad.collect(), parts))
}

fn separated(line: &str) -> ReadOptions {
    ReadOptions { separator: Some(line.to_owned()), ..ReadOptions::default() }
}

fn skipping(mut options: ReadOptions) -> ReadOptions {
    options.skip_bad = true;
    options
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn separator_lines_cut_documents() {
    let cut = |text: &str, line: &str| read("a.txt", text.as_bytes(), &separated(line)).unwrap();
    assert_eq!(cut("a\nb\n---\nc\r\n---\r\n---\nd ---\n", "---"), ["a\nb\n", "c\r\n", "d ---\n"]);
    assert_eq!(cut("\none\n\n\n two\nthree\n\n", ""), ["one\n", " two\nthree\n"]);
    assert_eq!(cut("---", "---"), [""; 0]);
    assert_eq!(cut("a\n---", "---"), ["a\n"]);
    assert_eq!(read("a.txt", b"a\n\nb", &ReadOptions::default()).unwrap(), ["a\n\nb"]);
    assert_eq!(read("a.txt", b"", &ReadOptions::default()).unwrap(), [""; 0]);
    // A line that is longer than what is read at once is no separator, whatever its end looks like.
    let long = format!("{}---\nb\n", "x".repeat(1 << 16));
    assert_eq!(cut(&long, "---"), std::slice::from_ref(&long));
}

#[test]
fn text_is_utf8_without_its_mark() {
    let default = ReadOptions::default();
    assert_eq!(read("a", b"\xef\xbb\xbfna\xc3\xafve", &default).unwrap(), ["naïve"]);
    let error = |bytes: &[u8]| read("a", bytes, &default).unwrap_err();
    assert!(error(b"na\xefve").starts_with("DIR/a, byte 2: it is not UTF-8"));
    assert!(error(b"\xff\xfea\0b\0").contains("it is UTF-16"));
    assert!(error(b"na\xc3").contains("byte 2: the text ends within a character"));
    let bad = b"one\n--\nt\xffo\n--\nthree";
    let (documents, bad, _) = read_parts("a", bad, &skipping(separated("--")), true).unwrap();
    assert_eq!(documents, ["one\n", "three"]);
    assert_eq!(bad.len(), 1);
    // A character that lies across two reads is whole.
    let text = format!("{}é{}", "x".repeat((1 << 16) - 1), "y".repeat(9));
    assert_eq!(read("a", text.as_bytes(), &default).unwrap(), [text]);
}

#[test]
fn long_documents_come_in_parts_of_lines() {
    let line = "a line of some words, and its end.\n";
    let text = line.repeat((3 << 20) / line.len());
    let (documents, _, parts) =
        read_parts("a.txt", text.as_bytes(), &separated("--"), false).unwrap();
    assert!(documents == [text.clone()] && parts >= 3, "{parts} parts");
    let (documents, _, parts) =
        read_parts("a.txt", text.as_bytes(), &separated("--"), true).unwrap();
    assert!(documents == [text] && parts == 1);
}

#[test]
fn compressed_files_are_read_through() {
    let lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    let (first, second) = lines.split_at(20);
    let default = ReadOptions::default();
    let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    for (name, bytes) in [
        ("a.jsonl", lines.as_bytes().to_vec()),
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        ("a.jsonl.gz", [gzip(first.as_bytes()), gzip(second.as_bytes())].concat()),
        ("a.jsonl.zst", zstd(lines.as_bytes())),
        ("a.jsonl.zst", [zstd(first.as_bytes()), zstd(second.as_bytes())].concat()),
        ("a.jsonl.zst", [&skippable[..], &zstd(lines.as_bytes()), &skippable].concat()),
        // The bytes decide, not the name.
        ("a.jsonl.gz", lines.as_bytes().to_vec()),
        ("a.ndjson", zstd(lines.as_bytes())),
    ] {
        assert_eq!(read(name, &bytes, &default).unwrap(), ["one", "two"], "{name}");
    }
    for compressed in [gzip(lines.as_bytes()), zstd(lines.as_bytes())] {
        for length in 4..compressed.len() {
            let cut = read("a.jsonl.x", &compressed[..length], &default);
            assert!(cut.is_err(), "{length} of {} bytes were enough", compressed.len());
        }
    }
    let mut changed = zstd(lines.as_bytes());
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let error = read("a.zst", &changed, &default).unwrap_err();
    assert!(error.contains("damaged zstd"), "{error}");
}

#[test]
fn json_lines_name_their_faults() {
    let field =
        |field: &str| ReadOptions { text_field: field.to_owned(), ..ReadOptions::default() };
    let one = |line: &str, name: &str| {
        read("a.jsonl", format!("\u{feff}{line}\r\n").as_bytes(), &field(name))
            .map(|mut found| found.remove(0))
    };
    for (line, name, text) in [
        (r#"{"id": 1, "text": "a\nb\u00e9\ud83d\ude00", "x": [{"text": 2}]}"#, "text", "a\nbé😀"),
        (r#" {"meta": {"body": "in"}, "text": "out"} "#, "meta.body", "in"),
        (r#"{"meta.body": "dotted"}"#, "meta.body", "dotted"),
        (r#"{"a": {"b": {"c": "deep"}}}"#, "a.b.c", "deep"),
        (r#"{"text": "first", "text": "last"}"#, "text", "last"),
    ] {
        assert_eq!(one(line, name).unwrap(), text);
    }
    for (line, name, fault) in [
        ("{\"text\": \"a\"", "text", "DIR/a.jsonl:1: it is not JSON (EOF"),
        ("{\"text\": \"a\"} x", "text", "it is not JSON (trailing characters at column"),
        ("plain", "text", "it is not JSON"),
        ("12", "text", "it is JSON, but not an object"),
        ("{\"text\": null}", "text", "`text` is null and not a text"),
        ("{\"text\": [\"a\"]}", "text", "`text` is a list and not a text"),
        ("{\"body\": \"a\", \"id\": 2}", "text", "no field `text`; there is `body`, `id`"),
        ("{\"meta\": \"a\"}", "meta.body", "no field `meta.body`; there is `meta`"),
        ("{\"text\": \"\\ud800\"}", "text", "it is not JSON"),
        ("[{\"text\": \"a\"}]", "text", "one JSON array, not JSON Lines"),
    ] {
        let found = one(line, name).unwrap_err();
        assert!(found.contains(fault), "{line}: {found}");
    }
    let lines = b"\n{\"text\": \"a\"}\n\xff\n{}\n{\"text\": \"b\"}";
    let (documents, bad, _) = read_parts("a.jsonl", lines, &skipping(field("text")), true).unwrap();
    assert_eq!(documents, ["a", "b"]);
    assert!(bad[0].starts_with("DIR/a.jsonl:3: ") && bad[1].starts_with("DIR/a.jsonl:4: "));
}

#[cfg(not(feature = "arrow"))]
#[test]
fn formats_of_columns_name_the_feature_they_need() {
    for name in ["a.parquet", "a.arrow"] {
        let error = read(name, b"", &ReadOptions::default()).unwrap_err();
        assert!(error.contains("--features arrow"), "{error}");
    }
}

#[cfg(feature = "arrow")]
#[path = "columns_tests.rs"]
mod columns;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a file holds, it is read or refused; compressed beginnings included.
    #[test]
    fn no_bytes_make_a_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        magic in prop::sample::select(vec![&b""[..], b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"{\"text\": \"", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff"]),
        name in prop::sample::select(vec!["a.txt", "a.jsonl", "a.parquet", "a.arrow"]),
    ) {
        let bytes = [magic, &bytes].concat();
        let _ = read(name, &bytes, &ReadOptions::default());
        let (documents, _, _) =
            match read_parts(name, &bytes, &skipping(separated("")), false) {
                Ok(found) => found,
                Err(_) => return Ok(()),
            };
        let compressed = bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(b"\x28\xb5\x2f\xfd");
        prop_assert!(compressed || documents.concat().len() <= bytes.len());
    }

    /// Documents of a text are what lies between its separators, however it is cut.
    #[test]
    fn documents_are_what_lies_between(text in "([aé\u{a0}]|\n|\r\n|--\n){0,40}") {
        let expected: Vec<String> = {
            let (mut documents, mut current) = (Vec::new(), String::new());
            for line in text.split_inclusive('\n') {
                if line.trim_end_matches(['\n', '\r']) == "--" && line != "--\r\r\n" {
                    documents.push(std::mem::take(&mut current));
                } else {
                    current.push_str(line);
                }
            }
            documents.push(current);
            documents.retain(|document| !document.is_empty());
            documents
        };
        prop_assert_eq!(read("a.txt", text.as_bytes(), &separated("--")).unwrap(), expected);
    }
}
