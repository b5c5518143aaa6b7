//! Adds the backward graph: for every forward operation, in reverse order, the operations that turn the gradient of its
//! results into the gradients of its operands.
//!
//! ```text
//! forward   %1 = linear %0, @w
//! added     %2 = linear_backward_weight %d1, %0      gradient of @w
//!           %3 = linear_backward_input %d1, @w       gradient of %0
//! ```
//!
//! The loss becomes [`Op::HeadLossWithGradient`], which makes its gradient on the spot: legal because the loss feeds
//! nothing but the objective's sum, with a scale that is known before it runs. What a rule reads of the forward pass is
//! what lives until the backward pass; nothing else is kept.
//!
//! Assumes: a verified forward graph whose outputs hold the loss. Guarantees: every parameter that the loss depends on
//! has at least one [`Output::Gradient`]; the gradient of any other value is stored as the value is, whatever the formats
//! that it was computed from; every added node is in the backward phase and carries path, span and scope of
//! the forward node it belongs to.

mod pointwise;

use std::collections::BTreeMap;

use colac_plan::op::LogitTransform;
use colac_plan::parameter::ConstantContent;
use colac_plan::pointwise::{InputForm, Program};
use colac_plan::program::Phase;
use colac_plan::{DType, Op, Shape, TensorType};

use crate::diagnostics::Diagnostic;
use crate::graph::{Graph, Input, NodeId, NodeKind, Origin, Output, ParameterId, Value, View};
use crate::passes::codes;

const PASS: &str = "autodiff";

/// Differentiates the loss with respect to every parameter.
///
/// # Errors
/// `autodiff::no_derivative` if the model uses a value in a way that has no rule.
pub fn run(graph: &mut Graph) -> Result<(), Diagnostic> {
    let order = graph.order();
    let mut state = Backward {
        depends: depends_on_parameters(graph, &order),
        gradients: BTreeMap::new(),
        slices: BTreeMap::new(),
        graph,
    };
    for &id in order.iter().rev() {
        state.node(id)?;
    }
    Ok(())
}

/// Which nodes depend on a parameter, by node.
fn depends_on_parameters(graph: &Graph, order: &[NodeId]) -> Vec<bool> {
    let mut depends = vec![false; graph.id_bound()];
    for &id in order {
        depends[id.0 as usize] = matches!(graph.node(id).kind, NodeKind::Parameter(_))
            || graph.operands(id).iter().any(|v| depends[v.node.0 as usize]);
    }
    depends
}

struct Backward<'g> {
    graph: &'g mut Graph,
    depends: Vec<bool>,
    /// Contributions to the gradient of a forward value, in the order in which they were made.
    gradients: BTreeMap<Value, Vec<Value>>,
    /// Contributions to parts of the rows of a forward value: where each begins, its width, and the gradient.
    slices: BTreeMap<Value, Vec<(u64, u64, Value)>>,
}

/// Most values that one operation adds or joins.
const MOST_PARTS: usize = 64;

impl Backward<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), Diagnostic> {
        if !self.depends[id.0 as usize] {
            return Ok(());
        }
        let kind = self.graph.node(id).kind.clone();
        let operands = self.graph.operands(id);
        match kind {
            NodeKind::Input(_) | NodeKind::Constant(_) => Ok(()),
            NodeKind::Parameter(parameter) => self.read_by_elements(id, parameter),
            NodeKind::View(view) => {
                let Some(d) = self.gradient(id, 0) else { return Ok(()) };
                let inverse = match view {
                    View::SplitHeads { .. } => View::MergeHeads,
                    View::MergeHeads => {
                        View::SplitHeads { head_dim: self.graph.ty(operands[0]).shape.width() }
                    }
                    View::Columns { start, length } => {
                        self.sliced(operands[0], start, length, d);
                        return Ok(());
                    }
                    View::Join => {
                        return Err(
                            self.unsupported(id, "a join stands where operations are placed")
                        );
                    }
                };
                let (origin, scope) = self.place(id);
                let dx = self.graph.view(inverse, d, origin, Phase::Backward, scope);
                self.contribute(operands[0], dx.expect("a view can be undone"));
                Ok(())
            }
            NodeKind::Op(Op::HeadLoss { chunk, bias: _, transform }) => {
                self.loss(id, chunk, transform, &operands)
            }
            NodeKind::Op(op) => self.operation(id, &op, &operands),
        }
    }

    /// The loss and its gradient replace the loss.
    fn loss(
        &mut self,
        id: NodeId,
        chunk: u32,
        transform: Option<Program>,
        operands: &[Value],
    ) -> Result<(), Diagnostic> {
        let loss = Value::of(id);
        if self.graph.output(Output::Loss) != Some(loss) || !self.graph.uses(loss).is_empty() {
            return Err(
                self.unsupported(id, "the loss must be the model's result and feed nothing else")
            );
        }
        let (origin, scope) = self.place(id);
        let ty = TensorType::new(DType::F32, Shape::scalar());
        let scale = Origin { path: "loss_scale".into(), span: None, pass: PASS };
        let scale = self.graph.input(Input::LossScale, ty, scale);
        let transform = match transform {
            Some(function) => {
                let Some(derivative) = pointwise::derive(&function, &[0]) else {
                    return Err(self.unsupported(id, "the logits do not depend on the model"));
                };
                Some(LogitTransform { function, derivative: derivative.program })
            }
            None => None,
        };
        let bias = operands.get(3).copied();
        let op = Op::HeadLossWithGradient { chunk, bias: bias.is_some(), transform };
        let mut operands = vec![operands[0], operands[1], operands[2], scale];
        operands.extend(bias);
        let results = self.graph.op(op, &operands, origin, Phase::Forward, scope);
        let results = results.expect("takes what the loss without gradient takes, and a scale");
        self.graph.replace(loss, results[0]);
        self.graph.remove(id);
        self.contribute(operands[0], results[1]);
        if let Some(bias) = bias {
            self.weight_gradient(id, bias, results[3])?;
        }
        self.weight_gradient(id, operands[1], results[2])
    }

    /// The gradient of a parameter that is read as a value, like a row that something is computed from. Only operations
    /// that sum may add to what is there already.
    fn read_by_elements(&mut self, id: NodeId, parameter: ParameterId) -> Result<(), Diagnostic> {
        let Some(d) = self.gradient(id, 0) else { return Ok(()) };
        let sum = match self.graph.ty(d).shape.ndim() {
            0 => self.add(id, Op::Sum, &[d])[0],
            1 => self.add(id, Op::ColumnSum, &[d])[0],
            2 => self.table_gradient(id, d),
            _ => {
                let reason = "only tables, rows and numbers may be read as values";
                return Err(self.unsupported(id, reason));
            }
        };
        self.graph.add_output(Output::Gradient(parameter), sum);
        Ok(())
    }

    /// The gradient of a table `[rows, width]` of which each row met the rows of `gradient` at its place: the table was
    /// read at the ids 0, 1, 2 …
    fn table_gradient(&mut self, id: NodeId, gradient: Value) -> Value {
        let shape = self.graph.ty(gradient).shape.clone();
        let rows = shape.0[shape.ndim() - 2].extent;
        let ids = TensorType::new(DType::I32, Shape(shape.leading().to_vec()));
        let (origin, _) = self.place(id);
        let ids = self.graph.constant(ConstantContent::Positions, ids, origin);
        self.add(id, Op::EmbeddingBackward { rows }, &[ids, gradient])[0]
    }

    fn operation(&mut self, id: NodeId, op: &Op, operands: &[Value]) -> Result<(), Diagnostic> {
        if let Op::Pointwise { program } = op {
            return self.pointwise(id, program, operands);
        }
        let Some(d) = self.gradient(id, 0) else { return Ok(()) };
        let forward = |result| Value { node: id, result };
        match op {
            Op::Linear => {
                let dw = self.add(id, Op::LinearBackwardWeight, &[d, operands[0]])[0];
                self.weight_gradient(id, operands[1], dw)?;
                if self.wanted(operands[0]) {
                    let dx = self.add(id, Op::LinearBackwardInput, &[d, operands[1]])[0];
                    self.contribute(operands[0], dx);
                }
            }
            Op::Embedding => {
                let rows = self.graph.ty(operands[1]).shape.0[0].extent;
                let dw = self.add(id, Op::EmbeddingBackward { rows }, &[operands[0], d])[0];
                self.weight_gradient(id, operands[1], dw)?;
            }
            Op::RmsNorm { prologue: Some(_), .. } | Op::LayerNorm { prologue: Some(_), .. } => {
                return Err(self.unsupported(id, "a norm has no prologue before its derivative"));
            }
            Op::RmsNorm { gain, .. } => {
                let mut read = vec![d];
                read.extend(operands);
                read.push(forward(1));
                let back = Op::RmsNormBackward { gain: *gain, epilogue: None };
                let results = self.add(id, back, &read);
                self.norm(id, operands, &results)?;
            }
            Op::LayerNorm { gain, bias, .. } => {
                let mut read = vec![d];
                read.extend(&operands[..1 + usize::from(*gain)]);
                read.extend([forward(1), forward(2)]);
                let back = Op::LayerNormBackward { gain: *gain, bias: *bias, epilogue: None };
                let results = self.add(id, back, &read);
                self.norm(id, operands, &results)?;
            }
            Op::RowSum { mean } => {
                let width = self.graph.ty(operands[0]).shape.width();
                let program = Program::spread(if *mean { 1.0 / width as f64 } else { 1.0 });
                let dx = self.compute(id, program, &[operands[0], d], operands[0]);
                self.contribute(operands[0], dx);
            }
            Op::Softmax => {
                let products = self.compute(id, Program::product(), &[forward(0), d], d);
                let sums = self.add(id, Op::RowSum { mean: false }, &[products])[0];
                let program = Program::softmax_gradient();
                let dx = self.compute(id, program, &[forward(0), d, sums], operands[0]);
                self.contribute(operands[0], dx);
            }
            Op::Dropout { .. } => {
                let dx = self.add(id, op.clone(), &[d, operands[1]])[0];
                self.contribute(operands[0], dx);
            }
            Op::Rope { inverse, interleaved } => {
                let back = Op::Rope { inverse: !inverse, interleaved: *interleaved };
                let dx = self.add(id, back, &[d, operands[1], operands[2]])[0];
                self.contribute(operands[0], dx);
            }
            Op::Attention { scores } => {
                let back = Op::AttentionBackward { scores: *scores, turned_back: None };
                let read = [d, operands[0], operands[1], operands[2], forward(0), forward(1)];
                let results = self.add(id, back, &read);
                for (&operand, &gradient) in operands.iter().zip(&results) {
                    self.contribute(operand, gradient);
                }
            }
            Op::Slice { start, length } => self.sliced(operands[0], *start, *length, d),
            Op::Concat { starts, .. } => {
                for (&start, &operand) in starts.iter().zip(operands) {
                    if self.wanted(operand) {
                        let length = self.graph.ty(operand).shape.width();
                        let part = self.add(id, Op::Slice { start, length }, &[d])[0];
                        self.contribute(operand, part);
                    }
                }
            }
            Op::Shift { by } => {
                let Some(by) = by.checked_neg() else {
                    return Err(self.unsupported(id, "this shift cannot be undone"));
                };
                let dx = self.add(id, Op::Shift { by }, &[d])[0];
                self.contribute(operands[0], dx);
            }
            Op::Pointwise { .. }
            | Op::HeadLoss { .. }
            | Op::HeadLossWithGradient { .. }
            | Op::LinearBackwardInput
            | Op::LinearBackwardWeight
            | Op::EmbeddingBackward { .. }
            | Op::RmsNormBackward { .. }
            | Op::LayerNormBackward { .. }
            | Op::AttentionBackward { .. }
            | Op::ColumnSum
            | Op::Sum
            | Op::GradientNorm
            | Op::AdamW { .. } => {
                return Err(
                    self.unsupported(id, "this operation has no derivative in a forward graph")
                );
            }
        }
        Ok(())
    }

    /// Gradients of a norm's operands: first the value's, then those of its vectors.
    fn norm(
        &mut self,
        id: NodeId,
        operands: &[Value],
        gradients: &[Value],
    ) -> Result<(), Diagnostic> {
        for (&vector, &gradient) in operands.iter().zip(gradients).skip(1) {
            self.weight_gradient(id, vector, gradient)?;
        }
        self.contribute(operands[0], gradients[0]);
        Ok(())
    }

    fn pointwise(
        &mut self,
        id: NodeId,
        program: &Program,
        operands: &[Value],
    ) -> Result<(), Diagnostic> {
        let wanted: Vec<usize> =
            (0..operands.len()).filter(|&i| self.wanted(operands[i])).collect();
        let seeds: Vec<Option<Value>> =
            (0..program.outputs.len()).map(|r| self.gradient(id, r as u16)).collect();
        // Outputs that nothing reads have no gradient: differentiate the program without them.
        let mut read = program.clone();
        let mut outputs = seeds.iter();
        read.outputs.retain(|_| outputs.next().is_some_and(Option::is_some));
        let seeds: Vec<Value> = seeds.into_iter().flatten().collect();
        if seeds.is_empty() {
            return Ok(());
        }
        let Some(mut derivative) = pointwise::derive(&read, &wanted) else { return Ok(()) };
        // The gradient of an operand of the results' shape is stored as the operand; what is summed up for another one
        // is a value between operations like the gradients of the results.
        for (&input, position) in wanted.iter().zip(&derivative.position) {
            let Some(position) = *position else { continue };
            let like = match program.inputs[input] {
                InputForm::Elements => operands[input],
                InputForm::Row | InputForm::Column | InputForm::Scalar => seeds[0],
            };
            derivative.program.outputs[position].dtype = self.graph.ty(like).dtype;
        }
        let mut inputs = operands.to_vec();
        inputs.extend(&seeds);
        // A gradient handed through unchanged needs no operation.
        let handed: Vec<Option<Value>> = (0..derivative.program.outputs.len())
            .map(|output| {
                let register = derivative.program.outputs[output].register;
                match derivative.program.instructions[register as usize] {
                    colac_plan::pointwise::Instruction::Input(n)
                        if n as usize >= operands.len() =>
                    {
                        Some(inputs[n as usize])
                    }
                    _ => None,
                }
            })
            .collect();
        let mut computed = derivative.program.clone();
        let mut outputs = handed.iter();
        computed.outputs.retain(|_| outputs.next().is_some_and(Option::is_none));
        let mut results = if computed.outputs.is_empty() {
            Vec::new()
        } else {
            let (program, kept) = compact(&computed);
            let read: Vec<Value> = kept.iter().map(|&i| inputs[i]).collect();
            self.add(id, Op::Pointwise { program }, &read)
        }
        .into_iter();
        let gradients: Vec<Value> = handed
            .into_iter()
            .map(|handed| {
                handed.unwrap_or_else(|| {
                    results.next().expect("one result for each computed gradient")
                })
            })
            .collect();
        for (&input, position) in wanted.iter().zip(derivative.position) {
            let Some(gradient) = position.map(|p| gradients[p]) else { continue };
            match program.inputs[input] {
                InputForm::Elements => self.contribute(operands[input], gradient),
                InputForm::Row => self.sum_over_rows(id, gradient, operands[input]),
                InputForm::Column => {
                    let sum = self.add(id, Op::RowSum { mean: false }, &[gradient])[0];
                    let (found, wanted) =
                        (self.graph.ty(sum).shape.clone(), &self.graph.ty(operands[input]).shape);
                    if found.same_extents(wanted) {
                        self.contribute(operands[input], sum);
                    } else if wanted.ends(&found) {
                        self.sum_over_rows(id, sum, operands[input]);
                    } else {
                        return Err(self.unsupported(id, "a statistic of rows has no derivative"));
                    }
                }
                InputForm::Scalar => {
                    let sum = self.add(id, Op::Sum, &[gradient])[0];
                    self.summed_gradient(operands[input], sum);
                }
            }
        }
        Ok(())
    }

    /// The gradient of a value whose shape are the last axes of those of `gradient`: its sum over the axes before. They
    /// are merged to rows of all that is summed, and what comes out is split again.
    fn sum_over_rows(&mut self, id: NodeId, gradient: Value, value: Value) {
        let axes = self.graph.ty(value).shape.extents();
        let (origin, scope) = self.place(id);
        if let ([_, _], NodeKind::Parameter(_)) = (&axes[..], &self.graph.node(value.node).kind) {
            let sum = self.table_gradient(id, gradient);
            return self.summed_gradient(value, sum);
        }
        let mut merged = gradient;
        for _ in 1..axes.len() {
            let made =
                self.graph.view(View::MergeHeads, merged, origin.clone(), Phase::Backward, scope);
            merged = made.expect("the value has fewer axes than the gradient");
        }
        let mut sum = self.add(id, Op::ColumnSum, &[merged])[0];
        if let [_] = axes[..] {
            return self.summed_gradient(value, sum);
        }
        for axis in 1..axes.len() {
            let head_dim = axes[axis..].iter().product();
            let view = View::SplitHeads { head_dim };
            let made = self.graph.view(view, sum, origin.clone(), Phase::Backward, scope);
            sum = made.expect("the axes divide their product");
        }
        self.contribute(value, sum);
    }

    /// A gradient made by an operation that may add to what is there: of a parameter an output of the graph, of a computed
    /// value a contribution as any other.
    fn summed_gradient(&mut self, value: Value, gradient: Value) {
        match self.graph.node(value.node).kind {
            NodeKind::Parameter(parameter) => {
                self.graph.add_output(Output::Gradient(parameter), gradient);
            }
            _ => {
                let format = self.graph.ty(value).dtype;
                self.graph.set_result_storage(gradient, format);
                self.contribute(value, gradient);
            }
        }
    }

    /// The gradient of a parameter is an output of the graph.
    fn weight_gradient(
        &mut self,
        id: NodeId,
        weight: Value,
        gradient: Value,
    ) -> Result<(), Diagnostic> {
        let NodeKind::Parameter(parameter) = self.graph.node(weight.node).kind else {
            return Err(self.unsupported(id, "a weight must be a parameter, not a computed value"));
        };
        let parameter: ParameterId = parameter;
        self.graph.add_output(Output::Gradient(parameter), gradient);
        Ok(())
    }

    /// Whether anything depends on this value's gradient.
    fn wanted(&self, value: Value) -> bool {
        self.depends[value.node.0 as usize]
    }

    fn contribute(&mut self, value: Value, gradient: Value) {
        if self.wanted(value) {
            self.gradients.entry(value).or_default().push(gradient);
        }
    }

    /// A contribution to some columns of a value's gradient.
    fn sliced(&mut self, value: Value, start: u64, length: u64, gradient: Value) {
        if self.wanted(value) {
            self.slices.entry(value).or_default().push((start, length, gradient));
        }
    }

    /// The sum of all contributions to the gradient of a node's result, stored as the result is.
    fn gradient(&mut self, id: NodeId, result: u16) -> Option<Value> {
        let value = Value { node: id, result };
        let mut contributions = self.gradients.remove(&value).unwrap_or_default();
        contributions.extend(self.joined_slices(value));
        while contributions.len() > 1 {
            let mut sums = Vec::with_capacity(contributions.len().div_ceil(MOST_PARTS));
            for some in contributions.chunks(MOST_PARTS) {
                if let [single] = some {
                    sums.push(*single);
                    continue;
                }
                sums.push(self.compute(id, Program::sum(some.len()), some, value));
            }
            contributions = sums;
        }
        let gradient = contributions.pop()?;
        match self.graph.ty(gradient).dtype == self.graph.ty(value).dtype {
            true => Some(gradient),
            false => Some(self.compute(id, Program::sum(1), &[gradient], value)),
        }
    }

    /// Gradients of slices side by side: those that do not overlap become one value, with zeros where none is.
    fn joined_slices(&mut self, value: Value) -> Vec<Value> {
        let mut parts = self.slices.remove(&value).unwrap_or_default();
        parts.sort_by_key(|&(start, ..)| start);
        let width = self.graph.ty(value).shape.width();
        let mut groups: Vec<Vec<(u64, u64, Value)>> = Vec::new();
        for part in parts {
            let fits = |group: &&mut Vec<(u64, u64, Value)>| {
                let end = group.last().map_or(0, |(start, length, _)| start + length);
                end <= part.0 && group.len() < MOST_PARTS
            };
            match groups.iter_mut().find(fits) {
                Some(group) => group.push(part),
                None => groups.push(vec![part]),
            }
        }
        let join = |group: Vec<(u64, u64, Value)>| {
            let starts = group.iter().map(|(start, ..)| *start).collect();
            let parts: Vec<Value> = group.into_iter().map(|(.., part)| part).collect();
            self.add(value.node, Op::Concat { width, starts }, &parts)[0]
        };
        groups.into_iter().map(join).collect()
    }

    fn add(&mut self, id: NodeId, op: Op, operands: &[Value]) -> Vec<Value> {
        let (origin, scope) = self.place(id);
        let results = self.graph.op(op, operands, origin, Phase::Backward, scope);
        results.expect("a derivative takes the types that its operation gives")
    }

    /// A program of one result, stored as `like` is.
    fn compute(
        &mut self,
        id: NodeId,
        mut program: Program,
        operands: &[Value],
        like: Value,
    ) -> Value {
        program.outputs[0].dtype = self.graph.ty(like).dtype;
        self.add(id, Op::Pointwise { program }, operands)[0]
    }

    fn place(&self, id: NodeId) -> (Origin, Option<crate::graph::ScopeId>) {
        let node = self.graph.node(id);
        (Origin { pass: PASS, ..node.origin.clone() }, node.scope)
    }

    fn unsupported(&self, id: NodeId, reason: &str) -> Diagnostic {
        let origin = &self.graph.node(id).origin;
        let diagnostic =
            Diagnostic::error(codes::NO_DERIVATIVE, format!("`{}`: {reason}", origin.path))
                .help("write the model without this, or keep it out of the loss");
        match origin.span {
            Some(span) => diagnostic.at(span, "used here"),
            None => diagnostic,
        }
    }
}

/// The program without instructions and inputs that its outputs do not need, and the positions of the inputs kept.
fn compact(program: &Program) -> (Program, Vec<usize>) {
    let mut builder = colac_plan::pointwise::Builder::new();
    let inputs: Vec<_> = program.inputs.iter().map(|&form| builder.input(form)).collect();
    let outputs = builder.inline(program, &inputs);
    let stored: Vec<_> =
        outputs.into_iter().zip(&program.outputs).map(|(r, o)| (r, o.dtype)).collect();
    builder.finish(&stored).without_unused_inputs()
}
