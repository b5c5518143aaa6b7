//! Token shards: the bytes as a whole file, and once more with both hashes made good, since nothing else gets past them.
//! Of what is read, everything that training asks of a shard.
#![no_main]

use colac_runtime::data::TokenCorpus;
use libfuzzer_sys::fuzz_target;

/// Places in the header, see `docs/token-shards.md`.
const PAYLOAD_HASH: usize = 104;
const HEADER_HASH: usize = 136;
const HEADER_END: usize = 168;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let Some((header, payload)) = bytes.split_at_checked(HEADER_END) else { return };
    let mut good = header[..PAYLOAD_HASH].to_vec();
    good.extend_from_slice(blake3::hash(payload).as_bytes());
    good.extend_from_slice(blake3::hash(&good[..HEADER_HASH]).as_bytes());
    good.extend_from_slice(payload);
    read(&good);
});

fn read(bytes: &[u8]) {
    let path = colac_fuzz::file("00000.tokens", bytes);
    match TokenCorpus::open(&[path]) {
        Ok(corpus) => colac_fuzz::ask(&corpus),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}
