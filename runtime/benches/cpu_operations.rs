//! Times the CPU executor's operations at the shapes of a small model, beside the bare rate of the GEMM library.
//!
//! Run by hand: `cargo bench -p colac-runtime --bench cpu_operations -- [THREADS] [FILTER]`. Shown is the best of many
//! runs, since other work on the machine only ever adds time; with one thread it is processor time, with more wall time.
//! "of bare" compares with the library called once on the
//! whole product, single-threaded, times the number of threads.

#[path = "../src/bare_plan.rs"]
mod bare_plan;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../src/cpu/tests/plans.rs"]
mod plans;

use std::sync::Arc;
use std::time::{Duration, Instant};

use colac_plan::op::{Mask, Real, Scores, UpdateRange};
use colac_plan::pointwise::{Binary, Program, Unary};
use colac_plan::program::Write;
use colac_plan::{DType, Op, ProgramKind, Segment, TensorId, TensorType};
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use plans::{PlanBuilder, numbers};

/// Rows and positions of the batch.
const BATCH: u64 = 4;
const SEQ: u64 = 256;
const ROWS: u64 = BATCH * SEQ;

/// Wall time spent on each measurement.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Seconds the process has computed so far.
#[cfg(unix)]
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// Where processor time is not to be had, wall time takes its place.
#[cfg(not(unix))]
fn processor_time() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

fn best(threads: usize, mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || start.elapsed() < PATIENCE {
        let (wall, processor) = (Instant::now(), processor_time());
        run();
        let time =
            if threads == 1 { processor_time() - processor } else { wall.elapsed().as_secs_f64() };
        best = best.min(time);
    }
    best
}

/// GFLOP/s of the library for `[m, k] · [k, n]` with the weight stored `[n, k]`.
fn bare(m: usize, n: usize, k: usize) -> f64 {
    let (a, b, mut c) = (numbers(1, m * k), numbers(2, n * k), vec![0f32; m * n]);
    let time = best(1, || {
        let c = MatMut::from_row_major_slice_mut(&mut c, m, n);
        let (a, b) =
            (MatRef::from_row_major_slice(&a, m, k), MatRef::from_row_major_slice(&b, n, k));
        matmul(c, Accum::Replace, a, b.transpose(), 1.0, Par::Seq);
    });
    2e-9 * (m * n * k) as f64 / time
}

struct Bench {
    threads: usize,
    filter: String,
}

impl Bench {
    /// Times one operation; `operands` by type, an integer operand gets the ids given by its position.
    fn operation(
        &self,
        name: &str,
        op: Op,
        operands: &[TensorType],
        compare: Option<(usize, usize, usize)>,
    ) {
        if !name.contains(&self.filter) {
            return;
        }
        let references: Vec<&TensorType> = operands.iter().collect();
        let results = op.infer(&references).expect("the shapes fit");
        let cost = op.cost(&references, &results.iter().collect::<Vec<_>>());
        let mut plan = PlanBuilder::default();
        let mut add = |segment, types: &[TensorType]| -> Vec<TensorId> {
            types.iter().map(|ty| plan.tensor(segment, ty.dtype, &ty.shape.extents())).collect()
        };
        let (ids, results) = (add(Segment::Inputs, operands), add(Segment::Outputs, &results));
        plan.operation(op, &ids, &results, &vec![Write::Overwrite; results.len()]);
        let options = CpuOptions { threads: self.threads, ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(Arc::new(plan.build(&results)), options)
            .expect("the plan is in order");
        for (id, ty) in ids.iter().zip(operands) {
            let count = ty.shape.elements() as usize;
            match ty.dtype {
                DType::I32 => executor.write_i32(
                    *id,
                    &(0..count).map(|i| (i * 37 % 4096) as i32).collect::<Vec<_>>(),
                ),
                _ if count == 1 => executor.write_f32(*id, &[1.0]),
                _ => executor.write_f32(*id, &numbers(u64::from(id.0), count)),
            }
        }
        let time = best(self.threads, || executor.run(ProgramKind::ForwardBackward, true));
        let (products, bytes) =
            (cost.products as f64 * 1e-9 / time, cost.bytes as f64 * 1e-9 / time);
        print!("{name:<34} {:>9.3} ms {bytes:>7.1} GB/s", time * 1e3);
        if cost.products > 0 {
            print!(" {products:>7.1} GFLOP/s");
        }
        if let Some((m, n, k)) = compare {
            let bare = bare(m, n, k) * self.threads as f64;
            print!("  {:>4.0} % of bare {bare:.1}", 100.0 * products / bare);
        }
        println!();
    }
}

fn silu_gate() -> Program {
    let mut b = colac_plan::pointwise::Builder::new();
    let (gate, up) = (
        b.input(colac_plan::pointwise::InputForm::Elements),
        b.input(colac_plan::pointwise::InputForm::Elements),
    );
    let s = b.unary(Unary::Sigmoid, gate);
    let silu = b.binary(Binary::Multiply, gate, s);
    let y = b.binary(Binary::Multiply, silu, up);
    b.finish(&[(y, DType::F32)])
}

fn main() {
    // Cargo passes `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let threads = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2);
    let bench = Bench { threads, filter: arguments.next().unwrap_or_default() };
    let f32 = TensorType::f32;
    let ids = TensorType { dtype: DType::I32, ..f32(&[BATCH, SEQ]) };
    for (inputs, outputs) in
        [(512, 128), (128, 512), (128, 1376), (1376, 128), (512, 512), (512, 1376), (512, 384)]
    {
        let (rows, n, k) = (ROWS as usize, outputs as usize, inputs as usize);
        let name = |what| format!("{what} {inputs}>{outputs}");
        let (x, w, dy) = (f32(&[ROWS, inputs]), f32(&[outputs, inputs]), f32(&[ROWS, outputs]));
        bench.operation(&name("linear"), Op::Linear, &[x.clone(), w.clone()], Some((rows, n, k)));
        bench.operation(
            &name("linear dx"),
            Op::LinearBackwardInput,
            &[dy.clone(), w],
            Some((rows, k, n)),
        );
        bench.operation(&name("linear dw"), Op::LinearBackwardWeight, &[dy, x], Some((n, k, rows)));
    }
    let (hidden, vocab) = (512, 32000);
    let (x, w) = (f32(&[BATCH, SEQ, hidden]), f32(&[vocab, hidden]));
    let whole = Some((ROWS as usize, vocab as usize, hidden as usize));
    bench.operation("head linear", Op::Linear, &[x.clone(), w.clone()], whole);
    for chunk in [128, 256, 512] {
        let operands = [x.clone(), w.clone(), ids.clone()];
        bench.operation(
            &format!("head_loss chunk {chunk}"),
            Op::HeadLoss { chunk, bias: false, transform: None },
            &operands,
            whole,
        );
        let operands = [x.clone(), w.clone(), ids.clone(), f32(&[])];
        let op = Op::HeadLossWithGradient { chunk, bias: false, transform: None };
        bench.operation(&format!("head_loss gradient chunk {chunk}"), op, &operands, whole);
    }
    let heads = f32(&[BATCH, SEQ, 8, 64]);
    for mask in [Mask::Causal, Mask::Full] {
        let (mask_name, scale) = (mask.to_string(), Real::new(0.125));
        let qkv = vec![heads.clone(); 3];
        bench.operation(
            &format!("attention {mask_name}"),
            Op::Attention { scores: Scores::new(mask, scale) },
            &qkv,
            Some((256, 256, 64)),
        );
        let mut operands = vec![heads.clone(); 5];
        operands.push(f32(&[BATCH, 8, SEQ]));
        let op = Op::AttentionBackward { scores: Scores::new(mask, scale), turned_back: None };
        bench.operation(
            &format!("attention backward {mask_name}"),
            op,
            &operands,
            Some((256, 256, 64)),
        );
    }
    let row = f32(&[hidden]);
    bench.operation(
        "rms_norm",
        Op::RmsNorm { epsilon: Real::new(1e-6), gain: true, prologue: None },
        &[x.clone(), row.clone()],
        None,
    );
    let operands = [x.clone(), x.clone(), row, f32(&[BATCH, SEQ])];
    bench.operation(
        "rms_norm backward",
        Op::RmsNormBackward { gain: true, epilogue: None },
        &operands,
        None,
    );
    bench.operation(
        "rope",
        Op::Rope { inverse: false, interleaved: false },
        &[heads, f32(&[SEQ, 32]), f32(&[SEQ, 32])],
        None,
    );
    bench.operation("embedding", Op::Embedding, &[ids.clone(), w.clone()], None);
    bench.operation(
        "embedding backward",
        Op::EmbeddingBackward { rows: vocab },
        &[ids, x.clone()],
        None,
    );
    bench.operation("column_sum", Op::ColumnSum, std::slice::from_ref(&x), None);
    let wide = f32(&[BATCH, SEQ, 1376]);
    bench.operation("add", Op::Pointwise { program: Program::sum(2) }, &[x.clone(), x], None);
    bench.operation(
        "silu gate",
        Op::Pointwise { program: silu_gate() },
        &[wide.clone(), wide.clone()],
        None,
    );
    for function in
        [Unary::Exponential, Unary::Sigmoid, Unary::HyperbolicTangent, Unary::ErrorFunction]
    {
        let program = Program::unary(|b, x| b.unary(function, x));
        bench.operation(
            &function.to_string(),
            Op::Pointwise { program },
            std::slice::from_ref(&wide),
            None,
        );
    }
    let parameters = 42_770_944;
    let flat = f32(&[parameters]);
    bench.operation("gradient_norm", Op::GradientNorm, std::slice::from_ref(&flat), None);
    let range = UpdateRange {
        start: 0,
        length: parameters,
        weight_decay: Real::new(0.01),
        learning_rate_factor: Real::new(1.0),
    };
    let op = Op::AdamW {
        beta1: Real::new(0.9),
        beta2: Real::new(0.999),
        epsilon: Real::new(1e-8),
        clip_norm: Real::new(0.5),
        ranges: vec![range],
        master: false,
    };
    bench.operation("adamw", op, &[flat, f32(&[]), f32(&[]), f32(&[])], None);
}
