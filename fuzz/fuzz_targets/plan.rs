//! Plan files: the bytes as a whole file, and as a body whose hash is made good, since nothing else gets past the hash.
#![no_main]

use colac_plan::file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Its message is what a user would see.
    let _ = file::read(bytes).map_err(|error| error.to_string());
    match file::read(&file::frame(bytes)) {
        Ok(plan) => {
            assert_eq!(file::write(&plan).expect("a plan that was read can be written"), file::frame(bytes));
            colac_compiler::view::Inspection::new(&plan);
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
});
