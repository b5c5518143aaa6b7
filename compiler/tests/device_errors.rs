//! Every error of a device profile has a case in `tests/cases/device/`, compared as a user sees it.
//!
//! A case is a profile named after its code, `CODE.toml` or `CODE-VARIANT.toml`. A leading line `#! --device NAME` asks
//! for the profile of that name instead of the text.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

mod common;

use std::collections::BTreeSet;

use colac_compiler::device;
use colac_compiler::diagnostics::{Diagnostics, Sources};

fn run_case(name: &str) -> (Diagnostics, Sources) {
    let case = common::read("device", name);
    let mut sources = Sources::default();
    let read = match case.directives.first() {
        Some((word, argument)) => {
            assert_eq!(word, "--device");
            device::load(argument, None, &mut sources)
        }
        None => device::read(format!("{name}.toml"), &case.text, &mut sources),
    };
    (read.unwrap_err(), sources)
}

#[test]
fn each_case_reports_its_code_and_reads_well() {
    for name in common::names("device") {
        let (diagnostics, sources) = run_case(&name);
        let code = format!("device::{}", name.split('-').next().unwrap());
        let text = common::render(diagnostics.iter(), &sources);
        assert!(
            diagnostics.iter().any(|d| d.code == code),
            "{name} does not report {code}:\n{text}"
        );
        for diagnostic in diagnostics.iter() {
            common::check_wording(&name, diagnostic);
        }
        insta::with_settings!({
            snapshot_path => common::folder("device"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name.clone(), text);
        });
    }
}

#[test]
fn codes_and_cases_are_the_same() {
    let codes: BTreeSet<String> =
        device::codes::ALL.iter().map(|(code, _)| (*code).to_owned()).collect();
    let plain = common::names("device").into_iter().filter(|name| !name.contains('-'));
    let cases: BTreeSet<String> = plain.map(|name| format!("device::{name}")).collect();
    assert_eq!(codes, cases, "every code needs a case and every case a code");
}
