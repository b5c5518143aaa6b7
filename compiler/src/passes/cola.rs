//! Replaces selected linears by low-rank pairs with an activation between: arXiv 2502.10940.
//!
//! ```text
//! before   %1 = linear %0, @q_proj.weight                        [out, in]
//! after    %1 = linear %0, @q_proj.cola_a                        [r, in]
//!          %2 = pointwise %1 { a * sigmoid(a) }
//!          %3 = linear %2, @q_proj.cola_b                        [out, r]
//! ```
//!
//! A bias stays where it is, after the up-projection. Both factors start normal with standard deviation
//! `r^(-1/4) · (in + out)^(-1/4)`, so that an entry of `B A` has variance `1 / (in + out)`.
//! In a checkpoint the factors stand under the linear's own name, also where its weight would have lain in a joined
//! tensor. Nonlinearities named by `bypass` are replaced by their input.
//!
//! Assumes: a forward graph, every linear listed in [`Graph::linears`]. Guarantees: types and paths of everything else
//! are unchanged; every linear of the model is in the report, rewritten or with the reason why not.

use std::collections::BTreeMap;

use colac_plan::op::Real;
use colac_plan::parameter::{CheckpointName, Initialization, Role};
use colac_plan::plan::{Decision, LinearReport};
use colac_plan::program::Phase;
use colac_plan::{Axis, Op, Shape, TensorType};

use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::graph::{ColaPermission, Graph, LinearSite, Origin, ParameterInfo, Value};
use crate::language::activation::Activation;
use crate::language::config::Config;
use crate::language::expression::Value as Setting;
use crate::language::selector::Selector;
use crate::passes::codes;
use crate::spec::{Cola, Override, RankSource};

const PASS: &str = "cola";

/// Rewrites the graph as the spec says; without `[cola]` only reports. Rank expressions read the configuration.
pub fn run(
    graph: &mut Graph,
    cola: Option<&Cola>,
    full_rank: bool,
    config: &Config,
    diagnostics: &mut Diagnostics,
) -> Vec<LinearReport> {
    let Some(cola) = cola else {
        let reason = if full_rank { "compiled with --full-rank" } else { "the spec has no [cola]" };
        return graph.linears.iter().map(|site| kept(graph, site, reason.into())).collect();
    };
    check_selectors(graph, cola, diagnostics);
    check_ranks(cola, config, diagnostics);
    if diagnostics.has_errors() {
        return Vec::new();
    }
    let sites = graph.linears.clone();
    let mut report = Vec::with_capacity(sites.len());
    let mut unprofitable: Vec<(u64, u64, u64, Span, usize)> = Vec::new();
    for site in &sites {
        match decide(graph, cola, site, config, diagnostics) {
            Err(reason) => report.push(kept(graph, site, reason)),
            Ok((rank, activation, rank_span)) => {
                let (inputs, outputs) = extents(graph, site);
                if rank * (inputs + outputs) >= inputs * outputs {
                    let same = |w: &&mut (u64, u64, u64, Span, usize)| {
                        (w.0, w.1, w.2) == (inputs, outputs, rank)
                    };
                    match unprofitable.iter_mut().find(same) {
                        Some(warning) => warning.4 += 1,
                        None => unprofitable.push((inputs, outputs, rank, rank_span, 1)),
                    }
                }
                rewrite(graph, site, rank, activation);
                let decision =
                    Decision::Rewritten { rank, activation: activation.text().to_string() };
                report.push(LinearReport { path: site.path.clone(), inputs, outputs, decision });
            }
        }
    }
    for (inputs, outputs, rank, span, count) in unprofitable {
        let even = (inputs * outputs).div_ceil(inputs + outputs);
        diagnostics.push(
            Diagnostic::warning(
                codes::RANK_DOES_NOT_PAY,
                format!(
                    "rank {rank} saves nothing for {count} linear{} of {inputs} to {outputs}",
                    if count == 1 { "" } else { "s" }
                ),
            )
            .at(span, format!("gives {rank}; a pair is smaller than the dense weight below {even}"))
            .help(format!(
                "choose a rank below {even}, or keep these linears dense with an override"
            )),
        );
    }
    part_incomplete_joins(graph);
    bypass(graph, cola);
    report
}

/// What can be said against `[cola]` where there is no plan because of other mistakes: of its ranks where the
/// configuration is known, of its selectors where the linears are, too. Rewrites nothing.
pub fn check(
    graph: Option<&Graph>,
    cola: Option<&Cola>,
    config: Option<&Config>,
    diagnostics: &mut Diagnostics,
) {
    let (Some(cola), Some(config)) = (cola, config) else { return };
    if let Some(graph) = graph {
        check_selectors(graph, cola, diagnostics);
    }
    check_ranks(cola, config, diagnostics);
}

/// Input and output width of a linear.
fn extents(graph: &Graph, site: &LinearSite) -> (u64, u64) {
    let shape = &graph.parameter_info(site.weight).ty.shape;
    (shape.width(), shape.0[0].extent)
}

fn kept(graph: &Graph, site: &LinearSite, reason: String) -> LinearReport {
    let (inputs, outputs) = extents(graph, site);
    LinearReport {
        path: site.path.clone(),
        inputs,
        outputs,
        decision: Decision::KeptDense { reason },
    }
}

fn matched<'a>(one: &'a Override, path: &str) -> Option<&'a Override> {
    one.targets.iter().any(|t| t.matches(path)).then_some(one)
}

/// Rank, activation and the place of the rank for one linear, or why it stays dense.
fn decide<'a>(
    graph: &Graph,
    cola: &'a Cola,
    site: &LinearSite,
    config: &Config,
    diagnostics: &mut Diagnostics,
) -> Result<(u64, &'a Activation, Span), String> {
    if let ColaPermission::Never(reason) = &site.permission {
        return Err(reason.clone());
    }
    if !cola.targets.iter().any(|t| t.matches(&site.path)) {
        return Err("not selected by cola.targets".into());
    }
    let overrides: Vec<&Override> =
        cola.overrides.iter().filter_map(|o| matched(o, &site.path)).collect();
    if overrides.last().is_some_and(|o| o.dense) {
        return Err("an override keeps it dense".into());
    }
    let weight = graph.parameter_node(site.weight).expect("a listed linear has its weight");
    let readers = graph.uses(Value::of(weight));
    if readers.iter().any(|&(node, _)| !site.nodes().any(|own| own == node)) {
        let mut diagnostic = Diagnostic::error(
            codes::SHARED_WEIGHT,
            format!(
                "`{}` cannot become a low-rank pair, because its weight is used elsewhere too",
                site.path
            ),
        )
        .help(
            "write `cola = never` in the architecture, or select other linears with cola.targets",
        );
        if let Some(span) = site.span {
            diagnostic = diagnostic.at(span, "this linear");
        }
        diagnostics.push(diagnostic);
        return Err("its weight is shared".into());
    }
    let (inputs, outputs) = extents(graph, site);
    let rank = overrides.iter().rev().find_map(|o| o.rank.as_ref()).unwrap_or(&cola.rank);
    let activation =
        overrides.iter().rev().find_map(|o| o.activation.as_ref()).unwrap_or(&cola.activation);
    let lookup = |name: &str| match name {
        "in_features" => Some(Setting::Integer(inputs as i64)),
        "out_features" => Some(Setting::Integer(outputs as i64)),
        _ => config.get(name).cloned(),
    };
    match rank.evaluate(&lookup) {
        Ok(value) => Ok((u64::from(value), activation, rank.span)),
        Err(diagnostic) => {
            // One mistake in the expression shows at every linear: say it once.
            if !diagnostics
                .iter()
                .any(|d| d.code == diagnostic.code && d.message == diagnostic.message)
            {
                diagnostics.push(diagnostic);
            }
            Err("its rank is not known".into())
        }
    }
}

fn rewrite(graph: &mut Graph, site: &LinearSite, rank: u64, activation: &Activation) {
    let node = graph.node(site.node);
    let (scope, span) = (node.scope, node.origin.span);
    let old = graph.parameter_info(site.weight).clone();
    let (inputs, outputs) = extents(graph, site);
    // Two square roots are correctly rounded everywhere, a platform's powf is not.
    let std = 1.0 / ((rank as f64) * ((inputs + outputs) as f64)).sqrt().sqrt();
    let name = &old.unjoined.as_ref().unwrap_or(&old.checkpoint).name;
    let base = name.strip_suffix(".weight").unwrap_or(name).to_owned();
    let origin = |part: &str| Origin { path: format!("{}.{part}", site.path), span, pass: PASS };
    let mut factor = |name: &str, role: Role, shape: [Axis; 2]| {
        let info = ParameterInfo {
            path: format!("{}.{name}", site.path),
            ty: TensorType::new(old.ty.dtype, Shape(shape.to_vec())),
            initialization: Initialization::Normal { std: Real::new(std) },
            role,
            // The published code multiplies from the right and stores [in, r] and [r, out].
            checkpoint: CheckpointName {
                name: format!("{base}.{name}"),
                transposed: true,
                part: None,
            },
            unjoined: None,
            scope,
        };
        graph.parameter(info, origin(name)).1
    };
    let width = |extent| Axis::anonymous(extent);
    let a = factor("cola_a", Role::LowRankDown, [Axis::new("rank", rank), width(inputs)]);
    let b = factor("cola_b", Role::LowRankUp, [width(outputs), Axis::new("rank", rank)]);
    for node in site.nodes() {
        let (input, scope) = (graph.operands(node)[0], graph.node(node).scope);
        let mut add = |op: Op, operands: &[Value], part: &str| {
            let results = graph.op(op, operands, origin(part), Phase::Forward, scope);
            results.expect("the factors have the widths of the linear they replace")[0]
        };
        let z = add(Op::Linear, &[input, a], "down");
        let hidden = if activation.is_identity() {
            z
        } else {
            add(Op::Pointwise { program: activation.program() }, &[z], "activation")
        };
        let y = add(Op::Linear, &[hidden, b], "up");
        graph.replace(Value::of(node), y);
        graph.remove(node);
    }
    let weight = graph.parameter_node(site.weight).expect("a listed linear has its weight");
    graph.remove(weight);
    graph.linears.retain(|other| other.node != site.node);
}

/// A joined tensor of a checkpoint is whole or not at all: where some of its linears became pairs, the others get
/// tensors of their own.
fn part_incomplete_joins(graph: &mut Graph) {
    let mut present: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, info) in graph.parameters().filter(|(_, info)| info.checkpoint.part.is_some()) {
        *present.entry(&info.checkpoint.name).or_default() += info.ty.shape.0[0].extent;
    }
    let parted: Vec<_> = graph
        .parameters()
        .filter_map(|(id, info)| {
            let extent = info.checkpoint.part?.extent;
            (present[info.checkpoint.name.as_str()] < extent).then(|| (id, info.unjoined.clone()))
        })
        .collect();
    for (id, unjoined) in parted {
        graph.set_checkpoint(id, unjoined.expect("a part knows its tensor outside of the join"));
    }
}

/// Replaces the nonlinearities that CoLA makes redundant by their input.
fn bypass(graph: &mut Graph, cola: &Cola) {
    for id in graph.bypassable.clone() {
        if cola.bypass.iter().any(|b| b.matches(&graph.node(id).origin.path)) {
            let input = graph.operands(id)[0];
            graph.replace(Value::of(id), input);
            graph.remove(id);
            graph.bypassable.retain(|&other| other != id);
        }
    }
}

/// What a rank expression may read besides the configuration: the widths of the linear it is evaluated for.
const LINEAR_NAMES: [&str; 2] = ["in_features", "out_features"];

/// A name that no rank can have is reported once, with the nearest that it can.
fn check_ranks(cola: &Cola, config: &Config, diagnostics: &mut Diagnostics) {
    let known: Vec<&str> = config.iter().map(|(name, _)| name).chain(LINEAR_NAMES).collect();
    for rank in cola.overrides.iter().filter_map(|o| o.rank.as_ref()).chain([&cola.rank]) {
        if let RankSource::Expression(expression) = &rank.value
            && let Err(diagnostic) = expression.check_names(known.iter().copied())
        {
            diagnostics.push(diagnostic);
        }
    }
}

/// A selector that selects nothing, or only what may not be selected, is a mistake.
fn check_selectors(graph: &Graph, cola: &Cola, diagnostics: &mut Diagnostics) {
    let linears: Vec<&str> = graph.linears.iter().map(|s| s.path.as_str()).collect();
    let nodes: Vec<&str> =
        graph.bypassable.iter().map(|&id| graph.node(id).origin.path.as_str()).collect();
    let lists = cola.overrides.iter().flat_map(|o| &o.targets);
    for target in cola.targets.iter().chain(lists) {
        let found: Vec<&LinearSite> =
            graph.linears.iter().filter(|s| target.matches(&s.path)).collect();
        if found.is_empty() {
            diagnostics.push(unmatched(target, "linear", &linears));
        }
        let reasons: Option<Vec<&str>> = found
            .iter()
            .map(|s| match &s.permission {
                ColaPermission::Never(reason) => Some(reason.as_str()),
                ColaPermission::Allowed => None,
            })
            .collect();
        if let Some(reasons) = reasons.filter(|r| !r.is_empty()) {
            let mut diagnostic = Diagnostic::error(
                codes::STAYS_DENSE,
                format!("`{}` stays dense: {}", found[0].path, reasons[0]),
            )
            .at(target.span(), "selects only linears that stay dense")
            .help("remove the selector");
            if let Some(span) = found[0].span {
                diagnostic = diagnostic.at(span, "declared here");
            }
            diagnostics.push(diagnostic);
        }
    }
    for selector in cola.bypass.iter().filter(|b| !nodes.iter().any(|n| b.matches(n))) {
        diagnostics.push(unmatched(selector, "labelled nonlinearity", &nodes));
    }
}

fn unmatched(selector: &Selector, what: &str, paths: &[&str]) -> Diagnostic {
    let help = match selector.suggest(paths.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the architecture has no {what}: remove the selector"),
    };
    Diagnostic::error(
        codes::SELECTS_NOTHING,
        format!("`{}` selects no {what} of the model", selector.text()),
    )
    .at(selector.span(), "matches nothing")
    .help(help)
}
