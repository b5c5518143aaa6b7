//! The codes of what can be wrong when a spec meets an architecture.
//!
//! Every code has a case under `tests/cases/language/`, as those of [`crate::language::codes`].

use crate::language::codes::declare;

declare! {
    /// A spec names an architecture that is not shipped.
    UNKNOWN_ARCHITECTURE = "lower::unknown_architecture";
    /// The file of an architecture cannot be read.
    UNREADABLE_ARCHITECTURE = "lower::unreadable_architecture";
    /// Shapes of operands that do not fit each other or the operation.
    SHAPE_MISMATCH = "lower::shape_mismatch";
    /// Something of the wrong kind: a number where a value of the computation is needed, or the other way round.
    OPERAND = "lower::operand";
    /// An extent or count that is not a whole number from 1 up.
    EXTENT = "lower::extent";
    /// A model whose sizes would overflow.
    TOO_LARGE = "lower::too_large";
    /// Two operations of the same path, or two tensors of the same name in a checkpoint.
    DUPLICATE_PATH = "lower::duplicate_path";
    /// Linears that cannot lie in one tensor of a checkpoint as `[weights]` says.
    JOINED_WEIGHTS = "lower::joined_weights";
    /// A label that no operation before this one has here.
    UNKNOWN_WEIGHT = "lower::unknown_weight";
    /// A model whose result the objective cannot use.
    HEAD = "lower::head";
    /// A row that has more positions than the table in which they are looked up.
    POSITIONS = "lower::positions";
    /// A dropout of attention probabilities, which no executor can make.
    ATTENTION_DROPOUT = "lower::attention_dropout";
    /// Start values that are not finite, or parameters without any.
    START_VALUES = "lower::start_values";
}
