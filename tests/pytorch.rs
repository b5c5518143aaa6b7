//! Whole training runs against PyTorch: the same start weights, tokens and settings give the same losses, gradients,
//! logits and final weights. `tests/pytorch/README.md` tells how the fixtures were made and what faults they notice.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use colac_plan::{Plan, ProgramKind};
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::reference::ReferenceExecutor;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// The tensors of a fixture.
struct Fixture {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Fixture {
    fn read(name: &str) -> Fixture {
        let path = common::repository(&format!("tests/pytorch/fixtures/{name}.safetensors"));
        let bytes = std::fs::read(&path).expect("the fixture is committed");
        let file = SafeTensors::deserialize(&bytes).expect("the fixture is a safetensors file");
        let read = |t: &TensorView<'_>| -> Vec<f64> {
            match t.dtype() {
                Dtype::F32 => {
                    let word =
                        |c: &[u8]| f64::from(f32::from_le_bytes(c.try_into().expect("four bytes")));
                    t.data().chunks_exact(4).map(word).collect()
                }
                Dtype::F64 => {
                    let word = |c: &[u8]| f64::from_le_bytes(c.try_into().expect("eight bytes"));
                    t.data().chunks_exact(8).map(word).collect()
                }
                Dtype::I32 => {
                    let word =
                        |c: &[u8]| f64::from(i32::from_le_bytes(c.try_into().expect("four bytes")));
                    t.data().chunks_exact(4).map(word).collect()
                }
                other => panic!("fixtures hold no {other:?}"),
            }
        };
        let tensors = file
            .tensors()
            .iter()
            .map(|(n, t)| (n.clone(), (t.shape().to_vec(), read(t))))
            .collect();
        Fixture { tensors }
    }

    fn get(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}")).1
    }

    fn integers(&self, name: &str) -> Vec<i32> {
        self.get(name).iter().map(|&v| v as i32).collect()
    }

    /// A checkpoint tensor in the orientation of the plan's parameter.
    fn oriented(&self, name: &str, shape: &[u64], transposed: bool) -> Vec<f64> {
        let values = self.get(name);
        if !transposed {
            return values.to_vec();
        }
        let (rows, columns) = (shape[0] as usize, shape[1] as usize);
        (0..rows * columns).map(|i| values[(i % columns) * rows + i / columns]).collect()
    }
}

/// ‖a - b‖ / ‖b‖.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum();
    let norm: f64 = b.iter().map(|y| y * y).sum();
    (difference / norm).sqrt()
}

/// How far a run is from the fixture.
#[derive(Debug)]
struct Deviation {
    /// Largest relative difference of a loss in the first 20 steps.
    early_loss: f64,
    /// Largest in all 40.
    late_loss: f64,
    /// Largest relative difference of a gradient norm before clipping.
    gradient_norm: f64,
    /// Largest distance of a tensor of the first step's gradient.
    gradient: f64,
    /// Distance of the logits before training.
    logits: f64,
    /// Largest distance of a final weight.
    weights: f64,
}

impl Deviation {
    fn accepted(&self) -> bool {
        self.early_loss <= 1e-4
            && self.late_loss <= 1e-3
            && self.gradient_norm <= 1e-3
            && self.gradient <= 1e-4
            && self.logits <= 1e-4
            && self.weights <= 1e-3
    }
}

fn read_tensor(executor: &dyn Executor, id: colac_plan::TensorId) -> Vec<f64> {
    let mut values = vec![0.0; executor.plan().tensor(id).ty.shape.elements() as usize];
    executor.read_f32(id, &mut values);
    values.into_iter().map(f64::from).collect()
}

fn run(plan: &Arc<Plan>, executor: &mut dyn Executor, fixture: &Fixture) -> Deviation {
    initialize(executor);
    for parameter in &plan.parameters {
        let shape = plan.tensor(parameter.tensor).ty.shape.extents();
        let name = &parameter.checkpoint;
        let values = fixture.oriented(&name.name, &shape, name.transposed);
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        executor.write_f32(parameter.tensor, &values);
    }
    let sequence = plan.recipe.sequence_length as usize;
    let mut rows = FixedRows {
        tokens: fixture.integers("tokens"),
        labels: fixture.integers("labels"),
        sequence,
    };

    // Logits of each row of the first micro-batch, one row at a time.
    let expected = fixture.get("logits");
    let mut logits = Vec::with_capacity(expected.len());
    for row in rows.tokens[..plan.recipe.micro_batch as usize * sequence].chunks_exact(sequence) {
        executor.write_i32(plan.roles.logits_tokens, row);
        executor.run(ProgramKind::Logits, true);
        logits.extend(read_tensor(executor, plan.roles.logits));
    }
    let mut deviation = Deviation {
        early_loss: 0.0,
        late_loss: 0.0,
        gradient_norm: 0.0,
        gradient: 0.0,
        logits: distance(&logits, expected),
        weights: 0.0,
    };

    let mut trainer = Trainer::new(plan).expect("the plan's batches are right");
    let (losses, norms, rates) =
        (fixture.get("losses"), fixture.get("grad_norms"), fixture.get("learning_rates"));
    for update in 0..losses.len() {
        let report = trainer.step(executor, &mut rows, update as u64).expect("the step runs");
        if update == 0 {
            for parameter in &plan.parameters {
                let shape = plan.tensor(parameter.tensor).ty.shape.extents();
                let name = &parameter.checkpoint;
                let expected =
                    fixture.oriented(&format!("grad.{}", name.name), &shape, name.transposed);
                let found = distance(&read_tensor(executor, parameter.gradient), &expected);
                deviation.gradient = deviation.gradient.max(found);
            }
        }
        assert!((report.learning_rate - rates[update]).abs() <= 1e-7 * rates[update].max(1e-9));
        let loss = report.loss.expect("every step has labels");
        let off = (loss - losses[update]).abs() / losses[update];
        if update < 20 {
            deviation.early_loss = deviation.early_loss.max(off);
        }
        deviation.late_loss = deviation.late_loss.max(off);
        let norm = f64::from(report.gradient_norm.expect("every step has labels"));
        deviation.gradient_norm =
            deviation.gradient_norm.max((norm - norms[update]).abs() / norms[update]);
    }
    for parameter in &plan.parameters {
        let shape = plan.tensor(parameter.tensor).ty.shape.extents();
        let name = &parameter.checkpoint;
        let expected = fixture.oriented(&format!("final.{}", name.name), &shape, name.transposed);
        deviation.weights =
            deviation.weights.max(distance(&read_tensor(executor, parameter.tensor), &expected));
    }
    deviation
}

fn check(name: &str) {
    let fixture = Fixture::read(name);
    let plan = common::plan_of_file(&format!("tests/pytorch/fixtures/{name}.toml"), &[], false);
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    let mut cpu = CpuExecutor::new(Arc::clone(&plan), options).expect("the CPU runs f32 plans");
    let deviation = run(&plan, &mut cpu, &fixture);
    assert!(deviation.accepted(), "CPU, {name}: {deviation:?}");
    let mut reference = ReferenceExecutor::new(Arc::clone(&plan));
    let deviation = run(&plan, &mut reference, &fixture);
    assert!(deviation.accepted(), "reference, {name}: {deviation:?}");
}

#[test]
fn full_rank_follows_pytorch() {
    check("full");
}

#[test]
fn grouped_heads_follow_pytorch() {
    check("full-grouped");
}

#[test]
fn cola_with_outer_activation_follows_pytorch() {
    check("cola-outer");
}

#[test]
fn cola_with_bypass_follows_pytorch() {
    check("cola-bypass");
}
