//! Numbers, layouts and what the graphs compute, where no device is needed. The library prepares the graphs in
//! `tests/cuda.rs`, for plans of shipped specs.

use std::path::PathBuf;

use colac_plan::op::{Mask, Scores};
use colac_plan::{DType, Op, Real, Shape};

use super::attention::Layouts;
use super::evaluate::{Memory, evaluate};
use super::graph::Layout;
use super::{is_known, names};
use crate::conformance::samples::draw;
use crate::cuda::attention::{AttentionShape, Pass, forward};
use crate::cuda::driver::libraries;
use crate::cuda::view::Heads;
use crate::reference::{Value, evaluate as evaluate_op};
use crate::skip::skip;

/// The header of the library that is installed, where packages have it.
fn header() -> Result<String, String> {
    let library = libraries::cudnn().map_err(|error| error.to_string())?;
    let lib = library.path.parent().map(PathBuf::from).unwrap_or_default();
    let path = lib.join("../include/cudnn_graph.h");
    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The value of an enumerator.
fn value(header: &str, name: &str) -> Option<i32> {
    header.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("CUDNN_")?.strip_prefix(name)?;
        let rest = rest.strip_prefix(" CUDNN_DEPRECATED_ENUM").unwrap_or(rest);
        let rest = rest.trim_start().strip_prefix('=')?.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

#[test]
fn numbers_are_those_of_the_header() {
    let header = match header() {
        Ok(header) => header,
        Err(reason) => {
            let reason = format!("{reason} (tests/cuda/install-cudnn installs it for tests)");
            let name = "cuda::driver::cudnn::tests::numbers_are_those_of_the_header";
            return skip(name, &reason);
        }
    };
    for (name, ours) in names::ALL.iter().chain(names::described::ALL) {
        assert_eq!(value(&header, name), Some(*ours), "CUDNN_{name}");
    }
}

/// Queries and keys of one buffer of rows, `q | k | v`.
fn joined(heads: u64, groups: u64, dim: u64) -> [Heads; 2] {
    let row = (heads + 2 * groups) * dim;
    let of = |heads| Heads {
        address: 4096,
        dtype: DType::Bf16,
        batch: 3,
        seq: 5,
        heads,
        dim,
        strides: [5 * row, row, dim],
    };
    [of(heads), of(groups)]
}

#[test]
fn layouts_are_those_of_slices() {
    let [q, k] = joined(4, 2, 8);
    let shape = AttentionShape::of(Pass::Forward, Mask::Causal, &q, &k, &[&q, &k, &k, &q]);
    let layouts = Layouts::of(&shape);
    let keys = layouts.heads(forward::K, 2);
    assert_eq!(keys, Layout { extents: [3, 2, 5, 8], strides: [320, 8, 64, 1] });
    assert_eq!(
        keys.transposed(),
        Layout { extents: [3, 2, 8, 5], strides: [320, 8, 1, 64] },
        "the same elements"
    );
    assert_eq!(layouts.rows(), Layout { extents: [3, 4, 5, 1], strides: [20, 5, 1, 1] });
    assert_eq!(layouts.scores(), Layout { extents: [3, 4, 5, 5], strides: [100, 25, 5, 1] });
    assert!(layouts.is_grouped());
}

/// What an axis of one element steps by says nothing, and must not make two shapes of one.
#[test]
fn strides_of_single_elements_do_not_count() {
    let [q, k] = joined(4, 4, 8);
    let of = |stride| {
        let one = |heads: Heads| Heads { batch: 1, strides: [stride, 96, 8], ..heads };
        let (q, k) = (one(q), one(k));
        AttentionShape::of(Pass::Forward, Mask::Window(3), &q, &k, &[&q, &k, &k, &q])
    };
    assert_eq!(of(1), of(480));
    assert_eq!(of(1).strides[0], [160, 96, 8]);
    assert_eq!((of(1).causal, of(1).window), (true, Some(3)));
}

#[test]
fn only_what_the_graphs_are_made_for_is_asked_for() {
    let [q, k] = joined(4, 2, 64);
    let shape = AttentionShape::of(Pass::Backward, Mask::Causal, &q, &k, &[&q; 8]);
    let known = |change: &dyn Fn(&mut AttentionShape), capability| {
        let mut shape = shape.clone();
        change(&mut shape);
        is_known(&shape, capability)
    };
    assert!(known(&|_| (), (9, 0)) && known(&|_| (), (8, 9)));
    assert!(!known(&|_| (), (10, 0)), "another generation");
    assert!(known(&|shape| shape.dim = 128, (9, 0)));
    for dim in [0, 4, 33, 136] {
        assert!(!known(&|shape| shape.dim = dim, (9, 0)), "dim {dim}");
    }
    assert!(!known(&|shape| shape.seq = 1, (9, 0)), "a single position");
    assert!(!known(&|shape| shape.groups = 3, (9, 0)), "heads that cannot be shared");
    assert!(!known(&|shape| shape.window = Some(0), (9, 0)), "a window that shows nothing");
}

/// Batch, positions, heads, heads of keys and values, width: small, and no two alike.
const SMALL: [(u64, u64, u64, u64, u64); 2] = [(2, 5, 6, 2, 8), (2, 7, 3, 3, 16)];

/// What a tensor of heads holds in a row of several, `[batch, seq, heads, dim]` from `start` on.
fn parts(rows: &[f64], row: usize, start: usize, width: usize) -> Vec<f64> {
    rows.chunks(row).flat_map(|row| row[start..start + width].to_vec()).collect()
}

/// Both graphs compute what the reference does, from queries, keys and values that lie in the same rows, and write
/// gradients into such rows: operands that change places, a stride or a factor that is wrong would show.
#[test]
fn graphs_compute_attention_and_its_derivative() {
    for (batch, seq, heads, groups, dim) in SMALL {
        for mask in [Mask::Full, Mask::Causal, Mask::Window(1), Mask::Window(3)] {
            let row = ((heads + 2 * groups) * dim) as usize;
            let (wide, narrow) = ((heads * dim) as usize, (groups * dim) as usize);
            let positions = (batch * seq) as usize;
            let starts = [0, wide, wide + narrow];
            let joined = draw("q k v", positions * row, 1.0);
            let dout = draw("dout", positions * wide, 1.0);

            let scores = Scores::new(mask, Real::new(0.375));
            let value =
                |values: Vec<f64>, heads| Value::new(&Shape::of(&[batch, seq, heads, dim]), values);
            let qkv = [
                value(parts(&joined, row, starts[0], wide), heads),
                value(parts(&joined, row, starts[1], narrow), groups),
                value(parts(&joined, row, starts[2], narrow), groups),
            ];
            let expected = evaluate_op(&Op::Attention { scores }, &qkv, &[]);

            let of = |heads, row: usize| Heads {
                address: 0,
                dtype: DType::Bf16,
                batch,
                seq,
                heads,
                dim,
                strides: [seq * row as u64, row as u64, dim],
            };
            let (q, k, out) = (of(heads, row), of(groups, row), of(heads, wide));
            let shape = AttentionShape::of(Pass::Forward, mask, &q, &k, &[&q, &k, &k, &out]);
            let at = |buffer| starts.map(|start| (buffer, start));
            let [q_at, k_at, v_at] = at(0);
            let mut memory = Memory::new(
                vec![q_at, k_at, v_at, (1, 0)],
                vec![joined.clone(), vec![f64::NAN; positions * wide]],
                positions * heads as usize,
            );
            memory.scale = 0.375;
            evaluate(&super::forward::graph(&shape), &mut memory);
            near(&memory.buffers[1], &expected[0], "out");
            near(&memory.logarithms, &expected[1], "logarithms");

            let operands: Vec<Value> = [value(dout.clone(), heads)]
                .into_iter()
                .chain(qkv)
                .chain([
                    value(expected[0].clone(), heads),
                    Value::new(&Shape::of(&[batch, heads, seq]), expected[1].clone()),
                ])
                .collect();
            let gradients =
                evaluate_op(&Op::AttentionBackward { scores, turned_back: None }, &operands, &[]);
            let tensors = [&out, &q, &k, &k, &out, &q, &k, &k];
            let shape = AttentionShape::of(Pass::Backward, mask, &q, &k, &tensors);
            let [dq_at, dk_at, dv_at] = at(3);
            let mut memory = Memory::new(
                vec![(2, 0), q_at, k_at, v_at, (1, 0), dq_at, dk_at, dv_at],
                vec![joined, expected[0].clone(), dout, vec![f64::NAN; positions * row]],
                positions * heads as usize,
            );
            (memory.scale, memory.logarithms) = (0.375, expected[1].clone());
            evaluate(&super::backward::graph(&shape), &mut memory);
            let found = &memory.buffers[3];
            near(&parts(found, row, starts[0], wide), &gradients[0], "dq");
            near(&parts(found, row, starts[1], narrow), &gradients[1], "dk");
            near(&parts(found, row, starts[2], narrow), &gradients[2], "dv");
        }
    }
}

fn near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= 1e-9 * (1.0 + expected.abs()), "{what} {i}: {found}, not {expected}");
    }
}
