//! From a graph to a plan that can be run: which engine, and how much workspace.
//!
//! The library's heuristics name engines, the fastest first as they guess; the first one that can be prepared and does not
//! say of itself that it is not deterministic is taken. They look at shapes, the device and the library's version alone, so
//! the same one is taken every time. Must not know what is computed.

use crate::cuda::driver::cudnn::describe::{Described, described};
use crate::cuda::driver::cudnn::descriptor::Descriptor;
use crate::cuda::driver::cudnn::graph::{Graph, Place};
use crate::cuda::driver::cudnn::library::{Functions, Raw};
use crate::cuda::driver::cudnn::names;
use crate::cuda::error::CudaError;

/// What plans are made for.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// The device of a handle.
    Handle(Raw),
    /// A device that is not there, by its description.
    Described(&'a Descriptor),
}

/// A plan, with everything that it was made of.
pub(super) struct Plan {
    pub(super) plan: Descriptor,
    /// Bytes.
    pub(super) workspace: u64,
    /// What lies behind its tensors, by their numbers.
    pub(super) places: Vec<(i64, Place)>,
    // Looked at by the library as long as the plan lives.
    _parts: Vec<Descriptor>,
}

/// The plan of a graph; `None` where the library has no engine for it, or only ones that are not deterministic.
pub(super) fn plan(
    functions: &'static Functions,
    graph: &Graph,
    target: Target<'_>,
) -> Result<Option<Plan>, CudaError> {
    let Described { mut parts, operations, places } = described(functions, graph)?;
    let mut graph = Descriptor::new(functions, names::BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .parts(names::ATTR_OPERATIONGRAPH_OPS, &operations)?;
    if let Target::Handle(handle) = target {
        graph = graph.handle(names::ATTR_OPERATIONGRAPH_HANDLE, handle)?;
    }
    // What the library does not support shows here and below; it says so by statuses that differ from version to version.
    let Ok(graph) = graph.finalized("checking a graph") else { return Ok(None) };
    let heuristics = Descriptor::new(functions, names::BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .part(names::ATTR_ENGINEHEUR_OPERATION_GRAPH, &graph)?
        .choice(names::ATTR_ENGINEHEUR_MODE, names::TYPE_HEUR_MODE, names::HEUR_MODE_A)?;
    let heuristics = match target {
        Target::Handle(_) => heuristics,
        Target::Described(device) => heuristics.part(names::ATTR_ENGINEHEUR_DEVICEPROP, device)?,
    };
    let Ok(heuristics) = heuristics.finalized("asking for engines") else { return Ok(None) };
    let kind = names::BACKEND_ENGINECFG_DESCRIPTOR;
    let Ok(engines) = heuristics.filled(names::ATTR_ENGINEHEUR_RESULTS, kind) else {
        return Ok(None);
    };
    for engine in engines {
        if !is_deterministic(&engine)? {
            continue;
        }
        let plan = Descriptor::new(functions, names::BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .part(names::ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &engine)?;
        let plan = match target {
            Target::Handle(handle) => plan.handle(names::ATTR_EXECUTION_PLAN_HANDLE, handle)?,
            Target::Described(device) => {
                plan.part(names::ATTR_EXECUTION_PLAN_DEVICEPROP, device)?
            }
        };
        let Ok(plan) = plan.finalized("preparing an engine") else { continue };
        let workspace = plan.number(names::ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        let workspace = u64::try_from(workspace).unwrap_or(0);
        parts.extend([graph, heuristics, engine]);
        return Ok(Some(Plan { plan, workspace, places, _parts: parts }));
    }
    Ok(None)
}

/// Whether an engine says of itself that equal runs give equal bits.
fn is_deterministic(engine: &Descriptor) -> Result<bool, CudaError> {
    let engine = engine.only(names::ATTR_ENGINECFG_ENGINE, names::BACKEND_ENGINE_DESCRIPTOR)?;
    let (notes, ty) = (names::ATTR_ENGINE_NUMERICAL_NOTE, names::TYPE_NUMERICAL_NOTE);
    engine.has(notes, ty, names::NUMERICAL_NOTE_NONDETERMINISTIC).map(|noted| !noted)
}
