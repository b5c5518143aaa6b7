//! What a plan takes of a GPU's memory beside its own segments, known without a GPU.
//!
//! Owns the sum and each of its parts: whoever asks whether a plan fits, and whoever says what was used, takes them from
//! here. The executor's arena is laid out here too, so that what is counted is what is allocated. Must not know drivers.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use colac_plan::op::cost::aligned;
use colac_plan::plan::BatchInputs;
use colac_plan::{Op, Plan, Segment, TensorId};
use serde::Serialize;

use crate::cuda::attention::{AttentionKernels, AttentionShape, Pass};
use crate::cuda::error::CudaError;
use crate::cuda::lower::{LARGE, Target, lower};
use crate::cuda::order::Order;
use crate::cuda::view::Segments;

/// Bytes of workspace for products: what NVIDIA recommends for Hopper is 32 MiB, and split products want more.
pub(crate) const PRODUCTS: u64 = 64 << 20;

/// Bytes that the context, kernels, graphs and libraries take, about.
const CONTEXT: u64 = 512 << 20;

/// Bytes of workspace up to which an attention is given to cuDNN.
pub(crate) const MOST_ATTENTION: u64 = 4 << 30;

/// Bytes on their way in one direction, at most: more than batches of a million tokens take. What is larger is copied while
/// the host waits.
const MOST_COPIES: u64 = 64 << 20;

/// Bytes that a GPU holds for a plan beside the plan's segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BesidePlan {
    /// The order in which the gradient of each embedding adds up rows: 12 bytes for an id.
    pub orders: u64,
    /// Batches on their way to the device, and losses on their way back.
    pub copies: u64,
    /// cuDNN's workspace for attention, one for all operations, at most: 0 where our own kernels compute it.
    pub attention: u64,
    /// Workspace of products.
    pub products: u64,
    /// The context, kernels, graphs and the libraries' own memory, about.
    pub context: u64,
}

impl BesidePlan {
    /// For a plan whose attention those kernels compute. Nothing is opened, so cuDNN need not be there: what it will ask for
    /// is estimated, from above. A plan that cannot be lowered counts as one without attention; its executor says why.
    pub fn of(plan: &Plan, attention: AttentionKernels) -> BesidePlan {
        let arena = Arena::of(plan);
        BesidePlan {
            orders: arena.orders.values().map(|order| aligned(order.bytes())).sum(),
            copies: Copies::of(plan, &arena).bytes(),
            attention: match attention {
                AttentionKernels::Own => 0,
                AttentionKernels::Cudnn => attention_of(plan, &arena).unwrap_or(0),
            },
            products: PRODUCTS,
            context: CONTEXT,
        }
    }

    /// What depends on the plan: the rest is the same for every one.
    pub fn of_plan(&self) -> u64 {
        self.orders + self.copies + self.attention
    }

    /// What is the same for every plan; what a device profile reserves stands for it.
    pub fn of_device() -> u64 {
        PRODUCTS + CONTEXT
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.of_plan() + self.products + self.context
    }
}

/// Where everything of a plan lies in one allocation.
pub(crate) struct Arena {
    /// From address 0 on.
    pub(crate) segments: Segments,
    /// Of each tensor of ids that gradients are gathered by, behind the segments.
    pub(crate) orders: BTreeMap<TensorId, Order>,
    /// Of all of it.
    pub(crate) bytes: u64,
}

impl Arena {
    pub(crate) fn of(plan: &Plan) -> Arena {
        let mut bytes = 0;
        let mut segments = Segments { addresses: [0; _], bytes: [0; _] };
        for segment in Segment::ALL {
            segments.addresses[segment.index()] = bytes;
            segments.bytes[segment.index()] = plan.bytes(segment);
            bytes += aligned(plan.bytes(segment));
        }
        let mut orders = BTreeMap::new();
        for ids in gathered(plan) {
            let tensor = plan.tensor(ids);
            let order = Order::new(tensor.ty.shape.elements(), table_rows(plan, ids), bytes);
            bytes += aligned(order.bytes());
            orders.insert(ids, order);
        }
        Arena { segments, orders, bytes }
    }

    /// Moves everything to where the allocation begins.
    pub(crate) fn begin_at(&mut self, address: u64) {
        for place in &mut self.segments.addresses {
            *place += address;
        }
        for order in self.orders.values_mut() {
            order.address += address;
        }
    }
}

/// Bytes on their way between host and device at a time, each of which has a place on the device and one in locked memory
/// of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    /// To the device: two batches with the orders of their ids and what else is set for each, since one is begun while
    /// the other is computed.
    pub(crate) up: u64,
    /// To the host: losses and norms of two steps.
    pub(crate) down: u64,
}

impl Copies {
    pub(crate) fn of(plan: &Plan, arena: &Arena) -> Copies {
        // Scalars begin at a place of their own.
        const SCALARS: u64 = 1024;
        let bytes = |id: TensorId| aligned(plan.tensor(id).span_bytes().unwrap_or(0));
        let (roles, recipe) = (&plan.roles, &plan.recipe);
        let batch = |inputs: &BatchInputs| bytes(inputs.tokens) + bytes(inputs.labels);
        let sorted: u64 = arena.orders.values().map(|order| aligned(order.bytes())).sum();
        let up = batch(&roles.train).max(batch(&roles.evaluate)) + sorted + SCALARS;
        let micro_batches = u64::from(recipe.global_batch / recipe.micro_batch.max(1));
        let down = bytes(roles.train_loss) * micro_batches + SCALARS;
        let down = (2 * down).max(4 * bytes(roles.evaluate_loss));
        Copies { up: (2 * up).min(MOST_COPIES), down: down.min(MOST_COPIES) }
    }

    /// On the device.
    fn bytes(self) -> u64 {
        self.up + self.down
    }
}

/// The ids that embeddings' gradients are gathered by.
fn gathered(plan: &Plan) -> BTreeSet<TensorId> {
    let operations = plan.programs.iter().flat_map(|program| &program.operations);
    let gradients =
        operations.filter(|operation| matches!(operation.op, Op::EmbeddingBackward { .. }));
    gradients.filter_map(|operation| operation.operands.first().copied()).collect()
}

/// Rows of the largest table that some ids name.
fn table_rows(plan: &Plan, ids: TensorId) -> u64 {
    let operations = plan.programs.iter().flat_map(|program| &program.operations);
    let rows = operations.filter_map(|operation| match operation.op {
        Op::EmbeddingBackward { rows } if operation.operands[0] == ids => Some(rows),
        _ => None,
    });
    rows.max().unwrap_or(0)
}

/// The largest workspace that cuDNN asks for in a plan, estimated. Operations are lowered as for a GPU, so what it is not
/// asked for does not count.
fn attention_of(plan: &Plan, arena: &Arena) -> Result<u64, CudaError> {
    let most = Cell::new(0);
    let takes = |shape: &AttentionShape| {
        let needed = attention_workspace(shape);
        most.set(most.get().max(needed.unwrap_or(0)));
        Ok(needed.is_some())
    };
    let target = Target { multiprocessors: LARGE, takes: &takes };
    for operation in plan.programs.iter().flat_map(|program| &program.operations) {
        if matches!(operation.op, Op::Attention { .. } | Op::AttentionBackward { .. }) {
            lower(plan, &arena.segments, &BTreeMap::new(), operation, target)?;
        }
    }
    Ok(most.get())
}

/// Bytes for what cuDNN keeps in its workspace besides: it asked for 256 at most, and for what aligns its parts.
const OTHERS: u64 = 4096;

/// An upper bound of the workspace with which cuDNN computes an attention; `None` where it is not given this one.
///
/// Backward that is the gradient of scores in bf16, with positions rounded up to tiles. The bound has the tiles of compute
/// capability 9, 64 by 128; those of 8.x are 64 by 64, and the same where a sequence is a multiple of 128. Where heads share
/// keys and values, the gradients of these for each head of queries come to it, before they are added up. This is what cuDNN
/// 9.12 and later ask for; tests compare it for described GPUs.
pub(crate) fn attention_workspace(shape: &AttentionShape) -> Option<u64> {
    let &AttentionShape { batch, seq, heads, groups, dim, .. } = shape;
    if !shape.is_for_library() {
        return None;
    }
    if shape.pass == Pass::Forward {
        return Some(OTHERS);
    }
    let rows = batch.saturating_mul(heads);
    let scores = |tile: u64| {
        let pairs = seq.next_multiple_of(64).saturating_mul(seq.next_multiple_of(tile));
        rows.saturating_mul(2).saturating_mul(pairs)
    };
    let each = rows.saturating_mul(seq).saturating_mul(dim).saturating_mul(2);
    let of_each = if heads == groups { 0 } else { each.saturating_mul(2) };
    // What asks for more is not given to it on any GPU, and what asks for less perhaps on one. Something comes to either.
    let (least, most) = (scores(64).saturating_add(of_each), scores(128).saturating_add(of_each));
    (least < MOST_ATTENTION).then(|| most.saturating_add(OTHERS).min(MOST_ATTENTION))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(
        pass: Pass,
        [batch, seq, heads, groups, dim]: [u64; 5],
        window: Option<u32>,
    ) -> AttentionShape {
        let strides = vec![[seq * heads * dim, heads * dim, dim]; 8];
        AttentionShape { pass, batch, seq, heads, groups, dim, causal: true, window, strides }
    }

    /// What cuDNN 9 asked for on a described GPU of capability 9, which the estimate may exceed by what aligns parts.
    #[test]
    fn the_estimate_covers_what_was_asked_for() {
        for (extents, asked) in [
            ([64, 256, 32, 32, 64], 268_435_712),
            ([1, 300, 6, 6, 40], 1_474_816),
            ([7, 129, 12, 3, 96], 12_418_816),
            ([1, 4097, 2, 1, 120], 74_220_800),
        ] {
            let estimate = attention_workspace(&shape(Pass::Backward, extents, None));
            let estimate = estimate.expect("it takes it");
            assert!((asked..=asked + OTHERS).contains(&estimate), "{extents:?}: {estimate}");
            let forward = attention_workspace(&shape(Pass::Forward, extents, None));
            assert_eq!(forward, Some(OTHERS));
        }
    }

    #[test]
    fn what_is_not_given_to_cudnn_counts_nothing() {
        let backward = |extents| attention_workspace(&shape(Pass::Backward, extents, None));
        assert_eq!(backward([16, 2048, 32, 32, 64]), None, "4 GiB, and what aligns it");
        assert!(backward([15, 2048, 32, 32, 64]).is_some());
        assert_eq!(backward([15, 2048, 32, 8, 128]), None, "grouped heads take more");
        assert_eq!(backward([u64::MAX / 4, 1 << 20, 8, 8, 64]), None, "nothing overflows");
        assert_eq!(backward([1, 1, 8, 8, 64]), None);
        assert_eq!(backward([1, 256, 8, 8, 136]), None);
        let window = shape(Pass::Backward, [1, 256, 8, 8, 64], Some(0));
        assert_eq!(attention_workspace(&window), None);
    }
}
