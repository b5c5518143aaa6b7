//! Pointwise arithmetic over values: one expression becomes one program.
//!
//! Owns which parts of an expression go into one program: operators, functions and named activations without a label.
//! Everything else is computed before it and becomes an input. Must not know operations.

use colac_plan::pointwise::{Builder, InputForm, MAX_INSTRUCTIONS, Program, Register, Unary};
use colac_plan::program::Phase;
use colac_plan::{Axis, Op};

use crate::diagnostics::{Diagnostic, SourceId, Span};
use crate::graph::{Value as Tensor, View};
use crate::language::activation::{self, Activation};
use crate::language::codes as language_codes;
use crate::language::syntax::{BinaryOperator, Expr, ExprKind, UnaryOperator};
use crate::lower::{Bound, Frame, Lowering, codes};

/// Parts of an expression that may go into one program.
const MAX_SIZE: usize = MAX_INSTRUCTIONS / 4;

/// A program under construction.
struct Fused {
    builder: Builder,
    /// Values read, with the place of their first use.
    inputs: Vec<(Tensor, Register, Span)>,
    /// Whether an input was wrong already.
    wrong: bool,
}

impl Fused {
    fn input(&mut self, tensor: Tensor, span: Span) -> Register {
        if let Some((_, register, _)) = self.inputs.iter().find(|(known, ..)| *known == tensor) {
            return *register;
        }
        let register = self.builder.input(InputForm::Elements);
        self.inputs.push((tensor, register, span));
        register
    }
}

impl Lowering<'_> {
    /// The value of a pointwise expression, which has at least one part that is not a setting.
    ///
    /// `label` is the path of a labelled call; its node keeps that path and can be bypassed if it has one operand.
    pub(super) fn pointwise(
        &mut self,
        frame: &mut Frame,
        expr: &Expr,
        label: Option<String>,
    ) -> Result<Bound, Diagnostic> {
        let mut size = 0;
        expr.walk(&mut |_| size += 1);
        if size > MAX_SIZE {
            return Err(Diagnostic::error(
                codes::TOO_LARGE,
                format!("an expression of {size} parts is too long"),
            )
            .at(expr.span, format!("more than {MAX_SIZE} numbers, names and operators"))
            .help("assign parts of it to names first"));
        }
        let mut fused = Fused { builder: Builder::new(), inputs: Vec::new(), wrong: false };
        let register = self.fuse(frame, expr, &mut fused, true)?;
        let Fused { builder, inputs, wrong } = fused;
        if wrong {
            return Ok(Bound::Wrong);
        }
        // An expression that only names a value is that value.
        if let Some(input) = builder.input_of(register) {
            let (tensor, ..) = inputs[usize::from(input)];
            return Ok(Bound::Tensor(tensor));
        }
        let program = builder.finish(&[(register, colac_plan::DType::F32)]);
        let (program, kept) = program.without_unused_inputs();
        let operands: Vec<(Tensor, Span)> =
            kept.iter().map(|&at| (inputs[at].0, inputs[at].2)).collect();
        self.pointwise_node(frame, program, &operands, label, expr.span).map(Bound::Tensor)
    }

    /// A node that computes `program` of operands, each with the place where it is named.
    pub(super) fn pointwise_node(
        &mut self,
        frame: &Frame,
        program: Program,
        operands: &[(Tensor, Span)],
        label: Option<String>,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let (program, tensors, split) = self.broadcast(frame, program, operands, span)?;
        if let Err(reason) = program.check() {
            return Err(Diagnostic::error(
                codes::OPERAND,
                format!("this is not a function of values: {reason}"),
            )
            .at(span, "computed here")
            .help("use at least one value of the computation"));
        }
        let path = label.clone().unwrap_or_else(|| frame.path.clone());
        let origin = self.origin(&path, span);
        let made =
            self.graph.op(Op::Pointwise { program }, &tensors, origin, Phase::Forward, frame.scope);
        let tensor = made.map_err(|error| self.mismatch(&error, &tensors, span))?[0];
        let result = match split {
            Some(head_dim) => {
                self.view(frame, View::SplitHeads { head_dim }, tensor, &path, span)?
            }
            None => tensor,
        };
        if let Some(label) = label {
            self.name(label, span)?;
            if let [operand] = tensors[..]
                && self.graph.ty(operand).shape.same_extents(&self.graph.ty(tensor).shape)
            {
                self.graph.bypassable.push(tensor.node);
            }
        }
        Ok(result)
    }

    /// How each operand meets the elements of the largest: as one of its shape, one row or a block of rows that repeats, one
    /// number for each row or for each of a block that repeats, or one number. A row as wide as all heads together meets
    /// them merged; then the width is given by which the result is split again.
    fn broadcast(
        &mut self,
        frame: &Frame,
        mut program: Program,
        operands: &[(Tensor, Span)],
        span: Span,
    ) -> Result<(Program, Vec<Tensor>, Option<u64>), Diagnostic> {
        let mut tensors: Vec<Tensor> = operands.iter().map(|(tensor, _)| *tensor).collect();
        // The first of the widest of those with the most axes.
        let Some(&(largest, largest_span)) = operands.iter().rev().max_by_key(|(tensor, _)| {
            let shape = &self.graph.ty(*tensor).shape;
            (shape.ndim(), shape.width())
        }) else {
            return Ok((program, tensors, None));
        };
        let shape = self.graph.ty(largest).shape.clone();
        let merged_width = match shape.0.as_slice() {
            [_, _, .., heads, dim] => heads.extent.checked_mul(dim.extent),
            _ => None,
        };
        let mut merged = false;
        for (at, &(tensor, used)) in operands.iter().enumerate() {
            let other = &self.graph.ty(tensor).shape;
            program.inputs[at] = if other.same_extents(&shape) {
                InputForm::Elements
            } else if other.ndim() == 0 {
                InputForm::Scalar
            } else if other.ends(&shape) {
                InputForm::Row
            } else if other.ndim() == 1 && Some(other.width()) == merged_width {
                merged = true;
                InputForm::Row
            } else if other.ends(&shape.with_width(Axis::anonymous(1))) {
                InputForm::Column
            } else {
                return Err(self.cannot_meet((largest, largest_span), (tensor, used)));
            };
        }
        if !merged {
            return Ok((program, tensors, None));
        }
        for at in 0..tensors.len() {
            let fits = match program.inputs[at] {
                InputForm::Elements | InputForm::Scalar => true,
                InputForm::Row => {
                    let other = &self.graph.ty(tensors[at]).shape;
                    other.ndim() == 1 && Some(other.width()) == merged_width
                }
                InputForm::Column => false,
            };
            if !fits {
                return Err(Diagnostic::error(
                    codes::SHAPE_MISMATCH,
                    "one expression combines a row over all heads with something for each head",
                )
                .at(operands[at].1, format!("this is {}", self.graph.ty(tensors[at]).shape))
                .at(largest_span, format!("this is {shape}"))
                .help("assign one of both steps to a name first"));
            }
            if program.inputs[at] == InputForm::Elements {
                tensors[at] = self.view(frame, View::MergeHeads, tensors[at], &frame.path, span)?;
            }
        }
        Ok((program, tensors, Some(shape.width())))
    }

    fn cannot_meet(&self, first: (Tensor, Span), other: (Tensor, Span)) -> Diagnostic {
        let made = |tensor: Tensor| self.graph.node(tensor.node).origin.span;
        let shape = |tensor: Tensor| self.graph.ty(tensor).shape.to_string();
        let mut diagnostic = Diagnostic::error(
            codes::SHAPE_MISMATCH,
            "values of different shapes cannot be combined element by element",
        );
        for (tensor, used) in [first, other] {
            diagnostic = diagnostic.at(used, format!("this is {}", shape(tensor)));
        }
        for (tensor, used) in [first, other] {
            if let Some(span) = made(tensor).filter(|span| *span != used) {
                diagnostic = diagnostic.at(span, format!("{} is made here", shape(tensor)));
            }
        }
        let calls = [made(first.0), made(other.0)].into_iter().flatten();
        self.blame_settings(diagnostic, calls).help(
            "make both the same, in the body or by the settings their sizes come from; a value meets any other that ends \
             with its axes, or with its axes but 1 in place of the innermost, a row as wide as all heads, and a single \
             number",
        )
    }

    /// The register of a part of a pointwise expression. The outermost part may carry a label: it is what the node is
    /// made for.
    fn fuse(
        &mut self,
        frame: &mut Frame,
        expr: &Expr,
        fused: &mut Fused,
        outermost: bool,
    ) -> Result<Register, Diagnostic> {
        if self.is_setting(frame, expr) {
            let value = self.number(frame, expr)?;
            return Ok(fused.builder.constant(value));
        }
        match &expr.kind {
            ExprKind::Unary { operator: UnaryOperator::Negate, operand } => {
                let operand = self.fuse(frame, operand, fused, false)?;
                Ok(fused.builder.unary(Unary::Negate, operand))
            }
            ExprKind::Binary { operator, left, right }
                if activation::arithmetic(*operator).is_some() =>
            {
                let function = activation::arithmetic(*operator).expect("matched by the guard");
                let a = self.fuse(frame, left, fused, false)?;
                let b = self.fuse(frame, right, fused, false)?;
                Ok(fused.builder.binary(function, a, b))
            }
            ExprKind::Binary {
                operator:
                    operator @ (BinaryOperator::Greater
                    | BinaryOperator::GreaterOrEqual
                    | BinaryOperator::Less
                    | BinaryOperator::LessOrEqual),
                left,
                right,
            } => {
                let a = self.fuse(frame, left, fused, false)?;
                let b = self.fuse(frame, right, fused, false)?;
                let compared = activation::comparison(*operator, &mut fused.builder, a, b);
                Ok(compared.expect("these four are comparisons"))
            }
            ExprKind::Call(call)
                if self.is_pointwise(&call.name.text) && (outermost || call.label.is_none()) =>
            {
                let name = call.name.text.as_str();
                let takes = activation::takes(name).unwrap_or(1..=1);
                let arguments = &call.arguments;
                let named = arguments.iter().any(|argument| argument.name.is_some());
                if named || !takes.contains(&arguments.len()) {
                    let wanted = activation::takes_in_words(&takes);
                    return Err(Diagnostic::error(
                        language_codes::ARGUMENTS,
                        format!("`{name}` takes {wanted} without names"),
                    )
                    .at(expr.span, "called here")
                    .help("write the values alone, in order"));
                }
                let mut registers = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    registers.push(self.fuse(frame, &argument.value, fused, false)?);
                }
                if activation::takes(name).is_some() {
                    return Ok(activation::apply(name, &mut fused.builder, &registers));
                }
                let program = named_activation(name, expr.span)?;
                Ok(fused.builder.inline(&program, &registers)[0])
            }
            ExprKind::Binary { operator: BinaryOperator::Remainder, .. }
            | ExprKind::Unary { .. } => {
                Err(Diagnostic::error(codes::OPERAND, "this operator is only for settings")
                    .at(expr.span, "applied to values")
                    .help("values know + - * / and the pointwise functions"))
            }
            _ => match self.expression(frame, expr)? {
                Bound::Tensor(tensor) => Ok(fused.input(tensor, expr.span)),
                Bound::Setting(value) => value
                    .as_number()
                    .map(|number| fused.builder.constant(number))
                    .ok_or_else(|| {
                        Diagnostic::error(
                            codes::OPERAND,
                            format!(
                                "arithmetic needs numbers or values, not {}",
                                value.type_name()
                            ),
                        )
                        .at(expr.span, format!("this is {value}"))
                        .help("use a number or a value of the computation")
                    }),
                Bound::Wrong => {
                    fused.wrong = true;
                    Ok(fused.builder.constant(0.0))
                }
                other => Err(Diagnostic::error(
                    codes::OPERAND,
                    format!("arithmetic needs numbers or values, not {}", other.describe()),
                )
                .at(expr.span, format!("this is {}", other.describe()))
                .help("use a number or a value of the computation")),
            },
        }
    }

    fn is_pointwise(&self, name: &str) -> bool {
        activation::takes(name).is_some() || activation::is_named(name)
    }
}

/// The program of an activation by its name.
pub(super) fn named_activation(name: &str, span: Span) -> Result<Program, Diagnostic> {
    activation::formula_of(name, span)?;
    // The formulas of the table have no place in a file; their errors would be ours, not the user's.
    Ok(Activation::parse(name, SourceId(0), 0)?.program())
}
