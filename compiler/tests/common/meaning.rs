//! What the outputs of a graph mean, whatever operations make them: for tests of passes that must not change a bit.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use colac_compiler::graph::{Graph, NodeKind, Value};
use colac_plan::pointwise::{InputForm, Instruction, Program};
use colac_plan::{DType, Op};

fn hashed(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// A value rounded to a storage format; rounding twice is rounding once.
fn rounded(value: u64, dtype: DType, known: &mut BTreeMap<u64, DType>) -> u64 {
    if dtype == DType::F32 || known.get(&value) == Some(&dtype) {
        return value;
    }
    let result = hashed(("round", dtype, value));
    known.insert(result, dtype);
    result
}

/// What a program's outputs mean, given what its inputs mean: a tree of instructions, which rounding ends.
fn program(program: &Program, inputs: &[u64], known: &mut BTreeMap<u64, DType>) -> Vec<u64> {
    let mut registers: Vec<u64> = Vec::new();
    for instruction in &program.instructions {
        let at = |r: u16| registers[r as usize];
        registers.push(match *instruction {
            // An element that is read is the number that was stored.
            Instruction::Input(n) => match program.inputs[n as usize] {
                InputForm::Elements => inputs[n as usize],
                form => hashed((inputs[n as usize], form)),
            },
            Instruction::Constant(c) => hashed(("constant", c)),
            Instruction::Unary(f, a) => hashed((f, at(a))),
            Instruction::Binary(f, a, b) => hashed((f, at(a), at(b))),
            Instruction::Select(c, a, b) => hashed(("select", at(c), at(a), at(b))),
            Instruction::Round(dtype, a) => rounded(at(a), dtype, known),
        });
    }
    program
        .outputs
        .iter()
        .map(|o| rounded(registers[o.register as usize], o.dtype, known))
        .collect()
}

/// What every output of a graph means: the whole expression that makes it, as a hash. Equal hashes are equal arithmetic
/// in equal order, so equal bits.
pub(crate) fn meanings(graph: &Graph) -> Vec<u64> {
    let mut meaning: BTreeMap<Value, u64> = BTreeMap::new();
    let known = &mut BTreeMap::new();
    for id in graph.order() {
        let node = graph.node(id);
        let read: Vec<u64> = graph.operands(id).iter().map(|v| meaning[v]).collect();
        let formats: Vec<DType> = node.results.iter().map(|ty| ty.dtype).collect();
        let results: Vec<u64> = match &node.kind {
            NodeKind::Parameter(p) => vec![hashed(("parameter", p.0))],
            NodeKind::Input(input) => vec![hashed(("input", input))],
            NodeKind::Constant(_) => vec![hashed("constant")],
            NodeKind::View(view) => vec![hashed((view, &read))],
            NodeKind::Op(Op::Pointwise { program: p }) => program(p, &read, known),
            NodeKind::Op(
                op @ (Op::RmsNorm { prologue: Some(p), .. }
                | Op::LayerNorm { prologue: Some(p), .. }),
            ) => {
                let (inputs, rest) = read.split_at(p.inputs.len());
                let x = program(p, inputs, known)[0];
                let mut plain = op.clone();
                if let Op::RmsNorm { prologue, .. } | Op::LayerNorm { prologue, .. } = &mut plain {
                    *prologue = None;
                }
                let operands = [&[x], rest].concat();
                let own = (0..formats.len() as i32 - 1).map(|r| hashed((&plain, &operands, r)));
                own.chain([x]).collect()
            }
            NodeKind::Op(Op::RmsNormBackward { gain, epilogue: Some(p) }) => {
                let (own, rest) = read.split_at(3 + usize::from(*gain));
                let plain = Op::RmsNormBackward { gain: *gain, epilogue: None };
                let dx = hashed((&plain, own.to_vec(), 0));
                let made = program(p, &[&[dx], rest].concat(), known)[0];
                [made].into_iter().chain(gain.then(|| hashed((&plain, own.to_vec(), 1)))).collect()
            }
            NodeKind::Op(Op::AttentionBackward { scores, turned_back: Some(turned) }) => {
                let plain = Op::AttentionBackward { scores: *scores, turned_back: None };
                let (own, tables) = read.split_at(6);
                let results = turned.results().into_iter().enumerate().map(|(r, turned_back)| {
                    let gradient = hashed((&plain, own.to_vec(), r as i32));
                    let through = [&[gradient], tables].concat();
                    if turned_back { hashed((turned.rope(), &through, 0)) } else { gradient }
                });
                results.collect()
            }
            NodeKind::Op(op) => (0..formats.len()).map(|r| hashed((op, &read, r as i32))).collect(),
        };
        for (result, value) in (0u16..).zip(results) {
            meaning.insert(Value { node: id, result }, value);
        }
    }
    graph.outputs().iter().map(|(_, value)| meaning[value]).collect()
}
