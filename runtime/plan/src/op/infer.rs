//! The shape rule of every operation: from the types of its operands to the types of its results.

use thiserror::Error;

use crate::dtype::DType;
use crate::op::{Mask, Op, Real, Scores};
use crate::pointwise::{InputForm, Program};
use crate::shape::{Axis, Shape, TensorType};

/// Operands that an operation cannot take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TypeError {
    /// Another number of operands.
    #[error("{op} takes {expected} operands, not {found}")]
    OperandCount {
        /// Printed name of the operation.
        op: &'static str,
        /// How many it takes.
        expected: usize,
        /// How many it was given.
        found: usize,
    },
    /// An operand's element format does not fit.
    #[error("operand {operand} of {op} must be {expected}, not {found}")]
    ElementFormat {
        /// Printed name of the operation.
        op: &'static str,
        /// Position of the operand.
        operand: usize,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: DType,
    },
    /// An operand's shape is not of the form the operation takes.
    #[error("operand {operand} of {op} must be {expected}, not {found}")]
    Form {
        /// Printed name of the operation.
        op: &'static str,
        /// Position of the operand.
        operand: usize,
        /// The form, e.g. `[batch, seq, heads, head_dim]`.
        expected: &'static str,
        /// The shape given.
        found: Shape,
    },
    /// Two operands do not agree.
    #[error(
        "{what} of {op} differ: operand {left} is {left_shape}, operand {right} is {right_shape}"
    )]
    Mismatch {
        /// Printed name of the operation.
        op: &'static str,
        /// Which axes, e.g. `input widths`.
        what: &'static str,
        /// Position of one operand.
        left: usize,
        /// Position of the other.
        right: usize,
        /// Shape of one.
        left_shape: Shape,
        /// Shape of the other.
        right_shape: Shape,
    },
    /// A rule on an extent or attribute is broken.
    #[error("{op}: {reason}")]
    Rule {
        /// Printed name of the operation.
        op: &'static str,
        /// What is broken.
        reason: String,
    },
}

/// Reads operands and turns what does not fit into a [`TypeError`].
struct Operands<'a> {
    op: &'static str,
    types: &'a [&'a TensorType],
}

impl<'a> Operands<'a> {
    fn count(&self, expected: usize) -> Result<(), TypeError> {
        if self.types.len() == expected {
            return Ok(());
        }
        Err(TypeError::OperandCount { op: self.op, expected, found: self.types.len() })
    }

    fn shape(&self, operand: usize) -> &'a Shape {
        &self.types[operand].shape
    }

    fn float(&self, operand: usize) -> Result<&'a Shape, TypeError> {
        let found = self.types[operand].dtype;
        if found.is_float() {
            return Ok(self.shape(operand));
        }
        Err(TypeError::ElementFormat { op: self.op, operand, expected: "a real number", found })
    }

    fn integer(&self, operand: usize) -> Result<&'a Shape, TypeError> {
        let found = self.types[operand].dtype;
        if found == DType::I32 {
            return Ok(self.shape(operand));
        }
        Err(TypeError::ElementFormat { op: self.op, operand, expected: "i32", found })
    }

    fn form(&self, operand: usize, holds: bool, expected: &'static str) -> Result<(), TypeError> {
        if holds {
            return Ok(());
        }
        Err(TypeError::Form { op: self.op, operand, expected, found: self.shape(operand).clone() })
    }

    fn agree(
        &self,
        what: &'static str,
        left: usize,
        right: usize,
        holds: bool,
    ) -> Result<(), TypeError> {
        if holds {
            return Ok(());
        }
        Err(TypeError::Mismatch {
            op: self.op,
            what,
            left,
            right,
            left_shape: self.shape(left).clone(),
            right_shape: self.shape(right).clone(),
        })
    }

    fn rule(&self, holds: bool, reason: impl FnOnce() -> String) -> Result<(), TypeError> {
        if holds { Ok(()) } else { Err(TypeError::Rule { op: self.op, reason: reason() }) }
    }
}

/// The two tables from operand `first` on, by whose angles the heads of operand `x` are turned.
fn rope_tables(o: &Operands<'_>, x: usize, first: usize) -> Result<(), TypeError> {
    let (heads, cos, sin) = (o.shape(x), o.float(first)?, o.float(first + 1)?);
    o.form(first, cos.ndim() == 2, "[seq, pairs]")?;
    o.rule(cos.width() >= 1 && cos.width() <= heads.width() / 2, || {
        format!(
            "{} pairs are turned, but a head_dim of {} has {}",
            cos.width(),
            heads.width(),
            heads.width() / 2
        )
    })?;
    o.agree("positions", x, first, cos.0[0].extent == heads.0[1].extent)?;
    o.agree("tables", first, first + 1, cos.same_extents(sin))
}

fn same_leading(a: &Shape, b: &Shape) -> bool {
    a.ndim() == b.ndim() && a.leading().iter().zip(b.leading()).all(|(x, y)| x.extent == y.extent)
}

impl Op {
    /// Types of the results for operands of the given types. Real results take the element format of the first real
    /// operand unless the operation's definition says f32. Results that accumulate are given as f32, and may be stored
    /// otherwise ([`Op::gives`]).
    pub fn infer(&self, types: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let o = Operands { op: self.name(), types };
        let dtype = types.iter().map(|t| t.dtype).find(|d| d.is_float()).unwrap_or(DType::F32);
        let of = |shape: Shape| TensorType::new(dtype, shape);
        let f32 = |shape: Shape| TensorType::new(DType::F32, shape);
        Ok(match self {
            Op::Linear => {
                o.count(2)?;
                let (x, w) = (o.float(0)?, o.float(1)?);
                o.form(0, x.ndim() >= 1, "[.., in]")?;
                o.form(1, w.ndim() == 2, "[out, in]")?;
                o.agree("input widths", 0, 1, x.width() == w.width())?;
                vec![of(x.with_width(w.0[0].clone()))]
            }
            Op::LinearBackwardInput => {
                o.count(2)?;
                let (dy, w) = (o.float(0)?, o.float(1)?);
                o.form(0, dy.ndim() >= 1, "[.., out]")?;
                o.form(1, w.ndim() == 2, "[out, in]")?;
                o.agree("output widths", 0, 1, dy.width() == w.0[0].extent)?;
                vec![of(dy.with_width(w.0[1].clone()))]
            }
            Op::LinearBackwardWeight => {
                o.count(2)?;
                let (dy, x) = (o.float(0)?, o.float(1)?);
                o.form(0, dy.ndim() >= 1, "[.., out]")?;
                o.form(1, x.ndim() >= 1, "[.., in]")?;
                o.agree("rows", 0, 1, same_leading(dy, x))?;
                vec![f32(Shape::of(&[dy.width(), x.width()]))]
            }
            Op::Embedding => {
                o.count(2)?;
                let (ids, table) = (o.integer(0)?, o.float(1)?);
                o.form(1, table.ndim() == 2, "[rows, width]")?;
                let mut axes = ids.0.clone();
                axes.push(table.0[1].clone());
                vec![of(Shape(axes))]
            }
            Op::EmbeddingBackward { rows } => {
                o.count(2)?;
                let (ids, dy) = (o.integer(0)?, o.float(1)?);
                let fits = dy.ndim() == ids.ndim() + 1 && dy.rows() == ids.elements();
                o.agree("rows", 0, 1, fits)?;
                vec![f32(Shape::of(&[*rows, dy.width()]))]
            }
            Op::RmsNorm { epsilon, gain, prologue } => {
                let x = norm_operands(&o, *epsilon, *gain, false, prologue.as_ref())?;
                let made = prologue.is_some().then(|| x.clone());
                let statistic = f32(Shape(x.shape.leading().to_vec()));
                [x, statistic].into_iter().chain(made).collect()
            }
            Op::LayerNorm { epsilon, gain, bias, prologue } => {
                let x = norm_operands(&o, *epsilon, *gain, *bias, prologue.as_ref())?;
                let made = prologue.is_some().then(|| x.clone());
                let statistic = f32(Shape(x.shape.leading().to_vec()));
                [x, statistic.clone(), statistic].into_iter().chain(made).collect()
            }
            Op::RmsNormBackward { gain, epilogue } => {
                let (x, first) = norm_gradient_operands(&o, *gain, 1, epilogue.as_ref())?;
                let vector = f32(Shape(x.0.last().cloned().into_iter().collect()));
                [first].into_iter().chain(gain.then_some(vector)).collect()
            }
            Op::LayerNormBackward { gain, bias, epilogue } => {
                let (x, first) = norm_gradient_operands(&o, *gain, 2, epilogue.as_ref())?;
                let vector = f32(Shape(x.0.last().cloned().into_iter().collect()));
                let (dw, db) = (gain.then_some(vector.clone()), bias.then_some(vector));
                [first].into_iter().chain(dw).chain(db).collect()
            }
            Op::RowSum { .. } => {
                o.count(1)?;
                let x = o.float(0)?;
                o.form(0, x.ndim() >= 1, "[.., width]")?;
                vec![f32(x.with_width(Axis::anonymous(1)))]
            }
            Op::Softmax => {
                o.count(1)?;
                let x = o.float(0)?;
                o.form(0, x.ndim() >= 1, "[.., width]")?;
                vec![of(x.clone())]
            }
            Op::Dropout { probability, .. } => {
                o.count(2)?;
                let (x, draw) = (o.float(0)?, o.integer(1)?);
                o.form(0, x.ndim() >= 1, "[.., width]")?;
                o.form(1, draw.ndim() == 1 && draw.width() == 4, "[4]")?;
                o.rule((0.0..1.0).contains(&probability.get()), || {
                    format!("probability is {probability}, but must be from 0 up and below 1")
                })?;
                vec![of(x.clone())]
            }
            Op::Rope { .. } => {
                o.count(3)?;
                let x = o.float(0)?;
                o.form(0, x.ndim() == 4, "[batch, seq, heads, head_dim]")?;
                rope_tables(&o, 0, 1)?;
                vec![of(x.clone())]
            }
            Op::Attention { scores } => {
                o.count(3)?;
                let (q, out) = attention_operands(&o, 0, scores)?;
                vec![of(out), f32(log_sum_exp(q))]
            }
            Op::AttentionBackward { scores, turned_back } => {
                o.count(if turned_back.is_some() { 8 } else { 6 })?;
                let (q, out) = attention_operands(&o, 1, scores)?;
                if let Some(turned) = turned_back {
                    o.rule(turned.queries || turned.keys, || {
                        "it turns nothing back and has tables to do so".into()
                    })?;
                    rope_tables(&o, 1, 6)?;
                }
                o.agree("rows or widths", 0, 3, o.float(0)?.same_extents(&out))?;
                o.agree("rows or widths", 4, 3, o.float(4)?.same_extents(&out))?;
                o.agree("rows", 5, 1, o.float(5)?.same_extents(&log_sum_exp(q)))?;
                vec![of(q.clone()), of(o.shape(2).clone()), of(o.shape(3).clone())]
            }
            Op::Pointwise { program } => {
                o.count(program.inputs.len())?;
                pointwise(&o, program, &(0..program.inputs.len()).collect::<Vec<_>>())?
            }
            Op::ColumnSum => {
                o.count(1)?;
                let x = o.float(0)?;
                o.form(0, x.ndim() >= 1, "[.., width]")?;
                vec![f32(Shape(x.0.last().cloned().into_iter().collect()))]
            }
            Op::HeadLoss { chunk, bias, transform } => {
                o.count(3 + usize::from(*bias))?;
                let x = head_operands(&o, *chunk, bias.then_some(3))?;
                if let Some(program) = transform {
                    transform_program(&o, program, 1)?;
                }
                vec![f32(Shape(vec![x.0[0].clone()]))]
            }
            Op::HeadLossWithGradient { chunk, bias, transform } => {
                o.count(4 + usize::from(*bias))?;
                let x = head_operands(&o, *chunk, bias.then_some(4))?;
                if let Some(transform) = transform {
                    transform_program(&o, &transform.function, 1)?;
                    transform_program(&o, &transform.derivative, 2)?;
                }
                o.form(3, o.float(3)?.ndim() == 0, "a single number")?;
                let mut results =
                    vec![f32(Shape(vec![x.0[0].clone()])), of(x.clone()), f32(o.shape(1).clone())];
                if *bias {
                    results.push(f32(o.shape(4).clone()));
                }
                results
            }
            Op::GradientNorm => {
                o.count(1)?;
                o.form(0, o.float(0)?.ndim() == 1, "the whole gradient segment")?;
                vec![f32(Shape::scalar()), f32(Shape::scalar())]
            }
            Op::AdamW { ranges, master, .. } => {
                o.count(4)?;
                let g = o.float(0)?;
                o.rule(!master || dtype == DType::F32, || {
                    format!("gradients for master parameters must be f32, not {dtype}")
                })?;
                o.form(0, g.ndim() == 1, "the whole gradient segment")?;
                for operand in 1..4 {
                    o.form(operand, o.float(operand)?.ndim() == 0, "a single number")?;
                }
                let mut end = 0u64;
                for range in ranges {
                    let stop = range.start.checked_add(range.length);
                    let stop = stop.filter(|&stop| range.start >= end && stop <= g.elements());
                    o.rule(stop.is_some(), || format!("range at {} does not fit", range.start))?;
                    end = stop.unwrap_or(end);
                }
                let parameters = if *master { DType::Bf16 } else { dtype };
                let mut results = vec![
                    TensorType::new(parameters, g.clone()),
                    of(g.clone()),
                    of(g.clone()),
                    TensorType::new(DType::I32, Shape::scalar()),
                ];
                results.extend(master.then(|| of(g.clone())));
                results
            }
            Op::Slice { start, length } => {
                o.count(1)?;
                let x = o.float(0)?;
                o.form(0, x.ndim() >= 1, "[.., width]")?;
                let end = start.checked_add(*length).filter(|&end| end <= x.width());
                o.rule(*length > 0 && end.is_some(), || {
                    format!("{length} elements from {start} on are not within {}", x.width())
                })?;
                vec![of(x.with_width(Axis::anonymous(*length)))]
            }
            Op::Concat { width, starts } => {
                o.rule(!starts.is_empty(), || "there is nothing to join".into())?;
                o.count(starts.len())?;
                let first = o.float(0)?;
                o.form(0, first.ndim() >= 1, "[.., width]")?;
                let mut end = 0u64;
                for (i, &start) in starts.iter().enumerate() {
                    let part = o.float(i)?;
                    o.agree("rows", 0, i, same_leading(first, part))?;
                    let stop = start.checked_add(part.width()).filter(|&stop| stop <= *width);
                    o.rule(start >= end && stop.is_some(), || {
                        format!("part {i} does not fit at {start} of {width}")
                    })?;
                    end = stop.unwrap_or(end);
                }
                vec![of(first.with_width(Axis::anonymous(*width)))]
            }
            Op::Shift { by: _ } => {
                o.count(1)?;
                let x = o.float(0)?;
                o.form(0, x.ndim() >= 3, "[batch, seq, ..]")?;
                vec![of(x.clone())]
            }
            Op::Sum => {
                o.count(1)?;
                o.float(0)?;
                vec![f32(Shape::scalar())]
            }
        })
    }
}

/// Checks x, or what makes it, and what there is of gain and bias; gives the type of x.
fn norm_operands(
    o: &Operands<'_>,
    epsilon: Real,
    gain: bool,
    bias: bool,
    prologue: Option<&Program>,
) -> Result<TensorType, TypeError> {
    let vectors = usize::from(gain) + usize::from(bias);
    let first = Op::after_prologue(prologue);
    o.count(first + vectors)?;
    let x = match prologue {
        None => TensorType::new(o.types[0].dtype, o.float(0)?.clone()),
        Some(program) => one_output(o, program, &(0..first).collect::<Vec<_>>())?,
    };
    // The operand that a vector is compared with in a message: any that has the rows of x.
    let rows = prologue.map_or(0, elements_of);
    o.form(rows, x.shape.ndim() >= 1, "[.., width]")?;
    for vector in first..first + vectors {
        let w = o.float(vector)?;
        o.form(vector, w.ndim() == 1, "[width]")?;
        o.agree("widths", rows, vector, x.shape.width() == w.width())?;
    }
    o.rule(epsilon.get() >= 0.0, || format!("epsilon is {epsilon}, but must not be negative"))?;
    Ok(x)
}

/// Checks dy, x, gain, statistics and operands of the epilogue; gives the shape of x and the type of the first result.
fn norm_gradient_operands<'a>(
    o: &Operands<'a>,
    gain: bool,
    statistics: usize,
    epilogue: Option<&Program>,
) -> Result<(&'a Shape, TensorType), TypeError> {
    let first = 2 + usize::from(gain);
    let further = first + statistics;
    o.count(further + epilogue.map_or(0, |program| program.inputs.len().saturating_sub(1)))?;
    let (dy, x) = (o.float(0)?, o.float(1)?);
    o.form(0, dy.ndim() >= 1, "[.., width]")?;
    o.agree("shapes", 0, 1, dy.same_extents(x))?;
    if gain {
        let w = o.float(2)?;
        o.form(2, w.ndim() == 1, "[width]")?;
        o.agree("widths", 1, 2, x.width() == w.width())?;
    }
    for statistic in first..further {
        let rows = Shape(x.leading().to_vec());
        o.agree("rows", 1, statistic, rows.same_extents(o.float(statistic)?))?;
    }
    let made = match epilogue {
        None => TensorType::new(o.types[0].dtype, x.clone()),
        Some(program) => {
            let whole = program.inputs.first() == Some(&InputForm::Elements);
            o.rule(whole, || "the first input of an epilogue is the gradient".into())?;
            // The gradient has the shape of x.
            let mut operands = vec![1];
            operands.extend(further..further + program.inputs.len() - 1);
            one_output(o, program, &operands)?
        }
    };
    Ok((x, made))
}

/// The type of what a program of one output makes of the given operands.
fn one_output(
    o: &Operands<'_>,
    program: &Program,
    operands: &[usize],
) -> Result<TensorType, TypeError> {
    let mut results = pointwise(o, program, operands)?;
    o.rule(results.len() == 1, || "a program inside a norm has one output".into())?;
    Ok(results.remove(0))
}

/// The first input that has the shape of a program's outputs; 0 where there is none.
fn elements_of(program: &Program) -> usize {
    program.inputs.iter().position(|&form| form == InputForm::Elements).unwrap_or(0)
}

/// Checks q, k, v at positions `first..first + 3`; gives the shapes of q and of the output.
fn attention_operands<'a>(
    o: &Operands<'a>,
    first: usize,
    scores: &Scores,
) -> Result<(&'a Shape, Shape), TypeError> {
    let (q, k, v) = (o.float(first)?, o.float(first + 1)?, o.float(first + 2)?);
    o.form(first, q.ndim() == 4, "[batch, seq, heads, head_dim]")?;
    o.form(first + 1, k.ndim() == 4, "[batch, seq, heads, head_dim]")?;
    o.form(first + 2, v.ndim() == 4, "[batch, seq, heads, head_dim]")?;
    o.agree("batch, sequence or heads", first + 1, first + 2, same_leading(k, v))?;
    let fits = [0, 1, 3].into_iter().all(|axis| q.0[axis].extent == k.0[axis].extent);
    o.agree("batch, sequence or head_dim", first, first + 1, fits)?;
    let (heads, groups) = (q.0[2].extent, k.0[2].extent);
    o.rule(groups > 0 && heads.is_multiple_of(groups), || {
        format!("{heads} query heads cannot share {groups} key/value heads evenly")
    })?;
    let windowed = scores.mask != Mask::Window(0);
    o.rule(windowed, || "a window must hold at least one position".into())?;
    if let Some(cap) = scores.softcap {
        let holds = cap.get().is_finite() && cap.get() > 0.0;
        o.rule(holds, || format!("softcap is {cap}, but must be positive"))?;
    }
    Ok((q, Shape([q.leading(), &v.0[3..]].concat())))
}

fn log_sum_exp(q: &Shape) -> Shape {
    Shape(vec![q.0[0].clone(), q.0[2].clone(), q.0[1].clone()])
}

/// Checks x, w, labels and, at position `bias`, the bias; gives the shape of x.
fn head_operands<'a>(
    o: &Operands<'a>,
    chunk: u32,
    bias: Option<usize>,
) -> Result<&'a Shape, TypeError> {
    let (x, w, labels) = (o.float(0)?, o.float(1)?, o.integer(2)?);
    o.form(0, x.ndim() == 3, "[batch, seq, width]")?;
    o.form(1, w.ndim() == 2, "[vocab, width]")?;
    o.agree("widths", 0, 1, x.width() == w.width())?;
    o.agree("rows", 0, 2, Shape(x.leading().to_vec()).same_extents(labels))?;
    o.rule(chunk > 0, || "a chunk must hold at least one position".into())?;
    if let Some(bias) = bias {
        let b = o.float(bias)?;
        o.form(bias, b.ndim() == 1, "[vocab]")?;
        o.agree("vocabularies", 1, bias, b.width() == w.0[0].extent)?;
    }
    Ok(x)
}

/// Checks a program over logits: so many inputs of their shape, one f32 output.
fn transform_program(o: &Operands<'_>, program: &Program, inputs: usize) -> Result<(), TypeError> {
    program.check().map_err(|reason| TypeError::Rule { op: o.op, reason })?;
    let elements =
        program.inputs.len() == inputs && program.inputs.iter().all(|i| *i == InputForm::Elements);
    let one = matches!(program.outputs[..], [output] if output.dtype == DType::F32);
    o.rule(elements && one, || {
        format!("a program over logits takes {inputs} and gives one number, in f32")
    })
}

/// The types of a program's results. Input `i` reads the operand at position `operands[i]`.
fn pointwise(
    o: &Operands<'_>,
    program: &Program,
    operands: &[usize],
) -> Result<Vec<TensorType>, TypeError> {
    program.check().map_err(|reason| TypeError::Rule { op: o.op, reason })?;
    let first = operands[elements_of(program)];
    let shape = o.float(first)?;
    for (&operand, form) in operands.iter().zip(&program.inputs) {
        let input = o.float(operand)?;
        match form {
            InputForm::Elements => {
                o.agree("shapes", first, operand, input.same_extents(shape))?;
            }
            InputForm::Row => {
                o.agree("widths", first, operand, input.ndim() > 0 && input.ends(shape))?;
            }
            InputForm::Column => {
                // Without the innermost axis, or with one element along it and as many of the axes before it.
                let rows = Shape(shape.leading().to_vec());
                let single = shape.with_width(Axis::anonymous(1));
                let fits = input.same_extents(&rows) || (input.ndim() > 0 && input.ends(&single));
                o.agree("rows", first, operand, fits)?;
            }
            InputForm::Scalar => o.form(operand, input.ndim() == 0, "a single number")?,
        }
    }
    // Axis names are those of the operand that has most of them.
    let named = |s: &Shape| s.0.iter().filter(|a: &&Axis| !a.name.is_empty()).count();
    let same =
        operands.iter().zip(&program.inputs).filter(|(_, form)| **form == InputForm::Elements);
    let best = same
        .map(|(&operand, _)| o.shape(operand))
        .fold(shape, |best, s| if named(s) > named(best) { s } else { best });
    Ok(program.outputs.iter().map(|output| TensorType::new(output.dtype, best.clone())).collect())
}
