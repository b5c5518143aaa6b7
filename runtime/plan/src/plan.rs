//! The plan itself: tables, programs, recipe, and what reports need to know of the compiler's decisions.

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::hash::Hash;
use crate::parameter::{Constant, Parameter};
use crate::program::{Program, ProgramKind};
use crate::recipe::Recipe;
use crate::tensor::{Segment, Tensor, TensorId};

/// Whether linears were rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// Selected linears are low-rank pairs with an activation between.
    Cola,
    /// All linears are dense.
    FullRank,
}

impl Form {
    /// `cola` or `full-rank`.
    pub fn name(self) -> &'static str {
        match self {
            Form::Cola => "cola",
            Form::FullRank => "full-rank",
        }
    }
}

/// Everything an executor and a training loop need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the spec.
    pub name: String,
    /// Rewritten or not.
    pub form: Form,
    /// Number of token ids.
    pub vocab_size: u64,
    /// All tensors of all programs.
    pub tensors: Vec<Tensor>,
    /// Trained tensors, in the order of the segment.
    pub parameters: Vec<Parameter>,
    /// Tables for the host to compute.
    pub constants: Vec<Constant>,
    /// Size of each segment in bytes, by [`Segment::index`].
    pub segment_bytes: [u64; Segment::ALL.len()],
    /// Programs in order of [`ProgramKind`].
    pub programs: Vec<Program>,
    /// The tensors that host and programs share by meaning rather than by path.
    pub roles: Roles,
    /// Single numbers the host may set, with their bounds.
    pub scalars: Vec<RuntimeScalar>,
    /// Paths of repeat scopes, e.g. `layers.3`, that operations refer to.
    pub scopes: Vec<String>,
    /// What the cola pass did to each linear of the model, in model order.
    pub linears: Vec<LinearReport>,
    /// What lives from the forward to the backward pass: the policy, or what was chosen for a memory.
    pub recompute: String,
    /// What a step computes, taken before recompute policies and joins, which change no number
    /// ([`crate::hash::computation`]).
    pub computation: Hash,
    /// The run.
    pub recipe: Recipe,
    /// Where all of this came from.
    pub origin: Origin,
}

/// Tensors known by meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Roles {
    /// Inputs of `forward_backward`: tokens and labels, `[batch, seq]` i32.
    pub train: BatchInputs,
    /// Inputs of `evaluate`.
    pub evaluate: BatchInputs,
    /// Tokens of `logits`, `[1, seq]` i32.
    pub logits_tokens: TensorId,
    /// Result of `logits`, `[1, seq, vocab]`.
    pub logits: TensorId,
    /// Row losses of `forward_backward`, `[batch]` f32.
    pub train_loss: TensorId,
    /// Row losses of `evaluate`, `[batch]` f32.
    pub evaluate_loss: TensorId,
    /// Scalar: what the summed loss is multiplied by before the gradient.
    pub loss_scale: TensorId,
    /// Scalar: 0 overwrites gradients, 1 adds to them.
    pub accumulate: TensorId,
    /// Scalar: learning rate of this update.
    pub learning_rate: TensorId,
    /// Norm of the gradient before clipping, f32.
    pub gradient_norm: TensorId,
    /// 1 if every gradient element was finite.
    pub gradient_finite: TensorId,
    /// Whole parameter segment as one row.
    pub parameters: TensorId,
    /// All master parameters, f32, where the parameters are bf16 copies of them.
    pub master: Option<TensorId>,
    /// Whole gradient segment as one row.
    pub gradients: TensorId,
    /// All first moments.
    pub first_moment: TensorId,
    /// All second moments.
    pub second_moment: TensorId,
    /// Updates done so far, i32.
    pub step: TensorId,
    /// `[4]` i32, input of `forward_backward` where it has a dropout: what its draws depend on beside their keys, set
    /// anew for every micro-batch ([`crate::Op::Dropout`]).
    pub dropout_draw: Option<TensorId>,
}

/// What a batch fills.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchInputs {
    /// `[batch, seq]` i32.
    pub tokens: TensorId,
    /// `[batch, seq]` i32, -100 where there is nothing to predict.
    pub labels: TensorId,
}

/// A number that the host sets before a program runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuntimeScalar {
    /// Printed name.
    pub name: String,
    /// Where it lies.
    pub tensor: TensorId,
    /// Largest value it may take where shapes or costs depend on it.
    pub bound: Option<u64>,
}

/// What became of one linear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinearReport {
    /// Path in the model.
    pub path: String,
    /// Input width.
    pub inputs: u64,
    /// Output width.
    pub outputs: u64,
    /// What was done.
    pub decision: Decision,
}

/// What the cola pass did to a linear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Became a low-rank pair.
    Rewritten {
        /// r.
        rank: u64,
        /// Name or formula of the activation between.
        activation: String,
    },
    /// Stayed as it was.
    KeptDense {
        /// Why, as a sentence without a full stop.
        reason: String,
    },
}

/// Where a plan came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The spec as written; behind it those it extends, each under a comment with its name.
    pub spec: String,
    /// The spec after `--set` and defaults, as TOML.
    pub resolved_spec: String,
    /// The architecture file.
    pub architecture: String,
    /// `config.json` for checkpoints of this model, as JSON text.
    pub checkpoint_config: String,
    /// Version of the compiler.
    pub compiler_version: String,
}

impl Plan {
    /// A tensor by id.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// A parameter by position, and the tensor that keeps it ([`Parameter::kept`]).
    pub fn parameter(&self, index: usize) -> (&Parameter, &Tensor) {
        let parameter = &self.parameters[index];
        (parameter, self.tensor(parameter.kept()))
    }

    /// A program by kind; every verified plan has all four.
    pub fn program(&self, kind: ProgramKind) -> &Program {
        self.programs.iter().find(|p| p.kind == kind).expect("a verified plan has every program")
    }

    /// Bytes of a segment.
    pub fn bytes(&self, segment: Segment) -> u64 {
        self.segment_bytes[segment.index()]
    }

    /// Bytes of weights, gradients and optimizer, which neither a policy nor a micro-batch changes.
    pub fn state_bytes(&self) -> u64 {
        let state = [Segment::Parameters, Segment::Gradients, Segment::Optimizer];
        state.into_iter().map(|segment| self.bytes(segment)).sum()
    }

    /// Bytes of all segments together: what an executor allocates.
    pub fn total_bytes(&self) -> u64 {
        self.segment_bytes.iter().sum()
    }

    /// Storage of the parameters: `f32`, `bf16`, or `bf16-pure` where nothing is kept in f32 beside them.
    pub fn precision(&self) -> &'static str {
        let parameters = self.tensor(self.roles.parameters).ty.dtype;
        match (parameters, self.roles.master) {
            (DType::Bf16, Some(_)) => "bf16",
            (DType::Bf16, None) => "bf16-pure",
            (DType::F32 | DType::I32, _) => "f32",
        }
    }

    /// Trained numbers, padding not counted.
    pub fn parameter_count(&self) -> u64 {
        self.parameters.iter().map(|p| self.tensor(p.tensor).ty.shape.elements()).sum()
    }
}
