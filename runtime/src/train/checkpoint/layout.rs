//! How parameters and moments stand in the files of a checkpoint.
//!
//! Owns the order and shape of the files' tensors, and where a parameter's elements lie in the flat moments. Must not
//! know files.

use colac_plan::parameter::Parameter;
use colac_plan::{DType, Plan, Tensor};

use crate::train::checkpoint::tensor_file::Entry;

/// Name of the count of updates in the optimizer's file.
pub(super) const STEP: &str = "step";

/// The moments, in the order of the optimizer's file.
pub(super) const MOMENTS: [&str; 2] = ["first_moment", "second_moment"];

/// A parameter with its place in the files.
pub(super) struct Item<'a> {
    pub(super) parameter: &'a Parameter,
    pub(super) tensor: &'a Tensor,
    /// Extents in the plan, where they are exchanged in the files.
    pub(super) exchange: Option<(usize, usize)>,
}

impl Item<'_> {
    pub(super) fn elements(&self) -> usize {
        self.tensor.ty.shape.elements() as usize
    }

    pub(super) fn entry(&self, name: String, dtype: DType) -> Entry {
        let extents = match self.exchange {
            Some((rows, columns)) => vec![columns, rows],
            None => self.tensor.ty.shape.extents().iter().map(|&extent| extent as usize).collect(),
        };
        Entry { name, dtype, extents }
    }

    /// Name of one of the moments in the optimizer's file.
    pub(super) fn moment_name(&self, moment: &str) -> String {
        format!("{moment}.{}", self.parameter.checkpoint.name)
    }

    /// Calls `row` with the places of each of the parameter's rows in the flat moments and in the packed parameter, and
    /// their common length. The moments are laid out as the parameter segment, padding included.
    pub(super) fn rows(&self, plan: &Plan, mut row: impl FnMut(usize, usize, usize)) {
        let whole = plan.tensor(plan.roles.parameters);
        let start = ((self.tensor.offset - whole.offset) / self.tensor.ty.dtype.bytes()) as usize;
        let shape = &self.tensor.ty.shape;
        let (width, leading) = (shape.width() as usize, shape.leading());
        for packed in 0..shape.rows() as usize {
            let mut place = start;
            let mut remaining = packed as u64;
            for (axis, stride) in leading.iter().zip(&self.tensor.strides).rev() {
                place += (remaining % axis.extent * stride) as usize;
                remaining /= axis.extent;
            }
            row(place, packed * width, width);
        }
    }
}

/// The parameters in the order of the files: larger elements first, so that each tensor starts at a multiple of its
/// element size; else in plan order.
pub(super) fn items(plan: &Plan) -> Vec<Item<'_>> {
    let mut items: Vec<Item<'_>> = plan
        .parameters
        .iter()
        .map(|parameter| {
            let tensor = plan.tensor(parameter.tensor);
            let exchange = match tensor.ty.shape.extents()[..] {
                [rows, columns] if parameter.checkpoint.transposed => {
                    Some((rows as usize, columns as usize))
                }
                _ => None,
            };
            Item { parameter, tensor, exchange }
        })
        .collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.tensor.ty.dtype.bytes()));
    items
}
