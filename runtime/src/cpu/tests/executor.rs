//! The executor as a whole: refusals, placement, the checking mode.

use colac_plan::program::{When, Write};
use colac_plan::{DType, Op, Plan, ProgramKind, Segment, Shape, Tensor, TensorId, TensorType};

use super::*;
use crate::cpu::{ArenaPlacement, CpuError, LayoutProblem, OperationError, OperationProblem};

fn refusal(plan: Plan) -> CpuError {
    match CpuExecutor::new(Arc::new(plan), CpuOptions { threads: 1, ..CpuOptions::default() }) {
        Ok(_) => panic!("the plan was taken"),
        Err(error) => error,
    }
}

/// `y = x wᵀ`, twice, the second time from the activations; `change` spoils it.
fn chain(change: impl FnOnce(&mut PlanBuilder, [TensorId; 4])) -> (Plan, [TensorId; 4]) {
    let mut plan = PlanBuilder::default();
    let x = plan.tensor(Segment::Inputs, DType::F32, &[70, 33]);
    let w = plan.tensor(Segment::Parameters, DType::F32, &[33, 33]);
    let middle = plan.tensor(Segment::Activations, DType::F32, &[70, 33]);
    let y = plan.tensor(Segment::Outputs, DType::F32, &[70, 33]);
    plan.operation(Op::Linear, &[x, w], &[middle], &[Write::Overwrite]);
    plan.operation(Op::Linear, &[middle, w], &[y], &[Write::Overwrite]);
    change(&mut plan, [x, w, middle, y]);
    (plan.build(&[y]), [x, w, middle, y])
}

fn outcome(plan: &Plan, ids: [TensorId; 4], options: CpuOptions) -> Vec<f32> {
    let mut executor = CpuExecutor::new(Arc::new(plan.clone()), options).unwrap();
    assert_eq!(executor.segment_bytes(), plan.total_bytes());
    executor.write_f32(ids[0], &numbers(1, 70 * 33));
    executor.write_f32(ids[1], &numbers(2, 33 * 33));
    executor.run(ProgramKind::ForwardBackward, true);
    let mut y = vec![0.0; 70 * 33];
    executor.read_f32(ids[3], &mut y);
    y
}

#[test]
fn placement_and_checking_change_nothing() {
    let (plan, ids) = chain(|_, _| {});
    let plain = outcome(&plan, ids, CpuOptions { threads: 1, ..CpuOptions::default() });
    assert!(plain.iter().all(|y| y.is_finite()));
    for checking in [false, true] {
        let options =
            CpuOptions { threads: 2, checking, arena: ArenaPlacement::BeforeProtectedPage };
        assert_eq!(outcome(&plan, ids, options), plain);
    }
}

#[test]
fn checking_shows_a_tensor_placed_on_a_living_one() {
    // Another result lies on the bytes of `middle` and dies before `middle` is read.
    let (plan, ids) = chain(|plan, [x, w, middle, _]| {
        let place = plan.tensor(Segment::Activations, DType::F32, &[1]);
        assert_ne!(place, middle);
        let ty = TensorType::f32(&[70, 33]);
        let strides = Tensor::packed_strides(&ty);
        let name = "intruder".to_string();
        let tensor =
            Tensor { name, ty, strides, segment: Segment::Activations, offset: 0, parent: None };
        let intruder = plan.place(tensor);
        plan.operation(Op::Linear, &[x, w], &[intruder], &[Write::Overwrite]);
        plan.operations().swap(1, 2);
    });
    let options = |checking| CpuOptions { threads: 1, checking, ..CpuOptions::default() };
    assert!(outcome(&plan, ids, options(false)).iter().all(|y| y.is_finite()));
    assert!(
        outcome(&plan, ids, options(true)).iter().all(|y| y.is_finite()),
        "the living part is spared"
    );
    // Read once more after its last planned use: through a view that names no parent.
    let (plan, ids) = chain(|plan, [_, w, _, y]| {
        let ty = TensorType::f32(&[70, 33]);
        let strides = Tensor::packed_strides(&ty);
        let name = "stale".to_string();
        let tensor =
            Tensor { name, ty, strides, segment: Segment::Activations, offset: 0, parent: None };
        let stale = plan.place(tensor);
        plan.operation(Op::Linear, &[stale, w], &[y], &[Write::Overwrite]);
    });
    assert!(outcome(&plan, ids, options(false)).iter().all(|y| y.is_finite()));
    assert!(outcome(&plan, ids, options(true)).iter().all(|y| y.is_nan()));
}

#[test]
fn operations_for_the_last_micro_batch_wait_for_it() {
    let (plan, [x, w, _, y]) = chain(|plan, _| plan.operations()[1].when = When::LastMicroBatch);
    let mut executor =
        CpuExecutor::new(Arc::new(plan), CpuOptions { threads: 1, ..CpuOptions::default() })
            .unwrap();
    executor.write_f32(x, &numbers(1, 70 * 33));
    executor.write_f32(w, &numbers(2, 33 * 33));
    let mut values = vec![1.0; 70 * 33];
    executor.run(ProgramKind::ForwardBackward, false);
    executor.read_f32(y, &mut values);
    assert!(values.iter().all(|y| *y == 0.0));
    executor.run(ProgramKind::ForwardBackward, true);
    executor.read_f32(y, &mut values);
    assert!(values.iter().any(|y| *y != 0.0));
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let (plan, _) = chain(|plan, [.., y]| plan.operations()[0].results = vec![y, y]);
    assert!(matches!(
        refusal(plan),
        CpuError::Operation(OperationError::Whole { problem: OperationProblem::ResultCount, .. })
    ));
    let (plan, _) = chain(|plan, [x, w, ..]| {
        let odd = plan.tensor(Segment::Outputs, DType::F32, &[70, 32]);
        plan.operation(Op::Linear, &[x, w], &[odd], &[Write::Overwrite]);
    });
    assert!(matches!(
        refusal(plan),
        CpuError::Operation(OperationError::Whole { problem: OperationProblem::ResultType, .. })
    ));
    let (plan, _) = chain(|plan, _| plan.operations()[0].writes = vec![Write::Add]);
    assert!(matches!(
        refusal(plan),
        CpuError::Operation(OperationError::Whole { problem: OperationProblem::Accumulation, .. })
    ));
    let (plan, _) = chain(|plan, [x, ..]| plan.operations()[0].results = vec![x]);
    assert!(matches!(
        refusal(plan),
        CpuError::Operation(OperationError::Whole { problem: OperationProblem::Overlap, .. })
    ));
    let (plan, _) = chain(|plan, [x, ..]| {
        let y = plan.tensor(Segment::Outputs, DType::F32, &[33]);
        plan.operation(Op::ColumnSum, &[x], &[y], &[Write::Add]);
        plan.operations()[2].workspace = 0;
    });
    assert!(matches!(
        refusal(plan),
        CpuError::Operation(OperationError::Whole { problem: OperationProblem::Workspace, .. })
    ));
    let (mut plan, _) = chain(|_, _| {});
    plan.segment_bytes[Segment::Activations.index()] -= 256;
    let outside = LayoutProblem::OutsideSegment(Segment::Activations);
    assert!(
        matches!(refusal(plan), CpuError::Operation(OperationError::Layout { problem, .. }) if problem == outside)
    );
    let (plan, _) = chain(|plan, _| plan.operations()[1].operands[1] = TensorId(99));
    assert!(matches!(
        refusal(plan),
        CpuError::Operation(OperationError::Layout { problem: LayoutProblem::Missing, .. })
    ));
    let (plan, _) = chain(|plan, [x, ..]| plan.operations()[1].operands = vec![x]);
    assert!(matches!(refusal(plan), CpuError::Operation(OperationError::Type { .. })));
}

#[test]
fn strided_tensors_cross_the_interface_packed() {
    let mut plan = PlanBuilder::default();
    let ty = |dtype| TensorType::new(dtype, Shape::of(&[2, 3, 4]));
    let real = plan.strided(Segment::Inputs, ty(DType::F32), vec![40, 10, 1]);
    let integer = plan.strided(Segment::Inputs, ty(DType::I32), vec![12, 4, 1]);
    let scalar = plan.tensor(Segment::Scalars, DType::F32, &[]);
    let options = CpuOptions { threads: 1, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(Arc::new(plan.build(&[])), options).unwrap();
    let (reals, integers) = (numbers(1, 24), (0..24).collect::<Vec<i32>>());
    executor.write_f32(real, &reals);
    executor.write_i32(integer, &integers);
    executor.write_f32(scalar, &[2.5]);
    let (mut got, mut counts, mut single) = (vec![0.0; 24], vec![0; 24], [0.0]);
    executor.read_f32(real, &mut got);
    executor.read_i32(integer, &mut counts);
    executor.read_f32(scalar, &mut single);
    assert_eq!((got, counts, single), (reals, integers, [2.5]));
}
