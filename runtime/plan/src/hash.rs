//! The three hashes of a plan: what a checkpoint binds to, and what names a file.
//!
//! Owns what counts as "the same model" and "the same training". Must not know the file's header.
//!
//! - [`model`]: checkpoint names, orientation, places in joined tensors, shapes of the parameters and the formats in which
//!   checkpoints hold them. Weights fit any plan with this hash.
//! - [`numerics`]: everything that decides the numbers of a training run. Two plans with equal hash that start from the
//!   same state go on to the same state. Evaluation, checkpoint cadence, data paths, names, memory placement and all
//!   source text stay out of it, so that a comment in a spec orphans no checkpoint; so do recompute policies and joins of
//!   operations, which keep every bit, so that a run goes on with less memory than it began with.
//! - [`file()`]: every byte of the body.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::op::Op;
use crate::parameter::{Constant, ConstantContent, Initialization, Parameter, Part, Role};
use crate::plan::Plan;
use crate::program::{Operation, ProgramKind, When, Write};
use crate::recipe::{BatchMode, LossNormalization, Optimizer, Schedule};
use crate::tensor::{Segment, TensorId};
use crate::{DType, file as plan_file};

/// 32 bytes of BLAKE3, printed in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Stands where nothing was hashed: in plans of single operations, which no run begins with.
    pub const NONE: Hash = Hash([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number that stands for a text: the first eight bytes of its BLAKE3 hash, little endian. Keys of dropouts are made
/// of paths by it.
pub fn key(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let bytes = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*bytes)
}

/// All hashes of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// See [`model`].
    pub model: Hash,
    /// See [`numerics`].
    pub numerics: Hash,
    /// See [`file()`].
    pub file: Hash,
}

/// All hashes of a verified plan.
pub fn hashes(plan: &Plan) -> Hashes {
    Hashes { model: model(plan), numerics: numerics(plan), file: file(plan) }
}

/// Hash of the parameters' checkpoint names, orientation, places in joined tensors, shapes and formats in checkpoints
/// (those of master parameters where there are any), ordered by name and place: where parameters lie in memory does not
/// count.
pub fn model(plan: &Plan) -> Hash {
    #[derive(Serialize)]
    struct Weight<'a> {
        name: &'a str,
        transposed: bool,
        part: Option<Part>,
        dtype: DType,
        extents: Vec<u64>,
    }
    let mut weights: Vec<Weight<'_>> = plan
        .parameters
        .iter()
        .map(|p| {
            let ty = &plan.tensor(p.kept()).ty;
            Weight {
                name: &p.checkpoint.name,
                transposed: p.checkpoint.transposed,
                part: p.checkpoint.part,
                dtype: ty.dtype,
                extents: ty.shape.extents(),
            }
        })
        .collect();
    weights.sort_by_key(|weight| (weight.name, weight.part.map(|part| part.offset)));
    digest("colac plan 3: model", &weights)
}

/// Hash of the body as it is written to a file; equals the hash in the file's header.
pub fn file(plan: &Plan) -> Hash {
    Hash(*blake3::hash(&plan_file::encode(plan)).as_bytes())
}

/// Hash of everything that decides the numbers of training: [`Plan::computation`], and of the recipe what reaches a weight.
pub fn numerics(plan: &Plan) -> Hash {
    let recipe = &plan.recipe;
    let parts = Numerics {
        computation: plan.computation,
        recipe: RecipePart {
            sequence_length: recipe.sequence_length,
            micro_batch: recipe.micro_batch,
            global_batch: recipe.global_batch,
            seed: recipe.seed,
            loss_normalization: recipe.loss_normalization,
            schedule: &recipe.schedule,
            optimizer: &recipe.optimizer,
            mode: recipe.data.mode,
        },
    };
    digest("colac plan 4: numerics", &parts)
}

/// Hash of what a step computes: the operations of `forward_backward` and `update` with the types, strides and slices of
/// their tensors, the layout of parameters, and the constants. Tensors are numbered by their first appearance, so that
/// tensors of other programs do not count.
pub fn computation(plan: &Plan) -> Hash {
    let mut tensors = Numbering { plan, numbers: vec![None; plan.tensors.len()], seen: Vec::new() };
    let parameters: Vec<_> = plan.parameters.iter().map(|p| parameter(&mut tensors, p)).collect();
    let mut operations = Vec::new();
    for kind in [ProgramKind::ForwardBackward, ProgramKind::Update] {
        for o in &plan.program(kind).operations {
            operations.push(operation(&mut tensors, kind, o));
        }
    }
    let roles = &plan.roles;
    let inputs = [
        roles.train.tokens,
        roles.train.labels,
        roles.loss_scale,
        roles.accumulate,
        roles.learning_rate,
    ];
    let inputs = inputs.into_iter().chain(roles.dropout_draw);
    let inputs: Vec<u32> = inputs.map(|id| tensors.number(id)).collect();
    let constants: Vec<_> = plan
        .constants
        .iter()
        .filter_map(|Constant { tensor, content }| {
            Some((tensors.numbers[tensor.index()]?, content))
        })
        .collect();
    let tensors = tensors.seen;
    let parts = Computation {
        vocab_size: plan.vocab_size,
        parameters,
        operations,
        inputs,
        constants,
        tensors,
    };
    digest("colac plan 4: computation", &parts)
}

#[derive(Serialize)]
struct Numerics<'a> {
    computation: Hash,
    recipe: RecipePart<'a>,
}

#[derive(Serialize)]
struct Computation<'a> {
    vocab_size: u64,
    parameters: Vec<ParameterPart<'a>>,
    operations: Vec<OperationPart<'a>>,
    inputs: Vec<u32>,
    constants: Vec<(u32, &'a ConstantContent)>,
    tensors: Vec<TensorPart<'a>>,
}

#[derive(Serialize)]
struct ParameterPart<'a> {
    path: &'a str,
    checkpoint: &'a str,
    transposed: bool,
    part: Option<Part>,
    tensor: u32,
    master: Option<u32>,
    gradient: u32,
    initialization: Initialization,
    role: Role,
}

#[derive(Serialize)]
struct OperationPart<'a> {
    program: ProgramKind,
    op: OpPart<'a>,
    operands: Vec<u32>,
    results: Vec<u32>,
    writes: Vec<WritePart>,
    when: When,
    workspace: u64,
}

/// An operation as it is hashed: as in the file, but for what came later and only joins say, so that it leaves the hashes
/// of runs that were begun before as they are.
struct OpPart<'a>(&'a Op);

impl Serialize for OpPart<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Op::AttentionBackward { scores, turned_back: None } => {
                // The number of the alternative, and all that it held before.
                serializer.serialize_newtype_variant("Op", 14, "AttentionBackward", scores)
            }
            op => op.serialize(serializer),
        }
    }
}

#[derive(Serialize)]
enum WritePart {
    Overwrite,
    Add,
    AddIf(u32),
}

#[derive(Serialize)]
struct TensorPart<'a> {
    dtype: DType,
    extents: Vec<u64>,
    strides: &'a [u64],
    segment: Segment,
    /// Within the segment where the layout is shared by name or range, else within the parent.
    offset: u64,
    parent: Option<u32>,
}

#[derive(Serialize)]
struct RecipePart<'a> {
    sequence_length: u32,
    micro_batch: u32,
    global_batch: u32,
    seed: u64,
    loss_normalization: LossNormalization,
    schedule: &'a Schedule,
    optimizer: &'a Optimizer,
    mode: BatchMode,
}

/// Numbers tensors by first appearance.
struct Numbering<'a> {
    plan: &'a Plan,
    numbers: Vec<Option<u32>>,
    seen: Vec<TensorPart<'a>>,
}

impl Numbering<'_> {
    fn number(&mut self, id: TensorId) -> u32 {
        if let Some(number) = self.numbers[id.index()] {
            return number;
        }
        // Parents come first; the chain is walked without recursion because its length is the file's.
        let plan = self.plan;
        let mut chain = vec![id];
        let mut next = plan.tensor(id).parent;
        while let Some(parent) = next.filter(|p| self.numbers[p.index()].is_none()) {
            chain.push(parent);
            next = plan.tensor(parent).parent;
        }
        for id in chain.into_iter().rev() {
            let tensor = plan.tensor(id);
            let parent = tensor.parent;
            let offset = match (tensor.segment, parent) {
                (Segment::Parameters | Segment::Gradients | Segment::Optimizer, _) => tensor.offset,
                (_, Some(parent)) => tensor.offset - plan.tensor(parent).offset,
                (_, None) => 0,
            };
            self.numbers[id.index()] = Some(self.seen.len() as u32);
            self.seen.push(TensorPart {
                dtype: tensor.ty.dtype,
                extents: tensor.ty.shape.extents(),
                strides: &tensor.strides,
                segment: tensor.segment,
                offset,
                parent: parent.and_then(|p| self.numbers[p.index()]),
            });
        }
        self.seen.len() as u32 - 1
    }

    fn all(&mut self, ids: &[TensorId]) -> Vec<u32> {
        ids.iter().map(|&id| self.number(id)).collect()
    }
}

fn parameter<'a>(tensors: &mut Numbering<'_>, p: &'a Parameter) -> ParameterPart<'a> {
    ParameterPart {
        path: &p.path,
        checkpoint: &p.checkpoint.name,
        transposed: p.checkpoint.transposed,
        part: p.checkpoint.part,
        tensor: tensors.number(p.tensor),
        master: p.master.map(|id| tensors.number(id)),
        gradient: tensors.number(p.gradient),
        initialization: p.initialization,
        role: p.role,
    }
}

fn operation<'a>(
    tensors: &mut Numbering<'_>,
    program: ProgramKind,
    o: &'a Operation,
) -> OperationPart<'a> {
    let operands = tensors.all(&o.operands);
    let results = tensors.all(&o.results);
    let writes = o.writes.iter().map(|write| match write {
        Write::Overwrite => WritePart::Overwrite,
        Write::Add => WritePart::Add,
        Write::AddIf(scalar) => WritePart::AddIf(tensors.number(*scalar)),
    });
    let writes = writes.collect();
    OperationPart {
        program,
        op: OpPart(&o.op),
        operands,
        results,
        writes,
        when: o.when,
        workspace: o.workspace,
    }
}

fn digest(context: &str, value: &impl Serialize) -> Hash {
    let bytes = postcard::to_stdvec(value).expect("plain data always has a postcard form");
    Hash(*blake3::Hasher::new_derive_key(context).update(&bytes).finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Mask, Real, Scores, TurnedBack};

    /// The bytes of the file without the one that says that nothing is turned back.
    #[test]
    fn what_only_joins_say_is_hashed_where_it_is_said() {
        let scores = Scores::new(Mask::Causal, Real::new(0.125));
        let bytes = |op: &Op| {
            let bytes = [postcard::to_stdvec(&OpPart(op)), postcard::to_stdvec(op)];
            bytes.map(|bytes| bytes.expect("plain data always has a postcard form"))
        };
        let [hashed, mut stored] = bytes(&Op::AttentionBackward { scores, turned_back: None });
        assert_eq!(stored.pop(), Some(0));
        assert_eq!(hashed, stored);
        let turned_back = Some(TurnedBack { queries: true, keys: false, interleaved: false });
        let [hashed, stored] = bytes(&Op::AttentionBackward { scores, turned_back });
        assert_eq!(hashed, stored);
    }
}
