//! Expressions of specs and architectures, and activation formulas.
#![no_main]

use colac_compiler::diagnostics::Sources;
use colac_compiler::language::activation::Activation;
use colac_compiler::language::expression::{Expression, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut sources = Sources::default();
    let source = sources.add("expression", text);
    let names = |name: &str| match name {
        "hidden_size" => Some(Value::Integer(64)),
        "scale" => Some(Value::Float(0.5)),
        "tied" => Some(Value::Boolean(true)),
        _ => None,
    };
    match Expression::parse(text, source, 0) {
        Err(error) => colac_fuzz::draw_one(&error, &sources),
        Ok(expression) => {
            if let Err(error) = expression.evaluate(&names) {
                colac_fuzz::draw_one(&error, &sources);
            }
            expression.names();
        }
    }
    match Activation::parse(text, source, 0) {
        Err(error) => colac_fuzz::draw_one(&error, &sources),
        Ok(activation) => {
            activation.program();
        }
    }
});
