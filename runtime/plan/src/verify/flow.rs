//! What a program writes and reads, in order.
//!
//! A tensor of activations, outputs or scalars holds nothing when a program starts, unless the host fills it; every
//! read must find all of it written. Slices are followed through their root: what lies in a root was written by one
//! operation as a whole, or by several as disjoint slices. A result may replace an operand in place within the root;
//! then the old tensor and everything that was seen through the same bytes before is stale.
//!
//! Gradients are followed by byte ranges, because a program may write a stack of parameters' gradients at once.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::op::Op;
use crate::program::{Operation, Program, ProgramKind, When, Write};
use crate::tensor::{Segment, TensorId};

use super::context::{Checked, Context, at_operation, demand};
use super::operations::same_place;
use super::region::{Region, disjoint};
use super::rule::{Place, Rule};

/// Most slices of one root that a program writes, and most replacements within one root.
const MAX_SLICES: usize = 256;

/// What is known of a root's bytes.
#[derive(Clone, Default)]
struct Bytes {
    /// Disjoint tensors that were written.
    written: Vec<(TensorId, When)>,
    /// Operations that replaced part of it in place, with the tensor that is there since.
    replaced: Vec<(usize, TensorId)>,
}

struct Flow<'a> {
    cx: &'a Context<'a>,
    program: &'a Program,
    /// By root.
    bytes: Vec<Bytes>,
    /// By tensor: the operation that first touched it.
    touched: Vec<Option<usize>>,
    /// By tensor: known to be written completely, in which executions.
    complete: Vec<Option<When>>,
    /// By tensor: filled by the host.
    input: Vec<bool>,
    /// Gradient bytes written, first byte to one past the last; neighbours are joined.
    gradients: BTreeMap<u64, u64>,
    /// By root: scalars that some program makes for the others.
    handed: &'a [bool],
}

/// Scalars that operations write, by root.
pub(super) fn handed(cx: &Context<'_>) -> Vec<bool> {
    let mut handed = vec![false; cx.plan.tensors.len()];
    for operation in cx.plan.programs.iter().flat_map(|p| &p.operations) {
        for &id in operation.results.iter().filter(|&&id| cx.tensor(id).segment == Segment::Scalars)
        {
            handed[cx.root(id).index()] = true;
        }
    }
    handed
}

pub(super) fn check(cx: &Context<'_>, program: &Program, handed: &[bool]) -> Checked {
    let count = cx.plan.tensors.len();
    let mut flow = Flow {
        cx,
        program,
        bytes: vec![Bytes::default(); count],
        touched: vec![None; count],
        complete: vec![None; count],
        input: vec![false; count],
        gradients: BTreeMap::new(),
        handed,
    };
    for &id in &program.inputs {
        flow.input[id.index()] = true;
    }
    for (index, operation) in program.operations.iter().enumerate() {
        for &id in &operation.operands {
            flow.read(index, operation, id)?;
        }
        for (r, &write) in operation.writes.iter().enumerate() {
            if let Write::AddIf(scalar) = write {
                let right = scalar == cx.plan.roles.accumulate;
                demand(
                    right,
                    Rule::Accumulation,
                    || at_operation(program, index),
                    || {
                        format!(
                            "its result depends on {}, not on the scalar `accumulate`",
                            cx.named(scalar)
                        )
                    },
                )?;
                flow.read(index, operation, scalar)?;
            }
            flow.write(index, operation, r)?;
        }
    }
    flow.finish()
}

impl Flow<'_> {
    fn read(&mut self, index: usize, operation: &Operation, id: TensorId) -> Checked {
        let (cx, program) = (self.cx, self.program);
        let place = || at_operation(program, index);
        let root = cx.root(id);
        let not_ready = |holds: bool, why: &str| {
            demand(holds, Rule::ReadAfterWrite, place, || {
                format!("it reads {}, {why}", cx.named(id))
            })
        };
        match cx.tensor(id).segment {
            Segment::Parameters | Segment::Constants => Ok(()),
            Segment::Workspace => not_ready(false, "which lies in the workspace"),
            Segment::Inputs => {
                not_ready(self.input[root.index()], "which is not an input of the program")
            }
            Segment::Gradients | Segment::Optimizer => {
                not_ready(program.kind == ProgramKind::Update, "which only `update` may read")
            }
            Segment::Activations | Segment::Outputs | Segment::Scalars => {
                let fresh = self.bytes[root.index()].written.is_empty();
                if self.input[root.index()] || (fresh && self.handed[root.index()]) {
                    return Ok(());
                }
                let complete = self.completed(id);
                not_ready(complete.is_some(), "not all of which was written before")?;
                let often =
                    complete == Some(When::Always) || operation.when == When::LastMicroBatch;
                demand(often, Rule::LastMicroBatch, place, || {
                    format!(
                        "it reads {}, which is written for the last micro-batch only",
                        cx.named(id)
                    )
                })?;
                let since = *self.touched[id.index()].get_or_insert(index);
                let stale = self.bytes[root.index()].replaced.iter().find(|&&(at, by)| {
                    at >= since && at < index && by != id && !disjoint(cx.tensor(by), cx.tensor(id))
                });
                demand(stale.is_none(), Rule::Stale, place, || {
                    let at = stale.map_or(0, |&(at, _)| at);
                    format!("it reads {}, whose bytes operation {at} replaced", cx.named(id))
                })
            }
        }
    }

    /// In which executions all of a tensor is written by now; `None` if part of it is not.
    ///
    /// The written tensors of a root are disjoint. One of them holds the whole tensor, or those inside it have as many
    /// elements as it has.
    fn completed(&mut self, id: TensorId) -> Option<When> {
        if self.complete[id.index()].is_some() {
            return self.complete[id.index()];
        }
        let tensor = self.cx.tensor(id);
        let region = Region::of(tensor);
        let mut found = 0u64;
        let mut when = When::Always;
        for &(written, at) in &self.bytes[self.cx.root(id).index()].written {
            let other = self.cx.tensor(written);
            if written != id && disjoint(other, tensor) {
                continue;
            }
            let other_region = Region::of(other);
            if at == When::LastMicroBatch {
                when = at;
            }
            if written == id || other_region.contains(&region) {
                found = tensor.ty.shape.elements();
                break;
            }
            if !region.contains(&other_region) {
                return None;
            }
            found += other.ty.shape.elements();
        }
        let complete = (found == tensor.ty.shape.elements()).then_some(when);
        self.complete[id.index()] = complete;
        complete
    }

    fn write(&mut self, index: usize, operation: &Operation, r: usize) -> Checked {
        let (cx, program) = (self.cx, self.program);
        let place = || at_operation(program, index);
        let (id, write) = (operation.results[r], operation.writes[r]);
        let tensor = cx.tensor(id);
        let writable = |holds: bool| {
            demand(holds, Rule::Writable, place, || {
                format!("it writes {} of {}", cx.named(id), tensor.segment)
            })
        };
        if write != Write::Overwrite {
            let gradient = tensor.segment == Segment::Gradients && operation.op.accumulates(r);
            demand(gradient, Rule::Accumulation, place, || {
                format!("result {} cannot be added to what is there", cx.named(id))
            })?;
        }
        match tensor.segment {
            Segment::Constants | Segment::Inputs | Segment::Workspace => writable(false),
            Segment::Parameters | Segment::Optimizer => writable(
                program.kind == ProgramKind::Update && matches!(operation.op, Op::AdamW { .. }),
            ),
            Segment::Gradients => {
                writable(program.kind == ProgramKind::ForwardBackward)?;
                self.write_gradient(index, operation, r)
            }
            Segment::Scalars if self.input[cx.root(id).index()] => writable(false),
            Segment::Activations | Segment::Outputs | Segment::Scalars => {
                self.write_tensor(index, operation, r)
            }
        }
    }

    fn write_tensor(&mut self, index: usize, operation: &Operation, r: usize) -> Checked {
        let (cx, program) = (self.cx, self.program);
        let place = || at_operation(program, index);
        let id = operation.results[r];
        let root = cx.root(id).index();
        let again = self.bytes[root]
            .written
            .iter()
            .find(|(other, _)| !disjoint(cx.tensor(*other), cx.tensor(id)));
        let Some(&(other, _)) = again else {
            let slices = self.bytes[root].written.len();
            demand(slices < MAX_SLICES, Rule::WrittenOnce, place, || {
                format!("more than {MAX_SLICES} slices of {} are written", cx.named(cx.root(id)))
            })?;
            self.bytes[root].written.push((id, operation.when));
            self.touched[id.index()].get_or_insert(index);
            return Ok(());
        };
        let in_place = operation.operands.iter().enumerate().any(|(o, &operand)| {
            cx.root(operand) == cx.root(id)
                && operand != id
                && operation.op.in_place(o, r)
                && same_place(cx, operand, id)
        });
        let replaced = self.bytes[root].replaced.len();
        let new = self.touched[id.index()].is_none();
        demand(in_place && new && replaced < MAX_SLICES, Rule::WrittenOnce, place, || {
            format!("it writes {}, part of which was written as {}", cx.named(id), cx.named(other))
        })?;
        demand(operation.when == When::Always, Rule::LastMicroBatch, place, || {
            format!("it replaces the bytes of {} for the last micro-batch only", cx.named(id))
        })?;
        self.bytes[root].replaced.push((index, id));
        self.touched[id.index()] = Some(index);
        Ok(())
    }

    fn write_gradient(&mut self, index: usize, operation: &Operation, r: usize) -> Checked {
        let (cx, program) = (self.cx, self.program);
        let place = || at_operation(program, index);
        let id = operation.results[r];
        demand(operation.when == When::Always, Rule::LastMicroBatch, place, || {
            format!("it writes the gradient {} for the last micro-batch only", cx.named(id))
        })?;
        let range = cx.tensor(id).range().expect("bounds are checked");
        let right = match operation.writes[r] {
            Write::Add => self.holds_gradient(&range),
            Write::Overwrite | Write::AddIf(_) => {
                let before = self.gradients.range(..range.end).next_back();
                before.is_none_or(|(_, &end)| end <= range.start)
            }
        };
        demand(right, Rule::GradientOrder, place, || match operation.writes[r] {
            Write::Add => {
                format!("it adds to {}, not all of which was written before", cx.named(id))
            }
            Write::Overwrite | Write::AddIf(_) => {
                format!("it overwrites {}, part of which was written before", cx.named(id))
            }
        })?;
        if operation.writes[r] == Write::Add {
            return Ok(());
        }
        let Range { mut start, mut end } = range;
        if let Some((&before, &until)) = self.gradients.range(..start).next_back()
            && until == start
        {
            start = before;
        }
        if let Some(until) = self.gradients.remove(&end) {
            end = until;
        }
        self.gradients.insert(start, end);
        Ok(())
    }

    fn holds_gradient(&self, range: &Range<u64>) -> bool {
        let before = self.gradients.range(..=range.start).next_back();
        before.is_some_and(|(_, &end)| end >= range.end)
    }

    /// After the last operation: gradients are complete and outputs are written.
    fn finish(mut self) -> Checked {
        let (cx, program) = (self.cx, self.program);
        let place = || Place::Program(program.kind);
        if program.kind == ProgramKind::ForwardBackward {
            for parameter in &cx.plan.parameters {
                let range = cx.tensor(parameter.gradient).range().expect("bounds are checked");
                demand(self.holds_gradient(&range), Rule::GradientComplete, place, || {
                    format!("it does not write the gradient {}", cx.named(parameter.gradient))
                })?;
            }
        }
        for &id in &program.outputs {
            let written = match cx.tensor(id).segment {
                Segment::Outputs | Segment::Scalars => self.completed(id) == Some(When::Always),
                Segment::Gradients => program.kind == ProgramKind::ForwardBackward,
                Segment::Parameters | Segment::Optimizer => program.kind == ProgramKind::Update,
                Segment::Activations
                | Segment::Workspace
                | Segment::Constants
                | Segment::Inputs => false,
            };
            demand(written, Rule::ProgramOutputs, place, || {
                format!("its output {} is not written by it, or does not outlive it", cx.named(id))
            })?;
        }
        Ok(())
    }
}
