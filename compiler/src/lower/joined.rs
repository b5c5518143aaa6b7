//! Tensors of a checkpoint that hold several linears: `join` in `[weights]`.
//!
//! Owns which parameters lie in such a tensor, in which order, and what must hold for them. Must not know how parameters
//! are made.

use colac_plan::parameter::{CheckpointName, Part};

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{ParameterId, ParameterInfo};
use crate::language::weights::Layout;
use crate::lower::{Lowering, codes};

/// A parameter in a joined tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// The rule of `[weights]`, by position.
    pub(super) rule: usize,
    /// The alternative of its pattern.
    pub(super) alternative: usize,
    /// The parameter.
    pub(super) id: ParameterId,
    /// The call it comes from.
    pub(super) span: Span,
    /// Whether it is the weight or bias of a linear.
    pub(super) is_linear: bool,
    /// Orientation of the tensor.
    pub(super) transposed: bool,
}

impl Lowering<'_> {
    /// If the first rule that speaks of a path joins: its position, the alternative, and the tensor.
    pub(super) fn joined_name(&self, path: &str) -> Option<(usize, usize, (String, Layout))> {
        let rules = self.architecture.weights.iter().enumerate();
        let (index, rule, (name, alternative)) = rules
            .filter_map(|(index, rule)| Some((index, rule, rule.place(path)?)))
            .next()
            .filter(|(_, rule, _)| rule.join)?;
        Some((index, alternative, (name, rule.layout)))
    }

    /// The tensor of a path that is not joined with others: as the first rule says that does not join.
    pub(super) fn unjoined_name(&self, path: &str) -> (String, Layout) {
        let mut rules = self.architecture.weights.iter().filter(|rule| !rule.join);
        let rule = rules.find_map(|rule| rule.tensor_name(path).map(|name| (name, rule.layout)));
        rule.unwrap_or_else(|| (path.to_owned(), Layout::OutIn))
    }

    /// Puts the parameters of joined tensors side by side, once all are known.
    pub(super) fn join_weights(&mut self) {
        for (name, mut members) in std::mem::take(&mut self.joined) {
            members.sort_by_key(|member| member.alternative);
            match self.check_joined(&name, &members) {
                Ok(()) => self.join(&name, &members),
                Err(diagnostic) => {
                    self.report::<()>(Err(diagnostic));
                }
            }
        }
    }

    fn info(&self, member: &Member) -> &ParameterInfo {
        self.graph.parameter_info(member.id)
    }

    fn check_joined(&mut self, name: &str, members: &[Member]) -> Result<(), Diagnostic> {
        let first = members[0];
        let architecture = self.architecture;
        let pattern = &architecture.weights[first.rule].pattern;
        let wrong = |message: String| {
            Diagnostic::error(codes::JOINED_WEIGHTS, message).at(pattern.span(), "joined here")
        };
        if let Some(other) = self.checkpoint_names.insert(name.to_owned(), first.span) {
            let message = format!("two tensors of a checkpoint are called `{name}`");
            return Err(wrong(message)
                .at(other, "this one alone is called so")
                .help("make the rules of `[weights]` give them different names"));
        }
        if let Some(member) = members.iter().find(|member| member.rule != first.rule) {
            let other = &architecture.weights[member.rule].pattern;
            return Err(wrong(format!("two rules fill the tensor `{name}`"))
                .at(other.span(), "and here")
                .help(
                    "write one rule with all linears of the tensor between braces, in their order",
                ));
        }
        if let Some(member) = members.iter().find(|member| !member.is_linear) {
            return Err(wrong(format!(
                "`{}` cannot be joined with others",
                self.info(member).path
            ))
            .at(member.span, "not a linear")
            .help("join linears only"));
        }
        let alternatives = pattern.alternatives();
        let missing = alternatives
            .enumerate()
            .find(|(index, _)| members.iter().all(|member| member.alternative != *index));
        if let Some((_, alternative)) = missing {
            let kind = name.rsplit('.').next().unwrap_or_default();
            return Err(wrong(format!("`{name}` cannot be whole: `{alternative}` has no {kind} for it"))
                .at(first.span, "this one has")
                .help("leave it out of the braces, or give it one; a linear that shares the weight of another has none"));
        }
        let width = |member: &Member| {
            self.info(member).ty.shape.0[1..].iter().map(|axis| axis.extent).next()
        };
        if let Some(other) = members.iter().find(|member| width(member) != width(&first)) {
            let inputs = |member: &Member| format!("reads {} numbers", width(member).unwrap_or(0));
            return Err(wrong(format!("the linears of `{name}` have inputs of different widths"))
                .at(first.span, inputs(&first))
                .at(other.span, inputs(other))
                .help("join linears of one input"));
        }
        Ok(())
    }

    fn join(&mut self, name: &str, members: &[Member]) {
        let rows = |lowering: &Self, member: &Member| lowering.info(member).ty.shape.0[0].extent;
        let extent = members.iter().map(|member| rows(self, member)).sum();
        let mut offset = 0;
        for member in members {
            let length = rows(self, member);
            let part = Some(Part { offset, extent });
            let name = name.to_owned();
            let checkpoint = CheckpointName { name, transposed: member.transposed, part };
            self.graph.join_parameter(member.id, checkpoint);
            offset += length;
        }
    }
}
