//! Token shards: everything that training asks of one.
#![no_main]

use colac_runtime::data::TokenCorpus;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = colac_fuzz::file("00000.tokens", bytes);
    match TokenCorpus::open(&[path]) {
        Ok(corpus) => {
            let count = corpus.token_count().min(4096) as usize;
            let mut ids = vec![0; count];
            corpus.copy_ids(0, &mut ids);
            assert!(ids.iter().all(|&id| (0..=i64::from(corpus.max_id())).contains(&i64::from(id))));
            for document in 0..corpus.document_count().min(64) {
                let range = corpus.document(document);
                assert!(range.start <= range.end && range.end <= corpus.token_count());
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
});
