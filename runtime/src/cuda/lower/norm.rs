//! Norms of rows and their derivatives.
//!
//! Owns the launches of `norm.cu`, and for the gradients of gain and bias those of `reduce.cu`. Where two kernels read the
//! same rows, the vectors' comes first, as the norm's own counts on. Must not know other operations.

use colac_plan::op::cost::{REDUCTION_ROWS, aligned};
use colac_plan::pointwise::Program;
use colac_plan::{DType, Op};

use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::reduce::{ColumnPartials, sum_partials};
use crate::cuda::lower::rows::RowThreads;
use crate::cuda::lower::{Lowering, Steps, partial_rows};
use crate::cuda::program::Generated;
use crate::cuda::source::{Family, Source};
use crate::cuda::view::Rows;

/// What makes the gradients of gain and bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A kernel of their own, which reads the same rows before.
    Apart,
    /// The kernel of the input's gradient, with a block for each run of rows and a warp for each of these.
    ByWarps,
    /// The same with large blocks, whose rows have many warps.
    OfRuns(RowThreads),
}

/// Threads of a block of [`Way::ByWarps`]: registers suffice for so many.
fn threads_by_warps(parts: u64) -> u32 {
    if parts == 2 { 512 } else { 256 }
}

/// Threads of a row and of a block of [`Way::OfRuns`], where the kernel takes such rows. A multiprocessor's registers are
/// shared out among the threads of one block: a mean beside a gain takes more of them, and so do rows of f32 on their way.
fn threads_of_runs(form: Form, dy: Rows, x: Rows) -> Option<RowThreads> {
    let most: u32 = match [dy.dtype, x.dtype] {
        [DType::Bf16, DType::Bf16] if form.layer && form.gain => 768,
        [DType::Bf16, DType::Bf16] => 1024,
        _ => 512,
    };
    let of_row = u32::try_from(x.width.div_ceil(8)).ok()?.max(1).next_multiple_of(32);
    let rows = most / of_row;
    (rows > 0).then_some(RowThreads { vec: 8, parts: 1, of_row, of_block: rows * of_row })
}

/// Which norm, and which vectors it has.
#[derive(Clone, Copy, Debug)]
struct Form {
    layer: bool,
    gain: bool,
    bias: bool,
}

impl Form {
    fn source(self, kernels: &'static str, threads: RowThreads) -> Source {
        let source = Source::new(Family::Norm).define(kernels, 1);
        let source = source.define("LAYER", u8::from(self.layer));
        let source = source.define("GAIN", u8::from(self.gain));
        threads.define(source.define("BIAS", u8::from(self.bias)))
    }
}

/// Addresses of the partial sums of the gradients of gain and bias, as far as there are such.
#[derive(Clone, Copy, Debug)]
struct Vectors {
    products: Option<u64>,
    sums: Option<u64>,
}

/// The address of what may be missing.
fn address(rows: Option<Rows>) -> Argument {
    Argument::Address(rows.map_or(0, |rows| rows.address))
}

/// The format of what may be missing.
fn format(rows: Option<Rows>) -> DType {
    rows.map_or(DType::F32, |rows| rows.dtype)
}

fn is_wide(rows: Option<Rows>) -> bool {
    rows.is_none_or(|rows| rows.is_wide())
}

impl Lowering<'_> {
    /// [`Op::RmsNorm`] and [`Op::LayerNorm`].
    pub(super) fn norm(&self) -> Steps {
        let (form, epsilon, prologue) = match &self.operation.op {
            Op::RmsNorm { epsilon, gain, prologue } => {
                (Form { layer: false, gain: *gain, bias: false }, epsilon, prologue.as_ref())
            }
            Op::LayerNorm { epsilon, gain, bias, prologue } => {
                (Form { layer: true, gain: *gain, bias: *bias }, epsilon, prologue.as_ref())
            }
            op => unreachable!("{} is no norm", op.name()),
        };
        let statistics = 1 + usize::from(form.layer);
        let y = self.result(0)?;
        // With a program its operands stand where x stood, and x is a result behind the statistics.
        let made = prologue.map(|_| self.result(1 + statistics)).transpose()?;
        let x = made.map_or_else(|| self.operand(0), Ok)?;
        let first = prologue.map_or(1, |program| program.inputs.len());
        let program =
            prologue.map(|program| self.program(program, 0, false, x.rows)).transpose()?;
        let w = form.gain.then(|| self.packed_operand(first)).transpose()?;
        let b =
            form.bias.then(|| self.packed_operand(first + usize::from(form.gain))).transpose()?;
        let mean = form.layer.then(|| self.packed_result(1)).transpose()?;
        let rstd = self.packed_result(statistics)?;
        let wide = x.is_wide() && y.is_wide() && is_wide(w) && is_wide(b);
        let wide = wide && program.as_ref().is_none_or(|program| program.wide);
        let threads = RowThreads::keeping(x.width, wide);
        let source = form.source("FORWARD", threads).format("X_T", x.dtype);
        let source = source.format("W_T", format(w)).format("B_T", format(b));
        let mut launch = Launch {
            source,
            entry: if threads.parts > 0 { "norm_rows" } else { "norm_of_long_rows" },
            grid: threads.grid(x.rows),
            threads: threads.of_block,
            shared: 0,
            arguments: vec![
                Argument::Address(x.address),
                Argument::U64(x.stride),
                address(made),
                Argument::U64(made.map_or(0, |made| made.stride)),
                address(w),
                address(b),
                Argument::Address(y.address),
                Argument::U64(y.stride),
                address(mean),
                Argument::Address(rstd.address),
                Argument::U64(x.rows),
                Argument::U64(x.width),
                Argument::F64(epsilon.get()),
            ],
        };
        attach(&mut launch, program);
        Ok(vec![Step::Launch(launch)])
    }

    /// [`Op::RmsNormBackward`].
    pub(super) fn rms_norm_backward(&self, gain: bool, epilogue: Option<&Program>) -> Steps {
        self.norm_backward(Form { layer: false, gain, bias: false }, epilogue)
    }

    /// [`Op::LayerNormBackward`].
    pub(super) fn layer_norm_backward(
        &self,
        gain: bool,
        bias: bool,
        epilogue: Option<&Program>,
    ) -> Steps {
        self.norm_backward(Form { layer: true, gain, bias }, epilogue)
    }

    fn norm_backward(&self, form: Form, epilogue: Option<&Program>) -> Steps {
        let (dy, x, dx) = (self.operand(0)?, self.operand(1)?, self.result(0)?);
        let w = form.gain.then(|| self.packed_operand(2)).transpose()?;
        let first = 2 + usize::from(form.gain);
        let mean = form.layer.then(|| self.packed_operand(first)).transpose()?;
        let rstd = self.packed_operand(first + usize::from(form.layer))?;
        let behind = first + 1 + usize::from(form.layer);
        let program =
            epilogue.map(|program| self.program(program, behind, true, x.rows)).transpose()?;
        let vectors = self.vector_places(form, x);

        let wide = dy.is_wide() && x.is_wide() && dx.is_wide() && is_wide(w);
        let wide = wide && program.as_ref().is_none_or(|program| program.wide);
        let mut threads = RowThreads::keeping(x.width, wide);
        let runs = partial_rows(x.rows);
        let has_vectors = form.gain || form.bias;
        let way = if wide { self.way(form, dy, x) } else { Way::Apart };
        match way {
            Way::Apart => {}
            Way::ByWarps => threads.of_block = threads_by_warps(threads.parts),
            Way::OfRuns(of_runs) => threads = of_runs,
        }
        let fused = way != Way::Apart;
        let mut steps = Vec::new();
        if has_vectors && !fused {
            let partials = ColumnPartials {
                dy,
                x: form.gain.then_some(x),
                mean,
                rstd: form.gain.then_some(rstd),
                products: vectors.products,
                sums: vectors.sums,
            };
            steps.push(partials.step());
            steps.extend(self.vector_gradients(vectors, runs)?);
        }
        let source = form.source("BACKWARD", threads).format("DY_T", dy.dtype);
        let source = source.format("X_T", x.dtype).format("DX_T", dx.dtype);
        let mut launch = Launch {
            source: source.format("W_T", format(w)),
            entry: match (way, threads.parts) {
                (Way::ByWarps, _) => "norm_backward_by_warps",
                (Way::OfRuns(_), _) => "norm_backward_of_runs",
                (Way::Apart, 0) => "norm_backward_of_long_rows",
                (Way::Apart, _) => "norm_backward",
            },
            grid: if fused { runs } else { threads.grid(x.rows) },
            threads: threads.of_block,
            shared: 0,
            arguments: vec![
                Argument::Address(dy.address),
                Argument::U64(dy.stride),
                Argument::Address(x.address),
                Argument::U64(x.stride),
                address(w),
                address(mean),
                Argument::Address(rstd.address),
                Argument::Address(dx.address),
                Argument::U64(dx.stride),
            ],
        };
        if fused {
            launch.source = launch.source.define("RUN", REDUCTION_ROWS);
            if way == Way::ByWarps {
                launch.source = launch.source.define("BY_WARPS", 1);
            }
            let place = |from: Option<u64>| Argument::Address(from.unwrap_or(0));
            launch.arguments.extend([place(vectors.products), place(vectors.sums)]);
        }
        launch.arguments.extend([x.rows, x.width].map(Argument::U64));
        attach(&mut launch, program);
        steps.push(Step::Launch(launch));
        if fused {
            steps.extend(self.vector_gradients(vectors, runs)?);
        }
        Ok(steps)
    }

    /// What makes the gradients of the vectors, for rows that are read eight neighbours at a time.
    ///
    /// Apart, dy and x pass through memory twice: with the result and what a program reads, six tensors instead of four. A
    /// block for each run, however, leaves multiprocessors idle where there are fewer runs. One that has some 48 KB under way
    /// at a latency of 0.8 µs gets 60 GB/s, where its share of an H100's memory is 25 GB/s: about a quarter of them moves
    /// four tensors in the time in which all of them move six. Small blocks need company: one and a half for each
    /// multiprocessor have as much under way as a large one. These figures are computed, not measured.
    fn way(&self, form: Form, dy: Rows, x: Rows) -> Way {
        let (runs, multiprocessors) = (partial_rows(x.rows), self.target.multiprocessors);
        let has_warps = RowThreads::keeping(x.width, true).of_row == 32;
        match threads_of_runs(form, dy, x) {
            _ if !(form.gain || form.bias) => Way::Apart,
            _ if has_warps && 2 * runs >= 3 * multiprocessors => Way::ByWarps,
            Some(threads) if 4 * runs >= multiprocessors => Way::OfRuns(threads),
            _ => Way::Apart,
        }
    }

    /// Where the partial sums of the gradients of gain and bias are: those of the gain come first.
    fn vector_places(&self, form: Form, x: Rows) -> Vectors {
        let bias_from = if form.gain { aligned(partial_rows(x.rows) * x.width * 4) } else { 0 };
        let (products, sums) = (self.workspace(0), self.workspace(bias_from));
        Vectors { products: form.gain.then_some(products), sums: form.bias.then_some(sums) }
    }

    /// The gradients of gain and bias, results 1 and 2, from so many partial sums.
    fn vector_gradients(&self, vectors: Vectors, runs: u64) -> Steps {
        let places = [vectors.products, vectors.sums].into_iter().flatten();
        let steps = places.enumerate().map(|(index, from)| {
            let (target, write) = (self.packed_result(1 + index)?, self.write(1 + index)?);
            Ok(sum_partials(from, runs, target, write))
        });
        steps.collect()
    }
}

/// Puts a program into a kernel whose parameters end with the program's.
fn attach(launch: &mut Launch, program: Option<Generated>) {
    if let Some(program) = program {
        launch.source.program = program.text;
        launch.arguments.extend(program.arguments);
    }
}
