//! Random damage to plans, the same for the same seed.
//!
//! Bytes of the body are changed blindly, and fields of the decoded plan are changed to values that look plausible;
//! the hash is always made good again, so that decoder and verifier see the damage.

use colac_plan::file::{frame, read};
use colac_plan::program::{When, Write};
use colac_plan::verify::{lifetimes, verify};
use colac_plan::{DType, Op, Plan, Real, Segment, TensorId, TensorType, hash};

/// The generator splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A number near `value`, or one at the edges of what fits.
    fn number(&mut self, value: u64) -> u64 {
        match self.below(9) {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            2 => 0,
            3 => u64::MAX,
            4 => 1 << self.below(64),
            5 => value.wrapping_mul(2),
            6 => value.wrapping_add(256),
            7 => value.wrapping_sub(256),
            _ => value.wrapping_add(4),
        }
    }

    fn real(&mut self, value: f64) -> f64 {
        match self.below(6) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => -value,
            3 => 0.0,
            4 => 1.0,
            _ => value * 2.0,
        }
    }
}

/// What became of the damaged plans.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) refused: usize,
    pub(crate) accepted: usize,
}

/// Damages a plan `count` times and reads each; every result is either refused in one line, or a plan that verifies,
/// writes back to the same bytes and can be worked with.
pub(crate) fn run(plan: &Plan, count: usize, seed: u64) -> Outcome {
    let body = colac_plan::file::write(plan)
        .expect("the plan is valid")
        .split_off(colac_plan::file::HEADER_BYTES);
    let mut random = Random(seed);
    let mut outcome = Outcome::default();
    for round in 0..count {
        let damaged =
            if round % 2 == 0 { bytes(&body, &mut random) } else { fields(plan, &mut random) };
        let file = frame(&damaged);
        match read(&file) {
            Err(error) => {
                let line = error.to_string();
                assert!(!line.contains('\n') && line.len() < 2000, "round {round}: {line:?}");
                outcome.refused += 1;
            }
            Ok(plan) => {
                verify(&plan).expect("what was read is verified");
                assert_eq!(
                    colac_plan::file::write(&plan).expect("what was read can be written"),
                    file,
                    "round {round}"
                );
                use_it(&plan);
                outcome.accepted += 1;
            }
        }
    }
    outcome
}

/// Everything that readers of verified plans compute must be computable.
fn use_it(plan: &Plan) {
    let hashes = hash::hashes(plan);
    assert_eq!(hashes, hash::hashes(plan));
    let _ = (plan.total_bytes(), plan.parameter_count());
    for program in &plan.programs {
        let mut total = colac_plan::Cost::default();
        for operation in &program.operations {
            let types = |ids: &[TensorId]| {
                ids.iter().map(|&id| plan.tensor(id).ty.clone()).collect::<Vec<_>>()
            };
            let (read, made): (Vec<TensorType>, Vec<TensorType>) =
                (types(&operation.operands), types(&operation.results));
            let cost = operation
                .op
                .cost(&read.iter().collect::<Vec<_>>(), &made.iter().collect::<Vec<_>>());
            total = total + cost;
        }
        assert!(lifetimes(plan, program).iter().all(|l| l.first <= l.last));
    }
}

/// Changes a few bytes: one replaced, flipped, removed, inserted, or a stretch copied to another place.
fn bytes(body: &[u8], random: &mut Random) -> Vec<u8> {
    let mut body = body.to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(body.len());
        match random.below(6) {
            0 => body[at] = random.next() as u8,
            1 => body[at] ^= 1 << random.below(8),
            2 => drop(body.remove(at)),
            3 => body.insert(at, random.next() as u8),
            4 => {
                let from = random.below(body.len());
                let length = random.below(24).min(body.len() - at.max(from));
                body.copy_within(from..from + length, at);
            }
            // The longest number that the format has, as a length or an offset would be.
            _ => drop(body.splice(at..at + 1, [255, 255, 255, 255, 255, 255, 255, 255, 255, 1])),
        }
    }
    body
}

/// Changes one to three fields of the plan.
fn fields(plan: &Plan, random: &mut Random) -> Vec<u8> {
    let mut plan = plan.clone();
    for _ in 0..1 + random.below(3) {
        match random.below(4) {
            0 | 1 => change_tensor(&mut plan, random),
            2 => change_operation(&mut plan, random),
            _ => change_rest(&mut plan, random),
        }
    }
    postcard::to_stdvec(&plan).expect("a plan has a body")
}

fn any_id(plan: &Plan, random: &mut Random) -> TensorId {
    // Now and then one past the last.
    let beyond = usize::from(random.below(8) == 0);
    TensorId(random.below(plan.tensors.len() + beyond) as u32)
}

fn change_tensor(plan: &mut Plan, random: &mut Random) {
    let (id, other) = (any_id(plan, random), any_id(plan, random));
    let offset = plan.tensors.get(other.index()).map_or(0, |t| t.offset);
    let Some(tensor) = plan.tensors.get_mut(id.index()) else { return };
    let axis = random.below(tensor.strides.len());
    match random.below(9) {
        0 => tensor.offset = random.number(tensor.offset),
        1 => tensor.offset = offset,
        2 => {
            if let Some(stride) = tensor.strides.get_mut(axis) {
                *stride = random.number(*stride);
            }
        }
        3 => {
            if let Some(axis) = tensor.ty.shape.0.get_mut(axis) {
                axis.extent = random.number(axis.extent);
            }
        }
        4 => tensor.ty.dtype = [DType::F32, DType::Bf16, DType::I32][random.below(3)],
        5 => tensor.segment = Segment::ALL[random.below(9)],
        6 => tensor.parent = Some(other),
        7 => tensor.parent = None,
        _ => drop(tensor.strides.pop()),
    }
}

fn change_operation(plan: &mut Plan, random: &mut Random) {
    let id = any_id(plan, random);
    let program = random.below(plan.programs.len());
    let operations = &mut plan.programs[program].operations;
    let (at, other) = (random.below(operations.len()), random.below(operations.len()));
    if operations.is_empty() {
        return;
    }
    let operation = &mut operations[at];
    let (o, r) = (random.below(operation.operands.len()), random.below(operation.results.len()));
    match random.below(14) {
        0 => {
            if let Some(operand) = operation.operands.get_mut(o) {
                *operand = id;
            }
        }
        1 => {
            if let Some(result) = operation.results.get_mut(r) {
                *result = id;
            }
        }
        2 => {
            if let Some(write) = operation.writes.get_mut(r) {
                *write = [Write::Overwrite, Write::Add, Write::AddIf(id)][random.below(3)];
            }
        }
        3 => drop(operation.operands.pop()),
        4 => operation.operands.push(id),
        5 => operation.results.push(id),
        6 => operation.workspace = random.number(operation.workspace),
        7 => operation.after.push(random.number(at as u64) as u32),
        8 => operation.when = When::LastMicroBatch,
        9 => operation.scope = Some(random.number(0) as u32),
        10 => operations.swap(at, other),
        11 => drop(operations.remove(at)),
        12 => {
            let copy = operations[at].clone();
            operations.insert(other, copy);
        }
        _ => change_attributes(&mut operation.op, random),
    }
}

fn change_attributes(op: &mut Op, random: &mut Random) {
    match op {
        Op::EmbeddingBackward { rows } => *rows = random.number(*rows),
        Op::RmsNorm { epsilon, .. } | Op::LayerNorm { epsilon, .. } => {
            *epsilon = Real::new(random.real(epsilon.get()))
        }
        Op::Rope { inverse, interleaved } => match random.below(2) {
            0 => *inverse = !*inverse,
            _ => *interleaved = !*interleaved,
        },
        Op::Pointwise { program } => {
            let at = random.below(program.instructions.len());
            match random.below(4) {
                0 => program.outputs[0].register = random.number(0) as u16,
                1 => drop(program.instructions.remove(at)),
                2 => drop(program.inputs.pop()),
                _ => program.instructions.swap(at, 0),
            }
        }
        Op::HeadLoss { chunk, bias, .. } | Op::HeadLossWithGradient { chunk, bias, .. } => {
            match random.below(2) {
                0 => *chunk = random.number(u64::from(*chunk)) as u32,
                _ => *bias = !*bias,
            }
        }
        Op::AdamW { ranges, beta1, master, .. } => match random.below(4) {
            0 => ranges[0].start = random.number(ranges[0].start),
            1 => ranges[0].length = random.number(ranges[0].length),
            2 => *master = !*master,
            _ => *beta1 = Real::new(random.real(beta1.get())),
        },
        _ => *op = Op::Linear,
    }
}

fn change_rest(plan: &mut Plan, random: &mut Random) {
    let id = any_id(plan, random);
    let (p, parameter) = (random.below(plan.programs.len()), random.below(plan.parameters.len()));
    match random.below(18) {
        0 => {
            let segment = random.below(9);
            plan.segment_bytes[segment] = random.number(plan.segment_bytes[segment]);
        }
        1 => plan.programs[p].arena_bytes = random.number(plan.programs[p].arena_bytes),
        2 => plan.programs[p].arena_lower_bound = random.number(plan.programs[p].arena_lower_bound),
        3 => plan.programs[p].inputs.push(id),
        4 => plan.programs[p].outputs.push(id),
        5 => plan.programs.swap(p, 0),
        6 => drop(plan.programs.pop()),
        7 => plan.parameters[parameter].tensor = id,
        8 => plan.parameters[parameter].gradient = id,
        9 => plan.parameters.swap(parameter, 0),
        10 => plan.roles.train.tokens = id,
        11 => plan.roles.parameters = id,
        12 => plan.vocab_size = random.number(plan.vocab_size),
        13 => plan.recipe.micro_batch = random.number(u64::from(plan.recipe.micro_batch)) as u32,
        14 => plan.recipe.schedule.learning_rate = random.real(plan.recipe.schedule.learning_rate),
        15 => plan.recipe.schedule.warmup_steps = random.number(plan.recipe.schedule.warmup_steps),
        16 => plan.constants[0].tensor = id,
        _ => plan.scalars[0].tensor = id,
    }
}
