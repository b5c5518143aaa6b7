//! Everything that the verifier enforces, as one list, and the error that names the rule broken.
//!
//! Owns the list and the wording of places. Must not know how a rule is checked.

use std::fmt;

use thiserror::Error;

use crate::program::ProgramKind;
use crate::tensor::TensorId;

macro_rules! rules {
    ($($(#[doc = $heading:literal])? $name:ident = $text:literal,)*) => {
        /// What a plan promises to an executor. The text of a rule says what holds in every plan that is accepted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// All rules, in the order of the list.
            pub const ALL: &[Rule] = &[$(Rule::$name),*];

            /// What holds in every plan that is accepted.
            pub fn text(self) -> &'static str {
                match self {
                    $(Rule::$name => $text,)*
                }
            }
        }
    };
}

rules! {
    // The table of tensors.
    Text = "names and paths are at most 1024 bytes of printable text",
    TensorId = "every tensor id names a tensor of the table",
    Extents = "extents are at least 1 and a tensor has fewer than 2^40 elements",
    Strides = "there is a stride below 2^40 for each axis; the innermost is 1 and elements do not overlap",
    Bounds = "every tensor lies inside its segment, and none in the workspace",
    Alignment = "roots start at multiples of 256 bytes, views at multiples of their element's size",
    Parent = "a view lies inside its parent, with the same segment and element format, and parents do not form a ring",
    SegmentSizes = "segment and arena sizes are multiples of 256 bytes and together below 2^63",
    Disjoint = "roots outside of activations, parameters and gradients do not share bytes",

    // Each operation alone.
    Programs = "each program is there once, in order",
    Types = "operands and results have the types that the operation's shape rule gives",
    Attributes = "real attributes are finite numbers",
    Layout = "operands and results are laid out as the operation's kernels address them",
    WriteCount = "there is one way of writing for each result",
    After = "control edges point to earlier operations of the program",
    Scope = "a scope is one of the plan's scopes",
    Phase = "only `update` has operations of the phase update; `evaluate` and `logits` have forward operations only",
    Workspace = "the workspace is at least what the operation needs and at most the segment",
    Overlap = "a result shares bytes with no other result and no operand, except in place of an operand",
    Price = "the costs of a program together are below 2^63",

    // What is written and read when.
    Writable = "parameters and optimizer state are written by AdamW in `update` alone, gradients by `forward_backward` \
                alone, constants and inputs by the host alone",
    Accumulation = "only a gradient accumulates, only by a result that can, and under the scalar `accumulate`",
    GradientOrder = "the first writer of a gradient overwrites (if `accumulate` is 0), later ones add to all of it",
    GradientComplete = "`forward_backward` writes the gradient of every parameter",
    WrittenOnce = "a tensor is written once in a program; slices of one parent do not overlap",
    ReadAfterWrite = "what a program makes is read only after all of it was written, and inputs only as declared",
    Stale = "a tensor whose bytes were replaced in place is not read again",
    LastMicroBatch = "what is written only for the last micro-batch is read only then; gradients are written always",
    ProgramInputs = "a program's inputs are the batch and the draw of its roles and listed scalars, each once",
    ProgramOutputs = "a program's outputs, among them the results of its roles, lie in segments that outlive it and are \
                      written by it",

    // The arena.
    Lifetimes = "activations alive at the same time do not share bytes, except in place",
    Arena = "a program's activations end within its arena, and the arena within the segment",
    LowerBound = "the stated lower bound is the most bytes alive at once and not above the arena",

    // The model.
    Parameters = "parameters lie in order and apart in the parameter segment, gradients at the same offsets in theirs",
    ParameterNames = "paths and checkpoint names of parameters are not empty; paths are unique, and so are checkpoint \
                      names but for parts of one tensor",
    JoinedTensors = "parameters of one checkpoint tensor lie side by side in it and fill it, with one element format, \
                     orientation and extents of the other axes",
    Initialization = "start values are finite, standard deviations and bounds not negative",
    Constants = "every tensor among the constants has one content, whose form it has",
    Roles = "the tensors known by meaning have the types and segments of that meaning",
    Update = "`update` is the gradient's norm and one AdamW over the tensors of the roles, with the recipe's constants",
    UpdateRanges = "each parameter lies in one range of AdamW",
    Scalars = "runtime scalars are single numbers in their segment, with different names",

    // The recipe.
    RecipeBatches = "batches and sequence length agree with the inputs of the programs; the global batch is a whole \
                     number of micro-batches",
    RecipeVocabulary = "heads have a row for each token id, and tables of tokens at least that many",
    RecipeNumbers = "every number of the recipe is in the range where it has a meaning",
}

/// Where in a plan a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the plan as a whole.
    Plan,
    /// In the recipe.
    Recipe,
    /// At a tensor of the table.
    Tensor {
        /// Which.
        id: TensorId,
        /// Its name.
        name: String,
    },
    /// In a program as a whole.
    Program(ProgramKind),
    /// At an operation.
    Operation {
        /// The program.
        program: ProgramKind,
        /// Position in the program.
        index: usize,
        /// Printed name of the operation.
        op: &'static str,
        /// Path of the node it comes from.
        path: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Plan => f.write_str("the plan"),
            Place::Recipe => f.write_str("the recipe"),
            Place::Tensor { id, name } => write!(f, "tensor {id} `{}`", shown(name)),
            Place::Program(kind) => write!(f, "program {kind}"),
            Place::Operation { program, index, op, path } => {
                write!(f, "{program}, operation {index} ({op} `{}`)", shown(path))
            }
        }
    }
}

/// A name of the file as it can be printed on one line of a terminal.
pub(crate) fn shown(name: &str) -> String {
    let start: String = name.chars().take(120).collect();
    start.escape_debug().to_string()
}

/// A broken rule. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {reason}")]
pub struct VerifyError {
    /// Which rule.
    pub rule: Rule,
    /// Where.
    pub place: Place,
    /// What is wrong, with the tensors and numbers that show it.
    pub reason: String,
}
