//! What PyTorch computed, from the files under `tests/pytorch/fixtures`, and how far something is from it.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::path::Path;

use colac_plan::parameter::Parameter;
use colac_plan::{Plan, ProgramKind, TensorId};
use colac_runtime::executor::Executor;
use colac_runtime::train::trainer::Trainer;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::common::{FixedRows, repository};

/// The tensors of a file.
pub(crate) struct Fixture {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Fixture {
    /// Reads a file of `tests/pytorch/fixtures`.
    pub(crate) fn read(file: &str) -> Fixture {
        Fixture::open(&repository(&format!("tests/pytorch/fixtures/{file}")))
    }

    /// Reads a safetensors file.
    pub(crate) fn open(path: &Path) -> Fixture {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
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
                Dtype::BF16 => {
                    let word = |c: &[u8]| {
                        let bits = u16::from_le_bytes(c.try_into().expect("two bytes"));
                        f64::from(f32::from_bits(u32::from(bits) << 16))
                    };
                    t.data().chunks_exact(2).map(word).collect()
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

    /// The names of its tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The elements of a tensor.
    pub(crate) fn get(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}")).1
    }

    /// The elements of a tensor of integers.
    pub(crate) fn integers(&self, name: &str) -> Vec<i32> {
        self.get(name).iter().map(|&v| v as i32).collect()
    }

    /// What the tensor `prefix` + checkpoint name says of a parameter, in the plan's orientation: of a joined tensor its
    /// part, of one with exchanged axes its transpose.
    pub(crate) fn parameter(&self, prefix: &str, plan: &Plan, parameter: &Parameter) -> Vec<f64> {
        let name = &parameter.checkpoint;
        let values = self.get(&format!("{prefix}{}", name.name));
        let shape = plan.tensor(parameter.tensor).ty.shape.extents();
        let rows = shape[0] as usize;
        let width = shape.iter().skip(1).product::<u64>() as usize;
        let (first, all) =
            name.part.map_or((0, rows), |part| (part.offset as usize, part.extent as usize));
        assert_eq!(values.len(), all * width, "{}", name.name);
        let place = |row: usize, column: usize| {
            if name.transposed {
                column * all + first + row
            } else {
                (first + row) * width + column
            }
        };
        (0..rows * width).map(|i| values[place(i / width, i % width)]).collect()
    }
}

/// ‖a - b‖ / ‖b‖.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum();
    let norm: f64 = b.iter().map(|y| y * y).sum();
    (difference / norm).sqrt()
}

/// A tensor of an executor.
pub(crate) fn read_tensor(executor: &dyn Executor, id: TensorId) -> Vec<f64> {
    let mut values = vec![0.0; executor.plan().tensor(id).ty.shape.elements() as usize];
    executor.read_f32(id, &mut values);
    values.into_iter().map(f64::from).collect()
}

/// Logits, loss and gradients of an executor that holds the weights, over a global batch of rows, each with its distance
/// from the tensors `logits`, `loss` and `grad.NAME` of the fixture.
pub(crate) fn deviations(
    executor: &mut dyn Executor,
    expected: &Fixture,
    mut rows: FixedRows,
) -> Vec<(String, f64)> {
    let plan = executor.plan().clone();
    let sequence = rows.sequence;
    let mut logits = Vec::new();
    for row in rows.tokens.chunks_exact(sequence) {
        executor.write_i32(plan.roles.logits_tokens, row);
        executor.run(ProgramKind::Logits, true);
        logits.extend(read_tensor(executor, plan.roles.logits));
    }
    let mut found = vec![("logits".to_owned(), distance(&logits, expected.get("logits")))];
    let mut trainer = Trainer::new(&plan).expect("the plan's batches are right");
    let report = trainer.step(executor, &mut rows, 0).expect("the step runs");
    let loss = report.loss.expect("the rows have labels");
    found.push(("loss".to_owned(), distance(&[loss], expected.get("loss"))));
    // By tensors of the checkpoint: a bias of keys, joined with others, has no gradient but rounding.
    let mut gradients: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for parameter in &plan.parameters {
        let (ours, theirs) = gradients.entry(&parameter.checkpoint.name).or_default();
        ours.extend(read_tensor(executor, parameter.gradient));
        theirs.extend(expected.parameter("grad.", &plan, parameter));
    }
    let distances = gradients.iter().map(|(name, (ours, theirs))| (*name, distance(ours, theirs)));
    found.extend(distances.map(|(name, distance)| (format!("the gradient of {name}"), distance)));
    found
}
