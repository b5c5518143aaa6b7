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
//! Assumes: a forward graph in f32. Guarantees: every real value has the format of its class. This version emits
//! `f32` plans only: the spec refuses the others, and the table is the one place they will come from.

use colac_plan::{DType, Op};

use crate::graph::{Graph, NodeKind};

/// The user's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Everything f32.
    F32,
    /// bf16 storage with f32 master parameters, gradients and moments: 18 bytes of state a parameter.
    Bf16,
    /// bf16 everywhere, as the published code trains: 8 bytes of state a parameter.
    Bf16Pure,
}

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

/// Class of result `result` of a forward operation.
fn class(op: &Op, result: usize) -> Class {
    match (op, result) {
        (Op::RmsNorm { .. } | Op::Attention { .. }, 1) => Class::Statistic,
        (Op::LayerNorm { .. }, 1 | 2) | (Op::RowSum { .. }, 0) => Class::Statistic,
        (Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }, 0) => Class::Statistic,
        _ => Class::Activation,
    }
}

/// Gives every value of a forward graph its storage format.
pub fn run(graph: &mut Graph, precision: Precision) {
    for id in graph.order() {
        let node = graph.node(id);
        let formats: Vec<DType> = match &node.kind {
            NodeKind::Op(op) => {
                (0..node.results.len()).map(|r| storage(precision, class(op, r))).collect()
            }
            NodeKind::Parameter(_) => vec![storage(precision, Class::Parameter)],
            NodeKind::View(_) => vec![graph.ty(graph.operands(id)[0]).dtype],
            NodeKind::Input(input) => vec![input.dtype()],
            // Tables are f32 or ids.
            NodeKind::Constant(_) => vec![node.results[0].dtype],
        };
        graph.set_storage(id, &formats);
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
