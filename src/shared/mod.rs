//! What several subcommands have in common.
//!
//! Owns failures and how they are shown, output streams, what an argument stands for, the run folder, finding data,
//! progress and signals. Must not hold a rule of the compiler or of training: those are in the libraries.

pub(crate) mod console;
pub(crate) mod corpus;
pub(crate) mod curves;
pub(crate) mod devices;
pub(crate) mod estimate;
pub(crate) mod failure;
pub(crate) mod files;
pub(crate) mod interrupt;
pub(crate) mod machine;
pub(crate) mod number;
pub(crate) mod preflight;
pub(crate) mod progress;
pub(crate) mod room;
pub(crate) mod run_folder;
pub(crate) mod run_record;
pub(crate) mod target;
pub(crate) mod tokens;
