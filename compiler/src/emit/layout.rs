//! Offsets of everything outside the arena, and the table of tensors.

use std::collections::{BTreeMap, BTreeSet};

use colac_plan::op::cost::{ALIGNMENT, aligned};
use colac_plan::parameter::{Constant, ConstantContent, Parameter, Role};
use colac_plan::plan::LinearReport;
use colac_plan::{DType, Segment, Shape, Tensor, TensorId, TensorType};

use crate::graph::{Graph, ParameterId, ParameterInfo, Value};
use crate::passes::precision::{Class, storage};
use crate::spec::Precision;

/// The tensors that show all parameters, or what mirrors them, as one row. They have the same elements in the same order,
/// each in its own format.
#[derive(Clone, Copy)]
pub(super) struct Wholes {
    pub(super) parameters: TensorId,
    pub(super) gradients: TensorId,
    pub(super) first_moment: TensorId,
    pub(super) second_moment: TensorId,
    /// What the optimizer keeps of parameters that are rounded copies. It lies in the optimizer's segment: nothing but
    /// the update reads it.
    pub(super) master: Option<TensorId>,
}

/// The tensors by which operations reach a parameter or a stack.
#[derive(Clone, Copy)]
pub(super) struct Trained {
    pub(super) weight: TensorId,
    pub(super) gradient: TensorId,
    pub(super) master: Option<TensorId>,
}

/// The growing table of tensors and the sizes of the segments.
pub(super) struct Layout {
    precision: Precision,
    tensors: Vec<Tensor>,
    constants: Vec<Constant>,
    sizes: [u64; Segment::ALL.len()],
    wholes: Option<Wholes>,
    trained: BTreeMap<ParameterId, Trained>,
}

impl Layout {
    /// An empty plan of a precision.
    pub(super) fn new(precision: Precision) -> Layout {
        let (tensors, constants) = (Vec::new(), Vec::new());
        let (sizes, trained) = ([0; Segment::ALL.len()], BTreeMap::new());
        Layout { precision, tensors, constants, sizes, wholes: None, trained }
    }

    /// Elements by which the places of parameters are aligned, so that each starts at a multiple of the plan's alignment
    /// in every segment, whatever the size of an element there.
    fn aligned_elements(&self) -> u64 {
        let classes = [Class::Parameter, Class::MasterParameter, Class::Gradient, Class::Moment];
        let smallest =
            classes.map(|class| storage(self.precision, class).bytes()).into_iter().min();
        ALIGNMENT / smallest.expect("there are classes")
    }

    /// Lays out parameters and, element by element alike, their gradients, moments and masters: matrices in model order,
    /// embeddings, vectors. The members of a stack lie without gaps where its first one would, and are slices of
    /// it.
    pub(super) fn parameters(
        &mut self,
        graph: &Graph,
        linears: &[LinearReport],
    ) -> Vec<(ParameterId, Parameter)> {
        let model_order: BTreeMap<&str, usize> =
            linears.iter().enumerate().map(|(i, l)| (l.path.as_str(), i)).collect();
        let mut order: Vec<_> = graph.parameters().collect();
        order.sort_by_key(|(id, info)| {
            let owner = info.path.rsplit_once('.').map_or("", |(owner, _)| owner);
            match info.role {
                Role::Matrix | Role::LowRankDown | Role::LowRankUp => {
                    (0, model_order.get(owner).copied().unwrap_or(usize::MAX), id.0)
                }
                Role::Embedding => (1, 0, id.0),
                Role::Vector => (2, 0, id.0),
            }
        });
        let stack_of: BTreeMap<ParameterId, ParameterId> = graph
            .stacks()
            .flat_map(|(stack, members)| members.iter().map(move |&member| (member, stack)))
            .collect();
        let mut rows: Vec<(ParameterId, &Shape)> = Vec::with_capacity(order.len());
        let mut seen = BTreeSet::new();
        for (id, _) in order {
            let read = stack_of.get(&id).copied().unwrap_or(id);
            let node = graph.parameter_node(id).expect("listed parameters have a node");
            if seen.insert(read) {
                rows.push((read, &graph.ty(Value::of(node)).shape));
            }
        }
        let step = self.aligned_elements();
        let padded = |shape: &Shape| owned_elements(shape).next_multiple_of(step);
        let elements = rows.iter().map(|(_, shape)| padded(shape)).sum::<u64>();
        let precision = self.precision;
        let mut whole = |name: &str, segment, class| {
            let shape = Shape::of(&[elements]);
            self.root(name, TensorType::new(storage(precision, class), shape), segment)
        };
        let parameters = whole("parameters", Segment::Parameters, Class::Parameter);
        let gradients = whole("gradients", Segment::Gradients, Class::Gradient);
        let first_moment = whole("first_moment", Segment::Optimizer, Class::Moment);
        let second_moment = whole("second_moment", Segment::Optimizer, Class::Moment);
        let master = precision
            .has_master()
            .then(|| whole("master", Segment::Optimizer, Class::MasterParameter));
        self.wholes = Some(Wholes { parameters, gradients, first_moment, second_moment, master });
        let mut first = 0;
        let mut table = Vec::with_capacity(rows.len());
        for (read, shape) in rows {
            let places = [Some(parameters), Some(gradients), master];
            let whole = self.trained_slices(graph.parameter_path(read), shape, places, first);
            self.trained.insert(read, whole);
            first += padded(shape);
            let mut within = 0;
            for member in graph.members(read) {
                let info = graph.parameter_info(member);
                if member == read {
                    table.push((read, entry(info, whole)));
                    continue;
                }
                let parents = [Some(whole.weight), Some(whole.gradient), whole.master];
                let shape = &info.ty.shape;
                let trained = self.trained_slices(&info.path, shape, parents, within);
                within += stored_elements(shape);
                table.push((member, entry(info, trained)));
            }
        }
        table
    }

    /// The tensors of a parameter or a stack, `first` elements into those that show its weights, gradients and masters.
    fn trained_slices(
        &mut self,
        path: &str,
        shape: &Shape,
        [weights, gradients, masters]: [Option<TensorId>; 3],
        first: u64,
    ) -> Trained {
        let mut part = |suffix: &str, whole: TensorId| {
            let dtype = self.tensor(whole).ty.dtype;
            let ty = TensorType::new(dtype, shape.clone());
            let strides = Tensor::padded_strides(&ty);
            self.view(&format!("{path}{suffix}"), ty, whole, (first, strides))
        };
        Trained {
            weight: part("", weights.expect("every plan has weights")),
            gradient: part(".gradient", gradients.expect("every plan has gradients")),
            master: masters.map(|masters| part(".master", masters)),
        }
    }

    /// The tensors by which operations reach a parameter or a stack; laid out with the parameters.
    pub(super) fn trained(&self, id: ParameterId) -> Trained {
        self.trained[&id]
    }

    /// The first element of a parameter, counted from the start of its segment.
    pub(super) fn first_element(&self, parameter: TensorId) -> u64 {
        let Tensor { offset, ty, .. } = self.tensor(parameter);
        offset / ty.dtype.bytes()
    }

    /// The tensors of whole segments; laid out with the parameters.
    pub(super) fn wholes(&self) -> Wholes {
        self.wholes.expect("parameters are laid out first")
    }

    /// A packed tensor at the end of a segment.
    pub(super) fn root(&mut self, name: &str, ty: TensorType, segment: Segment) -> TensorId {
        let offset = self.sizes[segment.index()];
        self.sizes[segment.index()] = offset + aligned(ty.bytes());
        self.push(name, ty, segment, offset, None)
    }

    /// A tensor at a given place of the arena.
    pub(super) fn placed(
        &mut self,
        name: &str,
        ty: TensorType,
        strides: Vec<u64>,
        offset: u64,
    ) -> TensorId {
        let id = self.push(name, ty, Segment::Activations, offset, None);
        self.tensors[id.index()].strides = strides;
        id
    }

    /// A view of a tensor: elements from `start` on, with strides of its own.
    pub(super) fn view(
        &mut self,
        name: &str,
        ty: TensorType,
        parent: TensorId,
        (start, strides): (u64, Vec<u64>),
    ) -> TensorId {
        let id = self.slice(name, ty, parent, 0);
        let tensor = &mut self.tensors[id.index()];
        tensor.offset += start * tensor.ty.dtype.bytes();
        tensor.strides = strides;
        id
    }

    /// A packed tensor on bytes of another one, `offset` bytes into it.
    pub(super) fn slice(
        &mut self,
        name: &str,
        ty: TensorType,
        parent: TensorId,
        offset: u64,
    ) -> TensorId {
        let (segment, base) = (self.tensor(parent).segment, self.tensor(parent).offset);
        self.push(name, ty, segment, base + offset, Some(parent))
    }

    fn push(
        &mut self,
        name: &str,
        ty: TensorType,
        segment: Segment,
        offset: u64,
        parent: Option<TensorId>,
    ) -> TensorId {
        let strides = Tensor::packed_strides(&ty);
        self.tensors.push(Tensor { name: name.into(), ty, strides, segment, offset, parent });
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// The tensor of a table; equal tables share one.
    pub(super) fn constant(
        &mut self,
        name: &str,
        content: ConstantContent,
        ty: &TensorType,
    ) -> TensorId {
        let same = |c: &&Constant| c.content == content && self.tensor(c.tensor).ty == *ty;
        if let Some(constant) = self.constants.iter().find(same) {
            return constant.tensor;
        }
        let tensor = self.root(name, ty.clone(), Segment::Constants);
        self.constants.push(Constant { tensor, content });
        tensor
    }

    /// A tensor of the table.
    pub(super) fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// Makes a segment at least so large.
    pub(super) fn reserve(&mut self, segment: Segment, bytes: u64) {
        let size = &mut self.sizes[segment.index()];
        *size = (*size).max(bytes);
    }

    /// The tables and the sizes.
    pub(super) fn finish(self) -> (Vec<Tensor>, Vec<Constant>, [u64; Segment::ALL.len()]) {
        (self.tensors, self.constants, self.sizes)
    }
}

/// Elements of the rows of a parameter in its segment, what pads them included.
fn stored_elements(shape: &Shape) -> u64 {
    let ty = TensorType::new(DType::F32, shape.clone());
    Tensor::padded_elements(&ty, &Tensor::padded_strides(&ty))
}

/// Elements that a parameter or a stack takes in its segment, the rows that pad it included.
fn owned_elements(shape: &Shape) -> u64 {
    let ty = TensorType::new(DType::F32, shape.clone());
    match Tensor::padded_rows(&ty) - shape.rows() {
        0 => stored_elements(shape),
        more => stored_elements(shape) + more * Tensor::padded_strides(&ty)[0],
    }
}

fn entry(info: &ParameterInfo, trained: Trained) -> Parameter {
    Parameter {
        path: info.path.clone(),
        checkpoint: info.checkpoint.clone(),
        tensor: trained.weight,
        master: trained.master,
        gradient: trained.gradient,
        initialization: info.initialization,
        role: info.role,
    }
}
