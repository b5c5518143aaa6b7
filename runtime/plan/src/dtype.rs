//! Storage formats of tensor elements.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an element is stored. Arithmetic inside an operation is f32 whatever the storage; the reference interpreter
/// uses f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// The upper half of an f32, rounded to nearest even.
    Bf16,
    /// Token ids, labels (-100 is "ignored"), counters.
    I32,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::Bf16 => 2,
        }
    }

    /// Whether elements are real numbers that can have a gradient.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::Bf16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
        })
    }
}
