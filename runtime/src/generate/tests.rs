//! Generation with a model whose next token is what the test says it is.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::train::testing::{Bigram, SEQUENCE, VOCAB, plan};

/// A byte-level tokenizer: id 0 ends a text, 1 is `a`, 2 is `b`, 3 and 4 are the two bytes of `é`, 5 is a space. Id 6 is
/// no token. `extra` adds tokens.
fn tokenizer(extra: &str) -> Tokenizer {
    let json = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
                           "rstrip": false, "normalized": false, "special": true}}],
        "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
        "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
        "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "merges": [],
                   "vocab": {{"<|endoftext|>": 0, "a": 1, "b": 2, "Ã": 3, "©": 4, "Ġ": 5{extra}}}}}}}"#
    );
    Tokenizer::from_bytes(json.as_bytes(), Path::new("test.json")).unwrap()
}

/// A model that says `next[id]` after `id`, with `second[id]` a little less likely.
fn model(next: [usize; VOCAB], second: [usize; VOCAB]) -> Bigram {
    let mut executor = Bigram::initialized(plan());
    let mut table = [0.0; VOCAB * VOCAB];
    for id in 0..VOCAB {
        table[id * VOCAB + second[id]] = 19.0;
        table[id * VOCAB + next[id]] = 20.0;
    }
    let [weights, bias] = [0, 1].map(|index| executor.plan().parameters[index].tensor);
    executor.write_f32(weights, &table);
    executor.write_f32(bias, &[0.0; VOCAB]);
    executor
}

fn options(max_tokens: usize, temperature: f64) -> Options {
    Options { max_tokens, sampling: Sampling { temperature, ..Sampling::default() } }
}

fn run(
    executor: &mut Bigram,
    prompt: &str,
    options: &Options,
) -> Result<(Generation, Vec<String>), GenerateError> {
    let mut pieces = Vec::new();
    let mut on_text = |piece: &str| pieces.push(piece.to_owned());
    let generation =
        generate(executor, &tokenizer(""), prompt, options, &AtomicBool::new(false), &mut on_text)?;
    assert_eq!(pieces.concat(), generation.text);
    Ok((generation, pieces))
}

/// The row that the model saw last.
fn last_row(executor: &Bigram) -> [i32; SEQUENCE] {
    let mut row = [0; SEQUENCE];
    executor.read_i32(executor.plan().roles.logits_tokens, &mut row);
    row
}

#[test]
fn text_arrives_in_whole_characters_until_it_ends() {
    // a é b, then the end.
    let mut executor = model([1, 3, 0, 4, 2, 1, 1], [5; VOCAB]);
    let (generation, pieces) = run(&mut executor, "ba", &options(99, 0.0)).unwrap();
    let expected = Generation {
        text: "éb".to_owned(),
        prompt_tokens: 2,
        tokens: 3,
        finish: Finish::EndOfText,
    };
    assert_eq!(generation, expected);
    assert_eq!(pieces, ["é", "b"]);
    assert_eq!(last_row(&executor), [2, 1, 3, 4, 2, 0], "b a é b, filled up on the right");
}

#[test]
fn a_text_cut_within_a_character_is_still_text() {
    let mut executor = model([1, 3, 0, 4, 2, 1, 1], [5; VOCAB]);
    let (generation, _) = run(&mut executor, "a", &options(1, 0.0)).unwrap();
    assert_eq!(
        (generation.text.as_str(), generation.tokens, generation.finish),
        ("\u{fffd}", 1, Finish::MaxTokens)
    );
    let (generation, pieces) = run(&mut executor, "a", &options(0, 0.0)).unwrap();
    assert_eq!((generation.text.as_str(), generation.tokens, pieces.len()), ("", 0, 0));
}

#[test]
fn the_window_slides_over_a_long_text() {
    // a b space a b space …
    let mut executor = model([1, 2, 5, 4, 2, 1, 1], [5; VOCAB]);
    let (generation, _) = run(&mut executor, "bb", &options(10, 0.0)).unwrap();
    assert_eq!(generation.text, " ab ab ab ");
    // Eleven tokens were there before the last was chosen; the model saw six of them.
    assert_eq!(last_row(&executor), [5, 1, 2, 5, 1, 2]);
}

#[test]
fn an_empty_prompt_is_the_beginning_of_a_text() {
    let mut executor = model([1, 2, 0, 4, 2, 1, 1], [5; VOCAB]);
    let (generation, _) = run(&mut executor, "", &options(9, 0.0)).unwrap();
    assert_eq!((generation.text.as_str(), generation.finish), ("ab", Finish::EndOfText));
}

#[test]
fn ids_without_a_token_are_never_chosen() {
    let mut executor = model([6; VOCAB], [2; VOCAB]);
    for temperature in [0.0, 1.0] {
        let (generation, _) = run(&mut executor, "a", &options(4, temperature)).unwrap();
        assert_eq!(generation.text, "bbbb");
    }
}

#[test]
fn equal_seeds_give_equal_texts() {
    let text = |seed| {
        let mut executor = model([2; VOCAB], [1; VOCAB]);
        let mut options = options(40, 1.0);
        options.sampling.seed = seed;
        run(&mut executor, "a", &options).unwrap().0.text
    };
    assert_eq!(text(3), text(3));
    assert_ne!(text(3), text(4));
    let seen = text(3);
    assert!(seen.contains('a') && seen.contains('b'), "{seen}");
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let go = AtomicBool::new(false);
    let mut executor = model([1; VOCAB], [2; VOCAB]);
    let larger = tokenizer(", \"z\": 9");
    let error =
        generate(&mut executor, &larger, "az", &options(1, 0.0), &go, &mut |_| ()).unwrap_err();
    assert!(matches!(error, GenerateError::IdOutOfVocabulary { id: 9, vocab_size: 7 }), "{error}");
    let error = run(&mut executor, "a", &options(1, -1.0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the temperature is -1, and must be 0 (the most likely token) or more"
    );

    let bias = executor.plan().parameters[1].tensor;
    executor.write_f32(bias, &[f32::NAN; VOCAB]);
    let error = run(&mut executor, "ab", &options(1, 0.0)).unwrap_err();
    assert!(matches!(error, GenerateError::NotFinite { position: 2 }), "{error}");
}

#[test]
fn it_can_be_interrupted() {
    let mut executor = model([1; VOCAB], [2; VOCAB]);
    let stop = AtomicBool::new(false);
    let mut on_text = |_: &str| stop.store(true, Ordering::Relaxed);
    let generation =
        generate(&mut executor, &tokenizer(""), "a", &options(9, 0.0), &stop, &mut on_text)
            .unwrap();
    assert_eq!((generation.text.as_str(), generation.finish), ("a", Finish::Interrupted));
}
