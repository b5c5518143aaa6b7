//! The same tests on narrower vector instructions than this processor has: their code is other code.

use std::process::Command;

use crate::cpu::vector::WIDEST_VARIABLE;

/// Runs the tests of the CPU's kernels and the conformance suite in a process of their own.
fn passes_with(vectors: &str) {
    if std::env::var_os(WIDEST_VARIABLE).is_some() {
        // This is such a process, or a person has chosen.
        return;
    }
    let tests = std::env::current_exe().expect("the tests are a program");
    // Of the suite what runs on the CPU's kernels: the reference knows no vectors.
    let filters = [
        "cpu::tests::light",
        "cpu::tests::heavy",
        "cpu::vector::",
        "conformance::executors::tests::the_cpu_conforms",
        "conformance::executors::tests::cpu_threads",
    ];
    let output = Command::new(tests)
        .args(filters)
        .env(WIDEST_VARIABLE, vectors)
        .output()
        .expect("the tests can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{vectors}: {text}");
    // A filter that matches nothing would pass as well.
    let count = text.lines().filter(|line| line.ends_with(" ... ok")).count();
    assert!(count > 15, "{vectors}: only {count} tests ran: {text}");
}

#[test]
fn avx2_passes_the_same_tests() {
    passes_with("avx2");
}

#[test]
fn the_baseline_passes_the_same_tests() {
    passes_with("baseline");
}
