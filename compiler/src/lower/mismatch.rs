//! Shape errors in the user's terms: the call that does not fit, and where its operands were made.
//!
//! Owns the wording. Must not know the rules: those are in [`colac_plan::op::infer`].

use colac_plan::op::TypeError;

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::Value as Tensor;
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
        diagnostic.help(help)
    }
}
