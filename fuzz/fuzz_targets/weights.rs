//! Weights in safetensors, read into the executor of a small plan.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use colac_compiler::compile::{Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::spec::SpecInput;
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::train::checkpoint::load_weights;
use libfuzzer_sys::fuzz_target;

const SPEC: &str = include_str!("../small.toml");

thread_local! {
    static EXECUTOR: RefCell<CpuExecutor> = RefCell::new({
        let input = SpecInput::Text { name: "small".to_owned(), text: SPEC.to_owned() };
        let request = Request { input, settings: Vec::new(), full_rank: false, dump: None };
        let compiled = compile(request, &mut Sources::default()).expect("the spec is right");
        let options = CpuOptions { threads: 1, ..CpuOptions::default() };
        CpuExecutor::new(Arc::new(compiled.plan), options).expect("a small plan fits")
    });
}

fuzz_target!(|bytes: &[u8]| {
    let path = colac_fuzz::file("model.safetensors", bytes);
    EXECUTOR.with_borrow_mut(|executor| {
        if let Err(error) = load_weights(executor, &path) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    });
});
