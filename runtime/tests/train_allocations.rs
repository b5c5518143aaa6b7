//! Neither an update, nor an evaluation, nor a line of the log allocates: all buffers are made before the first step.
//!
//! Counted is what the training loop does itself. What an executor or the rows do belongs to their own tests, so counting
//! pauses within them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use colac_plan::recipe::LossNormalization;
use colac_plan::{Plan, ProgramKind, TensorId};
use colac_runtime::data::error::DataError;
use colac_runtime::executor::Executor;
use colac_runtime::train::evaluate::Evaluator;
use colac_runtime::train::metrics::MetricsLog;
use colac_runtime::train::rows::{TrainingRows, ValidationRows};
use colac_runtime::train::trainer::Trainer;
// The small model names its crate's modules as the library does.
use colac_runtime::{data, executor, host, train};

#[allow(dead_code, reason = "the unit tests use more of it")]
#[path = "../src/train/testing.rs"]
mod testing;

use testing::{Bigram, TestRows};

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct CountingAllocator;

/// Counts an allocation of this thread, if it is counting.
fn count() {
    if COUNTING.get() {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    }
}

// SAFETY: every call is passed to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Runs with or without counting, then goes on as before.
fn with_counting<R>(counting: bool, run: impl FnOnce() -> R) -> R {
    let before = COUNTING.replace(counting);
    let result = run();
    COUNTING.set(before);
    result
}

/// Something whose allocations do not count.
struct Uncounted<T>(T);

impl Executor for Uncounted<Bigram> {
    fn plan(&self) -> &Plan {
        self.0.plan()
    }

    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        with_counting(false, || self.0.write_f32(tensor, values));
    }

    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        with_counting(false, || self.0.write_i32(tensor, values));
    }

    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        with_counting(false, || self.0.read_f32(tensor, values));
    }

    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        with_counting(false, || self.0.read_i32(tensor, values));
    }

    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        with_counting(false, || self.0.run(program, last_micro_batch));
    }
}

impl TrainingRows for Uncounted<TestRows> {
    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        with_counting(false, || TrainingRows::fill(&mut self.0, first, tokens, labels))
    }

    fn identity(&self) -> String {
        self.0.identity()
    }
}

impl ValidationRows for Uncounted<TestRows> {
    fn row_count(&self) -> u64 {
        self.0.row_count()
    }

    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        with_counting(false, || ValidationRows::fill(&mut self.0, first, tokens, labels))
    }

    fn token_byte_lengths(&self) -> Option<&[u16]> {
        self.0.token_byte_lengths()
    }
}

#[test]
fn the_loop_allocates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for normalization in [LossNormalization::GlobalToken, LossNormalization::MicroBatch] {
        let mut executor = Uncounted(Bigram::initialized(testing::plan_of(2, 4, normalization)));
        let mut rows = Uncounted(TestRows {
            count: 10,
            byte_lengths: Some(vec![3; 7]),
            ..TestRows::default()
        });
        let mut trainer = Trainer::new(executor.plan()).unwrap();
        let mut evaluator = Evaluator::new(executor.plan()).unwrap();
        let mut log = MetricsLog::create(directory.path()).unwrap();
        let go = AtomicBool::new(false);
        with_counting(true, || {
            for update in 0..5 {
                let report = trainer.step(&mut executor, &mut rows, update).unwrap();
                log.train(&report, u64::MAX, 1.0 / 3.0).unwrap();
                let evaluation =
                    evaluator.evaluate(&mut executor, &mut rows, &go).unwrap().unwrap();
                log.evaluation(report.step, u64::MAX, &evaluation).unwrap();
            }
        });
        assert_eq!(ALLOCATIONS.get(), 0);
    }
    // The counter counts.
    with_counting(true, || drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(ALLOCATIONS.get(), 1);
}
