//! The end of a model: logits and the loss of the objective.
//!
//! Owns how the objective reads a model's result. Must not know how the loss is computed.

use colac_plan::Op;
use colac_plan::program::Phase;

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{Input, NodeKind, Output};
use crate::language::architecture::Objective;
use crate::lower::{Bound, Lowering, codes};

/// Elements of logits that the loss holds at a time: 32 MiB of f32. Each chunk reads the whole weight once, so chunks
/// must be long; the logits of a whole micro-batch would be gigabytes. With 256 positions of 32,000 the loss runs at
/// the rate of a single product, with half of that it loses a tenth.
const CHUNK_ELEMENTS: u64 = 1 << 23;

/// Chunks hold a multiple of this many positions, so that products of them have full tiles.
const CHUNK_GRANULARITY: u64 = 16;

/// Positions whose logits the loss holds at a time.
fn chunk(vocabulary: u64, positions: u64) -> u32 {
    let fitting = CHUNK_ELEMENTS / vocabulary.max(1);
    let wanted = (fitting - fitting % CHUNK_GRANULARITY).max(CHUNK_GRANULARITY);
    u32::try_from(wanted.min(positions.max(1))).unwrap_or(u32::MAX)
}

impl Lowering<'_> {
    /// Declares the model's outputs.
    pub(super) fn head(&mut self, result: Bound, span: Span) -> Result<(), Diagnostic> {
        let Objective::NextToken = self.architecture.objective;
        let wrong = |what: String| {
            Diagnostic::error(
                codes::HEAD,
                "the objective needs the result of a linear without bias",
            )
            .at(span, what)
            .help("return a call of `linear` with one output for each entry of the vocabulary")
        };
        let logits = match result {
            Bound::Tensor(tensor) => tensor,
            Bound::Wrong => return Ok(()),
            other => return Err(wrong(format!("this is {}", other.describe()))),
        };
        let node = self.graph.node(logits.node);
        if node.kind != NodeKind::Op(Op::Linear) {
            return Err(wrong("not the result of a linear without bias".into()));
        }
        let (path, scope) = (node.origin.path.clone(), node.scope);
        let shape = self.graph.ty(logits).shape.clone();
        if shape.ndim() != 3 {
            return Err(Diagnostic::error(
                codes::SHAPE_MISMATCH,
                "the model must return one row of logits for each position",
            )
            .at(span, format!("this is {shape}"))
            .help("return a value of the form [batch, seq, vocabulary]"));
        }
        self.graph.add_output(Output::Logits, logits);
        let operands = self.graph.operands(logits.node);
        let (ty, origin) = (self.id_type(), self.origin(Input::Labels.name(), span));
        let labels = self.graph.input(Input::Labels, ty, origin);
        let op = Op::HeadLoss { chunk: chunk(shape.width(), shape.rows()) };
        let inputs = [operands[0], operands[1], labels];
        let origin = self.origin(&path, span);
        let loss = self.graph.op(op, &inputs, origin, Phase::Forward, scope);
        let loss = loss.map_err(|error| self.mismatch(&error, &inputs, span))?[0];
        self.graph.add_output(Output::Loss, loss);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::chunk;

    #[test]
    fn chunks_are_bounded_by_memory_and_by_the_batch() {
        assert_eq!(
            chunk(32_000, 65_536),
            256,
            "262 positions of 32000 fit, rounded down to a multiple of 16"
        );
        assert_eq!(chunk(4096, 4096), 2048);
        assert_eq!(chunk(4096, 7), 7);
        assert_eq!(chunk(u64::MAX, 1 << 40), 16);
    }
}
