//! A model small enough to be executed by hand, for the tests of training, checkpoints and generation.
//!
//! Logits are a row of a table, chosen by the token, plus a bias: loss and gradient are a dozen lines that share nothing
//! with an executor of programs. The plan has what the training loop looks at: padding between rows and parameters,
//! a matrix that checkpoints store with exchanged axes, and all roles. Its programs are empty.

use std::collections::BTreeSet;

use colac_plan::hash::{self, Hash};
use colac_plan::parameter::{CheckpointName, Initialization, Parameter, Part, Role};
use colac_plan::plan::{BatchInputs, Form, Origin, Roles};
use colac_plan::recipe::{
    BatchMode, Checkpoint, Data, Evaluation, LossNormalization, NonFinite, NonFinitePolicy,
    Optimizer, Recipe, Schedule, ScheduleKind,
};
use colac_plan::{
    DType, Plan, Program, ProgramKind, Real, Segment, Shape, Tensor, TensorId, TensorType,
};

use crate::data::error::DataError;
use crate::executor::Executor;
use crate::train::non_finite::NonFiniteNumber;
use crate::train::rows::{IGNORED_LABEL, TrainingRows, ValidationRows};

pub(crate) const VOCAB: usize = 7;
pub(crate) const SEQUENCE: usize = 6;
/// Elements from one row of the table to the next.
const ROW: usize = VOCAB + 1;
/// First element of the bias.
const BIAS: usize = 64;
/// Elements of the parameter segment.
const FLAT: usize = BIAS + VOCAB;

/// Collects the tensors of the plan.
#[derive(Default)]
struct Layout {
    tensors: Vec<Tensor>,
    segment_bytes: [u64; Segment::ALL.len()],
}

impl Layout {
    fn add(&mut self, name: &str, segment: Segment, dtype: DType, extents: &[u64]) -> TensorId {
        let ty = TensorType::new(dtype, Shape::of(extents));
        let (strides, offset) = (Tensor::packed_strides(&ty), self.segment_bytes[segment.index()]);
        self.segment_bytes[segment.index()] += ty.bytes().next_multiple_of(4);
        self.push(name, segment, ty, strides, offset)
    }

    fn push(
        &mut self,
        name: &str,
        segment: Segment,
        ty: TensorType,
        strides: Vec<u64>,
        offset: u64,
    ) -> TensorId {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            ty,
            strides,
            segment,
            offset,
            parent: None,
        });
        TensorId(self.tensors.len() as u32 - 1)
    }

    fn batch(&mut self, name: &str, rows: u64) -> BatchInputs {
        let mut input = |kind| {
            self.add(
                &format!("{name}.{kind}"),
                Segment::Inputs,
                DType::I32,
                &[rows, SEQUENCE as u64],
            )
        };
        BatchInputs { tokens: input("tokens"), labels: input("labels") }
    }

    /// A parameter-like tensor within a segment that also has a flat one.
    fn weight(&mut self, name: &str, segment: Segment, extents: &[u64], offset: usize) -> TensorId {
        let strides = if extents.len() == 2 { vec![ROW as u64, 1] } else { vec![1] };
        self.push(name, segment, TensorType::f32(extents), strides, offset as u64 * 4)
    }
}

/// Two micro-batches of two rows in an update; evaluation in batches of three, the reference's of two.
pub(crate) fn plan() -> Plan {
    plan_of(2, 4, LossNormalization::GlobalToken)
}

/// [`plan`] with the table as two parameters of three and four rows that checkpoints join: equal files and numbers.
pub(crate) fn joined_plan() -> Plan {
    let mut plan = plan();
    let table = plan.parameters.remove(0);
    let extent = VOCAB as u64;
    for (path, rows) in [("last.weight", 3..extent), ("first.weight", 0..3)] {
        let mut part = |id: TensorId| {
            let mut tensor = plan.tensor(id).clone();
            tensor.offset += rows.start * ROW as u64 * 4;
            tensor.ty.shape.0[0].extent = rows.end - rows.start;
            plan.tensors.push(tensor);
            TensorId(plan.tensors.len() as u32 - 1)
        };
        let (tensor, gradient) = (part(table.tensor), part(table.gradient));
        let place = Some(Part { offset: rows.start, extent });
        let checkpoint = CheckpointName { part: place, ..table.checkpoint.clone() };
        let path = path.to_owned();
        plan.parameters
            .insert(0, Parameter { path, checkpoint, tensor, gradient, ..table.clone() });
    }
    plan
}

pub(crate) fn plan_of(
    micro_batch: u32,
    global_batch: u32,
    loss_normalization: LossNormalization,
) -> Plan {
    let evaluation = Evaluation { every: 8, tokens: 0, batch: 3, reference_batch: 2 };
    let mut layout = Layout::default();
    let v = VOCAB as u64;
    let parameters = layout.add("parameters", Segment::Parameters, DType::F32, &[FLAT as u64]);
    let gradients = layout.add("gradients", Segment::Gradients, DType::F32, &[FLAT as u64]);
    let scalar = |layout: &mut Layout, name| layout.add(name, Segment::Scalars, DType::F32, &[]);
    let roles = Roles {
        train: layout.batch("train", micro_batch.into()),
        evaluate: layout.batch("evaluate", evaluation.batch.into()),
        logits_tokens: layout.add(
            "logits.tokens",
            Segment::Inputs,
            DType::I32,
            &[1, SEQUENCE as u64],
        ),
        logits: layout.add("logits", Segment::Outputs, DType::F32, &[1, SEQUENCE as u64, v]),
        train_loss: layout.add("train.loss", Segment::Outputs, DType::F32, &[micro_batch.into()]),
        evaluate_loss: layout.add(
            "evaluate.loss",
            Segment::Outputs,
            DType::F32,
            &[evaluation.batch.into()],
        ),
        loss_scale: scalar(&mut layout, "loss_scale"),
        accumulate: scalar(&mut layout, "accumulate"),
        learning_rate: scalar(&mut layout, "learning_rate"),
        gradient_norm: scalar(&mut layout, "gradient_norm"),
        gradient_finite: scalar(&mut layout, "gradient_finite"),
        parameters,
        gradients,
        first_moment: layout.add("first_moment", Segment::Optimizer, DType::F32, &[FLAT as u64]),
        second_moment: layout.add("second_moment", Segment::Optimizer, DType::F32, &[FLAT as u64]),
        step: layout.add("step", Segment::Optimizer, DType::I32, &[]),
        dropout_draw: None,
        master: None,
    };
    let mut parameter = |path: &str, extents: &[u64], offset, role| Parameter {
        path: path.to_owned(),
        checkpoint: CheckpointName {
            name: format!("model.{path}"),
            transposed: extents.len() == 2,
            part: None,
        },
        tensor: layout.weight(path, Segment::Parameters, extents, offset),
        master: None,
        gradient: layout.weight(path, Segment::Gradients, extents, offset),
        initialization: Initialization::Normal { std: Real::new(0.5) },
        role,
    };
    let parameters = vec![
        parameter("table.weight", &[v, v], 0, Role::Matrix),
        parameter("bias", &[v], BIAS, Role::Vector),
    ];
    let program = |kind| Program {
        kind,
        inputs: Vec::new(),
        outputs: Vec::new(),
        operations: Vec::new(),
        arena_bytes: 0,
        arena_lower_bound: 0,
    };
    use ProgramKind::{Evaluate, ForwardBackward, Logits, Update};
    Plan {
        name: "bigram".to_owned(),
        form: Form::FullRank,
        vocab_size: v,
        tensors: layout.tensors,
        parameters,
        constants: Vec::new(),
        segment_bytes: layout.segment_bytes,
        programs: [ForwardBackward, Update, Evaluate, Logits].map(program).to_vec(),
        roles,
        scalars: Vec::new(),
        scopes: Vec::new(),
        linears: Vec::new(),
        recompute: String::new(),
        computation: Hash::NONE,
        recipe: Recipe {
            sequence_length: SEQUENCE as u32,
            micro_batch,
            global_batch,
            seed: 11,
            loss_normalization,
            schedule: Schedule {
                kind: ScheduleKind::Cosine,
                learning_rate: 0.05,
                warmup_steps: 4,
                steps: 40,
                final_factor: 0.1,
            },
            optimizer: Optimizer {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
                decay_all: true,
                clip_norm: 0.5,
            },
            evaluation,
            checkpoint: Checkpoint { every: 10, keep: 2, keep_every: 0, keep_best: 0 },
            data: Data { mode: BatchMode::Pad, ..Data::default() },
            non_finite: NonFinite { policy: NonFinitePolicy::Halt, limit: 10 },
        },
        origin: Origin {
            spec: String::new(),
            resolved_spec: String::new(),
            architecture: String::new(),
            checkpoint_config: "{\"vocab_size\": 7}\n".to_owned(),
            compiler_version: "0.0.0".to_owned(),
        },
    }
}

/// Makes numbers infinite.
#[derive(Clone, Debug)]
pub(crate) struct Poison {
    /// Which.
    pub(crate) number: NonFiniteNumber,
    /// In which global batches, counted from 0 as the tokens of their first rows tell them.
    pub(crate) updates: BTreeSet<u64>,
}

/// Executes the model of [`plan`].
pub(crate) struct Bigram {
    plan: Plan,
    /// What goes wrong.
    pub(crate) poison: Option<Poison>,
    /// What a device is said to have chosen.
    pub(crate) choices: Option<String>,
    /// Words of all segments.
    memory: Vec<Vec<u32>>,
    /// What ran, in order.
    pub(crate) runs: Vec<(ProgramKind, bool)>,
}

impl Bigram {
    /// Memory starts as signalling values, so that whatever is read before it is written shows. The hash of what is
    /// computed is taken here, since tests change plans.
    pub(crate) fn new(mut plan: Plan) -> Bigram {
        plan.computation = hash::computation(&plan);
        let memory =
            plan.segment_bytes.iter().map(|&bytes| vec![0x7fa0_0000; bytes as usize / 4]).collect();
        Bigram { plan, poison: None, choices: None, memory, runs: Vec::new() }
    }

    pub(crate) fn initialized(plan: Plan) -> Bigram {
        let mut executor = Bigram::new(plan);
        crate::host::initialize(&mut executor);
        // Padding of parameters and gradients is 0 and stays 0.
        for segment in [Segment::Parameters, Segment::Gradients] {
            for place in 0..FLAT {
                let padding =
                    place < BIAS && place % ROW >= VOCAB || (VOCAB * ROW..BIAS).contains(&place);
                if padding || segment == Segment::Gradients {
                    executor.memory[segment.index()][place] = 0;
                }
            }
        }
        executor
    }

    pub(crate) fn reals(&self, tensor: TensorId) -> Vec<f32> {
        let mut values = vec![0.0; self.plan.tensor(tensor).ty.shape.elements() as usize];
        self.read_f32(tensor, &mut values);
        values
    }

    /// Everything that training changes, by its bits.
    pub(crate) fn state(&self) -> Vec<u32> {
        let roles = &self.plan.roles;
        let tensors = [roles.first_moment, roles.second_moment].into_iter();
        let tensors = tensors.chain(self.plan.parameters.iter().map(|parameter| parameter.tensor));
        let mut bits: Vec<u32> =
            tensors.flat_map(|tensor| self.reals(tensor)).map(f32::to_bits).collect();
        let mut step = [0];
        self.read_i32(roles.step, &mut step);
        bits.push(step[0] as u32);
        bits
    }

    fn words(&self, tensor: TensorId) -> Vec<(Segment, usize)> {
        let tensor = self.plan.tensor(tensor);
        let start = (tensor.offset / 4) as usize;
        let mut places = vec![start];
        for (axis, &stride) in tensor.ty.shape.0.iter().zip(&tensor.strides) {
            places = places
                .iter()
                .flat_map(|place| {
                    (0..axis.extent).map(move |index| place + (index * stride) as usize)
                })
                .collect();
        }
        places.into_iter().map(|place| (tensor.segment, place)).collect()
    }

    fn integers(&self, tensor: TensorId) -> Vec<i32> {
        self.words(tensor)
            .into_iter()
            .map(|(segment, place)| self.memory[segment.index()][place] as i32)
            .collect()
    }

    fn logits(&self, token: i32) -> Vec<f64> {
        let weights = &self.memory[Segment::Parameters.index()];
        let weight = |place: usize| f64::from(f32::from_bits(weights[place]));
        (0..VOCAB).map(|j| weight(token as usize * ROW + j) + weight(BIAS + j)).collect()
    }

    /// Row losses, and into `gradient` what the labels' losses add to it.
    fn rows(&self, inputs: &BatchInputs, scale: f64, gradient: &mut [f64]) -> Vec<f32> {
        let (tokens, labels) = (self.integers(inputs.tokens), self.integers(inputs.labels));
        let mut losses = Vec::new();
        for (tokens, labels) in tokens.chunks(SEQUENCE).zip(labels.chunks(SEQUENCE)) {
            let mut sum = 0.0;
            for (&token, &label) in
                tokens.iter().zip(labels).filter(|&(_, &label)| label != IGNORED_LABEL)
            {
                let logits = self.logits(token);
                let largest = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                let total: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
                sum += largest + total.ln() - logits[label as usize];
                for (j, logit) in logits.iter().enumerate() {
                    let probability = (logit - largest).exp() / total;
                    let part = scale * (probability - if j == label as usize { 1.0 } else { 0.0 });
                    gradient[token as usize * ROW + j] += part;
                    gradient[BIAS + j] += part;
                }
            }
            losses.push(sum as f32);
        }
        losses
    }

    /// Whether the tokens in the inputs are those of a poisoned batch's first micro-batch.
    fn is_poisoned(&self, poison: &Poison) -> bool {
        let recipe = &self.plan.recipe;
        let found = self.integers(self.plan.roles.train.tokens);
        poison.updates.iter().any(|update| {
            let first = update * u64::from(recipe.global_batch);
            let rows = first..first + u64::from(recipe.micro_batch);
            let tokens = rows.flat_map(|position| TestRows::default().row(position).0);
            tokens.eq(found.iter().copied())
        })
    }

    fn forward_backward(&mut self) {
        let roles = self.plan.roles.clone();
        let (scale, accumulate) =
            (self.reals(roles.loss_scale)[0], self.reals(roles.accumulate)[0]);
        let mut added = vec![0.0; FLAT];
        let mut losses = self.rows(&roles.train, scale.into(), &mut added);
        match self.poison.as_ref().filter(|poison| self.is_poisoned(poison)) {
            Some(Poison { number: NonFiniteNumber::Loss, .. }) => losses[0] = f32::INFINITY,
            Some(Poison { number: NonFiniteNumber::Gradient, .. }) => added[BIAS + 3] = f64::NAN,
            Some(Poison { number: NonFiniteNumber::State, .. }) | None => {}
        }
        for (word, added) in self.memory[Segment::Gradients.index()].iter_mut().zip(added) {
            let before = if accumulate == 0.0 { 0.0 } else { f64::from(f32::from_bits(*word)) };
            *word = ((before + added) as f32).to_bits();
        }
        self.write_f32(roles.train_loss, &losses);
    }

    fn update(&mut self) {
        let roles = self.plan.roles.clone();
        let Optimizer { beta1, beta2, epsilon, weight_decay, clip_norm, .. } =
            self.plan.recipe.optimizer;
        let gradient: Vec<f64> = self.reals(roles.gradients).into_iter().map(f64::from).collect();
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let finite = gradient.iter().all(|g| g.is_finite());
        self.write_f32(roles.gradient_norm, &[norm as f32]);
        self.write_f32(roles.gradient_finite, &[if finite { 1.0 } else { 0.0 }]);
        if !finite {
            return;
        }
        let rate = f64::from(self.reals(roles.learning_rate)[0]);
        let clip = (clip_norm / (norm + 1e-6)).min(1.0);
        let step = self.integers(roles.step)[0] + 1;
        self.write_i32(roles.step, &[step]);
        let [mut p, mut m, mut v] =
            [roles.parameters, roles.first_moment, roles.second_moment].map(|t| self.reals(t));
        for i in 0..FLAT {
            let g = clip * gradient[i];
            m[i] = (beta1 * f64::from(m[i]) + (1.0 - beta1) * g) as f32;
            v[i] = (beta2 * f64::from(v[i]) + (1.0 - beta2) * g * g) as f32;
            let [mean, square] = [(m[i], beta1), (v[i], beta2)]
                .map(|(moment, beta)| f64::from(moment) / (1.0 - beta.powi(step)));
            p[i] = (f64::from(p[i]) * (1.0 - rate * weight_decay)
                - rate * mean / (square.sqrt() + epsilon)) as f32;
        }
        self.write_f32(roles.parameters, &p);
        self.write_f32(roles.first_moment, &m);
        self.write_f32(roles.second_moment, &v);
    }
}

impl Executor for Bigram {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn choices(&self) -> Option<String> {
        self.choices.clone()
    }

    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        let words = self.words(tensor);
        assert_eq!(words.len(), values.len());
        for ((segment, place), value) in words.into_iter().zip(values) {
            self.memory[segment.index()][place] = value.to_bits();
        }
    }

    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        let words = self.words(tensor);
        assert_eq!(words.len(), values.len());
        for ((segment, place), value) in words.into_iter().zip(values) {
            self.memory[segment.index()][place] = *value as u32;
        }
    }

    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        let words = self.words(tensor);
        assert_eq!(words.len(), values.len());
        for ((segment, place), value) in words.into_iter().zip(values) {
            *value = f32::from_bits(self.memory[segment.index()][place]);
        }
    }

    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        values.copy_from_slice(&self.integers(tensor));
    }

    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        self.runs.push((program, last_micro_batch));
        match program {
            ProgramKind::ForwardBackward => self.forward_backward(),
            ProgramKind::Update => self.update(),
            ProgramKind::Evaluate => {
                let roles = self.plan.roles.clone();
                let losses = self.rows(&roles.evaluate, 0.0, &mut vec![0.0; FLAT]);
                self.write_f32(roles.evaluate_loss, &losses);
            }
            ProgramKind::Logits => {
                let roles = self.plan.roles.clone();
                let tokens = self.integers(roles.logits_tokens);
                let logits: Vec<f32> = tokens
                    .into_iter()
                    .flat_map(|token| self.logits(token))
                    .map(|logit| logit as f32)
                    .collect();
                self.write_f32(roles.logits, &logits);
            }
        }
    }
}

/// Rows whose content is a function of their position: mostly `label = 2 · token + 1`, so that there is something to
/// learn; of different lengths, filled up with ignored labels.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestRows {
    /// Positions of rows without any label.
    pub(crate) empty: BTreeSet<u64>,
    /// Number of rows when used for validation.
    pub(crate) count: u64,
    /// Bytes of text of each token.
    pub(crate) byte_lengths: Option<Vec<u16>>,
    pub(crate) name: String,
}

impl TestRows {
    pub(crate) fn row(&self, position: u64) -> ([i32; SEQUENCE], [i32; SEQUENCE]) {
        let random = |i: usize| {
            let hash = blake3::hash(format!("{position} {i}").as_bytes());
            i32::from(hash.as_bytes()[0])
        };
        let length =
            if self.empty.contains(&position) { 0 } else { 1 + random(99) as usize % SEQUENCE };
        let (mut tokens, mut labels) = ([0; SEQUENCE], [IGNORED_LABEL; SEQUENCE]);
        for i in 0..length {
            let token = random(i) % VOCAB as i32;
            tokens[i] = token;
            labels[i] = if random(i + 50) < 200 { (2 * token + 1) % VOCAB as i32 } else { token };
        }
        (tokens, labels)
    }

    fn fill_rows(&self, first: u64, tokens: &mut [i32], labels: &mut [i32]) {
        assert_eq!((tokens.len() % SEQUENCE, tokens.len()), (0, labels.len()));
        for (index, (tokens, labels)) in
            (first..).zip(tokens.chunks_exact_mut(SEQUENCE).zip(labels.chunks_exact_mut(SEQUENCE)))
        {
            let row = self.row(index);
            tokens.copy_from_slice(&row.0);
            labels.copy_from_slice(&row.1);
        }
    }
}

impl TrainingRows for TestRows {
    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        self.fill_rows(first, tokens, labels);
        Ok(())
    }

    fn identity(&self) -> String {
        self.name.clone()
    }
}

impl ValidationRows for TestRows {
    fn row_count(&self) -> u64 {
        self.count
    }

    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        assert!(first + (tokens.len() / SEQUENCE) as u64 <= self.count, "rows beyond the last");
        self.fill_rows(first, tokens, labels);
        Ok(())
    }

    fn token_byte_lengths(&self) -> Option<&[u16]> {
        self.byte_lengths.as_deref()
    }
}
