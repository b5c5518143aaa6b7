//! The shipped specs: exact parameter counts of the published models, independent FLOP counts, stable report fields.

mod common;

use colac_compiler::view::Inspection;
use colac_plan::Segment;

/// Name, vocabulary, hidden, intermediate, layers, rank; then full-rank and CoLA parameters as published.
const SIZES: [(&str, [u64; 5], u64, u64, u64); 5] = [
    ("llama-60m", [32000, 512, 1376, 8, 128], 58_073_600, 42_770_944, 9_994_240),
    ("llama-130m", [32000, 768, 2048, 12, 256], 134_105_856, 93_997_824, 44_826_624),
    ("llama-350m", [32000, 1024, 2736, 24, 256], 367_969_280, 185_222_144, 119_635_968),
    ("llama-1b", [32000, 2048, 5461, 24, 512], 1_339_082_752, 609_310_720, 478_138_368),
    ("llama-7b", [32000, 4096, 11008, 32, 1024], 6_738_415_616, 2_820_935_680, 2_558_525_440),
];

#[test]
fn parameters_are_those_of_the_published_models() {
    for (name, [vocab, hidden, ..], full_rank, cola, low_rank) in SIZES {
        let inspection = Inspection::new(&common::plan(name, &[], false));
        assert_eq!(inspection.form, "cola");
        assert_eq!(inspection.parameters.total, cola, "{name}");
        assert_eq!(inspection.parameters.low_rank, low_rank, "{name}");
        assert_eq!(inspection.parameters.embedding, vocab * hidden, "{name}");
        let p = inspection.parameters;
        assert_eq!(p.embedding + p.low_rank + p.other, p.total, "{name}");
        let dense = Inspection::new(&common::plan(name, &[], true));
        assert_eq!(dense.form, "full-rank");
        assert_eq!(dense.parameters.total, full_rank, "{name}");
        assert_eq!(dense.parameters.low_rank, 0, "{name}");
    }
}

/// FLOPs of a token by the formulas of the paper (multiply-add = 2, training = 3 × forward), with causal attention as
/// half the square and the head counted.
#[test]
fn flops_agree_with_the_formulas() {
    let sequence = 256;
    for (name, [vocab, d, f, layers, r], ..) in SIZES {
        let attention = 2 * sequence * d;
        let head = 2 * vocab * d;
        let dense = layers * (2 * (4 * d * d + 3 * d * f) + attention) + head;
        let cola = layers * (2 * (4 * r * (d + d) + 3 * r * (d + f)) + attention) + head;
        for (full_rank, forward) in [(true, dense), (false, cola)] {
            let flops = Inspection::new(&common::plan(name, &[], full_rank)).flops_per_token;
            assert_eq!(flops.forward, forward, "{name} full_rank={full_rank}");
            assert_eq!(flops.backward, 2 * forward, "{name} full_rank={full_rank}");
            assert_eq!((flops.recompute, flops.total), (0, 3 * forward), "{name}");
        }
    }
}

#[test]
fn memory_is_that_of_the_segments_and_near_its_bound() {
    for (name, ..) in SIZES {
        for full_rank in [false, true] {
            let plan = common::plan(name, &[], full_rank);
            let memory = Inspection::new(&plan).memory;
            let state = memory.parameters + memory.master + memory.gradients + memory.optimizer;
            let sum = state + memory.activations + memory.workspace + memory.other;
            assert_eq!(sum, memory.total);
            // bf16 with f32 masters: 2 + 4 + 4 + 8 bytes a parameter, padding included, and the step counter.
            let elements = plan.tensor(plan.roles.parameters).ty.shape.elements();
            assert_eq!(state, 18 * elements + 256, "{name}");
            assert_eq!((memory.parameters, memory.master), (2 * elements, 4 * elements), "{name}");
            assert_eq!(memory.total, Segment::ALL.iter().map(|&s| plan.bytes(s)).sum::<u64>());
            assert!(memory.activations_lower_bound <= memory.activations);
            let overhead = memory.activations as f64 / memory.activations_lower_bound as f64;
            assert!(
                overhead <= 1.03,
                "{name} full_rank={full_rank}: arena is {overhead:.4} of its bound"
            );
        }
    }
}

#[test]
fn the_report_has_its_fields_in_json() {
    let inspection = Inspection::new(&common::plan("llama-60m", &[], false));
    let json = serde_json::to_value(&inspection).expect("the report can be written");
    let paths = [
        "/name",
        "/form",
        "/parameters/total",
        "/parameters/embedding",
        "/parameters/low_rank",
        "/parameters/other",
        "/flops_per_token/forward",
        "/flops_per_token/backward",
        "/flops_per_token/recompute",
        "/flops_per_token/total",
        "/memory/parameters",
        "/memory/gradients",
        "/memory/optimizer",
        "/memory/master",
        "/memory/activations",
        "/memory/workspace",
        "/memory/total",
        "/memory/activations_lower_bound",
        "/per_layer/0/path",
        "/rewritten/0/rank",
        "/kept_dense/0/reason",
        "/kept_dense/1/is_table",
        "/parameters/full_rank",
        "/batch/tokens_per_parameter",
        "/operations/0/op",
        "/hashes/model",
        "/hashes/numerics",
        "/hashes/file",
        "/flops_convention",
    ];
    for path in paths {
        assert!(json.pointer(path).is_some(), "no {path}");
    }
    assert_eq!(inspection.rewritten.len(), 56);
    let dense: Vec<&str> = inspection.kept_dense.iter().map(|row| row.path.as_str()).collect();
    assert_eq!(dense, ["lm_head", "embed_tokens"]);
    let layers: u64 = inspection.per_layer.iter().map(|l| l.parameters).sum();
    assert_eq!(layers, inspection.parameters.total);
    let flops: u64 = inspection.per_layer.iter().map(|l| l.flops_per_token.total).sum();
    assert_eq!(flops, inspection.flops_per_token.total);
}

#[test]
fn equal_specs_give_equal_bytes() {
    for (name, ..) in SIZES {
        let bytes = |full_rank| {
            colac_plan::file::write(&common::plan(name, &[], full_rank)).expect("the plan is valid")
        };
        assert_eq!(bytes(false), bytes(false), "{name}");
        assert_eq!(bytes(true), bytes(true), "{name}");
        assert_ne!(bytes(false), bytes(true), "{name}");
    }
}

/// A comment in the spec changes the file, and neither the model nor its training.
#[test]
fn comments_orphan_no_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        std::fs::read_to_string(common::repository("specs/llama-nano.toml")).expect("shipped");
    let mut hashes = Vec::new();
    for (name, extra) in [("a.toml", ""), ("b.toml", "# a comment\n")] {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{extra}{text}")).expect("written");
        let plan = common::plan(path.to_str().expect("UTF-8"), &[], false);
        hashes.push(colac_plan::hash::hashes(&plan));
    }
    assert_eq!(hashes[0].model, hashes[1].model);
    assert_eq!(hashes[0].numerics, hashes[1].numerics);
    assert_ne!(hashes[0].file, hashes[1].file);
}
