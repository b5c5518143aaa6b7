//! Running a program on the CPU allocates nothing, on no thread.
//!
//! The one exception is named in the executor: away from x86-64 the GEMM library allocates in each product.

#[path = "../src/bare_plan.rs"]
mod bare_plan;
#[allow(dead_code, reason = "the unit tests use more of it")]
#[path = "../src/cpu/tests/plans.rs"]
mod plans;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use colac_plan::op::{Mask, Real, Scores, TurnedBack, UpdateRange};
use colac_plan::pointwise::{Program, Unary};
use colac_plan::program::Write;
use colac_plan::{DType, Op, ProgramKind, Segment, Shape, TensorType};
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use plans::{PlanBuilder, numbers};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Every operation once, on shapes over a tile and odd.
fn operations() -> Vec<(Op, Vec<TensorType>)> {
    let f32 = TensorType::f32;
    let (b, s, n, v) = (2, 70, 36, 301);
    let ids = TensorType { dtype: DType::I32, ..f32(&[b, s]) };
    let (x, w, heads) = (f32(&[b, s, n]), f32(&[v, n]), f32(&[b, s, 3, 12]));
    let range = UpdateRange {
        start: 0,
        length: 100_000,
        weight_decay: Real::new(0.1),
        learning_rate_factor: Real::new(1.0),
    };
    let adamw = Op::AdamW {
        beta1: Real::new(0.9),
        beta2: Real::new(0.999),
        epsilon: Real::new(1e-8),
        clip_norm: Real::new(0.5),
        ranges: vec![range],
        master: false,
    };
    let flat = f32(&[100_000]);
    let (mask, scale, half) = (Mask::Causal, Real::new(0.3), f32(&[s, 6]));
    let program = Program::unary(|builder, x| builder.unary(Unary::HyperbolicTangent, x));
    let mut backward = vec![heads.clone(); 5];
    backward.push(f32(&[b, 3, s]));
    let both = TurnedBack { queries: true, keys: true, interleaved: false };
    vec![
        (Op::Linear, vec![x.clone(), w.clone()]),
        (Op::LinearBackwardInput, vec![f32(&[b, s, v]), w.clone()]),
        (Op::LinearBackwardWeight, vec![f32(&[b, s, v]), x.clone()]),
        (Op::Embedding, vec![ids.clone(), w.clone()]),
        (Op::EmbeddingBackward { rows: v }, vec![ids.clone(), x.clone()]),
        (
            Op::RmsNorm { epsilon: Real::new(1e-6), gain: true, prologue: None },
            vec![x.clone(), f32(&[n])],
        ),
        (
            Op::RmsNormBackward { gain: true, epilogue: None },
            vec![x.clone(), x.clone(), f32(&[n]), f32(&[b, s])],
        ),
        (
            Op::LayerNorm { epsilon: Real::new(1e-5), gain: true, bias: true, prologue: None },
            vec![x.clone(), f32(&[n]), f32(&[n])],
        ),
        (
            Op::LayerNormBackward { gain: true, bias: true, epilogue: None },
            vec![x.clone(), x.clone(), f32(&[n]), f32(&[b, s]), f32(&[b, s])],
        ),
        (
            Op::RmsNorm { epsilon: Real::new(1e-6), gain: true, prologue: Some(Program::sum(2)) },
            vec![x.clone(), x.clone(), f32(&[n])],
        ),
        (
            Op::RmsNormBackward { gain: true, epilogue: Some(Program::sum(2)) },
            vec![x.clone(), x.clone(), f32(&[n]), f32(&[b, s]), x.clone()],
        ),
        (
            Op::LayerNorm {
                epsilon: Real::new(1e-5),
                gain: true,
                bias: true,
                prologue: Some(Program::sum(2)),
            },
            vec![x.clone(), x.clone(), f32(&[n]), f32(&[n])],
        ),
        (
            Op::LayerNormBackward { gain: true, bias: true, epilogue: Some(Program::sum(2)) },
            vec![x.clone(), x.clone(), f32(&[n]), f32(&[b, s]), f32(&[b, s]), x.clone()],
        ),
        (
            Op::Dropout { probability: Real::new(0.1), key: 7 },
            vec![x.clone(), TensorType::new(DType::I32, Shape::of(&[4]))],
        ),
        (Op::RowSum { mean: true }, vec![x.clone()]),
        (Op::Softmax, vec![x.clone()]),
        (Op::Slice { start: 1, length: n - 2 }, vec![x.clone()]),
        (Op::Concat { width: 2 * n + 1, starts: vec![0, n + 1] }, vec![x.clone(), x.clone()]),
        (Op::Shift { by: 3 }, vec![x.clone()]),
        (Op::Sum, vec![x.clone()]),
        (
            Op::Rope { inverse: true, interleaved: false },
            vec![heads.clone(), half.clone(), half.clone()],
        ),
        (Op::Attention { scores: Scores::new(mask, scale) }, vec![heads.clone(); 3]),
        (
            Op::AttentionBackward {
                scores: Scores { softcap: Some(scale), alibi: true, ..Scores::new(mask, scale) },
                turned_back: None,
            },
            backward.clone(),
        ),
        (
            Op::AttentionBackward { scores: Scores::new(mask, scale), turned_back: Some(both) },
            [backward.clone(), vec![half.clone(), half.clone()]].concat(),
        ),
        (Op::AttentionBackward { scores: Scores::new(mask, scale), turned_back: None }, backward),
        (Op::Pointwise { program }, vec![x.clone()]),
        (Op::ColumnSum, vec![x.clone()]),
        (
            Op::HeadLoss { chunk: 64, bias: false, transform: None },
            vec![x.clone(), w.clone(), ids.clone()],
        ),
        (
            Op::HeadLossWithGradient { chunk: 64, bias: false, transform: None },
            vec![x, w, ids, f32(&[])],
        ),
        (Op::GradientNorm, vec![flat.clone()]),
        (adamw, vec![flat, f32(&[]), f32(&[]), f32(&[])]),
    ]
}

/// The first operand from which on all are f32 whatever the others are: statistics, tables, scalars.
fn first_f32(op: &Op) -> usize {
    match op {
        Op::RmsNormBackward { .. } | Op::LayerNormBackward { .. } => 3,
        Op::HeadLossWithGradient { .. } => 3,
        Op::AttentionBackward { .. } => 5,
        Op::Rope { .. } | Op::AdamW { .. } => 1,
        _ => usize::MAX,
    }
}

/// The operation on bf16 operands.
fn in_bf16((op, mut operands): (Op, Vec<TensorType>)) -> (Op, Vec<TensorType>) {
    for ty in operands.iter_mut().take(first_f32(&op)).filter(|ty| ty.dtype == DType::F32) {
        ty.dtype = DType::Bf16;
    }
    (op, operands)
}

/// The update of master parameters and their copies.
fn with_master((op, operands): (Op, Vec<TensorType>)) -> Option<(Op, Vec<TensorType>)> {
    match op {
        Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, .. } => {
            Some((Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master: true }, operands))
        }
        _ => None,
    }
}

/// Result types with the gradients of parameters in bf16 where the operands are.
fn results(op: &Op, operands: &[TensorType]) -> Vec<TensorType> {
    let mut results = op
        .infer(&operands.iter().collect::<Vec<_>>())
        .expect("the operands have the types of the operation");
    if operands.iter().any(|ty| ty.dtype == DType::Bf16) {
        for (_, ty) in results.iter_mut().enumerate().filter(|(index, _)| op.accumulates(*index)) {
            ty.dtype = DType::Bf16;
        }
    }
    results
}

#[test]
fn a_run_allocates_nothing() {
    if cfg!(not(target_arch = "x86_64")) {
        eprintln!("skipped: the GEMM library allocates in each product on this processor");
        return;
    }
    for threads in [1, 3] {
        let mut plan = PlanBuilder::default();
        let mut inputs = Vec::new();
        let masters = operations().into_iter().filter_map(with_master);
        let bf16 = operations().into_iter().map(in_bf16);
        for (op, operands) in operations().into_iter().chain(bf16).chain(masters) {
            let results = results(&op, &operands);
            let mut add = |segment, types: &[TensorType]| -> Vec<_> {
                types.iter().map(|ty| plan.tensor(segment, ty.dtype, &ty.shape.extents())).collect()
            };
            let (ids, results) = (add(Segment::Inputs, &operands), add(Segment::Outputs, &results));
            inputs.extend(ids.iter().copied().zip(operands));
            plan.operation(op, &ids, &results, &vec![Write::Overwrite; results.len()]);
        }
        let options = CpuOptions { threads, ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(Arc::new(plan.build(&[])), options).unwrap();
        for (id, ty) in inputs {
            let count = ty.shape.elements() as usize;
            match ty.dtype {
                DType::I32 => executor.write_i32(id, &(0..count as i32).collect::<Vec<_>>()),
                _ => executor.write_f32(id, &numbers(1, count)),
            }
        }
        // The first run counts too: construction has already made each thread allocate what it keeps.
        for run in 0..5 {
            let before = ALLOCATIONS.load(Ordering::SeqCst);
            executor.run(ProgramKind::ForwardBackward, true);
            let after = ALLOCATIONS.load(Ordering::SeqCst);
            assert_eq!(after - before, 0, "run {run} with {threads} threads");
        }
    }
}
