//! Parameters of a graph, alone or in stacks.
//!
//! A stack is parameters of one width that lie one after the other and are read as one matrix: rows of the first, rows
//! of the second, and so on. Each member stays a parameter with a path, start values and a place in checkpoints of its
//! own; a gradient belongs to the stack. Owns the table behind [`ParameterId`].

use colac_plan::parameter::CheckpointName;
use colac_plan::program::Phase;
use colac_plan::{Axis, Shape, TensorType};

use crate::graph::{Graph, NodeId, NodeKind, Origin, ParameterId, ParameterInfo, ScopeId, Value};

/// What a [`ParameterId`] names.
#[derive(Clone, Debug)]
pub(super) enum Trained {
    Alone(ParameterInfo),
    Stack { path: String, members: Vec<ParameterId> },
}

impl Graph {
    /// A new stack and the node that reads it. The members must be matrices of one width and format, read by nothing
    /// that stays: their nodes remain until they are removed, but stand for nothing any more.
    pub fn stack(
        &mut self,
        members: &[ParameterId],
        origin: Origin,
        scope: Option<ScopeId>,
    ) -> (ParameterId, Value) {
        let types: Vec<&TensorType> = members.iter().map(|&m| &self.parameter_info(m).ty).collect();
        let mut axes = types[0].shape.0.clone();
        axes[0].extent = types.iter().map(|ty| ty.shape.0[0].extent).sum();
        if types.iter().any(|ty| ty.shape.0[0].name != axes[0].name) {
            axes[0] = Axis::anonymous(axes[0].extent);
        }
        let ty = TensorType::new(types[0].dtype, Shape(axes));
        let id = ParameterId(self.parameters.len() as u32);
        let path = origin.path.clone();
        self.parameters.push(Trained::Stack { path, members: members.to_vec() });
        let kind = NodeKind::Parameter(id);
        let value = self.add(kind, vec![ty], &[], origin, Phase::Forward, scope);
        self.parameter_nodes.push(Some(value.node));
        for member in members {
            self.parameter_nodes[member.0 as usize] = Some(value.node);
        }
        (id, value)
    }

    fn trained(&self) -> impl Iterator<Item = (ParameterId, &Trained)> {
        let ids = (0..self.parameters.len() as u32).map(ParameterId);
        ids.zip(&self.parameters).filter(|(id, _)| self.parameter_nodes[id.0 as usize].is_some())
    }

    /// Parameters that some node reads, in order of creation; those in stacks one by one.
    pub fn parameters(&self) -> impl Iterator<Item = (ParameterId, &ParameterInfo)> {
        self.trained().filter_map(|(id, trained)| match trained {
            Trained::Alone(info) => Some((id, info)),
            Trained::Stack { .. } => None,
        })
    }

    /// Stacks that some node reads, in order of creation, with their members from the first row on.
    pub fn stacks(&self) -> impl Iterator<Item = (ParameterId, &[ParameterId])> {
        self.trained().filter_map(|(id, trained)| match trained {
            Trained::Alone(_) => None,
            Trained::Stack { members, .. } => Some((id, &members[..])),
        })
    }

    /// The parameters that an id stands for: itself, or the members of a stack from the first row on.
    pub fn members(&self, id: ParameterId) -> Vec<ParameterId> {
        match &self.parameters[id.0 as usize] {
            Trained::Alone(_) => vec![id],
            Trained::Stack { members, .. } => members.clone(),
        }
    }

    /// A parameter, which may be the member of a stack.
    ///
    /// # Panics
    /// For a stack, which is no parameter by itself.
    pub fn parameter_info(&self, id: ParameterId) -> &ParameterInfo {
        match &self.parameters[id.0 as usize] {
            Trained::Alone(info) => info,
            Trained::Stack { path, .. } => panic!("{path} is a stack"),
        }
    }

    fn parameter_info_mut(&mut self, id: ParameterId) -> &mut ParameterInfo {
        match &mut self.parameters[id.0 as usize] {
            Trained::Alone(info) => info,
            Trained::Stack { path, .. } => panic!("{path} is a stack"),
        }
    }

    /// Path of a parameter or a stack.
    pub fn parameter_path(&self, id: ParameterId) -> &str {
        match &self.parameters[id.0 as usize] {
            Trained::Alone(info) => &info.path,
            Trained::Stack { path, .. } => path,
        }
    }

    /// Puts a parameter into a joined tensor of checkpoints; where it would stand alone is kept.
    pub(crate) fn join_parameter(&mut self, id: ParameterId, joined: CheckpointName) {
        let info = self.parameter_info_mut(id);
        info.unjoined = Some(std::mem::replace(&mut info.checkpoint, joined));
    }

    /// Gives a parameter another tensor in checkpoints.
    pub(crate) fn set_checkpoint(&mut self, id: ParameterId, checkpoint: CheckpointName) {
        self.parameter_info_mut(id).checkpoint = checkpoint;
    }

    /// The node that reads a parameter or the stack it is in, if it is still there.
    pub fn parameter_node(&self, id: ParameterId) -> Option<NodeId> {
        self.parameter_nodes[id.0 as usize]
    }

    /// Nothing reads a parameter or a stack any more. A member's own node is no longer what reads it.
    pub(super) fn forget_parameter(&mut self, id: ParameterId, node: NodeId) {
        let members = match &self.parameters[id.0 as usize] {
            Trained::Alone(_) => vec![id],
            Trained::Stack { members, .. } => [&[id], &members[..]].concat(),
        };
        for member in members {
            let reader = &mut self.parameter_nodes[member.0 as usize];
            if *reader == Some(node) {
                *reader = None;
            }
        }
    }
}
