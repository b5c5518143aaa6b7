//! Documents become tokens on the side where they belong, in shards that are whole or not there.

use std::io::Write;
use std::slice::from_ref;

use super::*;
use crate::data::corpus::TokenCorpus;
use crate::data::shard::ShardHeader;

fn tokenizer() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus/tokenizer-4096.json");
    Tokenizer::from_file(&path).unwrap()
}

fn read_all(corpus: &TokenCorpus) -> Vec<u32> {
    let mut ids = vec![0; corpus.token_count() as usize];
    corpus.copy_ids(0, &mut ids);
    ids.into_iter().map(|id| id as u32).collect()
}

/// The text of every document.
fn texts(folder: &Path) -> Vec<String> {
    let corpus = TokenCorpus::open(&[folder.to_owned()]).unwrap();
    let (ids, tokenizer) = (read_all(&corpus), tokenizer());
    (0..corpus.document_count())
        .map(|document| {
            let range = corpus.document(document);
            let (last, ids) = ids[range.start as usize..range.end as usize].split_last().unwrap();
            assert_eq!(*last, 0, "a document ends with the end of text");
            tokenizer.decode(ids).unwrap()
        })
        .collect()
}

fn run(
    inputs: &[PathBuf],
    output: &Path,
    options: &PrepareOptions,
) -> Result<PrepareSummary, DataError> {
    prepare(inputs, &tokenizer(), output, options, &mut |_| ControlFlow::Continue(()))
}

fn separated(line: &str) -> ReadOptions {
    ReadOptions { separator: Some(line.to_owned()), ..ReadOptions::default() }
}

#[test]
fn a_corpus_holds_its_texts() {
    let directory = tempfile::tempdir().unwrap();
    let (texts, output) = (directory.path().join("texts"), directory.path().join("output"));
    fs::create_dir(&texts).unwrap();
    for (name, text) in
        [("b.txt", "The second text.\n"), ("a.txt", "The first text.\n"), ("c.txt", " \n")]
    {
        fs::write(texts.join(name), text).unwrap();
    }
    let tokenizer = tokenizer();
    let mut steps = Vec::new();
    let options = PrepareOptions::default();
    let summary = prepare(from_ref(&texts), &tokenizer, &output, &options, &mut |step| {
        steps.push((step.bytes_done, step.bytes_total));
        ControlFlow::Continue(())
    })
    .unwrap();
    let training = &summary.training;
    assert_eq!(training.shards, [output.join("shard-00001-of-00001.tokens")]);
    assert_eq!((summary.files, training.documents, training.text_bytes), (3, 2, 33));
    assert_eq!(
        (summary.empty, summary.validation.as_ref(), summary.unknown_tokens),
        (1, None, None)
    );
    assert_eq!((steps[0], steps[steps.len() - 1]), ((0, 35), (35, 35)));

    let corpus = TokenCorpus::open(from_ref(&output)).unwrap();
    assert_eq!(
        (corpus.token_count(), corpus.document_count(), corpus.text_bytes()),
        (training.tokens, 2, 33)
    );
    let ids = read_all(&corpus);
    let mut expected = tokenizer.encode("The first text.\n").unwrap();
    expected.push(0);
    assert_eq!(corpus.document(0), 0..expected.len() as u64);
    assert_eq!(corpus.document(1), expected.len() as u64..ids.len() as u64);
    expected.extend(tokenizer.encode("The second text.\n").unwrap());
    expected.push(0);
    assert_eq!(ids, expected);
    let manifest = corpus.manifests().next().unwrap();
    assert_eq!(
        manifest.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>(),
        ["a.txt", "b.txt"]
    );
    let hash = |text: &[u8]| blake3::hash(text).to_hex().to_string();
    assert_eq!(manifest.sources[0].blake3, hash(b"The first text.\n"));
    assert_eq!(manifest.tokenizer, "tokenizer-4096.json");
    assert_eq!(manifest.rules, rules(&options, Side::Training));
    assert_eq!(manifest.inputs, inputs_hash(from_ref(&texts), &[]).unwrap());
    corpus.check_tokenizer(tokenizer.hash()).unwrap();
    fs::write(texts.join("c.txt"), " ").unwrap();
    assert_ne!(manifest.inputs, inputs_hash(&[texts], &[]).unwrap());
}

#[test]
fn bytes_are_the_same_for_any_number_of_threads() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus/validation");
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<Vec<u8>> = [1, 3]
        .into_iter()
        .map(|threads| {
            let output = directory.path().join(threads.to_string());
            let threads = NonZeroUsize::new(threads).unwrap();
            let options = PrepareOptions { threads, ..PrepareOptions::default() };
            let summary = run(from_ref(&text), &output, &options).unwrap();
            fs::read(&summary.training.shards[0]).unwrap()
        })
        .collect();
    assert!(files[0] == files[1]);
}

/// A document of several parts, more ids than are kept in memory, between two small ones.
#[test]
fn a_huge_document_is_streamed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, output) = (directory.path().join("text.txt"), directory.path().join("output"));
    let line = "It is a truth universally acknowledged, that a single man in possession\n";
    let count = (3 << 20) / line.len();
    let mut file = std::io::BufWriter::new(fs::File::create(&path).unwrap());
    write!(file, "one\n---\n").unwrap();
    for _ in 0..count {
        file.write_all(line.as_bytes()).unwrap();
    }
    write!(file, "---\ntwo\n").unwrap();
    drop(file);
    let options = PrepareOptions {
        reading: separated("---"),
        deduplicate: true,
        ..PrepareOptions::default()
    };
    let summary = run(from_ref(&path), &output, &options).unwrap();
    assert_eq!(summary.training.documents, 3);
    let corpus = TokenCorpus::open(from_ref(&output)).unwrap();
    let line_ids = tokenizer().encode(line).unwrap().len() as u64;
    let huge = corpus.document(1);
    // Line ends join the words before or behind them in no way here: a line has the same ids anywhere.
    assert_eq!(huge.end - huge.start, line_ids * count as u64 + 1);
    assert_eq!(corpus.text_bytes(), (line.len() * count + 8) as u64);
}

#[test]
fn documents_are_held_out_by_their_text_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let documents: Vec<String> = (0..400).map(|number| format!("Document {number}.")).collect();
    let lines = |documents: &[String]| -> String {
        documents.iter().map(|text| format!("{{\"text\": {text:?}}}\n")).collect()
    };
    fs::write(path("all.jsonl"), lines(&documents)).unwrap();
    let split = |input: &str, output: &str, fraction, shard_tokens| {
        let options = PrepareOptions {
            validation_fraction: fraction,
            shard_tokens,
            ..PrepareOptions::default()
        };
        let summary = run(&[path(input)], &path(output), &options).unwrap();
        assert_eq!(summary.training.directory, path(output).join("train"));
        [Side::Training, Side::Validation].map(|side| texts(&path(output).join(side.folder())))
    };
    let [trained, held_out] = split("all.jsonl", "a", 0.1, 1 << 20);
    assert!((20..=60).contains(&held_out.len()), "{} of 400 with a share of 0.1", held_out.len());
    assert_eq!(trained.len() + held_out.len(), 400);
    // Another order, other files, other shards, copies: the same split.
    let mut turned = documents.clone();
    turned.reverse();
    turned.extend_from_slice(&documents[..200]);
    fs::create_dir(path("parts")).unwrap();
    fs::write(path("parts/1.jsonl"), lines(&turned[..17])).unwrap();
    fs::write(path("parts/2.jsonl"), lines(&turned[17..])).unwrap();
    let again = split("parts", "b", 0.1, 50).map(|side| side.into_iter().collect::<BTreeSet<_>>());
    assert_eq!(again, [trained, held_out].map(|side| side.into_iter().collect::<BTreeSet<_>>()));
    // A larger share holds out more, and all of that.
    let [_, more] = split("all.jsonl", "c", 0.3, 1 << 20);
    assert!(again[1].iter().all(|text| more.contains(text)) && more.len() > again[1].len());

    let only = PrepareOptions { validation_fraction: 1e-9, ..PrepareOptions::default() };
    let error = run(&[path("all.jsonl")], &path("d"), &only).unwrap_err().to_string();
    assert!(error.contains("no document for validation, of 400 in all"), "{error}");
    let rule = rules(&only, Side::Validation);
    assert_eq!(
        rule,
        "text field \"text\", a text file is a document, the validation share of 0.000000001"
    );
}

/// The share is of hashes, so it must not move with a new version.
#[test]
fn the_split_is_the_documented_one() {
    let hash = blake3::hash(b"Document 7.");
    let first = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
    let exactly = first as f64 / 2_f64.powi(64);
    assert!(is_held_out(&hash, exactly * 1.000_001) && !is_held_out(&hash, exactly * 0.999_999));
    assert!(!is_held_out(&hash, 0.0));
}

#[test]
fn copies_are_dropped_on_demand() {
    let directory = tempfile::tempdir().unwrap();
    let (path, output) = (directory.path().join("text.txt"), directory.path().join("output"));
    fs::write(&path, "a\n\nb\n\na\n\nA\n\nb\n").unwrap();
    let mut options = PrepareOptions { reading: separated(""), ..PrepareOptions::default() };
    assert_eq!(run(from_ref(&path), &output, &options).unwrap().training.documents, 5);
    (options.deduplicate, options.overwrite) = (true, true);
    let summary = run(from_ref(&path), &output, &options).unwrap();
    assert_eq!((summary.training.documents, summary.duplicates), (3, 2));
    assert_eq!(texts(&output), ["a\n", "b\n", "A\n"]);
}

#[test]
fn bad_records_end_the_work_or_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let lines = "{\"text\": \"one\"}\n{\"text\": \n{\"body\": \"x\"}\n\n{\"text\": \"two\"}\n";
    fs::write(path("a.jsonl"), lines).unwrap();
    fs::write(path("b.txt"), b"three\n---\nfo\xffur\n---\nfive\n").unwrap();
    let inputs = [path("a.jsonl"), path("b.txt")];
    let mut options = PrepareOptions { reading: separated("---"), ..PrepareOptions::default() };
    let error = run(&inputs, &path("output"), &options).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:2: it is not JSON (EOF while parsing a value"), "{error}");
    options.reading.skip_bad = true;
    let summary = run(&inputs, &path("output"), &options).unwrap();
    assert_eq!(texts(&path("output")), ["one", "two", "three\n", "five\n"]);
    assert_eq!(summary.bad.count, 3);
    assert!(summary.bad.first[1].contains("a.jsonl:3: no field `text`; there is `body`"));
    assert!(summary.bad.first[2].contains("b.txt, byte 12: it is not UTF-8"), "{:?}", summary.bad);
}

#[test]
fn shards_end_behind_documents() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.txt");
    fs::write(&text, "a\n\nb\n\nc d e f\n\ng\n").unwrap();
    let output = directory.path().join("output");
    let mut options =
        PrepareOptions { reading: separated(""), shard_tokens: 5, ..PrepareOptions::default() };
    let summary = run(from_ref(&text), &output, &options).unwrap();
    let corpus = TokenCorpus::open(from_ref(&output)).unwrap();
    // Every letter, space and line end is a token here, and each document has one more at its end.
    let counts = summary.training.shards.iter().map(|shard| ShardHeader::read(shard).unwrap());
    let counts: Vec<u64> = counts.map(|header| header.token_count).collect();
    assert_eq!((counts, summary.training.tokens), (vec![6, 6, 3], 15));
    let lengths: Vec<u64> = (0..4)
        .map(|document| corpus.document(document))
        .map(|range| range.end - range.start)
        .collect();
    assert_eq!(lengths, [3, 3, 6, 3]);
    let whole = read_all(&corpus);

    // The same text in one shard is the same stream.
    assert!(matches!(run(from_ref(&text), &output, &options), Err(DataError::OutputExists { .. })));
    options.shard_tokens = 1000;
    options.overwrite = true;
    run(&[text], &output, &options).unwrap();
    let corpus = TokenCorpus::open(&[output]).unwrap();
    assert_eq!(corpus.shard_count(), 1);
    assert_eq!(read_all(&corpus), whole);
}

#[test]
fn failures_leave_the_old_corpus() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("good.txt"), "good\n").unwrap();
    fs::write(path("bad.txt"), b"b\xffd\n").unwrap();
    let (good, bad, output) = (path("good.txt"), path("bad.txt"), path("output"));
    let options = PrepareOptions { overwrite: true, ..PrepareOptions::default() };
    let old = run(from_ref(&good), &output, &options).unwrap();
    let bytes = fs::read(&old.training.shards[0]).unwrap();
    let error = run(&[good.clone(), bad], &output, &options).unwrap_err();
    assert!(error.to_string().contains("bad.txt, byte 1: it is not UTF-8"), "{error}");
    let stopped =
        prepare(&[good], &tokenizer(), &output, &options, &mut |progress| match progress.tokens {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        });
    assert!(matches!(stopped, Err(DataError::Interrupted { .. })));
    assert_eq!(fs::read(&old.training.shards[0]).unwrap(), bytes);
    assert_eq!(fs::read_dir(&output).unwrap().count(), 1);

    fs::write(path("empty.txt"), "\n\n").unwrap();
    let empty = run(&[path("empty.txt")], &output, &options);
    assert!(matches!(empty, Err(DataError::NoText { .. })));
}

/// What the tokenizer does not know is counted, and documents are whole for one that cannot cut them.
#[test]
fn unknown_text_is_counted() {
    let json = r###"{"version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[UNK]"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"[UNK]": 0, "[SEP]": 1, "sen": 2, "##se": 3, "and": 4}}}"###;
    let tokenizer = Tokenizer::from_bytes(json.as_bytes(), Path::new("word-piece.json")).unwrap();
    assert_eq!(tokenizer.kind(), "WordPiece");
    let directory = tempfile::tempdir().unwrap();
    let (path, output) = (directory.path().join("text.txt"), directory.path().join("output"));
    fs::write(&path, "sense and sensibility and sense\n").unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let summary = prepare(&[path], &tokenizer, &output, &PrepareOptions::default(), go_on).unwrap();
    let corpus = TokenCorpus::open(&[output]).unwrap();
    assert_eq!(read_all(&corpus), [2, 3, 4, 0, 4, 2, 3, 1], "neither cut to 2 nor filled up to 8");
    assert_eq!(summary.unknown_tokens, Some(1));
}
