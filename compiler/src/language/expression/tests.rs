//! Values, types and errors of expressions.

use super::*;

fn evaluate(text: &str) -> Result<Value, Diagnostic> {
    let names = |name: &str| match name {
        "width" => Some(Value::Integer(512)),
        "eps" => Some(Value::Float(1e-6)),
        "tied" => Some(Value::Boolean(true)),
        "kind" => Some(Value::Text("silu".into())),
        _ => None,
    };
    Expression::parse(text, SourceId(0), 0)?.evaluate(&names)
}

#[test]
fn values() {
    let integer = |text: &str, number| {
        assert_eq!(evaluate(text).expect(text), Value::Integer(number), "{text}")
    };
    integer("1 + 2 * 3 - 4", 3);
    integer("(1 + 2) * 3", 9);
    integer("2 - 3 - 4", -5);
    integer("-width / -4", 128);
    integer("--3", 3);
    integer("7 % 4", 3);
    integer("-7 % 4", 1);
    integer("7 % -4", -1);
    integer("-8 % 4", 0);
    integer("floor(8 * width / 3)", 1365);
    integer("ceil(8 * width / 3)", 1366);
    integer("round_up(8 * width / 3, 256)", 1536);
    integer("round_up(1536, 256)", 1536);
    integer("round_up(-1, 4)", 0);
    integer("floor(-1 / 2)", -1);
    integer("max(1, width, 3)", 512);
    integer("min(width, 64) if tied else 7", 64);
    integer("1 if not tied else 2 if width > 512 else 3", 3);
    integer("60_000", 60_000);
    let float = |text: &str, number| {
        assert_eq!(evaluate(text).expect(text), Value::Float(number), "{text}")
    };
    float("1.0 / 4", 0.25);
    float("sqrt(width / 8)", 8.0);
    float("0.02 / sqrt(2 * 8)", 0.005);
    float("pow(2, -5)", 0.03125);
    float("log(pow(width, 0)) + exp(0)", 1.0);
    float("max(1, 0.5)", 1.0);
    float("1e-6 + eps", 2e-6);
    let truth = |text: &str, truth| {
        assert_eq!(evaluate(text).expect(text), Value::Boolean(truth), "{text}")
    };
    truth("width % 4 == 0 and tied", true);
    truth("kind == 'silu' or missing", true);
    truth("not tied and missing", false);
    truth("kind != \"silu\"", false);
    truth("1 < 1.5", true);
    truth("9007199254740993 > 9007199254740992", true);
    truth("2 >= 2 and 2 <= 2", true);
}

#[test]
fn what_is_refused() {
    let code = |text: &str, code: &str| {
        let diagnostic = evaluate(text).expect_err(text);
        assert_eq!(diagnostic.code, code, "{text}: {}", diagnostic.message);
        assert!(!diagnostic.labels.is_empty() && diagnostic.help.is_some(), "{text}");
    };
    code("width / 3", codes::INEXACT_DIVISION);
    code("floor(width / 3) / 3 + width / 3", codes::INEXACT_DIVISION);
    code("9223372036854775807 + 1", codes::OVERFLOW);
    code("-9223372036854775807 - 2", codes::OVERFLOW);
    code("9223372036854775807 * 2", codes::OVERFLOW);
    code("9223372036854775808", codes::OVERFLOW);
    code("(-9223372036854775807 - 1) / -1", codes::OVERFLOW);
    code("1e308 * 10", codes::OVERFLOW);
    code("ceil(1e300)", codes::OVERFLOW);
    code("round_up(9223372036854775807, 2)", codes::OVERFLOW);
    code("1 / 0", codes::UNDEFINED);
    code("1 % 0", codes::UNDEFINED);
    code("1.5 / 0.0", codes::UNDEFINED);
    code("sqrt(-1)", codes::UNDEFINED);
    code("log(0)", codes::UNDEFINED);
    code("pow(-8, 2)", codes::UNDEFINED);
    code("pow(1000, 1000)", codes::OVERFLOW);
    code("1 if not tied", codes::ABSENT);
    code("1 + (2 if not tied)", codes::ABSENT);
    code("1 + tied", codes::TYPE);
    code("width and tied", codes::TYPE);
    code("7.5 % 2", codes::TYPE);
    code("kind < kind", codes::TYPE);
    code("round_up(3, 0)", codes::TYPE);
    code("missing + 1", codes::UNKNOWN_NAME);
    code("sqr(4)", codes::UNKNOWN_FUNCTION);
    code("sqrt(1, 2)", codes::ARGUMENTS);
    code("sqrt(x = 1)", codes::ARGUMENTS);
    code("a: sqrt(1)", codes::ARGUMENTS);
    code("", codes::SYNTAX);
    code("1 +", codes::SYNTAX);
    code("1 2", codes::SYNTAX);
    code("1 < 2 < 3", codes::SYNTAX);
    code(&"(".repeat(100_000), codes::SYNTAX);
    code(&"-".repeat(100_000), codes::SYNTAX);
    code(&"not ".repeat(100_000), codes::SYNTAX);
    code(&vec!["1"; 100_000].join("+"), codes::SYNTAX);
    code("1 $ 2", codes::UNKNOWN_CHARACTER);
    code("'silu", codes::UNCLOSED_TEXT);
}

#[test]
fn spans_count_from_the_offset() {
    let expression = Expression::parse("  a + bb", SourceId(3), 100).expect("is right");
    assert_eq!(expression.span(), Span::new(SourceId(3), 102..108));
    let unknown = expression.check_names(["a", "b"]).expect_err("bb is not known");
    assert_eq!(unknown.labels[0].span, Span::new(SourceId(3), 106..108));
    assert_eq!(unknown.help.as_deref(), Some("did you mean `b`?"));
}
