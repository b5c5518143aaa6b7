//! Mistakes of several stages are shown at once, and none that another one explains.
//!
//! A case in `tests/cases/together/` is a spec with its architecture: paths start at the folder of the crate. Its first
//! line `#! codes …` names every code that is reported, in order; `#! --set …` passes a setting. The cases `held-…` have
//! a later mistake, or what looks like one, that must not be reported because of an earlier one.

mod common;

use colac_compiler::compile::{Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::spec::SpecInput;

/// The folder of the cases.
const AREA: &str = "together";

#[test]
fn mistakes_of_all_stages_are_shown_together_and_no_others() {
    for name in common::names(AREA) {
        let case = common::read(AREA, &name);
        let (mut expected, mut settings) = (Vec::new(), Vec::new());
        for (word, argument) in case.directives {
            match word.as_str() {
                "codes" => expected = argument.split(' ').map(str::to_owned).collect(),
                "--set" => settings.push(argument),
                other => panic!("unknown directive {other} in {name}"),
            }
        }
        let input = SpecInput::Text { name: format!("{name}.toml"), text: case.text };
        let request = Request { input, settings, full_rank: false, dump: None };
        let mut sources = Sources::default();
        let diagnostics = compile(request, &mut sources).expect_err(&name);
        let text = common::render(diagnostics.iter(), &sources);
        let codes: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
        assert_eq!(codes, expected, "{name} reports\n{text}");
        for diagnostic in diagnostics.iter() {
            common::check_wording(&name, diagnostic);
        }
        insta::with_settings!({
            snapshot_path => common::folder(AREA),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name.clone(), text);
        });
    }
}

/// What is held back behind a mistake is reported once that is mended: the cases are wrong in both.
#[test]
fn what_is_held_back_comes_when_the_rest_is_mended() {
    for (name, mistake, mended, code) in [
        (
            "held-length",
            "sequence_length = 1\n",
            "sequence_length = 16\n",
            "language::unknown_name",
        ),
        ("held-shapes", "sequence_length = 1\n", "sequence_length = 16\n", "lower::shape_mismatch"),
        ("held-setting_elsewhere", "width = 32\n", "", "lower::shape_mismatch"),
        ("held-section_misspelt", "[modell]", "[model]", "lower::shape_mismatch"),
        ("held-cola", "target = ", "targets = ", "cola::selects_nothing"),
    ] {
        let text = common::read(AREA, name).text;
        assert!(text.contains(mistake), "{name}");
        let input = SpecInput::Text { name: name.into(), text: text.replace(mistake, mended) };
        let request = Request { input, settings: Vec::new(), full_rank: false, dump: None };
        let diagnostics = compile(request, &mut Sources::default()).expect_err(name);
        assert!(diagnostics.iter().all(|diagnostic| diagnostic.code == code), "{diagnostics:?}");
    }
}
