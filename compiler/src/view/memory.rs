//! Where the memory goes, and what fills it when it is fullest.
//!
//! Owns the categories and the definition of the peak: the operation during which most bytes of activations are alive,
//! in the program that needs the largest arena. The field names are stable: machines read them. Must not decide what is
//! alive when; the plan crate says that, and the verifier and executors obey it.

use colac_plan::program::{Operation, Phase, Program};
use colac_plan::verify::{Alive, Lifetime, alive, arena_bytes, lifetimes};
use colac_plan::{Plan, ProgramKind, Segment};
use serde::Serialize;

use super::inspection::{cost, master_bytes, phase_name};

/// All memory of a plan by category, and its fullest moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    /// What the bytes are for; together [`MemoryReport::total`].
    pub categories: Vec<Category>,
    /// Bytes of all segments: what an executor allocates.
    pub total: u64,
    /// The fullest moment of the arena.
    pub peak: Peak,
    /// Bytes read and written by the operations of one update.
    pub bytes_moved: BytesMoved,
}

/// Bytes with one purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Category {
    /// `parameters`, `gradients`, `master parameters` where there are any, `optimizer`, `kept for backward`, `transient`, `unused`, `workspace` …
    pub name: &'static str,
    /// How many.
    pub bytes: u64,
}

/// The operation during which most bytes of activations are alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// The program.
    pub program: &'static str,
    /// Position of the operation; none where the program has no operations.
    pub operation: Option<Place>,
    /// Bytes alive: the sum over `tensors`, and the least that any arena can have.
    pub bytes: u64,
    /// Of these, made in the forward pass and waiting for the backward pass.
    pub kept_bytes: u64,
    /// Of these, the others.
    pub transient_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// What is alive, the largest first.
    pub tensors: Vec<PeakTensor>,
}

/// An operation, as people find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Position in its program.
    pub index: usize,
    /// Printed name.
    pub op: &'static str,
    /// Path in the model.
    pub path: String,
    /// `forward`, `backward`, `recompute`, `update`.
    pub phase: &'static str,
    /// Line of the architecture, counted from 1.
    pub line: Option<u32>,
}

/// A tensor that is alive at the peak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeakTensor {
    /// Its name: the path of what makes it.
    pub name: String,
    /// Format and shape.
    #[serde(rename = "type")]
    pub ty: String,
    /// Bytes that it takes in the arena.
    pub bytes: u64,
    /// Whether the forward pass made it and it waits for the backward pass.
    pub kept: bool,
    /// The operation that makes it.
    pub since: Place,
    /// The last operation that touches it.
    pub until: Place,
}

/// Bytes of operands read and results written, once each, in one execution of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BytesMoved {
    /// From inputs to loss.
    pub forward: u64,
    /// From loss to gradients.
    pub backward: u64,
    /// Forward values made again.
    pub recompute: u64,
    /// The optimizer, once an update.
    pub update: u64,
}

/// The program whose arena is the largest; the first of equal ones.
pub(super) fn largest(plan: &Plan) -> &Program {
    let mut programs = plan.programs.iter();
    let first = programs.next().expect("a verified plan has every program");
    programs.fold(first, |best, other| match other.arena_bytes > best.arena_bytes {
        true => other,
        false => best,
    })
}

/// Whether a tensor is made in the forward pass and read in the backward pass.
pub(super) fn is_kept(program: &Program, life: &Lifetime) -> bool {
    let phase = |at: usize| program.operations[at].phase;
    phase(life.first) == Phase::Forward && phase(life.last) != Phase::Forward
}

impl MemoryReport {
    /// Adds up a plan.
    pub fn new(plan: &Plan) -> MemoryReport {
        let peak = Peak::new(plan);
        let arena = plan.bytes(Segment::Activations);
        let mut categories = Vec::new();
        for segment in Segment::ALL {
            if segment == Segment::Activations {
                let parts = [
                    ("kept for backward", peak.kept_bytes),
                    ("transient", peak.transient_bytes),
                    ("unused", arena - peak.bytes),
                ];
                categories.extend(parts.map(|(name, bytes)| Category { name, bytes }));
            } else {
                let master = if segment == Segment::Optimizer { master_bytes(plan) } else { 0 };
                if master > 0 {
                    categories.push(Category { name: "master parameters", bytes: master });
                }
                let bytes = plan.bytes(segment) - master;
                categories.push(Category { name: segment.name(), bytes });
            }
        }
        MemoryReport { categories, total: plan.total_bytes(), peak, bytes_moved: moved(plan) }
    }

    /// Bytes of a category.
    pub fn category(&self, name: &str) -> u64 {
        self.categories.iter().filter(|c| c.name == name).map(|c| c.bytes).sum()
    }
}

impl Peak {
    fn new(plan: &Plan) -> Peak {
        let program = largest(plan);
        let moments = alive(plan, program);
        let mut peak = Peak {
            program: program.kind.name(),
            operation: None,
            bytes: 0,
            kept_bytes: 0,
            transient_bytes: 0,
            arena_bytes: program.arena_bytes,
            tensors: Vec::new(),
        };
        // The first of the fullest moments: what comes later only lasts.
        let fullest = moments.iter().map(|moment| moment.bytes).max().unwrap_or(0);
        let Some(index) = moments.iter().position(|moment| moment.bytes == fullest) else {
            return peak;
        };
        for life in lifetimes(plan, program) {
            if !lives_at(&life, index, &moments[index]) {
                continue;
            }
            let (bytes, kept) = (arena_bytes(plan, life.root), is_kept(program, &life));
            *if kept { &mut peak.kept_bytes } else { &mut peak.transient_bytes } += bytes;
            let tensor = plan.tensor(life.root);
            peak.tensors.push(PeakTensor {
                name: tensor.name.clone(),
                ty: tensor.ty.to_string(),
                bytes,
                kept,
                since: Place::of(program, life.first),
                until: Place::of(program, life.last),
            });
        }
        peak.bytes = fullest;
        peak.operation = Some(Place::of(program, index));
        peak.tensors.sort_by_key(|tensor| (std::cmp::Reverse(tensor.bytes), tensor.since.index));
        peak
    }
}

/// Whether a tensor has bytes of its own during an operation. A result that takes the place of an operand has not: the
/// operand's are counted.
pub(super) fn lives_at(life: &Lifetime, index: usize, moment: &Alive) -> bool {
    (life.first..=life.last).contains(&index)
        && !(life.first == index && moment.in_place.contains(&life.root))
}

impl Place {
    pub(super) fn of(program: &Program, index: usize) -> Place {
        let Operation { op, path, phase, line, .. } = &program.operations[index];
        Place { index, op: op.name(), path: path.clone(), phase: phase_name(*phase), line: *line }
    }
}

fn moved(plan: &Plan) -> BytesMoved {
    let mut moved = BytesMoved::default();
    for kind in [ProgramKind::ForwardBackward, ProgramKind::Update] {
        for operation in &plan.program(kind).operations {
            let part = match operation.phase {
                Phase::Forward => &mut moved.forward,
                Phase::Backward => &mut moved.backward,
                Phase::Recompute(_) => &mut moved.recompute,
                Phase::Update => &mut moved.update,
            };
            *part += cost(plan, operation).bytes;
        }
    }
    moved
}
