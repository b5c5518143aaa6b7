//! A graph in the library's descriptors.
//!
//! Owns which attributes each kind of tensor and operation has. Must not know attention.

use crate::cuda::driver::cudnn::descriptor::Descriptor;
use crate::cuda::driver::cudnn::graph::{Graph, Operation, Place, Tensor, Value};
use crate::cuda::driver::cudnn::library::{Functions, Raw};
use crate::cuda::driver::cudnn::names;
use crate::cuda::error::CudaError;

/// A graph that the library knows. Everything in it is kept as long as the graph is of use.
pub(super) struct Described {
    pub(super) parts: Vec<Descriptor>,
    /// Among them.
    pub(super) operations: Vec<Raw>,
    /// Numbers of the tensors that are given, and what lies behind them.
    pub(super) places: Vec<(i64, Place)>,
}

/// Describes all tensors and operations of a graph.
///
/// # Errors
/// What the library refuses.
pub(super) fn described(
    functions: &'static Functions,
    graph: &Graph,
) -> Result<Described, CudaError> {
    let mut described = Description { functions, parts: Vec::new(), operations: Vec::new() };
    let mut places = Vec::new();
    for (index, tensor) in graph.tensors.iter().enumerate() {
        let number = index as i64 + 1;
        described.tensor(number, tensor)?;
        places.extend(tensor.place.map(|place| (number, place)));
    }
    for operation in &graph.operations {
        described.operation(operation)?;
    }
    let Description { parts, operations, .. } = described;
    Ok(Described { parts, operations, places })
}

/// The tensors come first among `parts`, in their order.
struct Description {
    functions: &'static Functions,
    parts: Vec<Descriptor>,
    operations: Vec<Raw>,
}

impl Description {
    fn made(&self, kind: i32) -> Result<Descriptor, CudaError> {
        Descriptor::new(self.functions, kind)
    }

    fn tensor(&mut self, number: i64, tensor: &Tensor) -> Result<(), CudaError> {
        let &Tensor { format, layout, place } = tensor;
        let by_value = matches!(place, Some(Place::Scalar(_)));
        let tensor = self
            .made(names::BACKEND_TENSOR_DESCRIPTOR)?
            .numbers(names::ATTR_TENSOR_UNIQUE_ID, &[number])?
            .format(names::ATTR_TENSOR_DATA_TYPE, format)?
            .numbers(names::ATTR_TENSOR_DIMENSIONS, &layout.extents)?
            .numbers(names::ATTR_TENSOR_STRIDES, &layout.strides)?
            .numbers(names::ATTR_TENSOR_BYTE_ALIGNMENT, &[16])?
            .flag(names::ATTR_TENSOR_IS_VIRTUAL, place.is_none())?
            .flag(names::ATTR_TENSOR_IS_BY_VALUE, by_value)?
            .finalized("describing a tensor")?;
        self.parts.push(tensor);
        Ok(())
    }

    fn operation(&mut self, operation: &Operation) -> Result<(), CudaError> {
        match *operation {
            Operation::Pointwise { mode, precision, axis, x, b, t, y } => {
                let mut what = self
                    .made(names::BACKEND_POINTWISE_DESCRIPTOR)?
                    .choice(names::ATTR_POINTWISE_MODE, names::TYPE_POINTWISE_MODE, mode)?
                    .format(names::ATTR_POINTWISE_MATH_PREC, precision)?;
                if let Some(axis) = axis {
                    what = what.numbers(names::ATTR_POINTWISE_AXIS, &[axis])?;
                }
                let mut parts = vec![(names::ATTR_OPERATION_POINTWISE_XDESC, x)];
                parts.extend(b.map(|b| (names::ATTR_OPERATION_POINTWISE_BDESC, b)));
                parts.extend(t.map(|t| (names::ATTR_OPERATION_POINTWISE_TDESC, t)));
                parts.push((names::ATTR_OPERATION_POINTWISE_YDESC, y));
                let kind = names::BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
                let attribute = names::ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR;
                self.add(kind, Some((attribute, what)), &parts, "adding a pointwise operation")
            }
            Operation::Product { a, b, y } => {
                let what = self
                    .made(names::BACKEND_MATMUL_DESCRIPTOR)?
                    .format(names::ATTR_MATMUL_COMP_TYPE, names::DATA_FLOAT)?;
                let parts = [
                    (names::ATTR_OPERATION_MATMUL_ADESC, a),
                    (names::ATTR_OPERATION_MATMUL_BDESC, b),
                    (names::ATTR_OPERATION_MATMUL_CDESC, y),
                ];
                let kind = names::BACKEND_OPERATION_MATMUL_DESCRIPTOR;
                let attribute = names::ATTR_OPERATION_MATMUL_DESC;
                self.add(kind, Some((attribute, what)), &parts, "adding a product")
            }
            Operation::Reduction { operator, x, y } => {
                let ty = names::TYPE_REDUCTION_OPERATOR_TYPE;
                let what = self
                    .made(names::BACKEND_REDUCTION_DESCRIPTOR)?
                    .choice(names::ATTR_REDUCTION_OPERATOR, ty, operator)?
                    .format(names::ATTR_REDUCTION_COMP_TYPE, names::DATA_FLOAT)?;
                let parts = [
                    (names::ATTR_OPERATION_REDUCTION_XDESC, x),
                    (names::ATTR_OPERATION_REDUCTION_YDESC, y),
                ];
                let kind = names::BACKEND_OPERATION_REDUCTION_DESCRIPTOR;
                let attribute = names::ATTR_OPERATION_REDUCTION_DESC;
                self.add(kind, Some((attribute, what)), &parts, "adding a reduction")
            }
            Operation::Reshape { x, y } => {
                let parts = [
                    (names::ATTR_OPERATION_RESHAPE_XDESC, x),
                    (names::ATTR_OPERATION_RESHAPE_YDESC, y),
                ];
                let kind = names::BACKEND_OPERATION_RESHAPE_DESCRIPTOR;
                self.add(kind, None, &parts, "adding a reshape")
            }
        }
    }

    /// Adds an operation of a kind over tensors; `what` says which of that kind.
    fn add(
        &mut self,
        kind: i32,
        what: Option<(i32, Descriptor)>,
        tensors: &[(i32, Value)],
        doing: &'static str,
    ) -> Result<(), CudaError> {
        let mut operation = self.made(kind)?;
        if let Some((attribute, what)) = what {
            let what = what.finalized(doing)?;
            operation = operation.part(attribute, &what)?;
            self.parts.push(what);
        }
        for &(attribute, Value(tensor)) in tensors {
            operation = operation.part(attribute, &self.parts[tensor])?;
        }
        let operation = operation.finalized(doing)?;
        self.operations.push(operation.raw());
        self.parts.push(operation);
        Ok(())
    }
}
