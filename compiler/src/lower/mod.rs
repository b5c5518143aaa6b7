//! Spec and architecture in, forward graph out.
//!
//! Owns the meaning of a body: values, labels and paths, parameters with their start values and checkpoint names, and
//! the loss of the objective. Must not know CoLA, derivatives or plans.
//!
//! ```text
//! x = x + mlp: gated_mlp(norm: rms_norm(x, 1e-6))      in  repeat layers[2] { … }
//! ```
//!
//! gives for the second turn the nodes `layers.1.norm`, those of the block under `layers.1.mlp`, and a pointwise
//! addition. The turns of a repeat are nodes of their own, each in a [`crate::graph::Scope`]; conditions are decided
//! here, because they read only the configuration. All that stands between operations is pointwise: one expression
//! gives one [`colac_plan::Op::Pointwise`] node, except that a labelled call keeps a node of its own.
//!
//! The value that a model returns is the result of its last linear, or a function of that. It stays in the graph as
//! [`crate::graph::Output::Logits`]; beside it stands the loss over the same input, weight, bias and function, which
//! never stores logits (see [`crate::graph`]).

mod call;
pub mod codes;
mod head;
mod joined;
mod mismatch;
mod norm;
mod parameter;
mod pointwise;
mod regularize;
mod rope;
mod rows;
mod statement;

use std::collections::BTreeMap;

use colac_plan::op::Real;
use colac_plan::parameter::RopeScaling;
use colac_plan::{Axis, DType, Shape, TensorType};

use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span, did_you_mean};
use crate::graph::{Graph, Input, Origin, ParameterId, ScopeId, Value as Tensor};
use crate::language::architecture::Architecture;
use crate::language::config::{Config, Setting};
use crate::language::expression::Value;
use crate::language::operations::OPERATIONS;
use crate::language::syntax::Block;
use crate::spec::{ArchitectureName, ModelSetting, Outline, Spec, shipped};

/// No tensor, and no model, may have more elements than this, so that no size computed later overflows.
const MOST_ELEMENTS: u64 = 1 << 48;

/// No operation may cost more than about this many multiply-adds, so that no sum of costs overflows.
const MOST_PRODUCTS: u64 = 1 << 56;

/// More nodes, or calls of blocks, than this come from a mistake in a repeat.
const MOST_NODES: usize = 1 << 18;

/// Calls of blocks inside each other, so that no architecture exhausts the stack.
const MOST_NESTED_CALLS: usize = 32;

/// A spec joined with its architecture.
#[derive(Clone, Debug)]
pub struct Model {
    /// The architecture as written.
    pub architecture: Architecture,
    /// What its settings are worth.
    pub config: Config,
    /// The forward computation of a micro-batch.
    pub graph: Graph,
}

/// The rows and columns of the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows in one execution.
    pub rows: u64,
    /// Tokens in a row.
    pub sequence_length: u64,
    /// Where the spec says how many those are, for messages.
    pub place: Option<Span>,
}

/// Reads the architecture that a spec names, gives its settings their values, and lowers its body.
///
/// # Errors
/// Everything wrong with the architecture or the settings; texts are registered in `sources` for rendering.
pub fn model(spec: &Spec, sources: &mut Sources) -> Result<Model, Diagnostics> {
    let Examined { architecture, config, graph, diagnostics } = examine(&spec.outline(), sources);
    match (architecture, config, graph) {
        (Some(architecture), Some(config), Some(graph)) if !diagnostics.has_errors() => {
            Ok(Model { architecture, config, graph })
        }
        _ => Err(diagnostics),
    }
}

/// How far a spec and its architecture could be joined, and what is wrong on the way. Without an error all of it is there.
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// The architecture, where what it declares is right.
    pub architecture: Option<Architecture>,
    /// The values of its settings, where all of them are right.
    pub config: Option<Config>,
    /// The forward computation, where the architecture has no mistake and the configuration is known.
    pub graph: Option<Graph>,
    /// Everything that was found to be wrong.
    pub diagnostics: Diagnostics,
}

/// As [`model`], with as many parts of the spec as there are: each step is taken that its parts allow, whatever else is
/// wrong.
pub fn examine(outline: &Outline, sources: &mut Sources) -> Examined {
    let mut examined = Examined::default();
    let Some(named) = &outline.architecture else { return examined };
    let read =
        architecture_source(named, sources).map(|source| Architecture::read(source, sources));
    let (architecture, diagnostics) = match read {
        Ok(read) => read,
        Err(diagnostic) => (None, diagnostic.into()),
    };
    examined.diagnostics = diagnostics;
    let Some(architecture) = architecture else { return examined };
    let architecture = examined.architecture.insert(architecture);
    let is_setting = |key: &String| {
        let name = key.rsplit('.').next().unwrap_or(key);
        architecture.entry(name).is_some()
    };
    // A setting of the model that stands elsewhere was reported there.
    let is_complete = !outline.unknown_keys.iter().any(is_setting);
    let Some(model) = outline.model.as_ref().filter(|_| is_complete) else { return examined };
    match Config::resolve(architecture, &settings(&model.settings), model.header) {
        Ok(config) => examined.config = Some(config),
        Err(diagnostics) => examined.diagnostics.extend(diagnostics),
    }
    let (Some(config), Some(size)) = (&examined.config, outline.batch) else { return examined };
    if examined.diagnostics.has_errors() {
        return examined;
    }
    let batch = Batch {
        rows: size.micro_batch.into(),
        sequence_length: size.sequence_length.into(),
        place: size.place,
    };
    match lower(architecture, config, batch) {
        Ok(graph) => examined.graph = Some(graph),
        Err(diagnostics) => examined.diagnostics.extend(diagnostics),
    }
    examined
}

/// The operations of the language with the names of their arguments, which the documentation's table must agree with.
pub fn operations() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    OPERATIONS
        .iter()
        .map(|operation| (operation.name, operation.parameters.iter().map(|p| p.name).collect()))
}

/// The settings of a spec's `[model]`, as an architecture reads them.
pub fn settings(model: &[ModelSetting]) -> Vec<Setting<'_>> {
    fn setting(setting: &ModelSetting) -> Setting<'_> {
        Setting {
            name: &setting.key.value,
            name_span: setting.key.span,
            value: &setting.value.value,
            value_span: setting.value.span,
            text_start: (setting.text_span.source, setting.text_span.start as usize),
        }
    }
    model.iter().map(setting).collect()
}

/// The text of the architecture that a spec names: shipped, or a file next to the spec.
fn architecture_source(
    named: &ArchitectureName,
    sources: &mut Sources,
) -> Result<SourceId, Diagnostic> {
    let (name, span) = (&named.name.value, named.name.span);
    if let Some(text) = &named.text {
        return Ok(sources.add(format!("{name} (the plan's architecture)"), text.as_ref()));
    }
    if !shipped::is_path(name) {
        return match shipped::architecture(name) {
            Some(text) => Ok(sources.add(format!("{name} (shipped architecture)"), text)),
            None => {
                let known = shipped::architectures().iter().map(|(known, _)| *known);
                let help = did_you_mean(name, known.clone(), || {
                    format!(
                        "shipped are {}; a file is named by a path such as ./{name}.toml",
                        known.collect::<Vec<_>>().join(", ")
                    )
                });
                Err(Diagnostic::error(
                    codes::UNKNOWN_ARCHITECTURE,
                    format!("there is no architecture `{name}`"),
                )
                .at(span, "unknown")
                .help(help))
            }
        };
    }
    let path = named.folder.as_ref().map_or_else(|| name.into(), |folder| folder.join(name));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(sources.add(path.display().to_string(), text)),
        Err(error) => Err(Diagnostic::error(
            codes::UNREADABLE_ARCHITECTURE,
            format!("cannot read {}: {error}", path.display()),
        )
        .at(span, "named here")
        .help("name a file that exists, relative to the folder of the spec")),
    }
}

/// Lowers an architecture for one configuration and one size of batch.
///
/// # Errors
/// `lower::…`: shapes that do not fit, extents that are none, paths taken twice, and so on, several at once.
pub fn lower(
    architecture: &Architecture,
    config: &Config,
    batch: Batch,
) -> Result<Graph, Diagnostics> {
    let mut lowering = Lowering {
        architecture,
        config,
        batch,
        graph: Graph::new(),
        diagnostics: Diagnostics::default(),
        paths: BTreeMap::new(),
        checkpoint_names: BTreeMap::new(),
        joined: BTreeMap::new(),
        tables: BTreeMap::new(),
        dropouts: BTreeMap::new(),
        parameters: BTreeMap::new(),
        sharing: 0,
        replaying: 0,
        elements: 0,
        calls: 0,
        nested_calls: 0,
    };
    let model = &architecture.body.model;
    let mut frame =
        Frame { path: String::new(), scope: None, names: Vec::new(), lists: BTreeMap::new() };
    for input in &model.inputs {
        let tokens = lowering.tokens(input.name.span);
        frame.names.push((input.name.text.clone(), Bound::Tensor(tokens)));
    }
    if let Some(axis) = model.positions_axis()
        && config.get(&axis.text).is_none()
    {
        let length = i64::try_from(batch.sequence_length).unwrap_or(i64::MAX);
        frame.names.push((axis.text.clone(), Bound::Setting(Value::Integer(length))));
    }
    if let Some((result, span)) = lowering.statements(&mut frame, &model.statements) {
        let head = lowering.head(result, span);
        lowering.report(head);
    }
    // What an error left out would be missed in its joined tensor as well.
    if !lowering.diagnostics.has_errors() {
        lowering.join_weights();
    }
    if lowering.diagnostics.has_errors() { Err(lowering.diagnostics) } else { Ok(lowering.graph) }
}

/// What a name or an expression stands for while lowering.
#[derive(Clone, Debug, PartialEq)]
enum Bound {
    /// A value of the computation.
    Tensor(Tensor),
    /// A number, truth value or text known now.
    Setting(Value),
    /// What a query may see.
    Mask(colac_plan::op::Mask),
    /// An argument whose condition is false.
    Absent,
    /// The result of something wrong that was reported already.
    Wrong,
}

impl Bound {
    /// What a message calls it.
    fn describe(&self) -> String {
        match self {
            Bound::Tensor(_) => "a value of the computation".into(),
            Bound::Setting(value) => format!("{} ({value})", value.type_name()),
            Bound::Mask(mask) => format!("the mask `{mask}`"),
            Bound::Absent => "absent".into(),
            Bound::Wrong => "wrong".into(),
        }
    }
}

/// The names that can be read at a place of a body, and where it lies in the model.
#[derive(Clone, Debug)]
struct Frame {
    /// Path of the enclosing labelled calls and repeats; empty at the top.
    path: String,
    /// Innermost repeat.
    scope: Option<ScopeId>,
    /// Names with what they stand for; the last of a name counts.
    names: Vec<(String, Bound)>,
    /// Values kept under numbers, by the name of the list.
    lists: BTreeMap<String, BTreeMap<i64, Bound>>,
}

impl Frame {
    /// The path of something labelled here.
    fn join(&self, label: &str) -> String {
        if self.path.is_empty() { label.to_owned() } else { format!("{}.{label}", self.path) }
    }
}

/// A labelled operation.
#[derive(Clone, Copy, Debug)]
struct Labelled {
    /// Where it stands.
    span: Span,
    /// Its matrix, which others may share.
    weight: Option<(ParameterId, Tensor)>,
}

struct Lowering<'a> {
    architecture: &'a Architecture,
    config: &'a Config,
    batch: Batch,
    graph: Graph,
    diagnostics: Diagnostics,
    /// Every labelled operation by its path.
    paths: BTreeMap<String, Labelled>,
    /// Every tensor of a checkpoint and the call it comes from.
    checkpoint_names: BTreeMap<String, Span>,
    /// Tensors of a checkpoint that hold several parameters, with what is known of them so far.
    joined: BTreeMap<String, Vec<joined::Member>>,
    /// Tables of rotary positions by base, scaling, positions and pairs.
    tables: BTreeMap<(Real, RopeScaling, u64, u64), (Tensor, Tensor)>,
    /// Dropouts so far, by path.
    dropouts: BTreeMap<String, u64>,
    /// Parameters by path, for turns of repeats that share them.
    parameters: BTreeMap<String, (ParameterId, Tensor)>,
    /// How many repeats around share the parameters of their first turn.
    sharing: u32,
    /// How many repeats around are in a later turn and share the parameters of their first.
    replaying: u32,
    /// Elements of all parameters.
    elements: u64,
    /// Calls of blocks so far.
    calls: usize,
    /// Calls of blocks that have not returned.
    nested_calls: usize,
}

impl Lowering<'_> {
    /// Keeps a result; reports an error once, however often the block it stands in is called.
    fn report<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(diagnostic) => {
                let place =
                    |diagnostic: &Diagnostic| diagnostic.labels.first().map(|label| label.span);
                let known = self
                    .diagnostics
                    .iter()
                    .any(|d| d.code == diagnostic.code && place(d) == place(&diagnostic));
                if !known {
                    self.diagnostics.push(diagnostic);
                }
                None
            }
        }
    }

    fn origin(&self, path: &str, span: Span) -> Origin {
        Origin { path: path.to_owned(), span: Some(span), pass: "lower" }
    }

    /// The type of ids and labels.
    fn id_type(&self) -> TensorType {
        let axes =
            vec![Axis::new("batch", self.batch.rows), Axis::new("seq", self.batch.sequence_length)];
        TensorType::new(DType::I32, Shape(axes))
    }

    fn tokens(&mut self, span: Span) -> Tensor {
        let (ty, origin) = (self.id_type(), self.origin(Input::Tokens.name(), span));
        self.graph.input(Input::Tokens, ty, origin)
    }

    fn block(&self, name: &str) -> Option<&Block> {
        self.architecture.body.blocks.iter().find(|block| block.name.text == name)
    }

    /// Makes sure that a tensor stays far from overflow.
    fn check_size(&self, extents: &[u64], span: Span) -> Result<(), Diagnostic> {
        let elements =
            extents.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent));
        match elements {
            Some(elements) if elements <= MOST_ELEMENTS => Ok(()),
            _ => Err(too_large(span, "a tensor of more than 2^48 elements")),
        }
    }
}

fn too_large(span: Span, what: &str) -> Diagnostic {
    Diagnostic::error(codes::TOO_LARGE, format!("the model is too large: {what}"))
        .at(span, "made here")
        .help("use smaller sizes")
}
