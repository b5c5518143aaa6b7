//! Offsets of everything outside the arena, and the table of tensors.

use std::collections::{BTreeMap, BTreeSet};

use colac_plan::op::cost::aligned;
use colac_plan::parameter::{Constant, ConstantContent, Parameter, Role};
use colac_plan::plan::LinearReport;
use colac_plan::{DType, Segment, Tensor, TensorId, TensorType};

use crate::graph::{Graph, ParameterId, ParameterInfo, Value};

/// The tensors that show a whole segment as one row.
#[derive(Clone, Copy)]
pub(super) struct Wholes {
    pub(super) parameters: TensorId,
    pub(super) gradients: TensorId,
}

/// The tensors by which operations reach a parameter or a stack.
#[derive(Clone, Copy)]
pub(super) struct Trained {
    pub(super) weight: TensorId,
    pub(super) gradient: TensorId,
}

/// The growing table of tensors and the sizes of the segments.
#[derive(Default)]
pub(super) struct Layout {
    tensors: Vec<Tensor>,
    constants: Vec<Constant>,
    sizes: [u64; Segment::ALL.len()],
    wholes: Option<Wholes>,
    trained: BTreeMap<ParameterId, Trained>,
}

impl Layout {
    /// Lays out parameters and, identically, their gradients: matrices in model order, embeddings, vectors. The members
    /// of a stack lie without gaps where its first one would, and are slices of it.
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
        let mut rows: Vec<(ParameterId, &TensorType)> = Vec::with_capacity(order.len());
        let mut seen = BTreeSet::new();
        for (id, _) in order {
            let read = stack_of.get(&id).copied().unwrap_or(id);
            let node = graph.parameter_node(id).expect("listed parameters have a node");
            if seen.insert(read) {
                rows.push((read, graph.ty(Value::of(node))));
            }
        }
        let bytes = rows.iter().map(|(_, ty)| aligned(ty.bytes())).sum::<u64>();
        let flat = TensorType::f32(&[bytes / DType::F32.bytes()]);
        let parameters = self.whole("parameters", Segment::Parameters, flat.clone());
        let gradients = self.whole("gradients", Segment::Gradients, flat);
        self.wholes = Some(Wholes { parameters, gradients });
        let mut offset = 0;
        let mut table = Vec::with_capacity(rows.len());
        for (read, ty) in rows {
            let of_gradient = |path: &str| format!("{path}.gradient");
            let path = graph.parameter_path(read);
            let weight = self.slice(path, ty.clone(), parameters, offset);
            let gradient = self.slice(&of_gradient(path), ty.clone(), gradients, offset);
            let trained = Trained { weight, gradient };
            self.trained.insert(read, trained);
            offset += aligned(ty.bytes());
            let mut within = 0;
            for member in graph.members(read) {
                let info = graph.parameter_info(member);
                if member == read {
                    table.push((read, entry(info, trained)));
                    continue;
                }
                let ty = TensorType::new(ty.dtype, info.ty.shape.clone());
                let trained = Trained {
                    weight: self.slice(&info.path, ty.clone(), weight, within),
                    gradient: self.slice(&of_gradient(&info.path), ty.clone(), gradient, within),
                };
                within += ty.bytes();
                table.push((member, entry(info, trained)));
            }
        }
        table
    }

    /// The tensors by which operations reach a parameter or a stack; laid out with the parameters.
    pub(super) fn trained(&self, id: ParameterId) -> Trained {
        self.trained[&id]
    }

    /// The tensors of whole segments; laid out with the parameters.
    pub(super) fn wholes(&self) -> Wholes {
        self.wholes.expect("parameters are laid out first")
    }

    /// A tensor at the end of a segment that shows all of it, or all of one of its parts.
    pub(super) fn whole(&mut self, name: &str, segment: Segment, ty: TensorType) -> TensorId {
        self.root(name, ty, segment)
    }

    /// A packed tensor at the end of a segment.
    pub(super) fn root(&mut self, name: &str, ty: TensorType, segment: Segment) -> TensorId {
        let offset = self.sizes[segment.index()];
        self.sizes[segment.index()] = offset + aligned(ty.bytes());
        self.push(name, ty, segment, offset, None)
    }

    /// A packed tensor at a given place of the arena.
    pub(super) fn placed(&mut self, name: &str, ty: TensorType, offset: u64) -> TensorId {
        self.push(name, ty, Segment::Activations, offset, None)
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

    /// Bytes of a segment so far.
    pub(super) fn size(&self, segment: Segment) -> u64 {
        self.sizes[segment.index()]
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

fn entry(info: &ParameterInfo, trained: Trained) -> Parameter {
    Parameter {
        path: info.path.clone(),
        checkpoint: info.checkpoint.clone(),
        tensor: trained.weight,
        gradient: trained.gradient,
        initialization: info.initialization,
        role: info.role,
    }
}
