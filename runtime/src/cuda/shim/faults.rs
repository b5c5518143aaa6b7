//! Planted mistakes: every file of kernels gets some, and the suite finds each.
//!
//! A suite that finds nothing proves nothing. Owns the mistakes: barriers left out, ends that are off by one, factors
//! left out.

use std::sync::Arc;

use colac_plan::{Op, Plan};

use super::tests::can_build;
use super::{Fault, Products, Shim};
use crate::conformance::{self, Arithmetic};
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::source::Family;
use crate::executor::Executor;

/// Asserts that each mistake, put into the file's kernels, is found by the operations that run them.
fn are_found(
    test: &str,
    family: Family,
    wanted: &dyn Fn(&Op) -> bool,
    mistakes: &[[&'static str; 2]],
) {
    if !can_build("faults", test) {
        return;
    }
    for &[from, to] in mistakes {
        let fault = Fault { family, from, to };
        let make = |plan: Arc<Plan>| -> Box<dyn Executor> {
            let products = match family {
                Family::Product => Products::Fallback,
                _ => Products::Loops,
            };
            let shim = Shim::new(products, 1).with(fault);
            Box::new(DeviceExecutor::new(plan, shim).expect("a plan of one operation"))
        };
        let found = conformance::first_failure(&make, Arithmetic::Bf16Factors, wanted);
        assert!(found.is_some(), "{family:?} with `{to}` for `{from}` conforms");
    }
}

#[test]
fn in_updates() {
    are_found(
        "in_updates",
        Family::AdamW,
        &|op| matches!(op, Op::AdamW { .. }),
        &[
            ["__syncthreads();\n    Constants constants", "Constants constants"],
            ["at < to && at < end", "at < to && at + 1 < end"],
            ["(float)(1.0 - rate * weight_decay)", "(float)(1.0 - weight_decay)"],
        ],
    );
}

#[test]
fn in_attention_of_any_width() {
    are_found(
        "in_attention_of_any_width",
        Family::Attention,
        &|op| matches!(op, Op::Attention { .. }),
        &[
            ["__syncthreads();\n        // Columns beyond", "// Columns beyond"],
            ["bool seen = lane < keys &&", "bool seen = lane + 1 < keys &&"],
        ],
    );
    are_found(
        "in_attention_of_any_width",
        Family::Attention,
        &|op| matches!(op, Op::AttentionBackward { .. }),
        &[[
            "scale * score.derivative * p * (gradients[r] - row_sum[r])",
            "scale * p * (gradients[r])",
        ]],
    );
}

#[test]
fn in_attention_on_tiles() {
    are_found(
        "in_attention_on_tiles",
        Family::AttentionTiles,
        &|op| matches!(op, Op::Attention { .. }),
        &[
            ["__syncthreads();\n        if (tile + KEYS < end)", "if (tile + KEYS < end)"],
            ["seen = seen && key <= query;", "seen = seen && key < query;"],
        ],
    );
    are_found(
        "in_attention_on_tiles",
        Family::AttentionTiles,
        &|op| matches!(op, Op::AttentionBackward { .. }),
        &[["dk_sums[m][n][i] *= scale;", "dk_sums[m][n][i] *= 1.0f;"]],
    );
}

#[test]
fn in_copies() {
    are_found(
        "in_copies",
        Family::Copies,
        &|op| matches!(op, Op::Slice { .. } | Op::Shift { .. }),
        &[
            [
                "if (item < rows * width) units[i] = x[item / width * x_stride",
                "if (item + 1 < rows * width) units[i] = x[item / width * x_stride",
            ],
            ["if (source >= 0 &&", "if (source > 0 &&"],
        ],
    );
}

#[test]
fn in_dropout() {
    are_found(
        "in_dropout",
        Family::Dropout,
        &|op| matches!(op, Op::Dropout { .. }),
        &[
            [
                "if (first + i >= rows * width) return;",
                "if (first + i + 1 >= rows * width) return;",
            ],
            ["threshold ? 0.0f : value * factor", "threshold ? 0.0f : value"],
        ],
    );
}

#[test]
fn in_embeddings() {
    are_found(
        "in_embeddings",
        Family::Embedding,
        &|op| matches!(op, Op::Embedding | Op::EmbeddingBackward { .. }),
        &[
            ["(u64)id < table_rows) units", "(u64)id + 1 < table_rows) units"],
            ["own < end ? order[own] : -1", "own + 1 < end ? order[own] : -1"],
            ["lane * VEC], sum);\n        __syncthreads();", "lane * VEC], sum);"],
        ],
    );
}

#[test]
fn in_losses() {
    are_found(
        "in_losses",
        Family::Head,
        &|op| matches!(op, Op::HeadLossWithGradient { .. }),
        &[
            [
                "__syncthreads();\n#pragma unroll\n        for (int group",
                "#pragma unroll\n        for (int group",
            ],
            ["position < end; position += 256", "position + 1 < end; position += 256"],
            ["block_sum(sum * expf(own_most - most), scratch)", "block_sum(sum, scratch)"],
            ["z[part][lane] *= share;", ""],
        ],
    );
}

#[test]
fn in_norms() {
    are_found(
        "in_norms",
        Family::Norm,
        &|op| matches!(op, Op::RmsNorm { .. }),
        &[
            ["groups) sum += squares", "groups - 1) sum += squares"],
            ["(double)sum / (double)width", "(double)sum"],
        ],
    );
    are_found(
        "in_norms",
        Family::Norm,
        &|op| matches!(op, Op::RmsNormBackward { .. }),
        &[["rstd * rstd * rstd", "rstd * rstd"]],
    );
    // A barrier before a block adds up something else in the same place.
    are_found(
        "in_norms",
        Family::Norm,
        &|op| matches!(op, Op::LayerNorm { .. }),
        &[["    value = warp_sum(value);\n    __syncthreads();", "    value = warp_sum(value);"]],
    );
}

#[test]
fn in_pointwise_programs() {
    are_found(
        "in_pointwise_programs",
        Family::Pointwise,
        &|op| matches!(op, Op::Pointwise { .. }),
        &[["if (group >= count) return;", "if (group + 1 >= count) return;"]],
    );
}

#[test]
fn in_products() {
    are_found(
        "in_products",
        Family::Product,
        &|op| matches!(op, Op::Linear | Op::LinearBackwardWeight),
        &[
            ["__syncthreads();\n        fetch(a", "fetch(a"],
            ["&& term < sum_end", "&& term + 1 < sum_end"],
            ["add ? to_f32(*to) + sums[i][j] : sums[i][j]", "sums[i][j]"],
        ],
    );
}

#[test]
fn in_reductions() {
    are_found(
        "in_reductions",
        Family::Reduce,
        &|op| matches!(op, Op::ColumnSum | Op::GradientNorm),
        &[
            [
                "    __syncthreads();\n    if (threadIdx.x < COLUMNS",
                "    if (threadIdx.x < COLUMNS",
            ],
            ["row = warp; row < count;", "row = warp; row + 1 < count;"],
            ["(float)sqrt(sum)", "(float)sum"],
        ],
    );
}

#[test]
fn in_rotary_positions() {
    are_found(
        "in_rotary_positions",
        Family::Rope,
        &|op| matches!(op, Op::Rope { .. }),
        &[
            ["if (item >= items) return;", "if (item + 1 >= items) return;"],
            ["d[lane] *= direction;", ""],
        ],
    );
}

#[test]
fn in_rows() {
    are_found(
        "in_rows",
        Family::Rows,
        &|op| matches!(op, Op::RowSum { .. } | Op::Softmax),
        &[
            // The barrier between writing and reading what warps have found.
            ["= value;\n    __syncthreads();\n    float most", "= value;\n    float most"],
            [
                "ROW_THREADS < groups) sum += exponentials",
                "ROW_THREADS + 1 < groups) sum += exponentials",
            ],
            ["sum / divisor", "sum"],
        ],
    );
}
