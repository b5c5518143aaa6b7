//! Selectors: the first line is the selector, the others are paths.
#![no_main]

use colac_compiler::diagnostics::Sources;
use colac_compiler::language::selector::Selector;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let selector = lines.next().unwrap_or_default();
    let mut sources = Sources::default();
    let source = sources.add("selector", selector);
    match Selector::parse(selector, source, 0) {
        Err(error) => colac_fuzz::draw_one(&error, &sources),
        Ok(selector) => {
            for path in lines.clone() {
                assert_eq!(selector.matches(path), selector.captures(path).is_some(), "{path}");
            }
            selector.suggest(lines);
        }
    }
});
