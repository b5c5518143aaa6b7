//! Token files of other trainers: llm.c's and llmq's by their headers, nanoGPT's bare ids when told how wide they are,
//! with and without the id that ends a text.
#![no_main]

use std::path::Path;

use colac_plan::recipe::TokenDType;
use colac_runtime::data::{OpenOptions, TokenCorpus, TokenFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = colac_fuzz::file("train.bin", bytes);
    for dtype in [None, Some(TokenDType::U16), Some(TokenDType::U32)] {
        for end_of_text in [None, Some(0), Some(50256)] {
            documents(&path, dtype, end_of_text);
        }
        let options = OpenOptions { token_dtype: dtype, tokenizer: None };
        match TokenCorpus::open_with(std::slice::from_ref(&path), &options) {
            Ok(corpus) => colac_fuzz::ask(&corpus),
            Err(error) => assert!(!error.to_string().contains('\n')),
        }
    }
});

/// Documents lie one behind the other, from the first token on.
fn documents(path: &Path, dtype: Option<TokenDType>, end_of_text: Option<u32>) {
    let Ok(file) = TokenFile::open(path, dtype, end_of_text) else { return };
    let starts: Vec<u64> = (0..file.document_count()).map(|d| file.document_start(d)).collect();
    assert_eq!(starts[0], 0);
    assert!(starts.is_sorted_by(|a, b| a < b) && starts[starts.len() - 1] < file.token_count());
}
