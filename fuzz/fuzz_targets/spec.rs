//! Specs and settings: the text up to the first line `---` is the spec, each line behind it a `--set`.
#![no_main]

use colac_compiler::diagnostics::Sources;
use colac_compiler::spec::{Spec, SpecInput};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, settings) = text.split_once("\n---\n").unwrap_or((text, ""));
    let settings: Vec<String> = settings.lines().map(str::to_owned).collect();
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "spec".to_owned(), text: text.to_owned() };
    match Spec::load(input, &settings, false, &mut sources) {
        Ok((_, warnings)) => colac_fuzz::draw(&warnings, &sources),
        Err(errors) => {
            assert!(errors.has_errors());
            colac_fuzz::draw(&errors, &sources);
        }
    }
});
