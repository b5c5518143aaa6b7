//! The verifier: what every pass may rely on and must leave true.
//!
//! - every operand exists and every operand position is filled exactly once;
//! - there is no cycle;
//! - every operation's result shapes are those of its shape rule (precision decides the storage formats, and the verifier
//!   of the plan judges them);
//! - phases do not run backwards: a forward node reads only forward nodes;
//! - outputs exist; a gradient has its parameter's shape and comes from a result that accumulates;
//! - what lies on the bytes of another value may lie there ([`Graph::set_home`]);
//! - parameters have unique paths and unique places in checkpoints.
//!
//! A failure is a bug of the compiler, never of the user.

use std::collections::BTreeSet;

use colac_plan::TensorType;
use colac_plan::program::Phase;
use thiserror::Error;

use crate::graph::{Graph, NodeKind, Output, Value};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("graph verifier: {path}: {reason}")]
pub struct GraphError {
    /// Path of the node.
    pub path: String,
    /// What does not hold.
    pub reason: String,
}

impl Graph {
    /// Checks every invariant listed in this module.
    pub fn verify(&self) -> Result<(), GraphError> {
        let order = self.order();
        if order.len() != self.len() {
            return Err(GraphError { path: String::new(), reason: "there is a cycle".into() });
        }
        for id in order {
            let node = self.node(id);
            let fail = |reason: String| Err(GraphError { path: node.origin.path.clone(), reason });
            let operands = self.operands(id);
            for operand in &operands {
                let source = self.node(operand.node);
                if operand.result as usize >= source.results.len() {
                    return fail(format!(
                        "reads result {} of {}",
                        operand.result, source.origin.path
                    ));
                }
                if node.phase == Phase::Forward && source.phase != Phase::Forward {
                    return fail(format!(
                        "a forward node reads {} of a later phase",
                        source.origin.path
                    ));
                }
            }
            let types: Vec<&TensorType> = operands.iter().map(|&v| self.ty(v)).collect();
            let inferred = match &node.kind {
                NodeKind::Op(op) => op.infer(&types),
                NodeKind::View(view) => view.infer(&types).map(|ty| vec![ty]),
                NodeKind::Input(_) | NodeKind::Parameter(_) | NodeKind::Constant(_) => {
                    if types.is_empty() {
                        continue;
                    }
                    return fail("a source has no operands".into());
                }
            };
            match inferred {
                Err(error) => return fail(error.to_string()),
                Ok(results) => {
                    let same = results.len() == node.results.len()
                        && results
                            .iter()
                            .zip(&node.results)
                            .all(|(a, b)| a.shape.same_extents(&b.shape));
                    if !same {
                        return fail(format!(
                            "results are {:?}, the shape rule says {results:?}",
                            node.results
                        ));
                    }
                }
            }
        }
        for &(output, value) in self.outputs() {
            let fail = |reason: &str| {
                Err(GraphError { path: format!("{output:?}"), reason: reason.into() })
            };
            if !self.contains(value.node)
                || self.node(value.node).results.len() <= value.result as usize
            {
                return fail("does not exist");
            }
            if let Output::Gradient(parameter) = output {
                let same =
                    |read| self.ty(value).shape.same_extents(&self.ty(Value::of(read)).shape);
                if !self.parameter_node(parameter).is_some_and(same) {
                    return fail("a gradient has another shape than its parameter");
                }
                let node = self.node(value.node);
                if !matches!(&node.kind, NodeKind::Op(op) if op.accumulates(value.result as usize))
                {
                    return fail("a gradient comes from a result that does not accumulate");
                }
            }
        }
        self.verify_homes()?;
        let (mut paths, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (_, info) in self.parameters() {
            let place = (&info.checkpoint.name, info.checkpoint.part.map(|part| part.offset));
            if !paths.insert(&info.path) || !names.insert(place) {
                let reason = format!(
                    "two parameters are called so, or `{}` in a checkpoint",
                    info.checkpoint.name
                );
                return Err(GraphError { path: info.path.clone(), reason });
            }
        }
        Ok(())
    }
}
