//! The operations of a step in the Trace Event Format, as chrome://tracing and Perfetto show it.
//!
//! Owns the JSON. Each operation is a complete event (`"ph": "X"`) on the track of its program; times are microseconds.

use colac_plan::Plan;
use serde::Serialize;

use crate::measure::steps::Event;

#[derive(Serialize)]
struct Trace {
    #[serde(rename = "displayTimeUnit")]
    display_time_unit: &'static str,
    #[serde(rename = "traceEvents")]
    trace_events: Vec<TraceEvent>,
}

#[derive(Serialize)]
struct TraceEvent {
    name: String,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: usize,
    args: Arguments,
}

#[derive(Serialize)]
struct Arguments {
    operation: usize,
    path: String,
    phase: &'static str,
    results: Vec<String>,
    line: Option<u32>,
}

/// The trace of some events of a plan, as JSON.
pub fn chrome(plan: &Plan, events: &[Event]) -> String {
    let event = |event: &Event| {
        let program = plan.program(event.program);
        let operation = &program.operations[event.index];
        TraceEvent {
            name: operation.op.name().to_owned(),
            cat: program.kind.name(),
            ph: "X",
            ts: event.start as f64 / 1e3,
            dur: event.duration as f64 / 1e3,
            pid: 1,
            tid: 1 + program.kind as usize,
            args: Arguments {
                operation: event.index,
                path: operation.path.clone(),
                phase: phase(operation.phase),
                results: operation
                    .results
                    .iter()
                    .map(|&id| plan.tensor(id).ty.to_string())
                    .collect(),
                line: operation.line,
            },
        }
    };
    let trace = Trace { display_time_unit: "ms", trace_events: events.iter().map(event).collect() };
    serde_json::to_string(&trace).expect("a trace has a JSON form")
}

fn phase(phase: colac_plan::program::Phase) -> &'static str {
    use colac_plan::program::Phase;
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Recompute(_) => "recompute",
        Phase::Update => "update",
    }
}
