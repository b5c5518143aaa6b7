//! What is written comes back, and nothing that was damaged does.

use std::fs;
use std::path::{Path, PathBuf};

use super::format::{HEADER_BYTES, Header, Layout};
use super::write::WRITE_BYTES;
use super::*;

const SOURCE: &str = "a.txt";

fn vocabulary(size: usize) -> Vocabulary {
    let byte_lengths = (0..size).map(|id| (id % 7) as u16).collect();
    Vocabulary { hash: VocabularyHash([7; 32]), end_of_text: Some(1), byte_lengths }
}

fn source(name: &str) -> Source {
    Source { name: name.to_owned(), bytes: 30, blake3: "00".to_owned(), documents: 0 }
}

/// Of a corpus with two files, of which shards here are made from the second.
fn manifest() -> Manifest {
    let sources = vec![source("other.txt"), source(SOURCE)];
    Manifest {
        tokenizer: "t.json".to_owned(),
        rules: "none".to_owned(),
        inputs: "ff".to_owned(),
        sources,
    }
}

fn write(directory: &Path, vocabulary: &Vocabulary, documents: &[&[u32]]) -> PathBuf {
    let mut writer = ShardWriter::create(directory, "shard-0", vocabulary).unwrap();
    for ids in documents {
        writer.push(ids, 10, 1).unwrap();
    }
    let path = directory.join("shard.tokens");
    writer.finish(vocabulary).unwrap().commit(&path, (2, 3), &manifest()).unwrap();
    path
}

fn message(path: &Path) -> String {
    TokenShard::open(path).unwrap_err().to_string().replace(&path.display().to_string(), "PATH")
}

#[test]
fn what_is_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    for vocab_size in [9, 65_536, 65_537] {
        let last = vocab_size as u32 - 1;
        let documents: [&[u32]; 3] = [&[5, 3, 1], &[1], &[2, last, 4, 1, 0]];
        let path = write(directory.path(), &vocabulary(vocab_size), &documents);
        let shard = TokenShard::open(&path).unwrap();
        assert_eq!(shard.header.token_bytes, if vocab_size <= 65_536 { 2 } else { 4 });
        assert_eq!((shard.token_count(), shard.document_count(), shard.text_bytes()), (9, 3, 30));
        assert_eq!(
            (shard.max_id(), shard.vocab_size(), shard.end_of_text()),
            (last, vocab_size, Some(1))
        );
        assert_eq!((shard.vocabulary_hash(), shard.part()), (VocabularyHash([7; 32]), (2, 3)));
        let made =
            Manifest { sources: vec![Source { documents: 3, ..source(SOURCE) }], ..manifest() };
        assert_eq!(shard.manifest(), &made);
        let header = ShardHeader::read(&path).unwrap();
        assert_eq!((header.token_count, header.document_count, header.text_bytes), (9, 3, 30));
        assert_eq!((header.max_id, header.vocab_size as usize), (last, vocab_size));
        assert_eq!((header.end_of_text, header.part), (Some(1), (2, 3)));
        assert_eq!((header.vocabulary_hash, &header.manifest), (shard.vocabulary_hash(), &made));
        assert_eq!(
            (0..3).map(|document| shard.document_start(document)).collect::<Vec<_>>(),
            [0, 3, 4]
        );
        assert_eq!(
            (0..9).map(|id| shard.byte_length(id)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 0, 1]
        );
        let mut ids = [0; 7];
        shard.copy_ids(2, &mut ids);
        assert_eq!(ids, [1, 1, 2, last as i32, 4, 1, 0]);
    }
}

#[test]
fn long_documents_are_written_in_portions() {
    let directory = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..WRITE_BYTES as u32).map(|index| index % 997).collect();
    let path = write(directory.path(), &vocabulary(1000), &[&ids]);
    let mut read = vec![0; ids.len()];
    TokenShard::open(&path).unwrap().copy_ids(0, &mut read);
    assert!(read.iter().zip(&ids).all(|(&read, &id)| read as u32 == id));
}

#[test]
fn every_changed_byte_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), &vocabulary(9), &[&[5, 3, 1], &[2, 8, 1]]);
    let bytes = fs::read(&path).unwrap();
    for place in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[place] ^= change;
            fs::write(&path, &changed).unwrap();
            let message = message(&path);
            assert!(!message.contains('\n'), "{message}");
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), &vocabulary(9), &[&[5, 3, 1], &[2, 8, 1]]);
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        TokenShard::open(&path).unwrap_err();
        ShardHeader::read(&path).unwrap_err();
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    let (found, expected) = (bytes.len() + 1, bytes.len());
    assert_eq!(
        message(&path),
        format!(
            "PATH is damaged (it has {found} bytes where its header says {expected}): prepare the text again"
        )
    );
}

#[test]
fn other_files_get_a_line_each() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), &vocabulary(9), &[&[5, 3, 1]]);
    let bytes = fs::read(&path).unwrap();

    let mut newer = bytes.clone();
    newer[8] = 3;
    fs::write(&path, &newer).unwrap();
    assert_eq!(
        message(&path),
        "PATH has token shard format 3, and this program reads format 2: prepare the text again, or update colac"
    );
    newer[8] = 1;
    fs::write(&path, &newer).unwrap();
    assert_eq!(
        message(&path),
        "PATH has token shard format 1, which is not read any more: prepare the text again"
    );
    fs::write(&path, &bytes[..100]).unwrap();
    assert_eq!(
        message(&path),
        "PATH is damaged (it ends after 100 bytes, within its header): prepare the text again"
    );
    fs::write(&path, "It is a truth").unwrap();
    assert_eq!(message(&path), "PATH is not a token shard: it begins with \"It is a \"");
    fs::write(&path, "").unwrap();
    assert_eq!(message(&path), "PATH is not a token shard: it is empty");
    assert_eq!(message(directory.path()), "PATH is not a token shard: it is not a regular file");
    assert!(message(&directory.path().join("missing")).starts_with("cannot open PATH: "));
}

/// A file whose hashes are right but whose content breaks the promises of the format.
#[test]
fn well_hashed_nonsense_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), &vocabulary(9), &[&[5, 3, 1], &[2, 8, 1]]);
    let bytes = fs::read(&path).unwrap();
    let header = Header::read(&bytes, &path).unwrap();
    let layout = Layout::new(&header).unwrap();
    let refuse = |payload: &[u8], header: Header| {
        let header = Header { payload_hash: *blake3::hash(payload).as_bytes(), ..header };
        fs::write(&path, [&header.to_bytes()[..], payload].concat()).unwrap();
        let message = message(&path);
        assert!(message.starts_with("PATH is damaged ("), "{message}");
        message
    };
    let payload = &bytes[HEADER_BYTES..];
    for wrong in [
        Header { token_bytes: 3, ..header.clone() },
        Header { token_bytes: 4, ..header.clone() },
        Header { vocab_size: 0, ..header.clone() },
        Header { vocab_size: u32::MAX, ..header.clone() },
        Header { vocab_size: 8, ..header.clone() },
        Header { max_id: 7, ..header.clone() },
        Header { end_of_text: 9, ..header.clone() },
        Header { part: 0, ..header.clone() },
        Header { part: 4, ..header.clone() },
        Header { token_count: 0, ..header.clone() },
        Header { token_count: u64::MAX, ..header.clone() },
        Header { token_count: u64::MAX / 2 - 200, ..header.clone() },
        Header { document_count: u64::MAX / 8, ..header.clone() },
        Header { document_count: 0, ..header.clone() },
        Header { manifest_bytes: u64::MAX, ..header.clone() },
    ] {
        refuse(payload, wrong);
    }
    for (table, place, value) in [
        (&layout.tokens, 0, 9),
        (&layout.documents, 0, 1),
        (&layout.documents, 8, 6),
        (&layout.documents, 8, 0),
    ] {
        let mut wrong = payload.to_vec();
        wrong[table.start - HEADER_BYTES + place] = value;
        refuse(&wrong, header.clone());
    }
    let mut wrong = payload.to_vec();
    wrong[layout.manifest.start - HEADER_BYTES] = b'[';
    assert!(refuse(&wrong, header.clone()).contains("its manifest is not readable"));
    // The parser's message names a key that has a line break.
    let key = br#"{"a\nb": 1}"#;
    let (start, end) = (layout.manifest.start - HEADER_BYTES, layout.manifest.end - HEADER_BYTES);
    wrong[start..end].fill(b' ');
    wrong[start..start + key.len()].copy_from_slice(key);
    let message = refuse(&wrong, header);
    assert!(message.contains("unknown field") && !message.contains('\n'), "{message}");
}

#[test]
fn an_unfinished_shard_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(directory.path(), "shard-0", &vocabulary(9)).unwrap();
    writer.push(&[1, 2], 3, 1).unwrap();
    drop(writer.finish(&vocabulary(9)).unwrap());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
