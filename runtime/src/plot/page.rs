//! The figure as one page that can be looked at closely.
//!
//! Owns what the page holds: the data of every update, the script that draws it, and the SVG for readers without
//! scripts. Must not know how the script draws: that is `page.js`, which stands beside this file.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::plot::svg::figure;
use crate::plot::{Options, Run, SIGNATURE, escaped};

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the script reads.
#[derive(Serialize)]
struct Data<'a> {
    x: crate::plot::XAxis,
    log_x: bool,
    log_y: bool,
    span: f64,
    runs: Vec<RunData<'a>>,
}

/// A run by columns, one entry for each update or evaluation; `null` where a value is missing.
#[derive(Serialize)]
struct RunData<'a> {
    name: &'a str,
    group: &'a str,
    flops_per_step: Option<u64>,
    steps: Vec<u64>,
    tokens: Vec<u64>,
    seconds: Column,
    loss: Column,
    learning_rate: Column,
    gradient_norm: Column,
    tokens_per_second: Column,
    evaluation_steps: Vec<u64>,
    evaluation_tokens: Vec<u64>,
    evaluation_seconds: Column,
    evaluation_loss: Column,
}

/// Numbers with six digits: more cannot be seen, and a page of many updates stays small.
#[derive(Serialize)]
#[serde(transparent)]
struct Column(Box<RawValue>);

impl Column {
    fn new(values: impl Iterator<Item = Option<f64>>) -> Column {
        let mut json = String::from("[");
        for (index, value) in values.enumerate() {
            if index > 0 {
                json.push(',');
            }
            match value.filter(|value| value.is_finite()) {
                Some(value) => json.push_str(&six_digits(value)),
                None => json.push_str("null"),
            }
        }
        json.push(']');
        Column(RawValue::from_string(json).expect("a list of numbers is JSON"))
    }
}

/// A number with six significant digits as JSON writes it.
fn six_digits(value: f64) -> String {
    let rounded: f64 = format!("{value:.5e}").parse().expect("a number that was just written");
    format!("{rounded}")
}

impl<'a> RunData<'a> {
    fn new(run: &'a Run) -> RunData<'a> {
        let (updates, evaluations) = (&run.log.updates, &run.log.evaluations);
        RunData {
            name: &run.name,
            group: &run.group,
            flops_per_step: run.flops_per_step,
            steps: updates.iter().map(|update| update.step).collect(),
            tokens: updates.iter().map(|update| update.tokens).collect(),
            seconds: Column::new(updates.iter().map(|update| Some(update.seconds))),
            loss: Column::new(updates.iter().map(|update| update.loss)),
            learning_rate: Column::new(updates.iter().map(|update| update.learning_rate)),
            gradient_norm: Column::new(updates.iter().map(|update| update.gradient_norm)),
            tokens_per_second: Column::new(updates.iter().map(|update| update.tokens_per_second)),
            evaluation_steps: evaluations.iter().map(|evaluation| evaluation.step).collect(),
            evaluation_tokens: evaluations.iter().map(|evaluation| evaluation.tokens).collect(),
            evaluation_seconds: Column::new(evaluations.iter().map(|e| Some(e.seconds))),
            evaluation_loss: Column::new(evaluations.iter().map(|evaluation| evaluation.loss)),
        }
    }
}

/// Draws runs as a page that needs no network and no other file.
pub fn page(runs: &[Run], options: &Options) -> String {
    let data = Data {
        x: options.x,
        log_x: options.log_x,
        log_y: options.log_y,
        span: options.span(runs),
        runs: runs.iter().map(RunData::new).collect(),
    };
    let json = serde_json::to_string(&data).expect("numbers and names always have a JSON form");
    // Within a script element nothing but `</script` and `<!--` has a meaning, and neither can come without a `<`.
    let json = json.replace('<', "\\u003c");
    let title = if options.title.is_empty() { "Training" } else { &options.title };
    // The picture has no title of its own: the page's heading says it.
    let still = figure(runs, &Options { title: String::new(), ..options.clone() });
    let mut page = String::with_capacity(json.len() + still.len() + 40_000);
    let mut rest = HTML;
    // Each part goes in once and is not looked through again, whatever a name contains.
    for (mark, part) in [
        ("{{signature}}", SIGNATURE),
        ("{{title}}", &escaped(title)),
        ("{{style}}", CSS),
        ("{{heading}}", &escaped(title)),
        ("{{still}}", &still),
        ("{{data}}", &json),
        ("{{script}}", SCRIPT),
    ] {
        let (before, after) =
            rest.split_once(mark).expect("the page has each of its marks, in this order");
        page.push_str(before);
        page.push_str(part);
        rest = after;
    }
    page + rest
}
