//! Planted mistakes: every kernel gets one or more, and the suite finds each.
//!
//! A suite that finds nothing proves nothing. Owns the mistakes: barriers left out, ends that are off by one, factors
//! left out.

use std::collections::BTreeSet;
use std::sync::Arc;

use colac_plan::{Op, Plan};

use super::tests::can_build;
use super::{Fault, Products, Shim};
use crate::conformance::{self, Arithmetic};
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::source::Family;
use crate::executor::Executor;

/// Mistakes in a file of kernels that some operations find: the kernel, what its text has, and what it has then.
struct Mistakes {
    family: Family,
    found_by: fn(&Op) -> bool,
    planted: &'static [[&'static str; 3]],
}

const MISTAKES: &[Mistakes] = &[
    Mistakes {
        family: Family::AdamW,
        found_by: |op| matches!(op, Op::AdamW { .. }),
        planted: &[
            ["adamw", "__syncthreads();\n    Constants constants", "Constants constants"],
            ["adamw", "at < to && at < end", "at < to && at + 1 < end"],
            ["adamw", "(float)(1.0 - rate * weight_decay)", "(float)(1.0 - weight_decay)"],
            ["count_step", "*step = next(*step);", "*step = *step;"],
        ],
    },
    Mistakes {
        family: Family::Attention,
        found_by: |op| matches!(op, Op::Attention { .. }),
        planted: &[
            [
                "attention_forward",
                "__syncthreads();\n        // Columns beyond",
                "// Columns beyond",
            ],
            ["attention_forward", "bool seen = lane < keys &&", "bool seen = lane + 1 < keys &&"],
        ],
    },
    Mistakes {
        family: Family::Attention,
        found_by: |op| matches!(op, Op::AttentionBackward { .. }),
        planted: &[
            ["attention_row_sums", "d < value_dim; d += 32", "d + 1 < value_dim; d += 32"],
            [
                "attention_backward_queries",
                "scale * score.derivative * p * (gradients[r] - row_sum[r])",
                "scale * p * (gradients[r])",
            ],
            [
                "attention_backward_keys",
                "scale * score.derivative * p * (gradients[r] - row_sum) :",
                "scale * score.derivative * p * gradients[r] :",
            ],
        ],
    },
    Mistakes {
        family: Family::AttentionTiles,
        found_by: |op| matches!(op, Op::Attention { .. }),
        planted: &[
            [
                "attention_tiles_forward",
                "__syncthreads();\n        if (tile + KEYS < end)",
                "if (tile + KEYS < end)",
            ],
            [
                "attention_tiles_forward",
                "seen = seen && key <= query;",
                "seen = seen && key < query;",
            ],
        ],
    },
    Mistakes {
        family: Family::AttentionTiles,
        found_by: |op| matches!(op, Op::AttentionBackward { .. }),
        planted: &[
            [
                "attention_tiles_row_sums",
                "threadIdx.x % 4 == 0) deltas[",
                "threadIdx.x % 8 == 0) deltas[",
            ],
            [
                "attention_tiles_backward_keys",
                "dk_sums[m][n][i] *= scale;",
                "dk_sums[m][n][i] *= 1.0f;",
            ],
            [
                "attention_tiles_backward_queries",
                "row_sums[m][half] = row < seq ?",
                "row_sums[m][half] = row + 1 < seq ?",
            ],
        ],
    },
    Mistakes {
        family: Family::AttentionTiles,
        found_by: |op| matches!(op, Op::AttentionBackward { turned_back: Some(_), .. }),
        // Turned on instead of back; the tables' row of another position; a chunk beside the pair's; a last row left out.
        planted: &[
            [
                "attention_tiles_backward_keys",
                "p * c[pair] + q * s[pair];",
                "p * c[pair] - q * s[pair];",
            ],
            [
                "attention_tiles_backward_queries",
                "load(sin + position * sin_stride",
                "load(sin + line * sin_stride",
            ],
            ["attention_tiles_backward_keys", "u32 chunk = part + TURNED;", "u32 chunk = part;"],
            [
                "attention_tiles_backward_queries",
                "if (first + line >= seq) continue;",
                "if (first + line + 1 >= seq) continue;",
            ],
        ],
    },
    Mistakes {
        family: Family::Copies,
        found_by: |op| matches!(op, Op::Slice { .. } | Op::Shift { .. }),
        planted: &[
            [
                "copy_rows",
                "if (item < rows * width) units[i] = x[item / width * x_stride",
                "if (item + 1 < rows * width) units[i] = x[item / width * x_stride",
            ],
            ["shift_rows", "if (source >= 0 &&", "if (source > 0 &&"],
        ],
    },
    Mistakes {
        family: Family::Copies,
        found_by: |op| matches!(op, Op::EmbeddingBackward { .. }),
        planted: &[["clear_rows", "if (adds(mode, condition)) return;", ""]],
    },
    Mistakes {
        family: Family::Dropout,
        found_by: |op| matches!(op, Op::Dropout { .. }),
        planted: &[
            [
                "dropout",
                "if (first + i >= rows * width) return;",
                "if (first + i + 1 >= rows * width) return;",
            ],
            ["dropout", "threshold ? 0.0f : value * factor", "threshold ? 0.0f : value"],
        ],
    },
    Mistakes {
        family: Family::Embedding,
        found_by: |op| matches!(op, Op::Embedding | Op::EmbeddingBackward { .. }),
        planted: &[
            ["embedding", "(u64)id < table_rows) units", "(u64)id + 1 < table_rows) units"],
            [
                "embedding_backward",
                "own < end ? order[own] : -1",
                "own + 1 < end ? order[own] : -1",
            ],
            [
                "embedding_backward",
                "lane * VEC], sum);\n        __syncthreads();",
                "lane * VEC], sum);",
            ],
        ],
    },
    Mistakes {
        family: Family::Head,
        found_by: |op| matches!(op, Op::HeadLossWithGradient { .. }),
        planted: &[
            [
                "positions",
                "__syncthreads();\n#pragma unroll\n        for (int group",
                "#pragma unroll\n        for (int group",
            ],
            [
                "positions",
                "block_sum(sum * expf(own_most - most), scratch)",
                "block_sum(sum, scratch)",
            ],
            ["positions_held", "z[part][lane] *= share;", ""],
            ["loss_rows", "position < end; position += 256", "position + 1 < end; position += 256"],
        ],
    },
    Mistakes {
        family: Family::Head,
        found_by: |op| matches!(op, Op::HeadLossWithGradient { bias: true, transform: None, .. }),
        planted: &[
            // A loss that is infinite and whose gradient does not say so.
            [
                "positions",
                "return logit - logit == 0.0f ? factor : bits_to_f32(0x7fffffffu);",
                "return factor;",
            ],
            [
                "column_sums",
                "row = warp; row < rows; row += 8",
                "row = warp; row + 1 < rows; row += 8",
            ],
        ],
    },
    Mistakes {
        family: Family::Norm,
        found_by: |op| matches!(op, Op::RmsNorm { .. }),
        planted: &[
            ["norm_rows", "groups) sum += squares", "groups - 1) sum += squares"],
            ["norm_rows", "(double)sum / (double)width", "(double)sum"],
            ["norm_of_long_rows", "write(group, mean, rstd, w,", "write(group, mean, 1.0f, w,"],
        ],
    },
    Mistakes {
        family: Family::Norm,
        found_by: |op| matches!(op, Op::RmsNormBackward { .. }),
        planted: &[
            ["norm_backward", "rstd * rstd * rstd", "rstd * rstd"],
            [
                "norm_backward",
                "if (group < groups) read(dy + row * dy_stride",
                "if (group + 1 < groups) read(dy + row * dy_stride",
            ],
            [
                "norm_backward_of_long_rows",
                "centred);\n        write(g, centred",
                "centred);\n        if (column > 0) write(g, centred",
            ],
            [
                "norm_backward_by_warps",
                "fmaf(g[part][v] * rstd, centred[part][v]",
                "fmaf(g[part][v], centred[part][v]",
            ],
            // Between rows that are made at once.
            ["norm_backward_of_runs", "}\n    __syncthreads();\n    u32 first", "}\n    u32 first"],
            ["norm_backward_of_runs", "ask(row + ROWS_AT_ONCE);", "ask(row);"],
            ["norm_backward_of_runs", "other < ROWS_AT_ONCE", "other < ROWS_AT_ONCE - 1"],
        ],
    },
    Mistakes {
        family: Family::Norm,
        found_by: |op| matches!(op, Op::LayerNorm { .. }),
        // A barrier before a block adds up something else in the same place.
        planted: &[[
            "norm_rows",
            "    value = warp_sum(value);\n    __syncthreads();",
            "    value = warp_sum(value);",
        ]],
    },
    Mistakes {
        family: Family::Pointwise,
        found_by: |op| matches!(op, Op::Pointwise { .. }),
        planted: &[["pointwise", "if (group >= count) return;", "if (group + 1 >= count) return;"]],
    },
    Mistakes {
        family: Family::Product,
        found_by: |op| matches!(op, Op::Linear | Op::LinearBackwardWeight),
        planted: &[
            ["product", "__syncthreads();\n        fetch(a", "fetch(a"],
            ["product", "&& term < sum_end", "&& term + 1 < sum_end"],
            ["product", "add ? to_f32(*to) + sums[i][j] : sums[i][j]", "sums[i][j]"],
        ],
    },
    Mistakes {
        family: Family::Reduce,
        found_by: |op| matches!(op, Op::ColumnSum | Op::GradientNorm | Op::Sum),
        planted: &[
            [
                "column_partials",
                "    __syncthreads();\n    if (threadIdx.x < COLUMNS",
                "    if (threadIdx.x < COLUMNS",
            ],
            ["sum_partials", "row = warp; row < count;", "row = warp; row + 1 < count;"],
            ["finish_sum", "i < count; i += 256", "i + 1 < count; i += 256"],
            ["sum_blocks", "group < count * across;", "group + 1 < count * across;"],
            ["square_blocks", "i < end; i += 256 * VEC", "i + VEC < end; i += 256 * VEC"],
            ["finish_norm", "(float)sqrt(sum)", "(float)sum"],
        ],
    },
    Mistakes {
        family: Family::Reduce,
        found_by: |op| matches!(op, Op::HeadLossWithGradient { .. }),
        planted: &[[
            "store_sums",
            "if (group >= rows * across)",
            "if (group + 1 >= rows * across)",
        ]],
    },
    Mistakes {
        family: Family::Rope,
        found_by: |op| matches!(op, Op::Rope { .. }),
        planted: &[
            ["rope", "if (item >= items) return;", "if (item + 1 >= items) return;"],
            ["rope", "d[lane] *= direction;", ""],
        ],
    },
    Mistakes {
        family: Family::Rows,
        found_by: |op| matches!(op, Op::RowSum { .. } | Op::Softmax),
        planted: &[
            ["sum_of_rows", "sum / divisor", "sum"],
            // The barrier between writing and reading what warps have found.
            [
                "softmax",
                "= value;\n    __syncthreads();\n    float most",
                "= value;\n    float most",
            ],
            [
                "softmax",
                "ROW_THREADS < groups) sum += exponentials",
                "ROW_THREADS + 1 < groups) sum += exponentials",
            ],
            ["softmax_of_long_rows", "        scale(group, factor);\n", ""],
        ],
    },
];

/// Asserts that each mistake in the files, put into a kernel, is found by the operations that run it. Every mistake builds
/// kernels of its own, so the gate looks for the first of each kernel, and `.ci/extended` for all of them.
fn are_found(test: &str, families: &[Family]) {
    if !can_build("faults", test) {
        return;
    }
    let all = std::env::var_os("COLAC_ALL_MISTAKES").is_some();
    let mut looked_at = BTreeSet::new();
    let here = MISTAKES.iter().filter(|mistakes| families.contains(&mistakes.family));
    for Mistakes { family, found_by, planted } in here {
        for &[kernel, from, to] in *planted {
            if !looked_at.insert(kernel) && !all {
                continue;
            }
            let fault = Fault { family: *family, from, to };
            let make = |plan: Arc<Plan>| -> Box<dyn Executor> {
                let products = match family {
                    Family::Product => Products::Fallback,
                    _ => Products::Loops,
                };
                let shim = Shim::new(products, 1).with(fault);
                Box::new(DeviceExecutor::new(plan, shim).expect("a plan of one operation"))
            };
            let found = conformance::first_failure(&make, Arithmetic::Bf16Factors, found_by);
            assert!(found.is_some(), "{kernel} with `{to}` for `{from}` conforms");
        }
    }
}

/// A kernel without a mistake might be one that the suite does not look at.
#[test]
fn every_kernel_has_one() {
    let planted = MISTAKES.iter().flat_map(|mistakes| mistakes.planted.iter().map(|[k, ..]| *k));
    let planted: BTreeSet<&str> = planted.collect();
    let mut kernels = BTreeSet::new();
    for family in MISTAKES.iter().map(|mistakes| mistakes.family) {
        for (at, _) in family.file().1.match_indices("\nKERNEL void ") {
            let bounds = family.file().1[at..].split_once(") ").expect("bounds of a launch").1;
            kernels.insert(bounds.split_once('(').expect("parameters").0);
        }
    }
    assert_eq!(planted, kernels);
}

#[test]
fn in_updates() {
    are_found("in_updates", &[Family::AdamW]);
}

#[test]
fn in_attention_of_any_width() {
    are_found("in_attention_of_any_width", &[Family::Attention]);
}

#[test]
fn in_attention_on_tiles() {
    are_found("in_attention_on_tiles", &[Family::AttentionTiles]);
}

#[test]
fn in_copies_and_dropout() {
    are_found("in_copies_and_dropout", &[Family::Copies, Family::Dropout]);
}

#[test]
fn in_embeddings() {
    are_found("in_embeddings", &[Family::Embedding]);
}

#[test]
fn in_losses() {
    are_found("in_losses", &[Family::Head]);
}

#[test]
fn in_norms() {
    are_found("in_norms", &[Family::Norm]);
}

#[test]
fn in_pointwise_programs_and_rotary_positions() {
    let families = [Family::Pointwise, Family::Rope];
    are_found("in_pointwise_programs_and_rotary_positions", &families);
}

#[test]
fn in_products() {
    are_found("in_products", &[Family::Product]);
}

#[test]
fn in_reductions() {
    are_found("in_reductions", &[Family::Reduce]);
}

#[test]
fn in_rows() {
    are_found("in_rows", &[Family::Rows]);
}
