//! The end of a model: logits and the loss of the objective.
//!
//! Owns how the objective reads a model's result. Must not know how the loss is computed.

use colac_plan::Op;
use colac_plan::pointwise::{InputForm, Program};
use colac_plan::program::Phase;

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{Input, NodeId, NodeKind, Output, Value as Tensor};
use crate::language::architecture::Objective;
use crate::lower::call::add_row;
use crate::lower::{Bound, Lowering, codes};

/// Elements of logits that the loss holds at a time at least: 32 MiB of f32. Each chunk reads the whole weight once and
/// its gradient twice, so chunks must be long; the logits of a whole micro-batch would be gigabytes. On a CPU the loss
/// runs at the rate of a single product with 256 positions of 32,000, with half of that it loses a tenth.
const FEWEST_ELEMENTS: u64 = 1 << 23;

/// And at most, 512 MiB: 4096 positions of 32,000.
const MOST_ELEMENTS: u64 = 1 << 27;

/// Between these, so many times the elements of the head's input: a chunk of logits as f32 is then as large as a few
/// activations of one block, which is little beside those of all blocks. A GPU, which multiplies a hundred times faster
/// but moves bytes only thirty times faster, needs a few thousand positions for its products to outweigh the weight's
/// gradient that each chunk reads and writes.
const TIMES_THE_INPUT: u64 = 4;

/// Chunks hold a multiple of this many positions, so that products of them have full tiles.
const CHUNK_GRANULARITY: u64 = 16;

/// Positions whose logits the loss holds at a time, for an input of so many positions and numbers at each.
fn chunk(vocabulary: u64, positions: u64, width: u64) -> u32 {
    let elements = positions.saturating_mul(width).saturating_mul(TIMES_THE_INPUT);
    let fitting = elements.clamp(FEWEST_ELEMENTS, MOST_ELEMENTS) / vocabulary.max(1);
    let wanted = (fitting - fitting % CHUNK_GRANULARITY).max(CHUNK_GRANULARITY);
    u32::try_from(wanted.min(positions.max(1))).unwrap_or(u32::MAX)
}

/// The model's result taken apart: a linear, a row added to it, a function of the sum.
struct HeadForm {
    linear: NodeId,
    bias: Option<Tensor>,
    function: Option<Program>,
}

/// The help for every result that is none.
const WANTED: &str = "return a `linear` with one output for each entry of the vocabulary, with or without bias, or a \
                      function of it alone, such as 30 * tanh(logits / 30)";

impl Lowering<'_> {
    /// Declares the model's outputs.
    pub(super) fn head(&mut self, result: Bound, span: Span) -> Result<(), Diagnostic> {
        let Objective::NextToken = self.architecture.objective;
        let logits = match result {
            Bound::Tensor(tensor) => tensor,
            Bound::Wrong => return Ok(()),
            other => return Err(not_logits(span, format!("this is {}", other.describe()))),
        };
        let form = self.head_form(logits, span)?;
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
        let node = self.graph.node(form.linear);
        let (path, scope) = (node.origin.path.clone(), node.scope);
        let operands = self.graph.operands(form.linear);
        let (ty, origin) = (self.id_type(), self.origin(Input::Labels.name(), span));
        let labels = self.graph.input(Input::Labels, ty, origin);
        let width = self.graph.ty(operands[0]).shape.width();
        let op = Op::HeadLoss {
            chunk: chunk(shape.width(), shape.rows(), width),
            bias: form.bias.is_some(),
            transform: form.function,
        };
        let mut inputs = vec![operands[0], operands[1], labels];
        inputs.extend(form.bias);
        let origin = self.origin(&path, span);
        let loss = self.graph.op(op, &inputs, origin, Phase::Forward, scope);
        let loss = loss.map_err(|error| self.mismatch(&error, &inputs, span))?[0];
        self.graph.add_output(Output::Loss, loss);
        Ok(())
    }

    /// Walks from the result to its linear; what stands between is the function, and next to the linear the bias.
    fn head_form(&self, logits: Tensor, span: Span) -> Result<HeadForm, Diagnostic> {
        let mut value = logits;
        // From the result inwards.
        let mut programs: Vec<&Program> = Vec::new();
        loop {
            let node = self.graph.node(value.node);
            let operands = self.graph.operands(value.node);
            let (bias, linear) = match &node.kind {
                NodeKind::Op(Op::Linear) => (None, value.node),
                NodeKind::Op(Op::Pointwise { program }) => match operands[..] {
                    [operand] if program.inputs[..] == [InputForm::Elements] => {
                        programs.push(program);
                        value = operand;
                        continue;
                    }
                    [y, bias] if *program == add_row() && self.is_parameter(bias) => {
                        let NodeKind::Op(Op::Linear) = self.graph.node(y.node).kind else {
                            return Err(self.blocked(value, bias, span));
                        };
                        (Some(bias), y.node)
                    }
                    _ => {
                        let linear = |v: &Tensor| {
                            matches!(self.graph.node(v.node).kind, NodeKind::Op(Op::Linear))
                        };
                        let other = operands.iter().find(|v| !linear(v)).copied();
                        return Err(self.blocked(value, other.unwrap_or(operands[0]), span));
                    }
                },
                _ => {
                    let mut diagnostic = not_logits(span, "not made by a `linear`".into());
                    if let Some(made) = node.origin.span.filter(|made| *made != span) {
                        diagnostic = diagnostic.at(made, "this is where it comes from");
                    }
                    return Err(diagnostic);
                }
            };
            let function = (!programs.is_empty()).then(|| {
                Program::unary(|builder, x| {
                    programs.iter().rev().fold(x, |y, program| builder.inline(program, &[y])[0])
                })
            });
            // A function that came to nothing, such as a factor of 1.
            let function = function.filter(|program| program.arithmetic() > 0);
            if let Some(Err(reason)) = function.as_ref().map(Program::check) {
                return Err(not_logits(span, format!("its function cannot be computed: {reason}")));
            }
            return Ok(HeadForm { linear, bias, function });
        }
    }

    fn is_parameter(&self, value: Tensor) -> bool {
        matches!(self.graph.node(value.node).kind, NodeKind::Parameter(_))
    }

    /// Logits that depend on something besides the linear.
    fn blocked(&self, value: Tensor, other: Tensor, span: Span) -> Diagnostic {
        let mut diagnostic =
            Diagnostic::error(codes::HEAD, "the logits may depend on nothing but their linear")
                .at(span, "returned here");
        if let Some(made) = self.graph.node(value.node).origin.span.filter(|made| *made != span) {
            diagnostic = diagnostic.at(made, "combined here");
        }
        if let Some(made) = self.graph.node(other.node).origin.span {
            diagnostic = diagnostic.at(made, "with this");
        }
        diagnostic.help(
            "the loss is computed without ever holding the logits: move other values in front of the linear, as a learned \
             scale of its operand, and a bias into the call as `bias = true`",
        )
    }
}

fn not_logits(span: Span, what: String) -> Diagnostic {
    Diagnostic::error(codes::HEAD, "the objective needs logits").at(span, what).help(WANTED)
}

#[cfg(test)]
mod tests {
    use super::chunk;

    #[test]
    fn chunks_are_bounded_by_memory_and_by_the_batch() {
        let small = "262 positions of 32000 fit, rounded down to a multiple of 16";
        assert_eq!(chunk(32_000, 2048, 512), 256, "{small}");
        assert_eq!(chunk(32_000, 8192, 2048), 2096, "four times the input");
        assert_eq!(chunk(32_000, 1 << 20, 4096), 4192, "512 MiB");
        assert_eq!(chunk(4096, 4096, 64), 2048);
        assert_eq!(chunk(4096, 7, 64), 7);
        assert_eq!(chunk(u64::MAX, 1 << 40, 4096), 16);
    }
}
