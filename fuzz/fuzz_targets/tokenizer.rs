//! Files named `tokenizer.json`: reading, and going forth and back with a short text.
#![no_main]

use std::path::Path;

use colac_runtime::data::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_bytes(bytes, Path::new("tokenizer.json")) else { return };
    if let Ok(ids) = tokenizer.encode("She was, é\n12") {
        let _ = tokenizer.decode(&ids);
    }
});
