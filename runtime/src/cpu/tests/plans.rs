//! Small plans for tests of the executor, without a compiler.

use colac_plan::op::cost::aligned;
use colac_plan::program::{Phase, When, Write};
use colac_plan::{DType, Op, Operation, Plan, Segment, Shape, Tensor, TensorId, TensorType};

use crate::bare_plan::bare_plan;

/// Tensors and operations of a plan with one program, `forward_backward`.
#[derive(Default)]
pub(crate) struct PlanBuilder {
    tensors: Vec<Tensor>,
    ends: [u64; Segment::ALL.len()],
    operations: Vec<Operation>,
}

impl PlanBuilder {
    /// A packed tensor behind those that the segment already has.
    pub(crate) fn tensor(&mut self, segment: Segment, dtype: DType, extents: &[u64]) -> TensorId {
        let ty = TensorType::new(dtype, Shape::of(extents));
        self.strided(segment, ty.clone(), Tensor::packed_strides(&ty))
    }

    /// A tensor with strides behind those that the segment already has.
    pub(crate) fn strided(
        &mut self,
        segment: Segment,
        ty: TensorType,
        strides: Vec<u64>,
    ) -> TensorId {
        let offset = self.ends[segment.index()];
        self.place(Tensor {
            name: format!("t{}", self.tensors.len()),
            ty,
            strides,
            segment,
            offset,
            parent: None,
        })
    }

    /// A tensor wherever it says.
    pub(crate) fn place(&mut self, tensor: Tensor) -> TensorId {
        let end = &mut self.ends[tensor.segment.index()];
        *end = (*end).max(aligned(tensor.range().expect("test tensors are small").end));
        self.tensors.push(tensor);
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// An operation behind those there are.
    pub(crate) fn operation(
        &mut self,
        op: Op,
        operands: &[TensorId],
        results: &[TensorId],
        writes: &[Write],
    ) {
        let types = |ids: &[TensorId]| {
            ids.iter().map(|id| self.tensors[id.index()].ty.clone()).collect::<Vec<_>>()
        };
        let (operand_types, result_types) = (types(operands), types(results));
        let workspace = op.workspace_bytes(
            &operand_types.iter().collect::<Vec<_>>(),
            &result_types.iter().collect::<Vec<_>>(),
        );
        let end = &mut self.ends[Segment::Workspace.index()];
        *end = (*end).max(workspace);
        self.operations.push(Operation {
            op,
            operands: operands.to_vec(),
            results: results.to_vec(),
            writes: writes.to_vec(),
            when: When::Always,
            phase: Phase::Forward,
            after: Vec::new(),
            workspace,
            path: format!("operation{}", self.operations.len()),
            scope: None,
            line: None,
        });
    }

    /// The operations so far, to be changed.
    pub(crate) fn operations(&mut self) -> &mut [Operation] {
        &mut self.operations
    }

    /// The plan, with everything that an executor does not read left empty.
    pub(crate) fn build(self, outputs: &[TensorId]) -> Plan {
        let mut plan = bare_plan(self.tensors, self.ends, self.operations);
        plan.programs[0].outputs = outputs.to_vec();
        plan
    }
}

/// Numbers between -1 and 1 that look random: the same for the same seed.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
