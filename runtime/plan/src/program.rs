//! Programs: ordered lists of operations over a plan's tensors.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::op::Op;
use crate::tensor::TensorId;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProgramKind {
    /// Loss and gradients of one micro-batch.
    ForwardBackward,
    /// Clipping and the optimizer.
    Update,
    /// Loss of one evaluation batch, row by row.
    Evaluate,
    /// Logits of one row.
    Logits,
}

impl ProgramKind {
    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            ProgramKind::ForwardBackward => "forward_backward",
            ProgramKind::Update => "update",
            ProgramKind::Evaluate => "evaluate",
            ProgramKind::Logits => "logits",
        }
    }
}

impl fmt::Display for ProgramKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a result meets what is already in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Write {
    /// The result replaces it, whatever it is (even not a number).
    Overwrite,
    /// The result is added to it.
    Add,
    /// Replaces where the scalar tensor is 0, adds where it is 1: the first writer of a gradient, so that the first
    /// micro-batch needs no clearing and no program of its own. The old bytes are not read when the scalar is 0.
    AddIf(TensorId),
}

/// In which executions of its program an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum When {
    /// In each.
    Always,
    /// Only for the last micro-batch of a step: where collectives will stand.
    LastMicroBatch,
}

/// Which part of the computation an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// From inputs to loss.
    Forward,
    /// From loss to gradients.
    Backward,
    /// A forward value made again for the backward pass; the number names the recompute region.
    Recompute(u32),
    /// The optimizer.
    Update,
}

/// One operation in a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What is computed.
    pub op: Op,
    /// What it reads, in the operation's order.
    pub operands: Vec<TensorId>,
    /// What it writes, in the operation's order.
    pub results: Vec<TensorId>,
    /// How each result is written.
    pub writes: Vec<Write>,
    /// Which executions it takes part in.
    pub when: When,
    /// Part of the computation.
    pub phase: Phase,
    /// Positions of earlier operations that must come before this one though no tensor connects them.
    pub after: Vec<u32>,
    /// Bytes it may use at the start of the workspace segment.
    pub workspace: u64,
    /// Path of the node it comes from: `layers.3.self_attn.q_proj.down`.
    pub path: String,
    /// The repeat scope it lies in, by position in [`crate::Plan::scopes`].
    pub scope: Option<u32>,
    /// The line of [`crate::plan::Origin::architecture`] that it comes from, counted from 1; none for what no line asks
    /// for, such as the optimizer.
    pub line: Option<u32>,
}

/// An ordered list of operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// What it is for.
    pub kind: ProgramKind,
    /// Tensors that the host fills before a run.
    pub inputs: Vec<TensorId>,
    /// Tensors that the host reads after a run.
    pub outputs: Vec<TensorId>,
    /// Operations in order.
    pub operations: Vec<Operation>,
    /// Bytes of the activation arena that it uses.
    pub arena_bytes: u64,
    /// Most bytes of activations alive at once: no placement can need less.
    pub arena_lower_bound: u64,
}
