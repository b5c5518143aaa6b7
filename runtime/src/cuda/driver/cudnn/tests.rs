//! Numbers and layouts, where no device is needed. Graphs are prepared in `tests/cuda.rs`, for plans of shipped specs.

use std::path::PathBuf;

use colac_plan::DType;
use colac_plan::op::Mask;

use super::attention::Layouts;
use super::graph::Layout;
use super::{is_known, names};
use crate::cuda::attention::{AttentionShape, Pass, forward};
use crate::cuda::driver::libraries;
use crate::cuda::view::Heads;
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
