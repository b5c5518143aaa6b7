//! Shape errors in the user's terms: the call that does not fit, and where its operands were made.
//!
//! Owns the wording. Must not know the rules: those are in [`colac_plan::op::infer`].

use colac_plan::op::TypeError;

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::Value as Tensor;
use crate::language::check::walk;
use crate::language::expression::names;
use crate::language::syntax::{Expr, ExprKind};
use crate::lower::{Lowering, codes};

impl Lowering<'_> {
    /// The diagnostic for operands that a call cannot take.
    pub(super) fn mismatch(
        &self,
        error: &TypeError,
        operands: &[Tensor],
        call: Span,
    ) -> Diagnostic {
        let (message, involved, help) = match error {
            TypeError::Mismatch { op, what, left, right, .. } => (
                format!("{what} of `{op}` differ"),
                vec![*left, *right],
                "make both the same, in the body or by the settings their sizes come from"
                    .to_owned(),
            ),
            TypeError::Form { op, operand, expected, .. } => (
                format!("`{op}` takes a value of the form {expected}"),
                vec![*operand],
                format!("give it a value of the form {expected}"),
            ),
            TypeError::ElementFormat { op, operand, expected, found } => (
                format!("`{op}` takes {expected}, not {found}"),
                vec![*operand],
                "ids go into `embedding`, real numbers into all else".to_owned(),
            ),
            TypeError::Rule { op, reason } => (
                format!("{op}: {reason}"),
                (0..operands.len()).collect(),
                "change the settings that these sizes come from".to_owned(),
            ),
            TypeError::OperandCount { .. } => {
                (error.to_string(), Vec::new(), "give it as many operands".to_owned())
            }
        };
        let mut diagnostic =
            Diagnostic::error(codes::SHAPE_MISMATCH, message).at(call, "in this call");
        for operand in involved {
            let Some(&tensor) = operands.get(operand) else { continue };
            let node = self.graph.node(tensor.node);
            let shape = &self.graph.ty(tensor).shape;
            match node.origin.span {
                Some(span) if span != call => {
                    diagnostic = diagnostic.at(span, format!("this is {shape}"))
                }
                _ => diagnostic = diagnostic.at(call, format!("this is {shape}")),
            }
        }
        let made = operands.iter().filter_map(|tensor| self.graph.node(tensor.node).origin.span);
        self.blame_settings(diagnostic, made.chain([call])).help(help)
    }

    /// Adds the places of a spec that gave the settings read by the calls at `calls`: where a size came from.
    pub(super) fn blame_settings(
        &self,
        mut diagnostic: Diagnostic,
        calls: impl IntoIterator<Item = Span>,
    ) -> Diagnostic {
        let body = &self.architecture.body;
        let mut blamed: Vec<&str> = Vec::new();
        for span in calls {
            let mut look = |expr: &Expr| {
                if let (ExprKind::Call(call), true) = (&expr.kind, expr.span == span) {
                    for argument in &call.arguments {
                        // Calls inside made operands of their own, which have places of their own.
                        let names =
                            self.config.iter().filter(|(name, _)| reads(&argument.value, name));
                        blamed.extend(names.map(|(name, _)| name));
                    }
                }
            };
            walk(&body.model.statements, &mut look);
            body.blocks.iter().for_each(|block| walk(&block.statements, &mut look));
        }
        blamed.sort_unstable();
        blamed.dedup();
        for name in blamed {
            let given =
                self.config.place(name).filter(|place| place.source != self.architecture.source);
            if let (Some(place), Some(value)) = (given, self.config.get(name)) {
                diagnostic = diagnostic.at(place, format!("`{name}` is {value}"));
            }
        }
        diagnostic
    }
}

/// Whether an argument that is no call itself reads a setting.
fn reads(argument: &Expr, setting: &str) -> bool {
    let is_call = matches!(argument.kind, ExprKind::Call(_));
    !is_call && names(argument).iter().any(|name| name.text == setting)
}
