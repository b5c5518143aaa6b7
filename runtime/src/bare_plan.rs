//! Plans of bare operations: for measuring them, and for holding executors to the reference.
//!
//! Owns everything that a plan has beside tensors and programs and that no operation reads. Must not know what the
//! operations are for.

use colac_plan::hash::Hash;
use colac_plan::plan::{BatchInputs, Form, Origin, Roles};
use colac_plan::program::{Operation, Program};
use colac_plan::recipe::{
    BatchMode, Checkpoint, Data, Evaluation, LossNormalization, NonFinite, NonFinitePolicy,
    Optimizer, Recipe, Schedule, ScheduleKind,
};
use colac_plan::{Plan, ProgramKind, Segment, Tensor, TensorId};

/// A plan whose program `forward_backward` is these operations, over tensors in segments of these sizes; the other
/// programs are empty. Roles all name the first tensor.
pub(crate) fn bare_plan(
    tensors: Vec<Tensor>,
    segment_bytes: [u64; Segment::ALL.len()],
    operations: Vec<Operation>,
) -> Plan {
    let arena_bytes = segment_bytes[Segment::Activations.index()];
    let mut operations = Some(operations);
    let kinds = [
        ProgramKind::ForwardBackward,
        ProgramKind::Update,
        ProgramKind::Evaluate,
        ProgramKind::Logits,
    ];
    let programs = kinds.map(|kind| Program {
        kind,
        inputs: Vec::new(),
        outputs: Vec::new(),
        operations: operations.take().unwrap_or_default(),
        arena_bytes,
        arena_lower_bound: arena_bytes,
    });
    let any = TensorId(0);
    let batch = || BatchInputs { tokens: any, labels: any };
    Plan {
        name: "bare operations".to_owned(),
        form: Form::FullRank,
        vocab_size: 1,
        tensors,
        parameters: Vec::new(),
        constants: Vec::new(),
        segment_bytes,
        programs: programs.into(),
        roles: Roles {
            train: batch(),
            evaluate: batch(),
            logits_tokens: any,
            logits: any,
            train_loss: any,
            evaluate_loss: any,
            loss_scale: any,
            accumulate: any,
            learning_rate: any,
            gradient_norm: any,
            gradient_finite: any,
            parameters: any,
            master: None,
            gradients: any,
            first_moment: any,
            second_moment: any,
            step: any,
            dropout_draw: None,
        },
        scalars: Vec::new(),
        scopes: Vec::new(),
        linears: Vec::new(),
        recompute: String::new(),
        computation: Hash::NONE,
        recipe: recipe(),
        origin: Origin {
            spec: String::new(),
            resolved_spec: String::new(),
            architecture: String::new(),
            checkpoint_config: String::new(),
            compiler_version: String::new(),
        },
    }
}

/// No operation reads a recipe; a plan has one.
fn recipe() -> Recipe {
    Recipe {
        sequence_length: 1,
        micro_batch: 1,
        global_batch: 1,
        seed: 0,
        loss_normalization: LossNormalization::GlobalToken,
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            learning_rate: 0.0,
            warmup_steps: 0,
            steps: 1,
            final_factor: 1.0,
        },
        optimizer: Optimizer {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decay_all: false,
            clip_norm: 0.0,
        },
        evaluation: Evaluation { every: 0, tokens: 0, batch: 1, reference_batch: 1 },
        checkpoint: Checkpoint { every: 0, keep: 0, keep_every: 0, keep_best: 0 },
        data: Data { mode: BatchMode::Pack, ..Data::default() },
        non_finite: NonFinite { policy: NonFinitePolicy::Halt, limit: 1 },
    }
}
