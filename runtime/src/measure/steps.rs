//! Training steps on made-up tokens, timed as a whole or operation by operation.
//!
//! Owns the tokens and the counting of time by kind of operation. Steps are those of the training loop
//! ([`Trainer`]), so what is timed is what training does, without reading data, logging and saving.

use std::collections::BTreeMap;
use std::time::Instant;

use colac_plan::{Cost, Operation, Plan, ProgramKind, TensorId, TensorType};
use serde::Serialize;

use crate::data::error::DataError;
use crate::executor::{Executor, OperationSpan, TimedExecutor};
use crate::host::random::Stream;
use crate::measure::clock::Moment;
use crate::train::error::TrainError;
use crate::train::rows::TrainingRows;
use crate::train::trainer::{Trainer, Turn};

/// Tokens that depend on seed and row alone, evenly distributed over the vocabulary; every label is the next token.
#[derive(Debug)]
pub struct MadeUpRows {
    stream: Stream,
    vocabulary: u64,
    sequence: u64,
}

impl MadeUpRows {
    /// Rows for a plan.
    pub fn new(plan: &Plan, seed: u64) -> MadeUpRows {
        let sequence = u64::from(plan.recipe.sequence_length);
        MadeUpRows { stream: Stream::new(seed, "bench", 0), vocabulary: plan.vocab_size, sequence }
    }

    fn token(&self, position: u64) -> i32 {
        let pair = self.stream.uniform_pair(position / 2);
        (pair[(position % 2) as usize] * self.vocabulary as f64) as i32
    }
}

impl TrainingRows for MadeUpRows {
    fn fill(
        &mut self,
        first_row: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        // A row has one token more than it has inputs: the last label.
        let width = self.sequence + 1;
        for (index, (token, label)) in tokens.iter_mut().zip(labels).enumerate() {
            let (row, column) = (index as u64 / self.sequence, index as u64 % self.sequence);
            let position = (first_row + row) * width + column;
            (*token, *label) = (self.token(position), self.token(position + 1));
        }
        Ok(())
    }

    fn identity(&self) -> String {
        "made up".to_owned()
    }
}

/// One operation of a program, and when it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its program.
    pub program: ProgramKind,
    /// Its position there.
    pub index: usize,
    /// Nanoseconds from the beginning of the measurement to its start.
    pub start: u64,
    /// Nanoseconds that it took.
    pub duration: u64,
}

/// How steps are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Threads that the executor works with.
    pub threads: usize,
    /// Whether the clock is read around each operation, too.
    pub operations: bool,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Seconds of each step after the warm-up, on the wall.
    pub seconds: Vec<f64>,
    /// The same by the clock that suits the number of threads ([`Moment`]).
    pub clock_seconds: Vec<f64>,
    /// The operations of the last step, in the order in which they ran; empty unless they were timed.
    pub events: Vec<Event>,
    /// Nanoseconds of each operation over all steps, summed over micro-batches, by program; empty unless they were timed.
    pub nanoseconds: BTreeMap<ProgramKind, Vec<u64>>,
}

/// Does `warm_up` and then `steps` updates; `observe` is told of each step that is done.
///
/// # Errors
/// As [`Trainer::turn`]; made-up rows cannot fail to be read.
pub fn measure(
    executor: &mut dyn TimedExecutor,
    rows: &mut dyn TrainingRows,
    warm_up: u64,
    steps: u64,
    Timing { threads, operations: timed }: Timing,
    observe: &mut dyn FnMut(u64),
) -> Result<Measured, TrainError> {
    let mut trainer = Trainer::new(executor.plan())?;
    let mut measured = Measured::default();
    // As in training, a device that works beside the host has begun the step behind; but not where each step's own
    // operations are timed.
    let mut go = |executor: &mut dyn Executor, rows: &mut dyn TrainingRows, step| {
        let next = (!timed).then(|| Turn::of(step + 1));
        trainer.turn(executor, rows, Turn::of(step), next)
    };
    for step in 0..warm_up {
        go(executor, rows, step)?;
        observe(step);
    }
    let mut spy = timed.then(|| Spy::new(executor));
    for step in warm_up..warm_up + steps {
        let (began, clock) = (Instant::now(), Moment::now(threads));
        match &mut spy {
            Some(spy) => {
                spy.events.clear();
                go(&mut Spied { executor: &mut *executor, spy }, rows, step)?
            }
            None => go(executor, rows, step)?,
        };
        measured.clock_seconds.push(clock.seconds());
        measured.seconds.push(began.elapsed().as_secs_f64());
        observe(step);
    }
    if let Some(Spy { events, nanoseconds, .. }) = spy {
        (measured.events, measured.nanoseconds) = (events, nanoseconds);
    }
    Ok(measured)
}

/// Where times of operations are written, allocated once.
struct Spy {
    epoch: Instant,
    spans: BTreeMap<ProgramKind, Vec<OperationSpan>>,
    events: Vec<Event>,
    nanoseconds: BTreeMap<ProgramKind, Vec<u64>>,
}

impl Spy {
    fn new(executor: &dyn TimedExecutor) -> Spy {
        let epoch = Instant::now();
        let none = OperationSpan { began: epoch, ended: epoch };
        let programs = &executor.plan().programs;
        let spans = programs.iter().map(|p| (p.kind, vec![none; p.operations.len()])).collect();
        let nanoseconds = programs.iter().map(|p| (p.kind, vec![0; p.operations.len()])).collect();
        Spy { epoch, spans, events: Vec::new(), nanoseconds }
    }
}

/// An executor that writes down when its operations run.
struct Spied<'a> {
    executor: &'a mut dyn TimedExecutor,
    spy: &'a mut Spy,
}

impl Executor for Spied<'_> {
    fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        self.executor.write_f32(tensor, values);
    }

    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        self.executor.write_i32(tensor, values);
    }

    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        self.executor.read_f32(tensor, values);
    }

    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        self.executor.read_i32(tensor, values);
    }

    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        let Spy { epoch, spans, events, nanoseconds } = self.spy;
        let spans = spans.get_mut(&program).expect("every program has spans");
        self.executor.run_timed(program, last_micro_batch, spans);
        let sums = nanoseconds.get_mut(&program).expect("every program has sums");
        for (index, span) in spans.iter().enumerate() {
            let duration = span.nanoseconds();
            sums[index] += duration;
            let start = u64::try_from((span.began - *epoch).as_nanos()).unwrap_or(u64::MAX);
            events.push(Event { program, index, start, duration });
        }
    }
}

/// Time, work and rate of some operations in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// Printed name of the kind.
    pub op: &'static str,
    /// Path of the operation; empty for a row of a kind.
    pub path: String,
    /// Program of the operation.
    pub program: &'static str,
    /// How many operations a step runs.
    pub count: u64,
    /// Seconds of a step.
    pub seconds: f64,
    /// Of the time of all operations.
    pub share: f64,
    /// FLOPs of products and attention in a step.
    pub flops: u64,
    /// Bytes read and written once each, in a step.
    pub bytes: u64,
    /// FLOP/s.
    pub flops_per_second: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// One row for each kind of operation, the one that takes longest first; and one for each operation, likewise.
pub fn rows(plan: &Plan, measured: &Measured) -> (Vec<Row>, Vec<Row>) {
    let recipe = &plan.recipe;
    let micro_batches = u64::from((recipe.global_batch / recipe.micro_batch.max(1)).max(1));
    let steps = measured.seconds.len().max(1) as f64;
    let mut kinds: BTreeMap<&'static str, Row> = BTreeMap::new();
    let mut operations = Vec::new();
    for (program, times) in &measured.nanoseconds {
        let runs = match program {
            ProgramKind::ForwardBackward => micro_batches,
            ProgramKind::Update => 1,
            ProgramKind::Evaluate | ProgramKind::Logits => continue,
        };
        for (operation, &nanoseconds) in plan.program(*program).operations.iter().zip(times) {
            let cost = cost(plan, operation);
            let row = Row {
                op: operation.op.name(),
                path: operation.path.clone(),
                program: program.name(),
                count: runs,
                seconds: nanoseconds as f64 * 1e-9 / steps,
                flops: cost.products * runs,
                bytes: cost.bytes * runs,
                ..Row::default()
            };
            let kind = kinds.entry(row.op).or_insert_with(|| Row {
                op: row.op,
                program: row.program,
                ..Row::default()
            });
            kind.count += row.count;
            kind.seconds += row.seconds;
            kind.flops += row.flops;
            kind.bytes += row.bytes;
            operations.push(row);
        }
    }
    let mut kinds: Vec<Row> = kinds.into_values().collect();
    let all: f64 = kinds.iter().map(|row| row.seconds).sum();
    for row in kinds.iter_mut().chain(&mut operations) {
        let seconds = row.seconds.max(f64::MIN_POSITIVE);
        row.share = row.seconds / all.max(f64::MIN_POSITIVE);
        row.flops_per_second = row.flops as f64 / seconds;
        row.bytes_per_second = row.bytes as f64 / seconds;
    }
    // Stable, so that operations of equal time stay in the order of the program.
    for rows in [&mut kinds, &mut operations] {
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    }
    (kinds, operations)
}

/// Price of one execution of an operation.
fn cost(plan: &Plan, operation: &Operation) -> Cost {
    let types = |ids: &[TensorId]| -> Vec<&TensorType> {
        ids.iter().map(|&id| &plan.tensor(id).ty).collect()
    };
    operation.op.cost(&types(&operation.operands), &types(&operation.results))
}

/// FLOPs of products and attention in one step, and bytes that its operations move.
pub fn work(plan: &Plan) -> (u64, u64) {
    let recipe = &plan.recipe;
    let micro_batches = u64::from((recipe.global_batch / recipe.micro_batch.max(1)).max(1));
    let mut work = (0, 0);
    for (program, runs) in [(ProgramKind::ForwardBackward, micro_batches), (ProgramKind::Update, 1)]
    {
        for operation in &plan.program(program).operations {
            let cost = cost(plan, operation);
            work.0 += cost.products * runs;
            work.1 += cost.bytes * runs;
        }
    }
    work
}
