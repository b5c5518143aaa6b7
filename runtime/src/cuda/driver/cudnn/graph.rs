//! A graph of operations in the making: tensors and the operations between them.
//!
//! Owns how each kind of operation is described, and what lies behind each tensor that is no mere intermediate. Everything
//! inside is f32; whoever builds a graph names the tensors that are not. Must not know attention.

use crate::cuda::driver::cudnn::descriptor::Descriptor;
use crate::cuda::driver::cudnn::library::{Functions, Raw};
use crate::cuda::driver::cudnn::names;
use crate::cuda::error::CudaError;

/// Extents of a tensor and elements from each to the next, in the library's order: batch, heads, rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) extents: [i64; 4],
    pub(super) strides: [i64; 4],
}

impl Layout {
    /// Without gaps.
    pub(super) fn packed(extents: [i64; 4]) -> Layout {
        let [_, b, c, d] = extents;
        Layout { extents, strides: [b * c * d, c * d, d, 1] }
    }

    /// With rows and columns exchanged: the same elements.
    pub(super) fn transposed(self) -> Layout {
        let exchange = |[a, b, c, d]: [i64; 4]| [a, b, d, c];
        Layout { extents: exchange(self.extents), strides: exchange(self.strides) }
    }
}

/// A number that operations take by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    /// What products of queries and keys are multiplied by; differs from attention to attention of one shape.
    Scale,
    Value(f32),
}

/// What lies behind a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// A tensor of heads, by its place in the list.
    Heads(usize),
    Logarithms,
    RowSums,
    Scalar(Scalar),
}

/// A tensor of a graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value(usize);

/// A graph in the making. What is made is kept until the graph is not needed any more.
pub(super) struct Graph {
    functions: &'static Functions,
    parts: Vec<Descriptor>,
    operations: Vec<Raw>,
    /// Numbers of the tensors that are given, and what lies behind them.
    places: Vec<(i64, Place)>,
    tensors: i64,
}

impl Graph {
    pub(super) fn new(functions: &'static Functions) -> Graph {
        Graph {
            functions,
            parts: Vec::new(),
            operations: Vec::new(),
            places: Vec::new(),
            tensors: 0,
        }
    }

    fn keep(&mut self, descriptor: Descriptor) -> Value {
        self.parts.push(descriptor);
        Value(self.parts.len() - 1)
    }

    fn tensor(
        &mut self,
        format: i32,
        layout: Layout,
        place: Option<Place>,
    ) -> Result<Value, CudaError> {
        self.tensors += 1;
        let by_value = matches!(place, Some(Place::Scalar(_)));
        let tensor = Descriptor::new(self.functions, names::BACKEND_TENSOR_DESCRIPTOR)?
            .numbers(names::ATTR_TENSOR_UNIQUE_ID, &[self.tensors])?
            .format(names::ATTR_TENSOR_DATA_TYPE, format)?
            .numbers(names::ATTR_TENSOR_DIMENSIONS, &layout.extents)?
            .numbers(names::ATTR_TENSOR_STRIDES, &layout.strides)?
            .numbers(names::ATTR_TENSOR_BYTE_ALIGNMENT, &[16])?
            .flag(names::ATTR_TENSOR_IS_VIRTUAL, place.is_none())?
            .flag(names::ATTR_TENSOR_IS_BY_VALUE, by_value)?
            .finalized("describing a tensor")?;
        self.places.extend(place.map(|place| (self.tensors, place)));
        Ok(self.keep(tensor))
    }

    /// A tensor in memory.
    pub(super) fn given(
        &mut self,
        format: i32,
        layout: Layout,
        place: Place,
    ) -> Result<Value, CudaError> {
        self.tensor(format, layout, Some(place))
    }

    /// A number.
    pub(super) fn scalar(&mut self, scalar: Scalar) -> Result<Value, CudaError> {
        let layout = Layout::packed([1; 4]);
        self.tensor(names::DATA_FLOAT, layout, Some(Place::Scalar(scalar)))
    }

    /// An intermediate, which is never stored.
    pub(super) fn within(&mut self, format: i32, layout: Layout) -> Result<Value, CudaError> {
        self.tensor(format, layout, None)
    }

    fn operation(
        &mut self,
        kind: i32,
        parts: &[(i32, Value)],
        doing: &'static str,
    ) -> Result<(), CudaError> {
        let mut operation = Descriptor::new(self.functions, kind)?;
        for &(attribute, Value(part)) in parts {
            operation = operation.part(attribute, &self.parts[part])?;
        }
        let operation = operation.finalized(doing)?;
        self.operations.push(operation.raw());
        self.keep(operation);
        Ok(())
    }

    fn pointwise_of(
        &mut self,
        mode: i32,
        precision: i32,
        axis: Option<i64>,
        operands: &[(i32, Value)],
        result: Value,
    ) -> Result<Value, CudaError> {
        let mut kind = Descriptor::new(self.functions, names::BACKEND_POINTWISE_DESCRIPTOR)?
            .choice(names::ATTR_POINTWISE_MODE, names::TYPE_POINTWISE_MODE, mode)?
            .format(names::ATTR_POINTWISE_MATH_PREC, precision)?;
        if let Some(axis) = axis {
            kind = kind.numbers(names::ATTR_POINTWISE_AXIS, &[axis])?;
        }
        let kind = kind.finalized("describing a pointwise operation")?;
        let kind = self.keep(kind);
        let mut parts = vec![(names::ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind)];
        parts.extend(operands);
        parts.push((names::ATTR_OPERATION_POINTWISE_YDESC, result));
        let operation = names::BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
        self.operation(operation, &parts, "adding a pointwise operation")?;
        Ok(result)
    }

    /// `result = f(x)`.
    pub(super) fn unary(&mut self, mode: i32, x: Value, result: Value) -> Result<Value, CudaError> {
        let operands = [(names::ATTR_OPERATION_POINTWISE_XDESC, x)];
        self.pointwise_of(mode, names::DATA_FLOAT, None, &operands, result)
    }

    /// `result = f(x, b)`; `b` is repeated along axes on which it has one element.
    pub(super) fn binary(
        &mut self,
        mode: i32,
        [x, b]: [Value; 2],
        result: Value,
    ) -> Result<Value, CudaError> {
        let operands = [
            (names::ATTR_OPERATION_POINTWISE_XDESC, x),
            (names::ATTR_OPERATION_POINTWISE_BDESC, b),
        ];
        self.pointwise_of(mode, names::DATA_FLOAT, None, &operands, result)
    }

    /// `result` = the position along `axis`, of every element of `like`.
    pub(super) fn positions(
        &mut self,
        axis: i64,
        like: Value,
        result: Value,
    ) -> Result<Value, CudaError> {
        let operands = [(names::ATTR_OPERATION_POINTWISE_XDESC, like)];
        let mode = names::POINTWISE_GEN_INDEX;
        self.pointwise_of(mode, names::DATA_FLOAT, Some(axis), &operands, result)
    }

    /// `result = x + b` of positions along `axis`.
    pub(super) fn add_to_positions(
        &mut self,
        axis: i64,
        [x, b]: [Value; 2],
        result: Value,
    ) -> Result<Value, CudaError> {
        let operands = [
            (names::ATTR_OPERATION_POINTWISE_XDESC, x),
            (names::ATTR_OPERATION_POINTWISE_BDESC, b),
        ];
        let mode = names::POINTWISE_ADD;
        self.pointwise_of(mode, names::DATA_FLOAT, Some(axis), &operands, result)
    }

    /// `result` = whether `x` compares with `b`.
    pub(super) fn compare(
        &mut self,
        mode: i32,
        [x, b]: [Value; 2],
        result: Value,
    ) -> Result<Value, CudaError> {
        let operands = [
            (names::ATTR_OPERATION_POINTWISE_XDESC, x),
            (names::ATTR_OPERATION_POINTWISE_BDESC, b),
        ];
        self.pointwise_of(mode, names::DATA_BOOLEAN, None, &operands, result)
    }

    /// `result` = `x` where `condition` holds, else `b`.
    pub(super) fn select(
        &mut self,
        [x, b, condition]: [Value; 3],
        result: Value,
    ) -> Result<Value, CudaError> {
        let operands = [
            (names::ATTR_OPERATION_POINTWISE_XDESC, x),
            (names::ATTR_OPERATION_POINTWISE_BDESC, b),
            (names::ATTR_OPERATION_POINTWISE_TDESC, condition),
        ];
        let mode = names::POINTWISE_BINARY_SELECT;
        self.pointwise_of(mode, names::DATA_FLOAT, None, &operands, result)
    }

    /// `result = a b` of the matrices of each head; where `b` has fewer heads, several of `a` share one.
    pub(super) fn product(
        &mut self,
        [a, b]: [Value; 2],
        result: Value,
    ) -> Result<Value, CudaError> {
        let kind = Descriptor::new(self.functions, names::BACKEND_MATMUL_DESCRIPTOR)?
            .format(names::ATTR_MATMUL_COMP_TYPE, names::DATA_FLOAT)?
            .finalized("describing a product")?;
        let kind = self.keep(kind);
        let parts = [
            (names::ATTR_OPERATION_MATMUL_ADESC, a),
            (names::ATTR_OPERATION_MATMUL_BDESC, b),
            (names::ATTR_OPERATION_MATMUL_CDESC, result),
            (names::ATTR_OPERATION_MATMUL_DESC, kind),
        ];
        self.operation(names::BACKEND_OPERATION_MATMUL_DESCRIPTOR, &parts, "adding a product")?;
        Ok(result)
    }

    /// `result` = the sum or maximum of `x` along the axes on which `result` is shorter; where those are heads, of each
    /// group of neighbours.
    pub(super) fn reduce(
        &mut self,
        operator: i32,
        x: Value,
        result: Value,
    ) -> Result<Value, CudaError> {
        let ty = names::TYPE_REDUCTION_OPERATOR_TYPE;
        let kind = Descriptor::new(self.functions, names::BACKEND_REDUCTION_DESCRIPTOR)?
            .choice(names::ATTR_REDUCTION_OPERATOR, ty, operator)?
            .format(names::ATTR_REDUCTION_COMP_TYPE, names::DATA_FLOAT)?
            .finalized("describing a reduction")?;
        let kind = self.keep(kind);
        let parts = [
            (names::ATTR_OPERATION_REDUCTION_XDESC, x),
            (names::ATTR_OPERATION_REDUCTION_YDESC, result),
            (names::ATTR_OPERATION_REDUCTION_DESC, kind),
        ];
        let operation = names::BACKEND_OPERATION_REDUCTION_DESCRIPTOR;
        self.operation(operation, &parts, "adding a reduction")?;
        Ok(result)
    }

    /// `result` = `x` in another layout and format.
    pub(super) fn reshape(&mut self, x: Value, result: Value) -> Result<Value, CudaError> {
        let parts = [
            (names::ATTR_OPERATION_RESHAPE_XDESC, x),
            (names::ATTR_OPERATION_RESHAPE_YDESC, result),
        ];
        let operation = names::BACKEND_OPERATION_RESHAPE_DESCRIPTOR;
        self.operation(operation, &parts, "adding a reshape")?;
        Ok(result)
    }

    /// The operations in their order, what they are made of, and what lies behind the given tensors.
    pub(super) fn finish(self) -> Finished {
        let Graph { functions, parts, operations, places, .. } = self;
        Finished { functions, parts, operations, places }
    }
}

/// A graph that is complete.
pub(super) struct Finished {
    pub(super) functions: &'static Functions,
    pub(super) parts: Vec<Descriptor>,
    pub(super) operations: Vec<Raw>,
    pub(super) places: Vec<(i64, Place)>,
}
