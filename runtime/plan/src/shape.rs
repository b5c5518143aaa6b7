//! Logical types of tensors: element format and named axes.
//!
//! Owns extents and axis names. Must not know strides, offsets or segments: those belong to
//! [`crate::tensor`], because a logical type can be laid out in several ways.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

/// One axis: how many, and of what. Axes of a row's elements often have no name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Axis {
    /// `batch`, `seq`, `heads` …; empty for an anonymous axis.
    pub name: String,
    /// Number of elements along the axis.
    pub extent: u64,
}

impl Axis {
    /// A named axis.
    pub fn new(name: impl Into<String>, extent: u64) -> Axis {
        Axis { name: name.into(), extent }
    }

    /// An axis without a name.
    pub fn anonymous(extent: u64) -> Axis {
        Axis { name: String::new(), extent }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "{}", self.extent)
        } else {
            write!(f, "{}={}", self.name, self.extent)
        }
    }
}

/// Axes from the outermost to the innermost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape(pub Vec<Axis>);

impl Shape {
    /// The shape of a single number.
    pub fn scalar() -> Shape {
        Shape(Vec::new())
    }

    /// Anonymous axes of these extents.
    pub fn of(extents: &[u64]) -> Shape {
        Shape(extents.iter().map(|&e| Axis::anonymous(e)).collect())
    }

    /// Number of axes.
    pub fn ndim(&self) -> usize {
        self.0.len()
    }

    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> u64 {
        self.0.iter().map(|a| a.extent).product()
    }

    /// Extent of the innermost axis; 1 for a scalar.
    pub fn width(&self) -> u64 {
        self.0.last().map_or(1, |a| a.extent)
    }

    /// Product of all extents but the innermost: the number of rows an operation over rows sees.
    pub fn rows(&self) -> u64 {
        self.leading().iter().map(|a| a.extent).product()
    }

    /// All axes but the innermost.
    pub fn leading(&self) -> &[Axis] {
        self.0.split_last().map_or(&[], |(_, leading)| leading)
    }

    /// Extents alone.
    pub fn extents(&self) -> Vec<u64> {
        self.0.iter().map(|a| a.extent).collect()
    }

    /// Equal extents, whatever the names.
    pub fn same_extents(&self, other: &Shape) -> bool {
        self.ndim() == other.ndim()
            && self.0.iter().zip(&other.0).all(|(a, b)| a.extent == b.extent)
    }

    /// Whether these are the last axes of another shape, or all of them, by their extents.
    pub fn ends(&self, other: &Shape) -> bool {
        let before = other.ndim().checked_sub(self.ndim());
        before.is_some_and(|n| self.0.iter().zip(&other.0[n..]).all(|(a, b)| a.extent == b.extent))
    }

    /// This shape with another innermost axis.
    pub fn with_width(&self, axis: Axis) -> Shape {
        let mut axes = self.leading().to_vec();
        axes.push(axis);
        Shape(axes)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, axis) in self.0.iter().enumerate() {
            write!(f, "{}{axis}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

/// Element format and axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Storage of an element.
    pub dtype: DType,
    /// Logical axes.
    pub shape: Shape,
}

impl TensorType {
    /// A type of the given element format and axes.
    pub fn new(dtype: DType, shape: Shape) -> TensorType {
        TensorType { dtype, shape }
    }

    /// f32 of anonymous axes.
    pub fn f32(extents: &[u64]) -> TensorType {
        TensorType { dtype: DType::F32, shape: Shape::of(extents) }
    }

    /// Logical size in bytes, without padding.
    pub fn bytes(&self) -> u64 {
        self.shape.elements() * self.dtype.bytes()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
