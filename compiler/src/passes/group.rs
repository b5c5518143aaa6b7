//! Linears that read the same value become one, whose weight holds the rows of all of theirs.
//!
//! ```text
//! before   %1 = linear %0, @q_proj.cola_a                        [n, r]
//!          %2 = pointwise %1 { a * sigmoid(a) }
//!          %3 = linear %0, @k_proj.cola_a                        [n, s]
//!          %4 = pointwise %3 { a * sigmoid(a) }
//! after    %1 = linear %0, @{q_proj,k_proj}.cola_a               [n, r + s]
//!          %2 = pointwise %1 { a * sigmoid(a) }
//!          %3 = view.columns %2 start=0                          [n, r]
//!          %4 = view.columns %2 start=r                          [n, s]
//! ```
//!
//! Runs on the forward graph, before programs are split off, so that all of them agree on where parameters lie. What it
//! saves in the backward pass follows from the ordinary derivative: one product gives the gradient of the input, with
//! nothing to add, and one that of all weights.
//!
//! A pointwise operation of one input that follows every product, the same for all, runs once over the whole; other
//! readers read columns. A linear stays alone where its weight is read elsewhere too, where nothing of its kind in its own
//! turn of a repeat reads the same value, and where a reader needs its operand without gaps.
//!
//! Assumes: a forward graph without recompute regions. Guarantees: each element of every value is the same sum as before;
//! parameters keep their paths, start values and places in checkpoints.

use std::collections::BTreeMap;

use colac_plan::Op;
use colac_plan::parameter::Role;
use colac_plan::pointwise::{InputForm, Program};
use colac_plan::program::Phase;

use crate::graph::{Graph, NodeId, NodeKind, Origin, ParameterId, ScopeId, Value, View};

const PASS: &str = "group";

/// Most members of a group: as many parts as one operation joins in the backward pass.
const MOST_MEMBERS: usize = 64;

/// A linear that may be grouped.
#[derive(Clone, Copy)]
struct Member {
    linear: NodeId,
    weight: ParameterId,
}

/// Groups linears wherever they share an input.
pub fn run(graph: &mut Graph) {
    // By role too, because what is recomputed for the backward pass depends on it.
    let mut sharing: BTreeMap<(Value, Option<ScopeId>, Role), Vec<Member>> = BTreeMap::new();
    for id in graph.order() {
        if let Some(member) = member(graph, id) {
            let role = graph.parameter_info(member.weight).role;
            let key = (graph.operands(id)[0], graph.node(id).scope, role);
            sharing.entry(key).or_default().push(member);
        }
    }
    for ((_, scope, _), members) in sharing {
        for members in members.chunks(MOST_MEMBERS).filter(|members| members.len() > 1) {
            // Where it was made by a group, it has become a part of another value by now.
            let input = graph.operands(members[0].linear)[0];
            group(graph, input, scope, members);
        }
    }
}

fn member(graph: &Graph, id: NodeId) -> Option<Member> {
    let NodeKind::Op(Op::Linear) = graph.node(id).kind else { return None };
    let weight = graph.operands(id)[1];
    let NodeKind::Parameter(parameter) = graph.node(weight.node).kind else { return None };
    let info = graph.parameter_info(parameter);
    let matrix = matches!(info.role, Role::Matrix | Role::LowRankDown | Role::LowRankUp);
    let own = graph.uses(weight).len() == 1;
    let member = Member { linear: id, weight: parameter };
    (matrix && own && columns_accepted(graph, Value::of(id))).then_some(member)
}

/// Whether the readers of a value would take it as columns of wider rows.
fn columns_accepted(graph: &Graph, value: Value) -> bool {
    let extents = graph.ty(value).shape.extents();
    let mut strides = vec![1; extents.len()];
    let mut stride = extents.last().map_or(1, |width| width + 1);
    for (axis, extent) in extents.iter().enumerate().rev().skip(1) {
        strides[axis] = stride;
        stride *= extent;
    }
    graph.readers_accept(value, &strides, &|_| false)
}

/// The operation of one input that is the only reader of a product.
fn activation(graph: &Graph, product: Value) -> Option<(NodeId, &Program)> {
    let [(reader, 0)] = graph.uses(product)[..] else { return None };
    match &graph.node(reader).kind {
        NodeKind::Op(Op::Pointwise { program })
            if program.inputs == [InputForm::Elements] && program.outputs.len() == 1 =>
        {
            Some((reader, program))
        }
        _ => None,
    }
}

/// The activations of all members, if they are the same and their readers take columns.
fn shared_activation(graph: &Graph, members: &[Member]) -> Option<(Program, Vec<NodeId>)> {
    let found: Option<Vec<_>> =
        members.iter().map(|member| activation(graph, Value::of(member.linear))).collect();
    let found = found?;
    let (first, program) = found[0];
    let shared = found.iter().all(|&(node, other)| {
        other == program
            && graph.node(node).scope == graph.node(first).scope
            && columns_accepted(graph, Value::of(node))
    });
    shared.then(|| (program.clone(), found.iter().map(|&(node, _)| node).collect()))
}

fn group(graph: &mut Graph, input: Value, scope: Option<ScopeId>, members: &[Member]) {
    let weights: Vec<ParameterId> = members.iter().map(|member| member.weight).collect();
    let linears: Vec<NodeId> = members.iter().map(|member| member.linear).collect();
    let activation = shared_activation(graph, members);
    let span = graph.node(linears[0]).origin.span;
    let origin = |paths: Vec<&str>| Origin { path: joined(&paths), span, pass: PASS };
    let of_nodes = |graph: &Graph, nodes: &[NodeId]| {
        origin(nodes.iter().map(|&id| graph.node(id).origin.path.as_str()).collect())
    };
    let stack = origin(weights.iter().map(|&id| graph.parameter_path(id)).collect());
    let (_, stack) = graph.stack(&weights, stack, scope);
    let product = of_nodes(graph, &linears);
    let mut whole = graph
        .op(Op::Linear, &[input, stack], product, Phase::Forward, scope)
        .expect("the members have the width of the input they share")[0];
    let mut last = linears.clone();
    if let Some((program, nodes)) = activation {
        let origin = of_nodes(graph, &nodes);
        whole = graph
            .op(Op::Pointwise { program }, &[whole], origin, Phase::Forward, scope)
            .expect("a program of one input takes any shape")[0];
        last = nodes;
    }
    let mut start = 0;
    for (&id, member) in last.iter().zip(members) {
        let length = graph.ty(Value::of(member.linear)).shape.width();
        let origin = Origin { pass: PASS, ..graph.node(id).origin.clone() };
        let columns = View::Columns { start, length };
        let columns = graph.view(columns, whole, origin, Phase::Forward, graph.node(id).scope);
        graph.replace(Value::of(id), columns.expect("the whole is as wide as all members"));
        start += length;
        let weight = graph.operands(member.linear)[1].node;
        if id != member.linear {
            graph.remove(id);
        }
        graph.remove(member.linear);
        graph.remove(weight);
    }
    let gone = |id: NodeId| last.contains(&id) || linears.contains(&id);
    graph.linears.retain(|site| !gone(site.node));
    graph.bypassable.retain(|&id| !gone(id));
}

/// One path for several: what they share once, the rest in braces, as selectors write it.
fn joined(paths: &[&str]) -> String {
    let split: Vec<Vec<&str>> = paths.iter().map(|path| path.split('.').collect()).collect();
    let shortest = split.iter().map(Vec::len).min().unwrap_or(0);
    let same = |at: &dyn Fn(&Vec<&str>) -> usize| {
        split.windows(2).all(|pair| pair[0][at(&pair[0])] == pair[1][at(&pair[1])])
    };
    // Something of each must be left for the braces.
    let most = shortest.saturating_sub(1);
    let before = (0..most).take_while(|&i| same(&|_| i)).count();
    let after = (1..=most - before).take_while(|&i| same(&|path| path.len() - i)).count();
    let inner: Vec<String> =
        split.iter().map(|path| path[before..path.len() - after].join(".")).collect();
    let mut parts: Vec<String> = split[0][..before].iter().map(|&part| part.to_owned()).collect();
    parts.push(format!("{{{}}}", inner.join(",")));
    parts.extend(split[0][split[0].len() - after..].iter().map(|&part| part.to_owned()));
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn paths_share_what_they_can() {
        let paths = ["layers.0.attn.q_proj.cola_a", "layers.0.attn.k_proj.cola_a"];
        assert_eq!(joined(&paths), "layers.0.attn.{q_proj,k_proj}.cola_a");
        assert_eq!(joined(&["turn.0.mix.q", "turn.0.mix.v"]), "turn.0.mix.{q,v}");
        assert_eq!(joined(&["a.w", "b.c.w", "d.w"]), "{a,b.c,d}.w");
        assert_eq!(joined(&["a.b.a", "a.a"]), "a.{b.a,a}", "nothing is left without a name");
        assert_eq!(joined(&["x", "y"]), "{x,y}");
    }
}
