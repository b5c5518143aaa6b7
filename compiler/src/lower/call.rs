//! Operations of the language: what each adds to the graph.
//!
//! Owns the meaning of each operation's arguments. Must not know shape rules: those are in [`colac_plan::op::infer`].

use colac_plan::op::{Mask, Real, Scores, TypeError};
use colac_plan::parameter::Role;
use colac_plan::pointwise::{Binary, Builder, InputForm, Program};
use colac_plan::program::Phase;
use colac_plan::{DType, Op, Shape};

use crate::diagnostics::{Diagnostic, Span, did_you_mean};
use crate::graph::{ColaPermission, LinearSite, ParameterId, Value as Tensor, View};
use crate::language::expression::Value;
use crate::language::operations::{Operation, OperationKind, bind};
use crate::language::syntax::{Argument, Call, Expr, ExprKind};
use crate::lower::parameter::Parameter;
use crate::lower::pointwise::named_activation;
use crate::lower::regularize::refuse_attention_dropout;
use crate::lower::{Bound, Frame, Lowering, MOST_PRODUCTS, codes, too_large};

/// The arguments of a call, by the operation's parameters.
pub(super) struct Arguments<'a> {
    operation: &'static Operation,
    given: Vec<Option<&'a Expr>>,
}

impl<'a> Arguments<'a> {
    /// What was given for a parameter.
    pub(super) fn optional(&self, name: &str) -> Option<&'a Expr> {
        let at = self.operation.parameters.iter().position(|parameter| parameter.name == name)?;
        self.given[at]
    }

    /// What was given for a required parameter.
    pub(super) fn required(&self, name: &str) -> &'a Expr {
        self.optional(name).expect("a call without a required argument is refused before")
    }

    /// All that were given, in the order of the parameters.
    pub(super) fn given(&self) -> impl Iterator<Item = &'a Expr> {
        self.given.iter().copied().flatten()
    }
}

impl Lowering<'_> {
    /// A call of an operation.
    pub(super) fn operation(
        &mut self,
        frame: &mut Frame,
        operation: &'static Operation,
        call: &Call,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let parameters: Vec<(&str, bool)> =
            operation.parameters.iter().map(|p| (p.name, p.required)).collect();
        let bound = bind(call, span, &parameters)?;
        let arguments = self.arguments(frame, operation, &bound)?;
        let label = call.label.as_ref().map(|label| frame.join(&label.text));
        let path = label.clone().unwrap_or_else(|| frame.path.clone());
        if operation.kind == OperationKind::Parameter {
            self.name(path.clone(), span)?;
            return self.learned(frame, &arguments, &path, span);
        }
        let first = operation.parameters[0].name;
        let Some(x) = self.tensor(frame, arguments.required(first))? else {
            return Ok(Bound::Wrong);
        };
        // A pointwise node takes its path itself.
        if operation.kind != OperationKind::Activation
            && let Some(label) = &label
        {
            self.name(label.clone(), span)?;
        }
        let result = match operation.kind {
            OperationKind::Linear => return self.linear(frame, &arguments, x, path, span),
            OperationKind::Embedding => return self.embedding(frame, &arguments, x, path, span),
            OperationKind::RmsNorm => return self.rms_norm(frame, &arguments, x, &path, span),
            OperationKind::LayerNorm => {
                return self.layer_norm(frame, &arguments, x, &path, span);
            }
            OperationKind::Positions => self.positions(x, span)?,
            OperationKind::Sinusoids => self.sinusoids(frame, &arguments, x, &path, span)?,
            OperationKind::Dropout => self.dropout(frame, &arguments, x, &path, span)?,
            OperationKind::Activation => {
                let Some(program) = self.activation(frame, arguments.required("kind"))? else {
                    return Ok(Bound::Tensor(x));
                };
                let operand = (x, arguments.required("x").span);
                return self
                    .pointwise_node(frame, program, &[operand], label, span)
                    .map(Bound::Tensor);
            }
            OperationKind::Sum => self.op(frame, Op::RowSum { mean: false }, &[x], &path, span)?,
            OperationKind::Mean => self.op(frame, Op::RowSum { mean: true }, &[x], &path, span)?,
            OperationKind::Softmax => self.op(frame, Op::Softmax, &[x], &path, span)?,
            OperationKind::Rope => self.rope(frame, &arguments, x, &path, span)?,
            OperationKind::Heads => {
                let head_dim = self.extent(frame, arguments.required("head_dim"))?;
                self.view(frame, View::SplitHeads { head_dim }, x, &path, span)?
            }
            OperationKind::MergeHeads => self.view(frame, View::MergeHeads, x, &path, span)?,
            OperationKind::Parameter => unreachable!("it has no operand and is made before"),
            OperationKind::Slice => self.slice(frame, &arguments, x, &path, span)?,
            OperationKind::Concat => match self.concat(frame, &arguments, &path, span)? {
                Some(result) => result,
                None => return Ok(Bound::Wrong),
            },
            OperationKind::RepeatHeads => self.repeat_heads(frame, &arguments, x, &path, span)?,
            OperationKind::Shift => self.shift(frame, &arguments, x, &path, span)?,
            OperationKind::SoftmaxAttention => {
                let Some(result) = self.attention(frame, &arguments, x, &path, span)? else {
                    return Ok(Bound::Wrong);
                };
                result
            }
        };
        Ok(Bound::Tensor(result))
    }

    /// What a call gives for each parameter: a branch of a conditional, nothing where no branch holds, and nothing where
    /// the argument of a block that was not given is handed on.
    fn arguments<'a>(
        &mut self,
        frame: &Frame,
        operation: &'static Operation,
        bound: &[Option<&'a Argument>],
    ) -> Result<Arguments<'a>, Diagnostic> {
        let mut given = Vec::with_capacity(bound.len());
        for (parameter, argument) in operation.parameters.iter().zip(bound) {
            let mut value = argument.map(|argument| &argument.value);
            while let Some(Expr {
                kind: ExprKind::Conditional { value: then, condition, otherwise },
                ..
            }) = value
            {
                let holds = self.condition(frame, condition)?;
                value = if holds { Some(&**then) } else { otherwise.as_deref() };
            }
            if let Some(Expr { kind: ExprKind::Name(path), .. }) = value
                && let Some((_, Bound::Absent)) =
                    frame.names.iter().rev().find(|(known, _)| *known == path.text)
            {
                value = None;
            }
            if let (true, Some(argument), None) = (parameter.required, argument, value) {
                return Err(Diagnostic::error(
                    crate::language::codes::ABSENT,
                    format!(
                        "`{}` needs `{}`, but its condition is false",
                        operation.name, parameter.name
                    ),
                )
                .at(argument.value.span, "absent")
                .help("say what it is otherwise: `a if condition else b`"));
            }
            given.push(value);
        }
        Ok(Arguments { operation, given })
    }

    pub(super) fn op(
        &mut self,
        frame: &Frame,
        op: Op,
        operands: &[Tensor],
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let origin = self.origin(path, span);
        let made = self.graph.op(op, operands, origin, Phase::Forward, frame.scope);
        made.map(|results| results[0]).map_err(|error| self.mismatch(&error, operands, span))
    }

    pub(super) fn view(
        &mut self,
        frame: &Frame,
        view: View,
        operand: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Tensor, Diagnostic> {
        let origin = self.origin(path, span);
        let made = self.graph.view(view, operand, origin, Phase::Forward, frame.scope);
        made.map_err(|error| self.mismatch(&error, &[operand], span))
    }

    /// The shape of a real operand with at least one axis; the others are refused before a parameter is made for them.
    pub(super) fn rows(
        &self,
        x: Tensor,
        op: &'static str,
        expected: &'static str,
        span: Span,
    ) -> Result<Shape, Diagnostic> {
        let ty = self.graph.ty(x);
        if !ty.dtype.is_float() {
            let error = TypeError::ElementFormat {
                op,
                operand: 0,
                expected: "a real number",
                found: ty.dtype,
            };
            return Err(self.mismatch(&error, &[x], span));
        }
        if ty.shape.ndim() == 0 {
            let error = TypeError::Form { op, operand: 0, expected, found: ty.shape.clone() };
            return Err(self.mismatch(&error, &[x], span));
        }
        Ok(ty.shape.clone())
    }

    fn linear(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        x: Tensor,
        path: String,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let shape = self.rows(x, "linear", "[.., in]", span)?;
        let inputs = shape.width();
        let outputs = self.extent(frame, arguments.required("out"))?;
        let products =
            shape.elements().checked_mul(outputs).filter(|&products| products <= MOST_PRODUCTS);
        if products.is_none() {
            return Err(too_large(span, "a product of more than 2^56 multiplications"));
        }
        self.check_size(&[shape.rows(), outputs], span)?;
        let shared = match arguments.optional("weight") {
            Some(label) => self.shared_weight(frame, label)?,
            None => None,
        };
        let (weight, tensor) = match shared {
            Some((weight, tensor, label)) => {
                let rows = self.graph.ty(tensor).shape.0[0].extent;
                if rows != outputs {
                    let made = self.graph.node(tensor.node).origin.span;
                    let mut diagnostic = Diagnostic::error(
                        codes::SHAPE_MISMATCH,
                        format!(
                            "the shared weight has {rows} rows, but {outputs} outputs are wanted"
                        ),
                    )
                    .at(arguments.required("out").span, format!("wants {outputs}"))
                    .at(label, "shares this weight");
                    if let Some(made) = made {
                        diagnostic = diagnostic
                            .at(made, format!("its weight is {}", self.graph.ty(tensor).shape));
                    }
                    return Err(diagnostic.help("make both the same size"));
                }
                (weight, tensor)
            }
            None => self.parameter(
                frame,
                &Parameter {
                    path: &path,
                    tensor: "weight",
                    kind: "linear",
                    extents: &[outputs, inputs],
                    role: Role::Matrix,
                    default: None,
                    init: arguments.optional("init"),
                    features: (inputs, outputs),
                    span,
                },
            )?,
        };
        let y = self.op(frame, Op::Linear, &[x, tensor], &path, span)?;
        let permission = match arguments.optional("cola") {
            Some(_) => ColaPermission::Never("declared `cola = never` by the architecture".into()),
            None => ColaPermission::Allowed,
        };
        self.add_site(LinearSite {
            path: path.clone(),
            node: y.node,
            further: Vec::new(),
            weight,
            permission,
            span: Some(span),
        });
        self.set_weight(&path, (weight, tensor));
        let has_bias = match arguments.optional("bias") {
            Some(condition) => self.condition(frame, condition)?,
            None => false,
        };
        if !has_bias {
            return Ok(Bound::Tensor(y));
        }
        let (_, bias) = self.parameter(
            frame,
            &Parameter {
                path: &path,
                tensor: "bias",
                kind: "bias",
                extents: &[outputs],
                role: Role::Vector,
                default: Some(0.0),
                init: None,
                features: (inputs, outputs),
                span,
            },
        )?;
        self.op(frame, Op::Pointwise { program: add_row() }, &[y, bias], &path, span)
            .map(Bound::Tensor)
    }

    /// Lists a linear; in a later turn of a repeat that shares its parameters it is the linear of the first turn again.
    fn add_site(&mut self, site: LinearSite) {
        let again = |known: &&mut LinearSite| {
            self.replaying > 0 && known.weight == site.weight && known.path == site.path
        };
        match self.graph.linears.iter_mut().rev().find(again) {
            Some(known) => known.further.push(site.node),
            None => self.graph.linears.push(site),
        }
    }

    /// The weight that a label names, seen from here: in this path, or one around it. `None` if the condition is false.
    fn shared_weight(
        &mut self,
        frame: &Frame,
        expr: &Expr,
    ) -> Result<Option<(ParameterId, Tensor, Span)>, Diagnostic> {
        let label = match &expr.kind {
            ExprKind::Name(path) => path,
            ExprKind::Conditional { value, condition, otherwise } => {
                return if self.condition(frame, condition)? {
                    self.shared_weight(frame, value)
                } else {
                    otherwise
                        .as_ref()
                        .map_or(Ok(None), |otherwise| self.shared_weight(frame, otherwise))
                };
            }
            _ => return Err(self.no_label("", expr.span)),
        };
        let mut around = Some(frame.path.as_str());
        while let Some(path) = around {
            let full =
                if path.is_empty() { label.text.clone() } else { format!("{path}.{}", label.text) };
            if let Some((weight, tensor)) =
                self.paths.get(&full).and_then(|labelled| labelled.weight)
            {
                return Ok(Some((weight, tensor, label.span)));
            }
            around =
                (!path.is_empty()).then(|| path.rsplit_once('.').map_or("", |(outer, _)| outer));
        }
        Err(self.no_label(&label.text, label.span))
    }

    fn no_label(&self, label: &str, span: Span) -> Diagnostic {
        let known = self
            .paths
            .iter()
            .filter(|(_, labelled)| labelled.weight.is_some())
            .map(|(path, _)| path.as_str());
        let otherwise =
            || "share the weight of an `embedding` or `linear` that stands before".to_owned();
        Diagnostic::error(
            codes::UNKNOWN_WEIGHT,
            format!("no operation with a weight is called `{label}` before this one"),
        )
        .at(span, "no such weight here")
        .help(did_you_mean(label, known, otherwise))
    }

    fn embedding(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        ids: Tensor,
        path: String,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let rows = self.extent(frame, arguments.required("rows"))?;
        let width = self.extent(frame, arguments.required("width"))?;
        let ty = self.graph.ty(ids);
        if ty.dtype != DType::I32 {
            let error = TypeError::ElementFormat {
                op: "embedding",
                operand: 0,
                expected: "ids",
                found: ty.dtype,
            };
            return Err(self.mismatch(&error, &[ids], span));
        }
        self.check_size(&[ty.shape.elements(), width], span)?;
        self.check_positions(ids, rows, arguments.required("rows").span, span)?;
        let table = self.parameter(
            frame,
            &Parameter {
                path: &path,
                tensor: "weight",
                kind: "embedding",
                extents: &[rows, width],
                role: Role::Embedding,
                default: None,
                init: arguments.optional("init"),
                features: (rows, width),
                span,
            },
        )?;
        let y = self.op(frame, Op::Embedding, &[ids, table.1], &path, span)?;
        self.set_weight(&path, table);
        Ok(Bound::Tensor(y))
    }

    fn attention(
        &mut self,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        q: Tensor,
        path: &str,
        span: Span,
    ) -> Result<Option<Tensor>, Diagnostic> {
        let k = self.tensor(frame, arguments.required("k"))?;
        let v = self.tensor(frame, arguments.required("v"))?;
        let (Some(k), Some(v)) = (k, v) else { return Ok(None) };
        let written = arguments.required("mask");
        let mask = match self.expression(frame, written)? {
            Bound::Mask(mask) => mask,
            Bound::Wrong => return Ok(None),
            other => {
                return Err(Diagnostic::error(
                    codes::OPERAND,
                    format!("a mask is needed here, not {}", other.describe()),
                )
                .at(written.span, "not a mask")
                .help("write causal, full or window(n)"));
            }
        };
        let shape = self.graph.ty(q).shape.clone();
        let [.., positions, heads, head_dim] = shape.0.as_slice() else {
            let expected = "[batch, seq, heads, head_dim]";
            let error = TypeError::Form { op: "attention", operand: 0, expected, found: shape };
            return Err(self.mismatch(&error, &[q], span));
        };
        let rows = [shape.rows(), head_dim.extent, positions.extent, heads.extent];
        if rows[..3]
            .iter()
            .try_fold(1u64, |product, &e| product.checked_mul(e))
            .is_none_or(|p| p > MOST_PRODUCTS)
        {
            return Err(too_large(span, "a product of more than 2^56 multiplications"));
        }
        if let Some(written) = arguments.optional("dropout") {
            let probability = self.number(frame, written)?;
            refuse_attention_dropout(probability, written.span)?;
        }
        let scale = match arguments.optional("scale") {
            Some(scale) => self.number(frame, scale)?,
            None => 1.0 / (head_dim.extent as f64).sqrt(),
        };
        // A window over the whole row is the causal mask; one form lets equal work be seen as equal.
        let mask = match mask {
            Mask::Window(width) if u64::from(width) >= positions.extent => Mask::Causal,
            other => other,
        };
        let softcap = match arguments.optional("softcap") {
            Some(cap) => self.softcap(frame, cap)?,
            None => None,
        };
        let alibi = match arguments.optional("alibi") {
            Some(condition) => self.condition(frame, condition)?,
            None => false,
        };
        let scores = Scores { softcap, alibi, ..Scores::new(mask, Real::new(scale)) };
        let op = Op::Attention { scores };
        self.op(frame, op, &[q, k, v], path, span).map(Some)
    }

    /// The cap of attention's scores; `None` for 0.
    fn softcap(&mut self, frame: &Frame, written: &Expr) -> Result<Option<Real>, Diagnostic> {
        let cap = self.number(frame, written)?;
        if cap < 0.0 {
            return Err(Diagnostic::error(
                codes::OPERAND,
                format!("scores cannot be capped at {cap}"),
            )
            .at(written.span, "must not be negative")
            .help("write a positive number such as 50, or 0 for no cap"));
        }
        Ok((cap > 0.0).then(|| Real::new(cap)))
    }

    /// The program of an activation; `None` for one that changes nothing.
    fn activation(
        &mut self,
        frame: &mut Frame,
        kind: &Expr,
    ) -> Result<Option<Program>, Diagnostic> {
        let name = match self.expression(frame, kind)? {
            Bound::Setting(Value::Text(name)) => name,
            other => {
                return Err(Diagnostic::error(
                    codes::OPERAND,
                    format!("the name of an activation is needed here, not {}", other.describe()),
                )
                .at(kind.span, "not a name")
                .help("write a setting such as hidden_act, or a text such as \"silu\""));
            }
        };
        if name == "identity" {
            return Ok(None);
        }
        named_activation(&name, kind.span).map(Some)
    }
}

/// `a + row`.
pub(super) fn add_row() -> Program {
    let mut builder = Builder::new();
    let (a, row) = (builder.input(InputForm::Elements), builder.input(InputForm::Row));
    let sum = builder.binary(Binary::Add, a, row);
    builder.finish(&[(sum, DType::F32)])
}
