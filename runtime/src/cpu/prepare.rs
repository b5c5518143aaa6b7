//! From an operation of the plan to a kernel: pointers are resolved of what [`contract`] has checked.
//!
//! Owns the one match over [`Op`]. What passes here can be run without any further check: every view lies inside its
//! segment, and no result shares bytes with another tensor of the operation unless the operation allows it in place.

use colac_plan::op::LogitTransform;
use colac_plan::op::cost::{REDUCTION_ROWS, aligned, sum_rows};
use colac_plan::pointwise::{InputForm, Program};
use colac_plan::program::Write;
use colac_plan::{Op, Operation, Plan, Segment, Tensor};

use crate::contract::{self, Checked, LayoutProblem, OperationError};
use crate::cpu::adamw::{AdamW, pieces};
use crate::cpu::attention::Attention;
use crate::cpu::attention_backward::AttentionBackward;
use crate::cpu::copies::{Concat, Shift, Slice};
use crate::cpu::dropout::Dropout;
use crate::cpu::embedding::{Embedding, EmbeddingBackward};
use crate::cpu::error::CpuError;
use crate::cpu::gemm::Product;
use crate::cpu::head_loss::{Gradient, HeadLoss, SummedGradient, Transform};
use crate::cpu::heads::Heads;
use crate::cpu::kernel::{Kernel, WriteMode};
use crate::cpu::layer_norm::{LayerNorm, LayerNormBackward, VectorGradient};
use crate::cpu::norm::{Gain, RmsNorm, RmsNormBackward};
use crate::cpu::pointwise::Pointwise;
use crate::cpu::reduce::{ColumnSum, GradientNorm, NORM_BLOCK, Partials, Sum};
use crate::cpu::rope::Rope;
use crate::cpu::rows::{RowSum, Softmax};
use crate::cpu::stored::Stored;
use crate::cpu::view::{Integers, Rows, Segments, disjoint};

/// One operation on its way to a kernel.
struct Preparation<'a> {
    plan: &'a Plan,
    segments: &'a Segments,
    operation: &'a Operation,
    operands: Vec<&'a Tensor>,
    results: Vec<&'a Tensor>,
}

/// Makes the kernel of an operation.
pub(crate) fn prepare(
    plan: &Plan,
    segments: &Segments,
    operation: &Operation,
) -> Result<Box<dyn Kernel + Sync>, CpuError> {
    let Checked { operands, results } = contract::check(plan, operation)?;
    let preparation = Preparation { plan, segments, operation, operands, results };
    preparation.kernel()
}

fn layout(operation: &Operation, operand: String, problem: LayoutProblem) -> CpuError {
    OperationError::layout(operation, operand, problem).into()
}

impl Preparation<'_> {
    fn view<V>(
        &self,
        is_result: bool,
        index: usize,
        make: fn(&Segments, &Tensor) -> Result<V, LayoutProblem>,
    ) -> Result<V, CpuError> {
        let (tensors, name) =
            if is_result { (&self.results, "result") } else { (&self.operands, "operand") };
        make(self.segments, tensors[index])
            .map_err(|problem| layout(self.operation, format!("{name} {index}"), problem))
    }

    fn write(&self, result: usize) -> Result<WriteMode, CpuError> {
        Ok(match self.operation.writes[result] {
            Write::Overwrite => WriteMode::Overwrite,
            Write::Add => WriteMode::Add,
            Write::AddIf(id) => {
                let name = || format!("the scalar of result {result}");
                let scalar = self.plan.tensors.get(id.index());
                let scalar =
                    scalar.ok_or_else(|| layout(self.operation, name(), LayoutProblem::Missing))?;
                let view = Rows::packed(self.segments, scalar);
                let view = view.map_err(|problem| layout(self.operation, name(), problem))?;
                if view.width != 1 {
                    return Err(layout(self.operation, name(), LayoutProblem::Strides));
                }
                WriteMode::AddIf(view)
            }
        })
    }

    /// Rows of f32 in the workspace, from a byte on.
    fn workspace(&self, from: u64, rows: usize, width: usize) -> Rows {
        let pointer =
            self.segments.pointers[Segment::Workspace.index()].wrapping_add(from as usize);
        assert!(
            from + (rows * width * 4) as u64 <= self.operation.workspace,
            "the workspace was checked"
        );
        Rows::over(pointer.cast(), rows, width)
    }

    /// A partial row for every [`REDUCTION_ROWS`] rows of `x`, behind those of `before` other vectors.
    fn reduction(&self, before: usize, x: Stored) -> Rows {
        let rows = x.rows.div_ceil(REDUCTION_ROWS as usize);
        let from = before as u64 * aligned((rows * x.width * 4) as u64);
        self.workspace(from, rows, x.width)
    }

    /// f64s in the workspace, from a byte on.
    fn partials(&self, from: u64, count: usize) -> Partials {
        let pointer =
            self.segments.pointers[Segment::Workspace.index()].wrapping_add(from as usize);
        assert!(from + (count * 8) as u64 <= self.operation.workspace, "the workspace was checked");
        Partials { pointer: pointer.cast(), count }
    }

    fn kernel(&self) -> Result<Box<dyn Kernel + Sync>, CpuError> {
        let rows = |operand| self.view(false, operand, Stored::new);
        let packed = |operand| self.view(false, operand, Stored::packed);
        let heads = |operand| self.view(false, operand, Heads::new);
        let result = |index| self.view(true, index, Stored::new);
        let packed_result = |index| self.view(true, index, Stored::packed);
        let heads_result = |index| self.view(true, index, Heads::new);
        // Statistics, tables and scalars, which are f32 whatever else is.
        let statistic = |operand| self.view(false, operand, Rows::packed);
        let statistic_result = |index| self.view(true, index, Rows::packed);
        let table = |operand| self.view(false, operand, Rows::new);
        Ok(match &self.operation.op {
            Op::Linear => Box::new(Product::linear(rows(0)?, rows(1)?, result(0)?)),
            Op::LinearBackwardInput => {
                Box::new(Product::backward_input(rows(0)?, rows(1)?, result(0)?))
            }
            Op::LinearBackwardWeight => {
                Box::new(Product::backward_weight(rows(0)?, rows(1)?, result(0)?, self.write(0)?))
            }
            Op::Embedding => {
                let ids = self.view(false, 0, Integers::new)?;
                Box::new(Embedding { ids, table: rows(1)?, y: result(0)? })
            }
            Op::EmbeddingBackward { rows: _ } => {
                let ids = self.view(false, 0, Integers::new)?;
                Box::new(EmbeddingBackward {
                    ids,
                    dy: rows(1)?,
                    dtable: result(0)?,
                    write: self.write(0)?,
                })
            }
            Op::RmsNorm { epsilon, gain, prologue } => {
                let (x, prologue, first) = self.prologue(prologue.as_ref(), 2)?;
                Box::new(RmsNorm {
                    prologue,
                    x,
                    weight: gain.then(|| packed(first)).transpose()?,
                    y: result(0)?,
                    rstd: statistic_result(1)?,
                    epsilon: epsilon.get(),
                })
            }
            Op::RmsNormBackward { gain, epilogue } => {
                let epilogue = self.epilogue(epilogue.as_ref(), 3 + usize::from(*gain))?;
                let (x, rstd) = (rows(1)?, statistic(2 + usize::from(*gain))?);
                let gain = match gain {
                    true => Some(Gain {
                        weight: packed(2)?,
                        dw: packed_result(1)?,
                        write: self.write(1)?,
                        partials: self.reduction(0, x),
                    }),
                    false => None,
                };
                Box::new(RmsNormBackward { dy: rows(0)?, x, gain, rstd, dx: result(0)?, epilogue })
            }
            Op::LayerNorm { epsilon, gain, bias, prologue } => {
                let (x, prologue, first) = self.prologue(prologue.as_ref(), 3)?;
                Box::new(LayerNorm {
                    prologue,
                    x,
                    weight: gain.then(|| packed(first)).transpose()?,
                    bias: bias.then(|| packed(first + usize::from(*gain))).transpose()?,
                    y: result(0)?,
                    mean: statistic_result(1)?,
                    rstd: statistic_result(2)?,
                    epsilon: epsilon.get(),
                })
            }
            Op::LayerNormBackward { gain, bias, epilogue } => {
                let x = rows(1)?;
                let first = 2 + usize::from(*gain);
                // Partial sums of the gain come before those of the bias.
                let vector = |index: usize| -> Result<VectorGradient, CpuError> {
                    Ok(VectorGradient {
                        target: packed_result(index)?,
                        write: self.write(index)?,
                        partials: self.reduction(index - 1, x),
                    })
                };
                Box::new(LayerNormBackward {
                    dy: rows(0)?,
                    x,
                    weight: gain.then(|| packed(2)).transpose()?,
                    mean: statistic(first)?,
                    rstd: statistic(first + 1)?,
                    dx: result(0)?,
                    epilogue: self.epilogue(epilogue.as_ref(), first + 2)?,
                    dw: gain.then(|| vector(1)).transpose()?,
                    db: bias.then(|| vector(1 + usize::from(*gain))).transpose()?,
                })
            }
            Op::RowSum { mean } => {
                Box::new(RowSum { x: rows(0)?, y: statistic_result(0)?, mean: *mean })
            }
            Op::Softmax => Box::new(Softmax { x: rows(0)?, y: result(0)? }),
            Op::Dropout { probability, key } => Box::new(Dropout {
                x: rows(0)?,
                draw: self.view(false, 1, Integers::new)?,
                y: result(0)?,
                in_place: !disjoint(self.operands[0], self.results[0]),
                probability: probability.get(),
                key: *key,
            }),
            Op::Rope { inverse, interleaved } => Box::new(Rope {
                x: heads(0)?,
                cos: table(1)?,
                sin: table(2)?,
                y: heads_result(0)?,
                in_place: !disjoint(self.operands[0], self.results[0]),
                direction: if *inverse { -1.0 } else { 1.0 },
                interleaved: *interleaved,
            }),
            Op::Attention { scores } => Box::new(Attention {
                q: heads(0)?,
                k: heads(1)?,
                v: heads(2)?,
                out: heads_result(0)?,
                log_sum_exp: statistic_result(1)?,
                scores: *scores,
            }),
            Op::AttentionBackward { scores, turned_back } => {
                let log_sum_exp = statistic(5)?;
                let mut turns = Vec::new();
                if let Some(turned) = turned_back {
                    let results = turned.results().into_iter().enumerate();
                    for (result, _) in results.filter(|(_, turned)| *turned) {
                        turns.push(Rope {
                            x: heads_result(result)?,
                            cos: table(6)?,
                            sin: table(7)?,
                            y: heads_result(result)?,
                            in_place: true,
                            direction: -1.0,
                            interleaved: turned.interleaved,
                        });
                    }
                }
                Box::new(AttentionBackward {
                    dout: heads(0)?,
                    q: heads(1)?,
                    k: heads(2)?,
                    v: heads(3)?,
                    out: heads(4)?,
                    log_sum_exp,
                    dq: heads_result(0)?,
                    dk: heads_result(1)?,
                    dv: heads_result(2)?,
                    sums: self.workspace(0, 1, log_sum_exp.width),
                    scores: *scores,
                    turns,
                })
            }
            Op::Pointwise { program } => {
                let operands = self.inputs(&program.inputs, 0)?;
                let results =
                    (0..program.outputs.len()).map(result).collect::<Result<Vec<_>, _>>()?;
                Box::new(Pointwise::new(program, operands, &results))
            }
            Op::ColumnSum => {
                let x = rows(0)?;
                let partials = self.reduction(0, x);
                Box::new(ColumnSum { x, y: packed_result(0)?, write: self.write(0)?, partials })
            }
            Op::HeadLoss { chunk, bias, transform } => {
                let bias = if *bias { Some(packed(3)?) } else { None };
                let mut kernel = self.head_loss(*chunk, bias, None)?;
                if let Some(function) = transform {
                    kernel.transform = Some(Transform::without_gradient(function, kernel.logits));
                }
                Box::new(kernel)
            }
            Op::HeadLossWithGradient { chunk, bias, transform } => {
                let mut end = self.head_workspace(*chunk, transform.is_some());
                let mut summed = |target: Stored, index| -> Result<SummedGradient, CpuError> {
                    let sums = (!target.is_f32()).then(|| {
                        let sums = self.workspace(end, target.rows, target.width);
                        end += aligned((target.rows * target.width * 4) as u64);
                        sums
                    });
                    Ok(SummedGradient { target, write: self.write(index)?, sums })
                };
                let dw = summed(result(2)?, 2)?;
                let db = if *bias { Some(summed(packed_result(3)?, 3)?) } else { None };
                let gradient = Gradient { scale: statistic(3)?, dx: result(1)?, dw, db };
                let bias = if *bias { Some(packed(4)?) } else { None };
                let mut kernel = self.head_loss(*chunk, bias, Some(gradient))?;
                if let Some(LogitTransform { function, derivative }) = transform {
                    let (rows, width) = (kernel.logits.rows, kernel.logits.width);
                    let second = self.workspace(self.head_workspace(*chunk, false), rows, width);
                    kernel.transform =
                        Some(Transform::with_gradient(function, derivative, kernel.logits, second));
                }
                Box::new(kernel)
            }
            Op::Slice { start, length: _ } => {
                Box::new(Slice { x: rows(0)?, start: *start as usize, y: result(0)? })
            }
            Op::Concat { width: _, starts } => {
                let parts = starts.iter().enumerate();
                let parts = parts.map(|(i, start)| Ok((*start as usize, rows(i)?)));
                Box::new(Concat::new(parts.collect::<Result<_, CpuError>>()?, result(0)?))
            }
            Op::Shift { by } => {
                let x = rows(0)?;
                let per_position = x.rows / self.positions();
                let sequence = per_position * self.operands[0].ty.shape.0[1].extent as usize;
                // A shift beyond both ends is one past them, so that the product cannot overflow.
                let limit = sequence as i64;
                let by = (*by).clamp(-limit, limit) * per_position as i64;
                Box::new(Shift { x, y: result(0)?, sequence, by })
            }
            Op::Sum => {
                let x = rows(0)?;
                let each = sum_rows(&self.operands[0].ty.shape) as usize;
                Box::new(Sum {
                    x,
                    y: packed_result(0)?,
                    write: self.write(0)?,
                    rows: each,
                    partials: self.partials(0, x.rows.div_ceil(each)),
                })
            }
            Op::GradientNorm => {
                let gradients = packed(0)?;
                let partials = self.partials(0, 2 * gradients.width.div_ceil(NORM_BLOCK));
                Box::new(GradientNorm {
                    gradients,
                    norm: statistic_result(0)?,
                    finite: statistic_result(1)?,
                    partials,
                })
            }
            Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master } => Box::new(AdamW {
                gradients: packed(0)?,
                norm: statistic(1)?,
                finite: statistic(2)?,
                learning_rate: statistic(3)?,
                parameters: packed_result(0)?,
                master: master.then(|| packed_result(4)).transpose()?,
                first: packed_result(1)?,
                second: packed_result(2)?,
                step: self.view(true, 3, Integers::new)?,
                beta1: beta1.get(),
                beta2: beta2.get(),
                epsilon: epsilon.get(),
                clip_norm: clip_norm.get(),
                pieces: pieces(ranges),
            }),
        })
    }

    /// What the inputs of a program read, from an operand on.
    fn inputs(&self, forms: &[InputForm], first: usize) -> Result<Vec<Stored>, CpuError> {
        let read = forms.iter().zip(first..).map(|(form, operand)| match form {
            InputForm::Elements | InputForm::Row => self.view(false, operand, Stored::new),
            InputForm::Column | InputForm::Scalar => self.view(false, operand, Stored::packed),
        });
        read.collect()
    }

    /// The rows that a norm is taken of, what makes them, and the first operand behind: `made` is the result that they
    /// are where a prologue makes them.
    fn prologue(
        &self,
        program: Option<&Program>,
        made: usize,
    ) -> Result<(Stored, Option<Pointwise>, usize), CpuError> {
        let Some(program) = program else {
            return Ok((self.view(false, 0, Stored::new)?, None, 1));
        };
        let x = self.view(true, made, Stored::new)?;
        let kernel = Pointwise::by_rows(program, self.inputs(&program.inputs, 0)?, &[x]);
        Ok((x, Some(kernel), program.inputs.len()))
    }

    /// What makes the first result of the gradient that lies in its place; `first` is the operand of its second input.
    fn epilogue(
        &self,
        program: Option<&Program>,
        first: usize,
    ) -> Result<Option<Pointwise>, CpuError> {
        let Some(program) = program else { return Ok(None) };
        let gradient = self.view(true, 0, Stored::new)?;
        let mut inputs = vec![gradient];
        inputs.extend(self.inputs(&program.inputs[1..], first)?);
        Ok(Some(Pointwise::by_rows(program, inputs, &[gradient])))
    }

    /// Batch rows times sequence of the first operand.
    fn positions(&self) -> usize {
        let axes = &self.operands[0].ty.shape.0;
        (axes[0].extent * axes[1].extent).max(1) as usize
    }

    /// Bytes of the loss's workspace before what a gradient adds: a chunk of logits, its losses, and of a `second` chunk.
    fn head_workspace(&self, chunk: u32, second: bool) -> u64 {
        let positions = self.positions().min(chunk as usize) as u64;
        let logits = aligned(positions * self.operands[1].ty.shape.0[0].extent * 4);
        logits + aligned(positions * 8) + if second { logits } else { 0 }
    }

    fn head_loss(
        &self,
        chunk: u32,
        bias: Option<Stored>,
        gradient: Option<Gradient>,
    ) -> Result<HeadLoss, CpuError> {
        let (x, weight) = (self.view(false, 0, Stored::new)?, self.view(false, 1, Stored::new)?);
        let positions = x.rows.min(chunk as usize);
        let logits = self.workspace(0, positions, weight.rows);
        let losses = self.partials(aligned((positions * weight.rows * 4) as u64), positions);
        Ok(HeadLoss {
            x,
            weight,
            labels: self.view(false, 2, Integers::new)?,
            loss: self.view(true, 0, Rows::packed)?,
            seq: self.operands[0].ty.shape.0[1].extent as usize,
            logits,
            losses,
            bias,
            transform: None,
            gradient,
        })
    }
}
