//! Graphs made by hand, for tests of passes.

#![allow(dead_code, reason = "each test binary uses its own part")]

use colac_compiler::graph::{Graph, Input, Origin, Output, ParameterInfo, Value, View};
use colac_plan::op::{Mask, Real, Scores};
use colac_plan::parameter::{CheckpointName, ConstantContent, Initialization, Role, RopeScaling};
use colac_plan::pointwise::{Binary, Builder, InputForm, Program, Unary};
use colac_plan::program::Phase;
use colac_plan::{DType, Op, Shape, TensorType};

/// A graph under construction whose values are `[2, 3, width]`.
pub(crate) struct Hand {
    pub(crate) graph: Graph,
    parameters: usize,
}

impl Hand {
    pub(crate) fn new() -> Hand {
        Hand { graph: Graph::new(), parameters: 0 }
    }

    pub(crate) fn origin() -> Origin {
        Origin { path: String::new(), span: None, pass: "test" }
    }

    pub(crate) fn parameter(&mut self, extents: &[u64]) -> Value {
        self.parameters += 1;
        let path = format!("p{}.weight", self.parameters);
        let info = ParameterInfo {
            path: path.clone(),
            ty: TensorType::f32(extents),
            initialization: Initialization::Constant { value: Real::new(0.0) },
            role: Role::Matrix,
            checkpoint: CheckpointName { name: path, transposed: false, part: None },
            unjoined: None,
            scope: None,
        };
        self.graph.parameter(info, Hand::origin()).1
    }

    pub(crate) fn ops(&mut self, op: Op, operands: &[Value], phase: Phase) -> Vec<Value> {
        self.graph.op(op, operands, Hand::origin(), phase, None).unwrap()
    }

    pub(crate) fn op(&mut self, op: Op, operands: &[Value]) -> Value {
        self.ops(op, operands, Phase::Forward)[0]
    }

    /// Rows of a table: a value that needs an operation.
    pub(crate) fn source(&mut self, width: u64) -> Value {
        let ids = TensorType::new(DType::I32, Shape::of(&[2, 3]));
        let tokens = self.graph.input(Input::Tokens, ids, Hand::origin());
        let table = self.parameter(&[5, width]);
        self.op(Op::Embedding, &[tokens, table])
    }

    pub(crate) fn linear(&mut self, x: Value, width: u64) -> Value {
        let inputs = self.graph.ty(x).shape.width();
        let weight = self.parameter(&[width, inputs]);
        self.op(Op::Linear, &[x, weight])
    }

    pub(crate) fn pointwise(&mut self, program: Program, operands: &[Value]) -> Value {
        self.op(Op::Pointwise { program }, operands)
    }

    pub(crate) fn add(&mut self, a: Value, b: Value) -> Value {
        self.pointwise(Program::sum(2), &[a, b])
    }

    /// Cosines and sines for three positions and some pairs.
    pub(crate) fn tables(&mut self, pairs: u64, theta: f64) -> [Value; 2] {
        let (theta, scaling) = (Real::new(theta), RopeScaling::None);
        let ty = TensorType::f32(&[3, pairs]);
        [ConstantContent::RopeCos { theta, scaling }, ConstantContent::RopeSin { theta, scaling }]
            .map(|content| self.graph.constant(content, ty.clone(), Hand::origin()))
    }

    pub(crate) fn view(&mut self, view: View, x: Value) -> Value {
        self.view_in(view, x, Phase::Forward)
    }

    pub(crate) fn view_in(&mut self, view: View, x: Value, phase: Phase) -> Value {
        self.graph.view(view, x, Hand::origin(), phase, None).unwrap()
    }
}

pub(crate) fn sigmoid() -> Program {
    Program::unary(|builder, x| builder.unary(Unary::Sigmoid, x))
}

/// `a * sigmoid(a)`
pub(crate) fn silu() -> Program {
    Program::unary(|builder, x| {
        let s = builder.unary(Unary::Sigmoid, x);
        builder.binary(Binary::Multiply, x, s)
    })
}

/// Both gradients of a product of the first two inputs, whose own gradient is the third.
pub(crate) fn product_gradients() -> Program {
    let mut b = Builder::new();
    let (g, u, d) =
        (b.input(InputForm::Elements), b.input(InputForm::Elements), b.input(InputForm::Elements));
    let (to_g, to_u) = (b.binary(Binary::Multiply, d, u), b.binary(Binary::Multiply, d, g));
    b.finish(&[(to_g, DType::F32), (to_u, DType::F32)])
}

/// A row added to every row.
pub(crate) fn bias() -> Program {
    let mut b = Builder::new();
    let (x, row) = (b.input(InputForm::Elements), b.input(InputForm::Row));
    let sum = b.binary(Binary::Add, x, row);
    b.finish(&[(sum, DType::F32)])
}

/// A root-mean-square norm of its first operand.
pub(crate) fn rms_norm(gain: bool) -> Op {
    Op::RmsNorm { epsilon: Real::new(1e-6), gain, prologue: None }
}

/// Causal attention's scores.
pub(crate) fn causal() -> Scores {
    Scores::new(Mask::Causal, Real::new(0.5))
}

/// Everything that a list of values is needed for.
pub(crate) fn outputs(hand: &mut Hand, values: &[Value]) {
    values.iter().for_each(|&value| hand.graph.add_output(Output::Logits, value));
}
