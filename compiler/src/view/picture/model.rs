//! What a picture holds: stages of a model as nested boxes with nodes and values, and the memory of a plan.
//!
//! Owns the words and their JSON form, which the page reads and nothing else. Indices point into the lists of the same
//! stage. Must not know graphs or plans: `from_graph` and `from_plan` fill it, and everything that draws reads it.

use serde::{Serialize, Serializer};

/// Everything that is drawn of one plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Picture {
    /// Name of the spec.
    pub name: String,
    /// `cola` or `full-rank`.
    pub form: &'static str,
    /// Version of the compiler.
    pub compiler: String,
    /// Storage of the parameters: `f32`, `bf16`, `bf16-pure`.
    pub precision: &'static str,
    /// What lives until the backward pass.
    pub recompute: String,
    /// What to know about the stages before the plan, where they are not those that the plan came from or are missing; a
    /// sentence without capital and full stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Rows in one execution.
    pub micro_batch: u32,
    /// Tokens in a row.
    pub sequence_length: u32,
    /// The resolved spec, of which [`Node::spec_line`] counts lines.
    pub spec: Text,
    /// The architecture, of which [`Node::line`] counts lines.
    pub architecture: Text,
    /// The stages asked for, in the order of compilation.
    pub stages: Vec<Stage>,
    /// What became of every linear, in model order.
    pub linears: Vec<Linear>,
    /// The memory of the plan; none where the plan is not among the stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// A text that lines are quoted from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text {
    /// What it is called.
    pub name: String,
    /// The text itself.
    pub text: String,
}

/// The model after one part of the compilation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// `forward`, `cola`, `backward`, `recompute`, `fused`, `plan`.
    pub name: &'static str,
    /// What the model is now, as a sentence without a full stop.
    pub title: &'static str,
    /// The first is the model; a box comes after the one around it.
    pub boxes: Vec<Box>,
    /// In the order of the program.
    pub nodes: Vec<Node>,
    /// Results of nodes.
    pub values: Vec<Value>,
}

/// What a box stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BoxKind {
    /// All of it.
    Model,
    /// Identical turns of a repeat, shown once: its one child is the first of them.
    Fold,
    /// One turn of a repeat.
    Turn,
    /// A labelled part: self-attention, an MLP.
    Module,
    /// A dense linear.
    Linear,
    /// A low-rank pair: down, activation, up.
    Pair,
    /// Linears that read the same value and are computed as one, with what each does alone inside.
    Group,
}

/// A part of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Box {
    /// `layers.3.self_attn`; of a fold `layers.0-6`; empty for the model.
    pub path: String,
    /// What stands on it.
    pub label: String,
    /// The box around it; none for the model.
    pub parent: Option<usize>,
    /// What it stands for.
    pub kind: BoxKind,
    /// How many like it stand in the model.
    pub times: u64,
    /// Of a fold or turn: the first turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Of a fold or turn: the last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// Of a low-rank pair: its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
    /// Of a linear: why it stayed dense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Everything inside, of all that it stands for.
    pub total: Total,
}

/// A low-rank pair and the dense linear that it replaces. FLOPs are those of the forward products of one execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Input width.
    pub inputs: u64,
    /// r.
    pub rank: u64,
    /// Output width.
    pub outputs: u64,
    /// Between the factors.
    pub activation: String,
    /// Weights of the dense linear.
    pub dense_parameters: u64,
    /// Weights of the pair.
    pub parameters: u64,
    /// Of the dense linear.
    pub dense_flops: u64,
    /// Of the pair.
    pub flops: u64,
}

/// Sums over everything in a box. Of a plan they are those of training: the programs `forward_backward` and `update`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// Trained numbers.
    pub parameters: u64,
    /// FLOPs of products and attention from inputs to loss.
    pub forward: u64,
    /// The same from loss to gradients.
    pub backward: u64,
    /// The same of what is made again.
    pub recompute: u64,
    /// Bytes read and written, once each.
    pub bytes: u64,
    /// Bytes of values made in the forward pass and read in the backward pass.
    pub kept: u64,
    /// How many operations there are.
    pub operations: u64,
}

/// What a node is, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A matrix product.
    Product,
    /// Attention.
    Attention,
    /// A norm or softmax.
    Norm,
    /// Element by element.
    Pointwise,
    /// Rows of a table.
    Embedding,
    /// The head with the loss.
    Loss,
    /// Moves numbers, sums them up, or holds state.
    Memory,
    /// The optimizer.
    Optimizer,
    /// Supplied by the host.
    Input,
    /// Trained.
    Parameter,
    /// Computed once.
    Constant,
    /// Another shape of the same bytes.
    View,
}

impl NodeKind {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            NodeKind::Product => "product",
            NodeKind::Attention => "attention",
            NodeKind::Norm => "norm",
            NodeKind::Pointwise => "pointwise",
            NodeKind::Embedding => "embedding",
            NodeKind::Loss => "loss",
            NodeKind::Memory => "memory",
            NodeKind::Optimizer => "optimizer",
            NodeKind::Input => "input",
            NodeKind::Parameter => "parameter",
            NodeKind::Constant => "constant",
            NodeKind::View => "view",
        }
    }
}

/// An operation, or something that operations read. Costs are those of one instance in one execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The box it stands in.
    #[serde(rename = "box")]
    pub parent: usize,
    /// Printed name of what it does.
    pub op: &'static str,
    /// Its name within the box.
    pub label: String,
    /// Where it comes from.
    pub path: String,
    /// What it is.
    pub kind: NodeKind,
    /// `forward`, `backward`, `recompute`, `update`.
    pub phase: &'static str,
    /// Of what is made again: which recompute region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<u32>,
    /// Of a plan: the program; none for what several programs share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<&'static str>,
    /// Of a plan: position in the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// Before the plan: `lower`, or the pass that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<&'static str>,
    /// Line of the architecture, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Line of the resolved spec that decides about it, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_line: Option<u32>,
    /// Attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it reads, in the operation's order.
    pub operands: Vec<Use>,
    /// What it makes: indices of values.
    pub results: Vec<usize>,
    /// FLOPs of products and attention.
    pub flops: u64,
    /// Of these, where a node belongs to both passes: those of the forward pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_flops: Option<u64>,
    /// Bytes read and written, once each.
    pub bytes: u64,
    /// Trained numbers that it holds.
    pub parameters: u64,
    /// Scratch bytes.
    pub workspace: u64,
}

/// What a node reads: a value, and where turns are folded, of which turn. In JSON a number where that says it all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Index of the value.
    pub value: usize,
    /// The value is made in folds that the reader is not in: of which turn of each, the outermost first.
    pub of: Vec<u64>,
    /// The value is made in another turn of a fold that the reader is in too.
    pub carried: Option<Carried>,
}

/// A value that goes from turn to turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// -1: made in the turn before the reader's; 1: in the turn after.
    pub turn: i8,
    /// What the turn reads instead that has no such neighbour in the fold.
    pub outside: std::boxed::Box<Use>,
}

impl Use {
    /// A value that stands in the model once, or in the reader's own turn.
    pub fn plain(value: usize) -> Use {
        Use { value, of: Vec::new(), carried: None }
    }
}

impl Serialize for Use {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Long<'a> {
            value: usize,
            #[serde(skip_serializing_if = "<[u64]>::is_empty")]
            of: &'a [u64],
            #[serde(skip_serializing_if = "Option::is_none")]
            turn: Option<i8>,
            #[serde(skip_serializing_if = "Option::is_none")]
            outside: Option<&'a Use>,
        }
        if self.of.is_empty() && self.carried.is_none() {
            return self.value.serialize(serializer);
        }
        let carried = self.carried.as_ref();
        let (turn, outside) = (carried.map(|c| c.turn), carried.map(|c| &*c.outside));
        Long { value: self.value, of: &self.of, turn, outside }.serialize(serializer)
    }
}

/// A tensor between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Value {
    /// The node that makes it, the first where several add to it.
    pub node: usize,
    /// What it is called.
    pub name: String,
    /// `[batch 64, seq 256, rank 1024]`.
    pub shape: String,
    /// Element format.
    pub dtype: &'static str,
    /// Size without padding.
    pub bytes: u64,
    /// Whether it has bytes of its own that the forward pass makes and the backward pass reads.
    pub kept: bool,
    /// Of a plan: where it lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<&'static str>,
    /// Of a plan: its place for each of the turns that are folded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Place>,
}

/// First byte in the segment; in the arena also the first and the last operation of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place(pub u64, pub Option<usize>, pub Option<usize>);

/// What became of a linear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Linear {
    /// Its path.
    pub path: String,
    /// Input width.
    pub inputs: u64,
    /// Output width.
    pub outputs: u64,
    /// r, if it is a low-rank pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// Between the factors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<String>,
    /// Why it stayed dense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Weights saved; negative where the rank does not pay.
    pub saved_parameters: i64,
    /// FLOPs saved for each token, forward and backward.
    pub saved_flops: i64,
}

/// The memory of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Bytes of every segment that has any.
    pub segments: Vec<(&'static str, u64)>,
    /// All of them.
    pub total: u64,
    /// The programs that use the arena.
    pub programs: Vec<ProgramMemory>,
    /// Everything that has bytes of its own in the arena.
    pub tensors: Vec<Tensor>,
}

/// The arena while one program runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramMemory {
    /// The program.
    pub name: &'static str,
    /// How many operations it has.
    pub operations: usize,
    /// Bytes of the arena that it uses.
    pub arena: u64,
    /// Most bytes alive at once.
    pub lower_bound: u64,
    /// Position and bytes alive, where that changes; thinned so that every peak stays.
    pub alive: Vec<(usize, u64)>,
    /// The operation at which most is alive; none without operations.
    pub peak: Option<Peak>,
}

/// The fullest moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Position of the operation.
    pub position: usize,
    /// Bytes alive.
    pub bytes: u64,
    /// Where the operation comes from.
    pub path: String,
    /// What is alive, the largest first: indices of [`Memory::tensors`].
    pub tensors: Vec<usize>,
}

/// A tensor in the arena: name, program, first byte, bytes, first and last operation, line of the architecture, phase in
/// which it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tensor(
    pub String,
    pub &'static str,
    pub u64,
    pub u64,
    pub usize,
    pub usize,
    pub Option<u32>,
    pub &'static str,
);
