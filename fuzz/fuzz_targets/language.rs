//! Architecture files. One that parses is compiled with a small value for every setting it requires, dense and in CoLA
//! form, so that lowering, the passes and the plan's verifier see it too.
#![no_main]

use colac_compiler::compile::{Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::language::architecture::{Architecture, ConfigKind};
use colac_compiler::spec::SpecInput;
use libfuzzer_sys::fuzz_target;

/// Larger files only make the same mistakes more slowly.
const MOST_BYTES: usize = 1 << 14;

fuzz_target!(|text: &str| {
    if text.len() > MOST_BYTES {
        return;
    }
    let mut sources = Sources::default();
    let source = sources.add("architecture", text);
    let architecture = match Architecture::parse(source, &mut sources) {
        Ok(architecture) => architecture,
        Err(errors) => {
            assert!(errors.has_errors());
            return colac_fuzz::draw(&errors, &sources);
        }
    };
    // A repeat of a huge number of turns is slow, not wrong.
    if text.bytes().filter(u8::is_ascii_digit).count() > 200 || has_long_number(text) {
        return;
    }
    let path = colac_fuzz::file("architecture.toml", text.as_bytes());
    let mut spec = format!("name = \"fuzz\"\narchitecture = {:?}\n[model]\n", path.display());
    for entry in architecture.config.iter().filter(|entry| entry.default.is_none()) {
        let value = match &entry.kind {
            ConfigKind::Integer => "4".to_owned(),
            ConfigKind::Number => "0.5".to_owned(),
            ConfigKind::Boolean => "true".to_owned(),
            ConfigKind::OneOf(texts) => format!("{:?}", texts.first().map_or("", String::as_str)),
        };
        spec += &format!("{} = {value}\n", entry.name);
    }
    spec += "[cola]\nrank = 2\n[train]\nsequence_length = 4\nmicro_batch = 2\nglobal_batch = 2\nsteps = 4\n\
             [optimizer]\nlearning_rate = 0.01\n[schedule]\nwarmup_steps = 1\n[data]\ntrain = [\"t\"]\n";
    for full_rank in [false, true] {
        let mut sources = Sources::default();
        let input = SpecInput::Text { name: "spec".to_owned(), text: spec.clone() };
        let request = Request { input, settings: Vec::new(), full_rank, dump: None };
        match compile(request, &mut sources) {
            Ok(compiled) => {
                colac_fuzz::draw(&compiled.warnings, &sources);
                let bytes = colac_plan::file::write(&compiled.plan).expect("its own plan is right");
                let read = colac_plan::file::read(&bytes).expect("what was written is read");
                assert!(read == compiled.plan);
            }
            Err(errors) => {
                assert!(errors.has_errors());
                assert!(
                    errors.iter().all(|error| !error.message.contains("bug")),
                    "{errors:?}"
                );
                colac_fuzz::draw(&errors, &sources);
            }
        }
    }
});

/// Whether a number has more than two digits.
fn has_long_number(text: &str) -> bool {
    text.as_bytes().windows(3).any(|window| window.iter().all(u8::is_ascii_digit))
}
