//! Where the interpreter keeps elements: one vector for each tensor that is not a view, one for each segment that whole
//! rows of state run through.
//!
//! Owns the way from a tensor's offset and strides to a position. An element takes one place whatever its format.

use std::collections::BTreeMap;

use colac_plan::{Plan, Segment, Tensor, TensorId};

/// Tensors that see the same elements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// Parameters, gradients and optimizer state: the optimizer sees the segment as one row, the model sees tensors.
    Segment(Segment),
    /// The tensor at the end of the chain of parents.
    Root(TensorId),
}

/// Position of a tensor in its owner's elements.
struct Place {
    owner: usize,
    first: usize,
    /// By axis: extent and distance in places.
    axes: Vec<(usize, usize)>,
}

/// All elements of a plan's tensors.
pub(super) struct Storage {
    places: Vec<Place>,
    elements: Vec<Vec<f64>>,
}

/// Bytes that an owner's tensors lie in: the first byte, one past the last, and the size of the smallest element, which
/// is the distance between two places.
struct Extent {
    start: u64,
    end: u64,
    step: u64,
}

fn owner(plan: &Plan, id: TensorId) -> Owner {
    let tensor = plan.tensor(id);
    match tensor.segment {
        Segment::Parameters | Segment::Gradients | Segment::Optimizer => {
            Owner::Segment(tensor.segment)
        }
        _ => match tensor.parent {
            Some(parent) => owner(plan, parent),
            None => Owner::Root(id),
        },
    }
}

fn end(tensor: &Tensor) -> u64 {
    tensor.range().expect("a verified tensor lies within its segment").end
}

impl Storage {
    pub(super) fn new(plan: &Plan) -> Storage {
        let mut extents: BTreeMap<Owner, Extent> = BTreeMap::new();
        let owners: Vec<Owner> =
            (0..plan.tensors.len() as u32).map(|id| owner(plan, TensorId(id))).collect();
        for (tensor, owner) in plan.tensors.iter().zip(&owners) {
            let step = tensor.ty.dtype.bytes();
            let extent =
                extents.entry(*owner).or_insert(Extent { start: tensor.offset, end: 0, step });
            extent.start = extent.start.min(tensor.offset);
            extent.end = extent.end.max(end(tensor));
            extent.step = extent.step.min(step);
        }
        let place = |(tensor, owner): (&Tensor, &Owner)| {
            let extent = &extents[owner];
            let scale = tensor.ty.dtype.bytes() / extent.step;
            let strides = tensor.strides.iter().map(|stride| (stride * scale) as usize);
            Place {
                owner: extents
                    .keys()
                    .position(|key| key == owner)
                    .expect("every owner was entered"),
                first: ((tensor.offset - extent.start) / extent.step) as usize,
                axes: tensor
                    .ty
                    .shape
                    .0
                    .iter()
                    .map(|axis| axis.extent as usize)
                    .zip(strides)
                    .collect(),
            }
        };
        let places = plan.tensors.iter().zip(&owners).map(place).collect();
        let fresh = |(owner, extent): (&Owner, &Extent)| {
            let start = match owner {
                Owner::Segment(_) => 0.0,
                Owner::Root(_) => f64::NAN,
            };
            vec![start; (extent.end - extent.start).div_ceil(extent.step) as usize]
        };
        let elements = extents.iter().map(fresh).collect();
        Storage { places, elements }
    }

    /// A tensor's elements in logical order.
    pub(super) fn gather(&self, tensor: TensorId) -> Vec<f64> {
        let place = &self.places[tensor.index()];
        let elements = &self.elements[place.owner];
        positions(place).into_iter().map(|position| elements[position]).collect()
    }

    /// Sets a tensor's elements from logical order.
    pub(super) fn scatter(&mut self, tensor: TensorId, values: &[f64]) {
        let place = &self.places[tensor.index()];
        let elements = &mut self.elements[place.owner];
        for (position, &value) in positions(place).into_iter().zip(values) {
            elements[position] = value;
        }
    }
}

/// Positions of all elements in logical order.
fn positions(place: &Place) -> Vec<usize> {
    let mut positions = vec![place.first];
    for &(extent, stride) in &place.axes {
        positions = positions
            .iter()
            .flat_map(|position| (0..extent).map(move |index| position + index * stride))
            .collect();
    }
    positions
}
