//! Whose bytes a value's are: views, parts of joins, results on the bytes of an operand.
//!
//! Owns homes, roots, and the question whether a value may lie in rows of another one, which depends on how the kernels
//! of its maker and of its readers address it ([`colac_plan::verify::layout`]). Must not know when values live or where
//! roots are placed: that is the memory pass's.

use colac_plan::verify::layout::{self, Layout};
use colac_plan::{Segment, Shape, Tensor, TensorType};

use crate::graph::{Graph, GraphError, NodeKind, Value, View};

/// Where a result lies that has no bytes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the rows of a join, from this element on.
    Join {
        /// Result of the [`View::Join`].
        whole: Value,
        /// First element of a row.
        start: u64,
    },
    /// On the elements of an operand of the same shape, which its operation replaces.
    Operand(Value),
}

impl Graph {
    /// Gives a result a home; see the module for what must hold, which the verifier checks.
    pub fn set_home(&mut self, value: Value, home: Home) {
        self.homes.insert(value, home);
    }

    /// Where a result lies that has no bytes of its own.
    pub fn home(&self, value: Value) -> Option<Home> {
        self.homes.get(&value).copied()
    }

    /// The value whose bytes a value shows: itself, what it is a view of, or what it is part of.
    pub fn root(&self, mut value: Value) -> Value {
        loop {
            value = match (&self.node(value.node).kind, self.home(value)) {
                (NodeKind::View(View::Join), _) => return value,
                (NodeKind::View(_), _) => self.operands(value.node)[0],
                (_, Some(Home::Join { whole, .. })) => return whole,
                (_, Some(Home::Operand(operand))) => operand,
                (_, None) => return value,
            };
        }
    }

    /// The results that made the bytes that a value shows: one, or all that lie in a join.
    pub fn makers(&self, value: Value) -> Vec<Value> {
        let mut found = Vec::new();
        let mut waiting = vec![value];
        while let Some(value) = waiting.pop() {
            match (&self.node(value.node).kind, self.home(value)) {
                (NodeKind::View(_), _) => waiting.extend(self.operands(value.node)),
                (_, Some(Home::Operand(operand))) => waiting.push(operand),
                _ => found.push(value),
            }
        }
        found
    }

    /// Whether every reader of a value takes it with these strides: the operations themselves, and those that read views
    /// of it. A reader for which `own` holds does not count.
    pub fn readers_accept(
        &self,
        value: Value,
        strides: &[u64],
        own: &dyn Fn(Value) -> bool,
    ) -> bool {
        let ty = self.ty(value);
        if self.outputs().iter().any(|&(_, output)| output == value) {
            return false;
        }
        self.uses(value).into_iter().all(|(reader, operand)| {
            let result = Value::of(reader);
            match &self.node(reader).kind {
                NodeKind::Op(op) => own(result) || holds(layout::operand(op, operand), ty, strides),
                NodeKind::View(View::Join) => own(result),
                NodeKind::View(view) => view
                    .strides(&ty.shape, strides)
                    .is_some_and(|(_, strides)| self.readers_accept(result, &strides, own)),
                NodeKind::Input(_) | NodeKind::Parameter(_) | NodeKind::Constant(_) => false,
            }
        })
    }

    /// Whether the operation that makes a result can write it with these strides.
    pub fn maker_accepts(&self, value: Value, strides: &[u64]) -> bool {
        match &self.node(value.node).kind {
            NodeKind::Op(op) => {
                let layout = layout::result(op, value.result as usize);
                !op.accumulates(value.result as usize) && holds(layout, self.ty(value), strides)
            }
            _ => false,
        }
    }

    /// Strides of a value that lies in the rows of a join: of the join's shape, or with the innermost axis as heads.
    pub fn strides_in(&self, whole: Value, value: Value) -> Option<Vec<u64>> {
        strides_in(&self.stored_strides(whole), &self.ty(value).shape)
    }

    /// Strides of a root in the arena: its rows are padded ([`Tensor::padded_strides`]) where all that write or read it
    /// take them so.
    pub fn stored_strides(&self, root: Value) -> Vec<u64> {
        let ty = self.ty(root);
        let (packed, padded) = (Tensor::packed_strides(ty), Tensor::padded_strides(ty));
        if padded == packed {
            return packed;
        }
        let replaces = |home: &Home| match *home {
            Home::Operand(operand) => self.root(operand) == root,
            Home::Join { .. } => false,
        };
        let written = match &self.node(root.node).kind {
            NodeKind::View(View::Join) => self.operands(root.node).into_iter().all(|part| {
                self.makers(part).iter().all(|&made| {
                    let strides = strides_in(&padded, &self.ty(made).shape);
                    strides.is_some_and(|strides| self.maker_accepts(made, &strides))
                })
            }),
            _ => self.maker_accepts(root, &padded),
        };
        let accepted = written
            && self.readers_accept(root, &padded, &|_| false)
            && !self.homes.values().any(replaces);
        if accepted { padded } else { packed }
    }

    /// Bytes of a root in the arena, what pads its rows included.
    pub fn stored_bytes(&self, root: Value) -> u64 {
        let ty = self.ty(root);
        Tensor::padded_elements(ty, &self.stored_strides(root)) * ty.dtype.bytes()
    }

    /// Every home is one that can be: of a result whose maker writes there, in a join that reads it or on an operand. All
    /// that a join reads is at home in it, so that no column is left unwritten.
    pub(super) fn verify_homes(&self) -> Result<(), GraphError> {
        for node in self.nodes().filter(|node| node.kind == NodeKind::View(View::Join)) {
            let whole = Value::of(node.id);
            let mut end = 0;
            for part in self.operands(node.id) {
                let at_home =
                    |value: &Value| self.home(*value) == Some(Home::Join { whole, start: end });
                if !self.makers(part).iter().all(at_home) {
                    let reason = format!("the part at {end} lies elsewhere");
                    return Err(GraphError { path: node.origin.path.clone(), reason });
                }
                end += self.ty(part).shape.width();
            }
        }
        for (&value, &home) in &self.homes {
            let path = || self.node(value.node).origin.path.clone();
            let fail = |reason: &str| Err(GraphError { path: path(), reason: reason.into() });
            if self.outputs().iter().any(|&(_, output)| output == value) {
                return fail("an output has a home");
            }
            match home {
                Home::Join { whole, start } => {
                    let fits = start + self.ty(value).shape.width() <= self.ty(whole).shape.width();
                    let strides = self.strides_in(whole, value);
                    let written = strides.is_some_and(|s| self.maker_accepts(value, &s));
                    if !(fits && written) {
                        return fail("it cannot be made within the join");
                    }
                }
                Home::Operand(operand) => {
                    let NodeKind::Op(op) = &self.node(value.node).kind else {
                        return fail("only a result replaces an operand");
                    };
                    let operands = self.operands(value.node);
                    let position = operands.iter().position(|&other| other == operand);
                    let replaces = position.is_some_and(|o| op.in_place(o, value.result as usize));
                    let (made, read) = (self.ty(value), self.ty(operand));
                    let same = made.dtype == read.dtype && made.shape.same_extents(&read.shape);
                    if !(replaces && same) {
                        return fail("it cannot replace the operand on whose bytes it is");
                    }
                }
            }
        }
        Ok(())
    }
}

/// Strides of a value within rows of another one, whose leading axes are its own; its innermost axis may be cut
/// into heads.
fn strides_in(whole: &[u64], part: &Shape) -> Option<Vec<u64>> {
    let mut strides = whole.to_vec();
    match part.ndim().checked_sub(whole.len())? {
        0 => Some(strides),
        1 => {
            let innermost = strides.len() - 1;
            strides.insert(innermost, part.width());
            Some(strides)
        }
        _ => None,
    }
}

fn holds(layout: Layout, ty: &TensorType, strides: &[u64]) -> bool {
    layout.holds(&Tensor {
        name: String::new(),
        ty: ty.clone(),
        strides: strides.to_vec(),
        segment: Segment::Activations,
        offset: 0,
        parent: None,
    })
}
