//! The language-model head with its loss: products and kernels chunk by chunk.
//!
//! Owns what lies where in the workspace (as [`Op::workspace_bytes`](colac_plan::Op::workspace_bytes) sizes it) and the
//! order of the steps. The gradient of a chunk's logits takes their place: as f32, or as bf16 in the first half of each
//! row where both factors of the logits are bf16, so that the products that read it stay in that format. A transform is
//! evaluated where it is needed and its second chunk of workspace not used. Must not know how kernels compute.

use colac_plan::DType;
use colac_plan::op::LogitTransform;
use colac_plan::op::cost::aligned;
use colac_plan::pointwise::Program;

use crate::cuda::error::CudaError;
use crate::cuda::launch::{Argument, Factor, Launch, Product, Step, WriteMode};
use crate::cuda::lower::reduce::store_sums;
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::program::scalar_function;
use crate::cuda::source::{Family, Source};
use crate::cuda::view::Rows;

const POSITION_THREADS: u32 = 512;
/// Threads of a block that keeps a row of logits, and groups of 8 neighbours that a thread keeps at most.
const HELD_THREADS: u32 = 1024;
const HELD_PARTS: u64 = 4;
const THREADS: u32 = 256;

/// What both operations have.
struct Head<'a> {
    x: Rows,
    weight: Rows,
    labels: Rows,
    bias: Option<Rows>,
    loss: Rows,
    /// Positions in a row.
    seq: u64,
    /// Positions whose logits are held at a time.
    chunk: u64,
    /// A chunk of logits, without gaps.
    logits: u64,
    /// A f64 for each position of a chunk.
    losses: u64,
    function: Option<&'a Program>,
    gradient: Option<Gradient<'a>>,
}

/// What the operation with gradient has in addition.
struct Gradient<'a> {
    derivative: Option<&'a Program>,
    scale: Rows,
    dx: Rows,
    dw: Summed,
    db: Option<Summed>,
}

/// The gradient of the weight or the bias: a sum over chunks.
struct Summed {
    target: Rows,
    write: WriteMode,
    /// In the workspace, where the target is not f32: the sum over the chunks, so that it is rounded once.
    sums: Option<Rows>,
}

impl Summed {
    /// Where a chunk's part goes, and how.
    fn place(&self, is_first: bool) -> (Rows, WriteMode) {
        let write = match (is_first, &self.sums) {
            (false, _) => WriteMode::Add,
            (true, Some(_)) => WriteMode::Overwrite,
            (true, None) => self.write,
        };
        (self.sums.unwrap_or(self.target), write)
    }
}

impl Lowering<'_> {
    /// [`colac_plan::Op::HeadLoss`].
    pub(super) fn head_loss(&self, chunk: u32, bias: bool, transform: Option<&Program>) -> Steps {
        let bias = if bias { Some(self.packed_operand(3)?) } else { None };
        Ok(self.head(chunk, bias, transform, None)?.steps())
    }

    /// [`colac_plan::Op::HeadLossWithGradient`].
    pub(super) fn head_loss_with_gradient(
        &self,
        chunk: u32,
        bias: bool,
        transform: Option<&LogitTransform>,
    ) -> Steps {
        // Sums lie behind the logits, a second chunk of them where there is a transform, and the losses.
        let (positions, vocabulary) = self.head_extents(chunk);
        let logits = aligned(positions * vocabulary * 4);
        let mut end = logits * (1 + u64::from(transform.is_some())) + aligned(positions * 8);
        let mut summed = |target: Rows, result: usize| -> Result<Summed, CudaError> {
            let sums = (target.dtype != DType::F32).then(|| {
                let Rows { rows, width, .. } = target;
                let address = self.workspace(end);
                end += aligned(rows * width * 4);
                Rows {
                    address,
                    dtype: DType::F32,
                    rows,
                    width,
                    stride: width,
                    padding: 0,
                    more_rows: 0,
                }
            });
            Ok(Summed { target, write: self.write(result)?, sums })
        };
        let dw = summed(self.result(2)?, 2)?;
        let db = if bias { Some(summed(self.packed_result(3)?, 3)?) } else { None };
        let gradient = Gradient {
            derivative: transform.map(|transform| &transform.derivative),
            scale: self.packed_operand(3)?,
            dx: self.result(1)?,
            dw,
            db,
        };
        let bias = if bias { Some(self.packed_operand(4)?) } else { None };
        let function = transform.map(|transform| &transform.function);
        Ok(self.head(chunk, bias, function, Some(gradient))?.steps())
    }

    /// Positions of a chunk and words of the vocabulary.
    fn head_extents(&self, chunk: u32) -> (u64, u64) {
        let positions = self.operands[0].ty.shape.rows().min(u64::from(chunk));
        (positions, self.operands[1].ty.shape.0[0].extent)
    }

    fn head<'a>(
        &self,
        chunk: u32,
        bias: Option<Rows>,
        function: Option<&'a Program>,
        gradient: Option<Gradient<'a>>,
    ) -> Result<Head<'a>, CudaError> {
        let (positions, vocabulary) = self.head_extents(chunk);
        Ok(Head {
            x: self.operand(0)?,
            weight: self.operand(1)?,
            labels: self.packed_operand(2)?,
            bias,
            loss: self.packed_result(0)?,
            seq: self.operands[0].ty.shape.0[1].extent,
            chunk: positions,
            logits: self.workspace(0),
            losses: self.workspace(aligned(positions * vocabulary * 4)),
            function,
            gradient,
        })
    }
}

/// Some of the rows of a view.
fn part(rows: Rows, start: u64, count: u64) -> Rows {
    let address = rows.address + start * rows.stride * rows.dtype.bytes();
    Rows { address, rows: count, ..rows }
}

impl Head<'_> {
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut start = 0;
        while start < self.x.rows {
            let count = self.chunk.min(self.x.rows - start);
            self.chunk_steps(start, count, &mut steps);
            start += count;
        }
        let summed = self.gradient.iter().flat_map(|g| [Some(&g.dw), g.db.as_ref()]).flatten();
        // Sums kept in f32 go to where they belong, if they are not there.
        let stored =
            summed.filter_map(|part| Some(store_sums(part.sums?, part.target, part.write)));
        steps.extend(stored);
        steps
    }

    fn chunk_steps(&self, start: u64, count: u64, steps: &mut Vec<Step>) {
        let x = part(self.x, start, count);
        let width = self.weight.rows;
        let logits = Rows {
            address: self.logits,
            dtype: DType::F32,
            rows: count,
            width,
            stride: width,
            padding: 0,
            more_rows: 0,
        };
        steps.push(Step::Product(Product {
            a: Factor::of(x),
            b: Factor::of(self.weight).transposed(),
            c: Factor::of(logits),
            write: WriteMode::Overwrite,
        }));
        steps.push(Step::Launch(self.positions(start, logits)));
        if let Some(gradient) = &self.gradient {
            let dlogits = match self.gradient_format() {
                DType::Bf16 => Rows { dtype: DType::Bf16, stride: 2 * width, ..logits },
                _ => logits,
            };
            let is_first = start == 0;
            steps.push(Step::Product(Product {
                a: Factor::of(dlogits),
                b: Factor::of(self.weight),
                c: Factor::of(part(gradient.dx, start, count)),
                write: WriteMode::Overwrite,
            }));
            let (dw, write) = gradient.dw.place(is_first);
            steps.push(Step::Product(Product {
                a: Factor::of(dlogits).transposed(),
                b: Factor::of(x),
                c: Factor::of(dw),
                write,
            }));
            if let Some(db) = &gradient.db {
                let (db, write) = db.place(is_first);
                steps.push(Step::Launch(column_sums(dlogits, db, write)));
            }
        }
        steps.push(Step::Launch(self.loss_rows(start, count)));
    }

    /// How the gradient of the logits is stored.
    fn gradient_format(&self) -> DType {
        match (self.x.dtype, self.weight.dtype) {
            (DType::Bf16, DType::Bf16) => DType::Bf16,
            _ => DType::F32,
        }
    }

    /// The losses of a chunk's positions, and the gradient in the place of their logits.
    fn positions(&self, start: u64, logits: Rows) -> Launch {
        let wide = logits.is_wide() && self.bias.is_none_or(|bias| bias.is_wide());
        let mut source = Source::new(Family::Head)
            .format("B_T", self.bias.map_or(DType::F32, |bias| bias.dtype))
            .define("BIAS", u8::from(self.bias.is_some()))
            .define("TRANSFORM", u8::from(self.function.is_some()))
            .define("GRADIENT", u8::from(self.gradient.is_some()))
            .format("G_T", self.gradient_format())
            .define("VEC", if wide { 8 } else { 1 });
        if let Some(function) = self.function {
            source.program.push_str(&scalar_function("transform", function));
        }
        if let Some(derivative) = self.gradient.as_ref().and_then(|gradient| gradient.derivative) {
            source.program.push_str(&scalar_function("derivative", derivative));
        }
        let labels = self.labels.address + start * self.labels.dtype.bytes();
        let arguments = vec![
            Argument::Address(logits.address),
            Argument::U64(logits.width),
            Argument::Address(labels),
            Argument::Address(self.bias.map_or(0, |bias| bias.address)),
            Argument::Address(self.gradient.as_ref().map_or(0, |gradient| gradient.scale.address)),
            Argument::Address(self.losses),
        ];
        let parts = logits.width.div_ceil(8 * u64::from(HELD_THREADS));
        let held =
            wide && self.gradient.is_some() && self.function.is_none() && parts <= HELD_PARTS;
        let (entry, threads) = match held {
            true => ("positions_held", HELD_THREADS),
            false => ("positions", POSITION_THREADS),
        };
        if held {
            source = source.define("PARTS", parts);
        }
        Launch { source, entry, grid: logits.rows, threads, shared: 0, arguments }
    }

    /// The chunk's part of the loss of each row.
    fn loss_rows(&self, start: u64, count: u64) -> Launch {
        let grid = (start + count - 1) / self.seq - start / self.seq + 1;
        let arguments = vec![
            Argument::Address(self.losses),
            Argument::U64(start),
            Argument::U64(count),
            Argument::U64(self.seq),
            Argument::Address(self.loss.address),
        ];
        let source = Source::new(Family::Head);
        Launch { source, entry: "loss_rows", grid, threads: THREADS, shared: 0, arguments }
    }
}

/// The gradient of the bias.
fn column_sums(x: Rows, y: Rows, write: WriteMode) -> Launch {
    let vec = if x.is_wide() { 8 } else { 1 };
    let source = Source::new(Family::Head).format("SUMMED_T", x.dtype).define("VEC", vec);
    let mut arguments = vec![
        Argument::Address(x.address),
        Argument::U64(x.stride),
        Argument::U64(x.rows),
        Argument::U64(x.width),
        Argument::Address(y.address),
    ];
    arguments.extend(write.arguments());
    let grid = x.width.div_ceil(32 * vec);
    Launch { source, entry: "column_sums", grid, threads: THREADS, shared: 0, arguments }
}
