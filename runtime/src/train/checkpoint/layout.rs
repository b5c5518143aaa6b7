//! How parameters and moments stand in the files of a checkpoint.
//!
//! Owns the order and shape of the files' tensors, which parameters each holds, and where their elements lie in the flat
//! moments. Must not know files.

use std::collections::BTreeMap;
use std::ops::Range;

use colac_plan::{DType, Plan, Tensor};

use crate::train::checkpoint::tensor_file::Entry;

/// Name of the count of updates in the optimizer's file.
pub(super) const STEP: &str = "step";

/// The moments, in the order of the optimizer's file.
pub(super) const MOMENTS: [&str; 2] = ["first_moment", "second_moment"];

/// A tensor of the files: one parameter, or several joined along their first axis. In memory its elements stand in the
/// plan's orientation, one parameter after the other.
#[derive(Debug)]
pub(super) struct Item {
    /// Name in the model's file.
    pub(super) name: String,
    /// Format in which the parameters are kept.
    pub(super) dtype: DType,
    /// Extents in the plan's orientation.
    extents: Vec<usize>,
    /// Extents in the plan's orientation, where they are exchanged in the files.
    pub(super) exchange: Option<(usize, usize)>,
    /// Its parameters by position in the plan, with the index of the first element of each, in order.
    pub(super) parameters: Vec<(usize, usize)>,
}

impl Item {
    pub(super) fn elements(&self) -> usize {
        self.extents.iter().product()
    }

    pub(super) fn entry(&self, name: String, dtype: DType) -> Entry {
        let extents = match self.exchange {
            Some((rows, columns)) => vec![columns, rows],
            None => self.extents.clone(),
        };
        Entry { name, dtype, extents }
    }

    /// Name of one of the moments in the optimizer's file.
    pub(super) fn moment_name(&self, moment: &str) -> String {
        format!("{moment}.{}", self.name)
    }
}

/// The places of a parameter's elements in the flat moments: from its first to behind its last, with the padding between
/// its rows. The moments are laid out as the parameter segment.
pub(super) fn span(plan: &Plan, parameter: usize) -> Range<usize> {
    let (mut start, mut end) = (usize::MAX, 0);
    rows(plan, parameter, |place, _, width| {
        start = start.min(place);
        end = end.max(place + width);
    });
    start.min(end)..end
}

/// Calls `row` with the places of each of a parameter's rows in the flat moments and in the packed parameter, and their
/// common length.
pub(super) fn rows(plan: &Plan, parameter: usize, mut row: impl FnMut(usize, usize, usize)) {
    let whole = plan.tensor(plan.roles.parameters);
    let tensor = plan.tensor(plan.parameters[parameter].tensor);
    let start = ((tensor.offset - whole.offset) / tensor.ty.dtype.bytes()) as usize;
    let shape = &tensor.ty.shape;
    let (width, leading) = (shape.width() as usize, shape.leading());
    for packed in 0..shape.rows() as usize {
        let mut place = start;
        let mut remaining = packed as u64;
        for (axis, stride) in leading.iter().zip(&tensor.strides).rev() {
            place += (remaining % axis.extent * stride) as usize;
            remaining /= axis.extent;
        }
        row(place, packed * width, width);
    }
}

/// The tensors in the order of the files: larger elements first, so that each tensor starts at a multiple of its
/// element size; else in plan order, joined ones at the place of their first parameter in the plan.
pub(super) fn items(plan: &Plan) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut joined: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, parameter) in plan.parameters.iter().enumerate() {
        let Tensor { ty, .. } = plan.tensor(parameter.kept());
        let name = &parameter.checkpoint;
        let mut extents: Vec<usize> = ty.shape.extents().iter().map(|&e| e as usize).collect();
        let mut first = 0;
        if let Some(part) = name.part {
            first = part.offset as usize * extents[1..].iter().product::<usize>();
            if let Some(&item) = joined.get(name.name.as_str()) {
                items[item].parameters.push((first, index));
                continue;
            }
            joined.insert(&name.name, items.len());
            extents[0] = part.extent as usize;
        }
        let exchange = match extents[..] {
            [rows, columns] if name.transposed => Some((rows, columns)),
            _ => None,
        };
        let parameters = vec![(first, index)];
        items.push(Item {
            name: name.name.clone(),
            dtype: ty.dtype,
            extents,
            exchange,
            parameters,
        });
    }
    for item in &mut items {
        item.parameters.sort_unstable_by_key(|(first, _)| *first);
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.dtype.bytes()));
    items
}
