//! Codes of the diagnostics that passes give users, each with its one-line explanation.

/// A selector of `[cola]` matches no linear, or no labelled nonlinearity.
pub const SELECTS_NOTHING: &str = "cola::selects_nothing";
/// A selector of `[cola]` names only linears that the architecture keeps dense.
pub const STAYS_DENSE: &str = "cola::stays_dense";
/// A selected linear shares its weight with another operation.
pub const SHARED_WEIGHT: &str = "cola::shared_weight";
/// A rank at which the pair has as many parameters as the dense weight.
pub const RANK_DOES_NOT_PAY: &str = "cola::rank_does_not_pay";
/// The model uses a value or a parameter in a way that has no derivative.
pub const NO_DERIVATIVE: &str = "autodiff::no_derivative";
/// A selector of `[recompute]` matches nothing.
pub const RECOMPUTE_SELECTS_NOTHING: &str = "recompute::selects_nothing";
/// Nothing can be made again, because the architecture repeats nothing.
pub const NOTHING_REPEATS: &str = "recompute::nothing_repeats";
/// No way to make values again fits the memory that the spec allows.
pub const DOES_NOT_FIT: &str = "recompute::does_not_fit";
/// A plan cannot be fitted into the memory of a device that nobody named.
pub const UNKNOWN_DEVICE: &str = "recompute::unknown_device";
/// All codes of this module with what they mean.
pub const ALL: [(&str, &str); 9] = [
    (SELECTS_NOTHING, "a selector of [cola] matches nothing in the model"),
    (STAYS_DENSE, "a selector of [cola] names only linears that the architecture keeps dense"),
    (SHARED_WEIGHT, "a selected linear shares its weight with another operation"),
    (RANK_DOES_NOT_PAY, "a rank at which the low-rank pair is as large as the dense weight"),
    (RECOMPUTE_SELECTS_NOTHING, "a selector of [recompute] matches nothing in the model"),
    (NOTHING_REPEATS, "a policy of [recompute] for an architecture that repeats nothing"),
    (DOES_NOT_FIT, "a memory of [recompute] that no policy fits"),
    (UNKNOWN_DEVICE, "a plan for the memory of a device that is not known"),
    (NO_DERIVATIVE, "the model uses a value or parameter in a way that has no derivative"),
];
