//! Decides the storage format of every value from one table. Arithmetic inside an operation is f32 whatever is stored.
//!
//! | class | f32 | bf16 | bf16-pure |
//! | --- | --- | --- | --- |
//! | activation: streams, r-wide values, queries … | f32 | bf16 | bf16 |
//! | statistic: norms' rstd, log-sum-exp, losses | f32 | f32 | f32 |
//! | parameter as operations read it | f32 | bf16 | bf16 |
//! | master parameter | – | f32 | – |
//! | gradient of a parameter | f32 | f32 | bf16 |
//! | optimizer moment | f32 | f32 | bf16 |
//!
//! A statistic is what reduces rows, and what is computed from statistics alone. Formulas take statistics beside other
//! values; before another operation one is rounded to an activation, so that heavy operations see one format. The gradient of a value that is not a
//! parameter is stored as the value is; autodiff sees to that. Tables of constants stay f32.
//!
//! [`run`] assumes: a forward graph in f32. Guarantees: every real value has the format of its class.
//! [`parameter_gradients`] assumes: a differentiated graph. Guarantees: the gradients of parameters have the format of
//! theirs. [`storage`] tells the emitter the rest.

use colac_plan::pointwise::{InputForm, Program};
use colac_plan::{DType, Op};

use crate::graph::{Graph, NodeId, NodeKind, Output};
use crate::spec::Precision;

/// What a value is, as far as its storage is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A value between operations.
    Activation,
    /// A reduction that later arithmetic divides by or exponentiates.
    Statistic,
    /// A parameter as operations read it.
    Parameter,
    /// A parameter as the optimizer keeps it.
    MasterParameter,
    /// A parameter's gradient.
    Gradient,
    /// A moment of the optimizer.
    Moment,
}

/// The table of this module.
pub const fn storage(precision: Precision, class: Class) -> DType {
    match (precision, class) {
        (_, Class::Statistic) => DType::F32,
        (Precision::F32, _) => DType::F32,
        (Precision::Bf16, Class::Activation | Class::Parameter) => DType::Bf16,
        (Precision::Bf16, Class::MasterParameter | Class::Gradient | Class::Moment) => DType::F32,
        (Precision::Bf16Pure, _) => DType::Bf16,
    }
}

/// Class of result `result` of a forward operation. Operands have their formats already.
fn class(graph: &Graph, id: NodeId, op: &Op, result: usize) -> Class {
    match (op, result) {
        (Op::Pointwise { program }, _) if of_statistics(graph, id, &program.inputs) => {
            Class::Statistic
        }
        (Op::RmsNorm { .. } | Op::Attention { .. }, 1) => Class::Statistic,
        (Op::LayerNorm { .. }, 1 | 2) | (Op::RowSum { .. }, 0) => Class::Statistic,
        (Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }, 0) => Class::Statistic,
        _ => Class::Activation,
    }
}

/// Whether every operand of a program that has the shape of its results is a statistic: one number for each row.
fn of_statistics(graph: &Graph, id: NodeId, inputs: &[InputForm]) -> bool {
    let operands = graph.operands(id);
    let mut elements =
        operands.iter().zip(inputs).filter(|(_, form)| **form == InputForm::Elements);
    elements.all(|(&operand, _)| {
        let ty = graph.ty(operand);
        ty.dtype == DType::F32 && ty.shape.width() == 1
    })
}

/// Gives every value of a forward graph its storage format.
pub fn run(graph: &mut Graph, precision: Precision) {
    for id in graph.order() {
        round_statistics(graph, id, precision);
        let node = graph.node(id);
        let formats: Vec<DType> = match &node.kind {
            NodeKind::Op(op) => (0..node.results.len())
                .map(|r| storage(precision, class(graph, id, op, r)))
                .collect(),
            NodeKind::Parameter(_) => vec![storage(precision, Class::Parameter)],
            NodeKind::View(_) => vec![graph.ty(graph.operands(id)[0]).dtype],
            NodeKind::Input(input) => vec![input.dtype()],
            // Tables are f32 or ids.
            NodeKind::Constant(_) => vec![node.results[0].dtype],
        };
        graph.set_storage(id, &formats);
    }
}

/// Puts a rounding between statistics or tables and an operation that makes activations of them without being a formula.
fn round_statistics(graph: &mut Graph, id: NodeId, precision: Precision) {
    let activation = storage(precision, Class::Activation);
    let node = graph.node(id);
    match &node.kind {
        NodeKind::Op(Op::Pointwise { .. } | Op::RowSum { .. }) => return,
        NodeKind::Op(_) if activation != DType::F32 => {}
        _ => return,
    }
    let (origin, phase, scope) = (node.origin.clone(), node.phase, node.scope);
    for (position, operand) in graph.operands(id).into_iter().enumerate() {
        // The angles of a rotation are read as they are.
        let angles = position >= 1 && matches!(graph.node(id).kind, NodeKind::Op(Op::Rope { .. }));
        if !angles && graph.ty(operand).dtype == DType::F32 {
            let mut program = Program::sum(1);
            program.outputs[0].dtype = activation;
            let op = Op::Pointwise { program };
            let rounded = graph.op(op, &[operand], origin.clone(), phase, scope);
            let rounded = rounded.expect("a program of one value takes any");
            graph.set_operand(id, position, rounded[0]);
        }
    }
}

/// Gives the gradients of parameters their storage format.
pub fn parameter_gradients(graph: &mut Graph, precision: Precision) {
    let format = storage(precision, Class::Gradient);
    for (output, value) in graph.outputs().to_vec() {
        if matches!(output, Output::Gradient(_)) {
            graph.set_result_storage(value, format);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of state for each parameter, as the table's precisions are described.
    #[test]
    fn state_bytes_per_parameter() {
        let bytes = |p, master: bool| {
            let classes = [Class::Parameter, Class::Gradient, Class::Moment, Class::Moment];
            let state: u64 = classes.iter().map(|&c| storage(p, c).bytes()).sum();
            state + if master { storage(p, Class::MasterParameter).bytes() } else { 0 }
        };
        assert_eq!(bytes(Precision::F32, false), 16);
        assert_eq!(bytes(Precision::Bf16, true), 18);
        assert_eq!(bytes(Precision::Bf16Pure, false), 8);
    }
}
