//! A small plan built by hand, with every feature that the verifier knows: a stacked weight whose gradient is written at
//! once, slices of one tensor, views, results in place, a tied table with two gradient writers, constants.

#![allow(dead_code, reason = "each test uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

pub(crate) mod mutate;

use colac_plan::hash::Hash;
use colac_plan::op::UpdateRange;
use colac_plan::op::cost::aligned;
use colac_plan::parameter::{
    CheckpointName, Constant, ConstantContent, Initialization, Parameter, Role, RopeScaling,
};
use colac_plan::plan::{BatchInputs, Decision, Form, LinearReport, Origin, Roles, RuntimeScalar};
use colac_plan::pointwise::{self, Binary, InputForm, Unary};
use colac_plan::program::{Phase, When, Write};
use colac_plan::recipe::{
    BatchMode, Checkpoint, Data, Evaluation, LossNormalization, MixtureSource, NonFinite,
    NonFinitePolicy, Optimizer, Reading, Recipe, Schedule, ScheduleKind, TokenDType,
};
use colac_plan::verify::arena_lower_bound;
use colac_plan::{
    DType, Op, Operation, Plan, Program, ProgramKind, Real, Segment, Shape, Tensor, TensorId,
    TensorType,
};

pub(crate) const VOCABULARY: u64 = 11;
const SEQUENCE: u64 = 3;
const HIDDEN: u64 = 4;
const INNER: u64 = 6;
const HEADS: u64 = 2;

/// Parameters with the tensors of their gradients.
#[derive(Clone, Copy)]
struct Weight {
    tensor: TensorId,
    gradient: TensorId,
}

#[derive(Clone, Copy)]
struct Weights {
    stacked: Weight,
    second: Weight,
    table: Weight,
    gain: Weight,
    cos: TensorId,
    sin: TensorId,
    accumulate: TensorId,
}

#[derive(Default)]
struct Builder {
    tensors: Vec<Tensor>,
    sizes: [u64; Segment::ALL.len()],
    arena: u64,
    operations: Vec<Operation>,
    phase: Option<Phase>,
    path: &'static str,
}

impl Builder {
    fn push(&mut self, name: &str, ty: TensorType, segment: Segment, offset: u64) -> TensorId {
        let strides = Tensor::packed_strides(&ty);
        self.tensors.push(Tensor { name: name.into(), ty, strides, segment, offset, parent: None });
        TensorId(self.tensors.len() as u32 - 1)
    }

    fn root(&mut self, name: &str, segment: Segment, dtype: DType, extents: &[u64]) -> TensorId {
        let ty = TensorType::new(dtype, Shape::of(extents));
        let offset = self.sizes[segment.index()];
        self.sizes[segment.index()] += aligned(ty.bytes());
        self.push(name, ty, segment, offset)
    }

    fn view(&mut self, name: &str, parent: TensorId, extents: &[u64], first: u64) -> TensorId {
        let base = self.tensors[parent.index()].clone();
        let ty = TensorType::new(base.ty.dtype, Shape::of(extents));
        let id = self.push(name, ty, base.segment, base.offset + first * base.ty.dtype.bytes());
        self.tensors[id.index()].parent = Some(parent);
        id
    }

    /// Columns of a tensor of three axes.
    fn columns(&mut self, name: &str, parent: TensorId, first: u64, width: u64) -> TensorId {
        let mut extents = self.tensors[parent.index()].ty.shape.extents();
        extents[2] = width;
        let id = self.view(name, parent, &extents, first);
        self.tensors[id.index()].strides = self.tensors[parent.index()].strides.clone();
        id
    }

    fn activation(&mut self, name: &str, extents: &[u64]) -> TensorId {
        let ty = TensorType::f32(extents);
        let offset = self.arena;
        self.arena += aligned(ty.bytes());
        self.push(name, ty, Segment::Activations, offset)
    }

    /// An activation that starts where another one does.
    fn over(&mut self, name: &str, extents: &[u64], other: TensorId) -> TensorId {
        let offset = self.tensors[other.index()].offset;
        self.push(name, TensorType::f32(extents), Segment::Activations, offset)
    }

    fn op(&mut self, op: Op, operands: &[TensorId], results: &[TensorId], writes: &[Write]) {
        let types = |ids: &[TensorId]| {
            ids.iter().map(|i| self.tensors[i.index()].ty.clone()).collect::<Vec<_>>()
        };
        let (read, made) = (types(operands), types(results));
        let workspace =
            op.workspace_bytes(&read.iter().collect::<Vec<_>>(), &made.iter().collect::<Vec<_>>());
        self.sizes[Segment::Workspace.index()] =
            self.sizes[Segment::Workspace.index()].max(workspace);
        self.operations.push(Operation {
            path: format!("{}.{}", self.path, op.name()),
            op,
            operands: operands.to_vec(),
            results: results.to_vec(),
            writes: writes.to_vec(),
            when: When::Always,
            phase: self.phase.unwrap_or(Phase::Forward),
            after: Vec::new(),
            workspace,
            scope: Some(0),
            line: Some(1),
        });
    }

    /// An operation that overwrites all its results.
    fn plain(&mut self, op: Op, operands: &[TensorId], results: &[TensorId]) {
        self.op(op, operands, results, &vec![Write::Overwrite; results.len()]);
    }

    fn program(&mut self, kind: ProgramKind, inputs: &[TensorId], outputs: &[TensorId]) -> Program {
        let activations = &mut self.sizes[Segment::Activations.index()];
        *activations = (*activations).max(self.arena);
        Program {
            kind,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            operations: std::mem::take(&mut self.operations),
            arena_bytes: std::mem::take(&mut self.arena),
            arena_lower_bound: 0,
        }
    }
}

fn gated() -> Op {
    let mut b = pointwise::Builder::new();
    let (gate, up) = (b.input(InputForm::Elements), b.input(InputForm::Elements));
    let sigmoid = b.unary(Unary::Sigmoid, gate);
    let silu = b.binary(Binary::Multiply, gate, sigmoid);
    let y = b.binary(Binary::Multiply, silu, up);
    Op::Pointwise { program: b.finish(&[(y, DType::F32)]) }
}

fn gated_backward() -> Op {
    let mut b = pointwise::Builder::new();
    let (dy, gate, up) =
        (b.input(InputForm::Elements), b.input(InputForm::Elements), b.input(InputForm::Elements));
    let sigmoid = b.unary(Unary::Sigmoid, gate);
    let silu = b.binary(Binary::Multiply, gate, sigmoid);
    let dup = b.binary(Binary::Multiply, dy, silu);
    let one = b.constant(1.0);
    let rest = b.binary(Binary::Subtract, one, sigmoid);
    let slope = b.binary(Binary::Multiply, silu, rest);
    let slope = b.binary(Binary::Add, sigmoid, slope);
    let dgate = b.binary(Binary::Multiply, dy, up);
    let dgate = b.binary(Binary::Multiply, dgate, slope);
    Op::Pointwise { program: b.finish(&[(dgate, DType::F32), (dup, DType::F32)]) }
}

fn sum() -> Op {
    Op::Pointwise { program: pointwise::Program::sum(2) }
}

/// What the backward pass needs of the forward pass.
struct Forward {
    x: TensorId,
    rstd: TensorId,
    q: TensorId,
    gate: TensorId,
    up: TensorId,
    inner: TensorId,
    r: TensorId,
}

fn forward(b: &mut Builder, w: Weights, tokens: TensorId, batch: u64) -> Forward {
    b.phase = Some(Phase::Forward);
    let rows = [batch, SEQUENCE];
    let of = |width: u64| [rows[0], rows[1], width];
    let heads = [batch, SEQUENCE, HEADS, HIDDEN / HEADS];
    let x = b.activation("x", &of(HIDDEN));
    b.plain(Op::Embedding, &[tokens, w.table.tensor], &[x]);
    let n = b.activation("n", &of(HIDDEN));
    let rstd = b.activation("rstd", &rows);
    b.plain(
        Op::RmsNorm { epsilon: Real::new(1e-6), gain: true, prologue: None },
        &[x, w.gain.tensor],
        &[n, rstd],
    );
    let n_heads = b.view("n.heads", n, &heads, 0);
    // In place as a view of the same root: the old view is stale afterwards.
    let rotated = b.view("n.rotated", n, &heads, 0);
    b.plain(Op::Rope { inverse: false, interleaved: false }, &[n_heads, w.cos, w.sin], &[rotated]);
    let q = b.view("q", rotated, &of(HIDDEN), 0);
    let pair = b.activation("pair", &of(2 * INNER));
    b.plain(Op::Linear, &[q, w.stacked.tensor], &[pair]);
    let (gate, up) = (b.columns("gate", pair, 0, INNER), b.columns("up", pair, INNER, INNER));
    let inner = b.activation("inner", &of(INNER));
    b.plain(gated(), &[gate, up], &[inner]);
    let y = b.activation("y", &of(HIDDEN));
    b.plain(Op::Linear, &[inner, w.second.tensor], &[y]);
    // In place as a root of its own.
    let r = b.over("r", &of(HIDDEN), y);
    b.plain(sum(), &[x, y], &[r]);
    Forward { x, rstd, q, gate, up, inner, r }
}

fn backward(
    b: &mut Builder,
    w: Weights,
    f: &Forward,
    train: &BatchInputs,
    loss: TensorId,
    loss_scale: TensorId,
    batch: u64,
) {
    b.phase = Some(Phase::Backward);
    let first = Write::AddIf(w.accumulate);
    let of = |width: u64| [batch, SEQUENCE, width];
    let heads = [batch, SEQUENCE, HEADS, HIDDEN / HEADS];
    let dr = b.activation("dr", &of(HIDDEN));
    b.op(
        Op::HeadLossWithGradient { chunk: 2, bias: false, transform: None },
        &[f.r, w.table.tensor, train.labels, loss_scale],
        &[loss, dr, w.table.gradient],
        &[Write::Overwrite, Write::Overwrite, first],
    );
    // r is dead: its bytes are used again.
    let ds = b.activation("ds", &of(INNER));
    b.plain(Op::LinearBackwardInput, &[dr, w.second.tensor], &[ds]);
    b.op(Op::LinearBackwardWeight, &[dr, f.inner], &[w.second.gradient], &[first]);
    let dpair = b.activation("dpair", &of(2 * INNER));
    let (dgate, dup) = (b.columns("dgate", dpair, 0, INNER), b.columns("dup", dpair, INNER, INNER));
    b.plain(gated_backward(), &[ds, f.gate, f.up], &[dgate, dup]);
    let dq = b.over("dq", &of(HIDDEN), f.r);
    b.plain(Op::LinearBackwardInput, &[dpair, w.stacked.tensor], &[dq]);
    b.op(Op::LinearBackwardWeight, &[dpair, f.q], &[w.stacked.gradient], &[first]);
    let dq_heads = b.view("dq.heads", dq, &heads, 0);
    let dn = b.view("dn", dq, &heads, 0);
    b.plain(Op::Rope { inverse: true, interleaved: false }, &[dq_heads, w.cos, w.sin], &[dn]);
    let dn_rows = b.view("dn.rows", dn, &of(HIDDEN), 0);
    let dx_norm = b.activation("dx.norm", &of(HIDDEN));
    b.op(
        Op::RmsNormBackward { gain: true, epilogue: None },
        &[dn_rows, f.x, w.gain.tensor, f.rstd],
        &[dx_norm, w.gain.gradient],
        &[Write::Overwrite, first],
    );
    let dx = b.over("dx", &of(HIDDEN), dx_norm);
    b.plain(sum(), &[dr, dx_norm], &[dx]);
    b.op(
        Op::EmbeddingBackward { rows: VOCABULARY },
        &[train.tokens, dx],
        &[w.table.gradient],
        &[Write::Add],
    );
    let after = b.operations.len() as u32 - 2;
    b.operations.last_mut().unwrap().after.push(after);
}

fn recipe() -> Recipe {
    Recipe {
        sequence_length: SEQUENCE as u32,
        micro_batch: 2,
        global_batch: 4,
        seed: 7,
        loss_normalization: LossNormalization::GlobalToken,
        schedule: Schedule {
            kind: ScheduleKind::WarmupStableDecay { decay_steps: 20 },
            learning_rate: 1e-3,
            warmup_steps: 5,
            steps: 100,
            final_factor: 0.1,
        },
        optimizer: Optimizer {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            decay_all: false,
            clip_norm: 1.0,
        },
        evaluation: Evaluation { every: 10, tokens: 0, batch: 3, reference_batch: 3 },
        checkpoint: Checkpoint { every: 50, keep: 2, keep_every: 0, keep_best: 1 },
        data: Data {
            mode: BatchMode::Pad,
            train: vec!["train.txt".into()],
            validation: vec!["validation.txt".into()],
            tokenizer: Some("tokenizer.json".into()),
            mixture: vec![MixtureSource {
                name: "mixed".into(),
                paths: vec!["mixed.txt".into()],
                weight: 2.0,
            }],
            validation_fraction: 0.25,
            reading: Reading { token_dtype: Some(TokenDType::U16), ..Reading::default() },
        },
        non_finite: NonFinite { policy: NonFinitePolicy::Halt, limit: 10 },
    }
}

fn parameter(path: &str, tensor: TensorId, gradient: TensorId, role: Role) -> Parameter {
    let initialization = match role {
        Role::Vector => Initialization::Constant { value: Real::new(1.0) },
        Role::Embedding => Initialization::Uniform { bound: Real::new(0.1) },
        Role::Matrix | Role::LowRankDown | Role::LowRankUp => {
            Initialization::Normal { std: Real::new(0.02) }
        }
    };
    let checkpoint = CheckpointName {
        name: format!("model.{path}"),
        transposed: role == Role::Matrix,
        part: None,
    };
    let path = path.into();
    Parameter { path, checkpoint, tensor, master: None, gradient, initialization, role }
}

/// The plan. Every call gives the same.
pub(crate) fn plan() -> Plan {
    let mut b = Builder { path: "layers.0", ..Builder::default() };
    // Elements of the segment: two stacked [6, 4], [4, 6], the table [11, 4], a gain [4], each padded to 256 bytes.
    let elements = 64 + 64 + 64 + 64;
    let parameters = b.root("parameters", Segment::Parameters, DType::F32, &[elements]);
    let gradients = b.root("gradients", Segment::Gradients, DType::F32, &[elements]);
    let first_moment = b.root("first_moment", Segment::Optimizer, DType::F32, &[elements]);
    let second_moment = b.root("second_moment", Segment::Optimizer, DType::F32, &[elements]);
    let step = b.root("step", Segment::Optimizer, DType::I32, &[]);
    let mut weight = |name: &str, extents: &[u64], first: u64| Weight {
        tensor: b.view(name, parameters, extents, first),
        gradient: b.view(&format!("{name}.gradient"), gradients, extents, first),
    };
    let gate = weight("layers.0.gate.weight", &[INNER, HIDDEN], 0);
    let up = weight("layers.0.up.weight", &[INNER, HIDDEN], INNER * HIDDEN);
    let stacked = weight("layers.0.gate+up", &[2 * INNER, HIDDEN], 0);
    let second = weight("layers.0.down.weight", &[HIDDEN, INNER], 64);
    let table = weight("embed.weight", &[VOCABULARY, HIDDEN], 128);
    let gain = weight("norm.weight", &[HIDDEN], 192);
    let pairs = [SEQUENCE, HIDDEN / HEADS / 2];
    let cos = b.root("cos", Segment::Constants, DType::F32, &pairs);
    let sin = b.root("sin", Segment::Constants, DType::F32, &pairs);
    let scalar = |b: &mut Builder, name: &str, segment| b.root(name, segment, DType::F32, &[]);
    let loss_scale = scalar(&mut b, "loss_scale", Segment::Scalars);
    let accumulate = scalar(&mut b, "accumulate", Segment::Scalars);
    let learning_rate = scalar(&mut b, "learning_rate", Segment::Scalars);
    let gradient_norm = scalar(&mut b, "gradient_norm", Segment::Scalars);
    let gradient_finite = scalar(&mut b, "gradient_finite", Segment::Outputs);
    let recipe = recipe();
    let (rows, evaluate_rows) = (u64::from(recipe.micro_batch), u64::from(recipe.evaluation.batch));
    let mut ids = |name: &str, batch| b.root(name, Segment::Inputs, DType::I32, &[batch, SEQUENCE]);
    let train =
        BatchInputs { tokens: ids("train.tokens", rows), labels: ids("train.labels", rows) };
    let evaluate = BatchInputs {
        tokens: ids("evaluate.tokens", evaluate_rows),
        labels: ids("evaluate.labels", evaluate_rows),
    };
    let logits_tokens = ids("logits.tokens", 1);
    let train_loss = b.root("train.loss", Segment::Outputs, DType::F32, &[rows]);
    let evaluate_loss = b.root("evaluate.loss", Segment::Outputs, DType::F32, &[evaluate_rows]);
    let logits = b.root("logits", Segment::Outputs, DType::F32, &[1, SEQUENCE, VOCABULARY]);

    let w = Weights { stacked, second, table, gain, cos, sin, accumulate };
    let f = forward(&mut b, w, train.tokens, rows);
    backward(&mut b, w, &f, &train, train_loss, loss_scale, rows);
    let inputs = [train.tokens, train.labels, loss_scale, accumulate];
    let forward_backward = b.program(ProgramKind::ForwardBackward, &inputs, &[train_loss]);

    b.phase = Some(Phase::Update);
    b.plain(Op::GradientNorm, &[gradients], &[gradient_norm, gradient_finite]);
    let range = |start, length, decay| UpdateRange {
        start,
        length,
        weight_decay: Real::new(decay),
        learning_rate_factor: Real::new(1.0),
    };
    let optimizer = &recipe.optimizer;
    let adamw = Op::AdamW {
        beta1: Real::new(optimizer.beta1),
        beta2: Real::new(optimizer.beta2),
        epsilon: Real::new(optimizer.epsilon),
        clip_norm: Real::new(optimizer.clip_norm),
        ranges: vec![range(0, 128, optimizer.weight_decay), range(128, 128, 0.0)],
        master: false,
    };
    let state = [parameters, first_moment, second_moment, step];
    b.plain(adamw, &[gradients, gradient_norm, gradient_finite, learning_rate], &state);
    let update =
        b.program(ProgramKind::Update, &[learning_rate], &[gradient_norm, gradient_finite]);

    let f = forward(&mut b, w, evaluate.tokens, evaluate_rows);
    b.plain(
        Op::HeadLoss { chunk: 4, bias: false, transform: None },
        &[f.r, table.tensor, evaluate.labels],
        &[evaluate_loss],
    );
    let inputs = [evaluate.tokens, evaluate.labels];
    let evaluation = b.program(ProgramKind::Evaluate, &inputs, &[evaluate_loss]);
    let f = forward(&mut b, w, logits_tokens, 1);
    b.plain(Op::Linear, &[f.r, table.tensor], &[logits]);
    let prediction = b.program(ProgramKind::Logits, &[logits_tokens], &[logits]);

    let named = |name: &str, tensor, bound| RuntimeScalar { name: name.into(), tensor, bound };
    let theta = Real::new(10_000.0);
    let scaling = RopeScaling::None;
    let sizes = b.sizes.map(aligned);
    let mut plan = Plan {
        name: "by-hand".into(),
        form: Form::Cola,
        vocab_size: VOCABULARY,
        tensors: b.tensors,
        parameters: vec![
            parameter("layers.0.gate.weight", gate.tensor, gate.gradient, Role::LowRankDown),
            parameter("layers.0.up.weight", up.tensor, up.gradient, Role::LowRankUp),
            parameter("layers.0.down.weight", second.tensor, second.gradient, Role::Matrix),
            parameter("embed.weight", table.tensor, table.gradient, Role::Embedding),
            parameter("norm.weight", gain.tensor, gain.gradient, Role::Vector),
        ],
        constants: vec![
            Constant { tensor: cos, content: ConstantContent::RopeCos { theta, scaling } },
            Constant { tensor: sin, content: ConstantContent::RopeSin { theta, scaling } },
        ],
        segment_bytes: sizes,
        programs: vec![forward_backward, update, evaluation, prediction],
        roles: Roles {
            train,
            evaluate,
            logits_tokens,
            logits,
            train_loss,
            evaluate_loss,
            loss_scale,
            accumulate,
            learning_rate,
            gradient_norm,
            gradient_finite,
            parameters,
            master: None,
            gradients,
            first_moment,
            second_moment,
            step,
            dropout_draw: None,
        },
        scalars: vec![
            named("loss_scale", loss_scale, None),
            named("accumulate", accumulate, Some(1)),
            named("learning_rate", learning_rate, None),
        ],
        scopes: vec!["layers.0".into()],
        recompute: "none".into(),
        computation: Hash::NONE,
        linears: vec![
            LinearReport {
                path: "layers.0.gate".into(),
                inputs: HIDDEN,
                outputs: INNER,
                decision: Decision::Rewritten { rank: 2, activation: "silu".into() },
            },
            LinearReport {
                path: "layers.0.down".into(),
                inputs: INNER,
                outputs: HIDDEN,
                decision: Decision::KeptDense { reason: "the rank would not pay".into() },
            },
        ],
        recipe,
        origin: Origin {
            spec: "name = \"by-hand\" # a comment".into(),
            resolved_spec: "name = \"by-hand\"".into(),
            architecture: "none".into(),
            checkpoint_config: "{}".into(),
            compiler_version: "0.1.0".into(),
        },
    };
    restate_bounds(&mut plan);
    plan
}

/// States the lower bound of every program anew.
pub(crate) fn restate_bounds(plan: &mut Plan) {
    for index in 0..plan.programs.len() {
        plan.programs[index].arena_lower_bound = arena_lower_bound(plan, &plan.programs[index]);
    }
}

/// The tensor of a name; the first program's where several have it.
pub(crate) fn id(plan: &Plan, name: &str) -> TensorId {
    TensorId(plan.tensors.iter().position(|t| t.name == name).unwrap() as u32)
}

/// The tensor of a name, to be changed.
pub(crate) fn tensor<'a>(plan: &'a mut Plan, name: &str) -> &'a mut Tensor {
    let id = id(plan, name);
    &mut plan.tensors[id.index()]
}

/// The operation of `forward_backward` that writes a tensor, to be changed.
pub(crate) fn writer<'a>(plan: &'a mut Plan, name: &str) -> &'a mut Operation {
    let id = id(plan, name);
    plan.programs[0].operations.iter_mut().find(|o| o.results.contains(&id)).unwrap()
}

/// A program, to be changed.
pub(crate) fn program(plan: &mut Plan, kind: ProgramKind) -> &mut Program {
    plan.programs.iter_mut().find(|p| p.kind == kind).unwrap()
}
