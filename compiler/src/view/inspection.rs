//! Everything `colac inspect` says, as data. The field names are stable: machines read them.

use std::collections::BTreeMap;

use colac_plan::hash::{self, Hashes};
use colac_plan::op::cost::aligned;
use colac_plan::parameter::Role;
use colac_plan::plan::Decision;
use colac_plan::program::{Operation, Phase};
use colac_plan::verify::lifetimes;
use colac_plan::{Cost, Plan, ProgramKind, Segment, TensorId, TensorType};
use serde::Serialize;

/// A plan in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Name of the spec.
    pub name: String,
    /// `cola` or `full-rank`.
    pub form: &'static str,
    /// Trained numbers, padding not counted.
    pub parameters: Parameters,
    /// FLOPs of matrix products and attention for each trained token. A multiply-add is two. Causal attention counts as
    /// half the square of the sequence.
    pub flops_per_token: Flops,
    /// What lives until the backward pass: the recompute policy, or what was chosen for a memory.
    pub recompute: String,
    /// Bytes that the runtime allocates.
    pub memory: Memory,
    /// Repeated layers, outermost scopes only, and `rest` for what lies outside.
    pub per_layer: Vec<Layer>,
    /// Linears that became pairs.
    pub rewritten: Vec<Rewritten>,
    /// Matrices that stayed dense, and why: linears, and tables that are looked up.
    pub kept_dense: Vec<KeptDense>,
    /// Every operation of every program, in order.
    pub operations: Vec<OperationRow>,
    /// Training set-up.
    pub batch: Batch,
    /// Identity of the plan.
    pub hashes: HashRow,
    /// How FLOPs are counted, for a reader of the numbers alone.
    pub flops_convention: &'static str,
}

/// The counting convention of [`Inspection::flops_per_token`], as reports say it.
pub const FLOPS_CONVENTION: &str = "FLOPs count matrix products and attention; a multiply-add is two, causal attention half the square.";

/// Counts of trained numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// All.
    pub total: u64,
    /// Tables looked up by id.
    pub embedding: u64,
    /// Factors of CoLA pairs.
    pub low_rank: u64,
    /// The rest: dense linears with the head, norms, biases.
    pub other: u64,
    /// All, if every pair were the dense linear that it replaces.
    pub full_rank: u64,
}

/// FLOPs by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// From inputs to loss.
    pub forward: u64,
    /// From loss to gradients.
    pub backward: u64,
    /// Forward values made again for the backward pass.
    pub recompute: u64,
    /// All three.
    pub total: u64,
}

/// Bytes by segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights as operations read them.
    pub parameters: u64,
    /// Weights as the optimizer keeps them, where those are copies; else 0.
    pub master: u64,
    /// Their gradients.
    pub gradients: u64,
    /// Moments and step counter.
    pub optimizer: u64,
    /// The arena of values between operations.
    pub activations: u64,
    /// Most bytes of activations alive at once in any program: no placement can need less.
    pub activations_lower_bound: u64,
    /// Scratch of single operations.
    pub workspace: u64,
    /// Tables, inputs, outputs, scalars.
    pub other: u64,
    /// All segments.
    pub total: u64,
}

/// What one layer costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Path of the scope, e.g. `layers.3`.
    pub path: String,
    /// Trained numbers.
    pub parameters: u64,
    /// Of these in CoLA pairs.
    pub low_rank: u64,
    /// FLOPs for each token.
    pub flops_per_token: Flops,
    /// Bytes of activations made in the forward pass and read in the backward pass, for one micro-batch.
    pub kept_bytes: u64,
}

/// A linear that became a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    /// Path of the linear.
    pub path: String,
    /// Input width.
    pub inputs: u64,
    /// Output width.
    pub outputs: u64,
    /// r.
    pub rank: u64,
    /// Between the factors.
    pub activation: String,
    /// Weights of the dense linear.
    pub dense_parameters: u64,
    /// Weights of the pair.
    pub parameters: u64,
    /// Weights saved; negative where the rank does not pay.
    pub saved_parameters: i64,
    /// FLOPs of the products saved for each token, forward and backward; negative where the rank does not pay.
    pub saved_flops_per_token: i64,
}

/// A matrix that stayed dense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptDense {
    /// Path of the linear or table.
    pub path: String,
    /// Input width; for a table its rows.
    pub inputs: u64,
    /// Output width.
    pub outputs: u64,
    /// Whether it is looked up instead of multiplied.
    pub is_table: bool,
    /// Why.
    pub reason: String,
}

/// One operation of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperationRow {
    /// Name of the program.
    pub program: &'static str,
    /// Position in it.
    pub index: usize,
    /// Printed name.
    pub op: &'static str,
    /// Printed attributes.
    pub attributes: String,
    /// Where it comes from.
    pub path: String,
    /// `forward`, `backward`, `recompute`, `update`.
    pub phase: &'static str,
    /// Types of the operands.
    pub operands: Vec<String>,
    /// Types of the results.
    pub results: Vec<String>,
    /// FLOPs in products and attention, for one execution.
    pub flops: u64,
    /// FLOPs elsewhere.
    pub other_flops: u64,
    /// Bytes read and written once each.
    pub bytes: u64,
    /// Scratch bytes.
    pub workspace: u64,
}

/// Rows and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Batch {
    /// Tokens in a row.
    pub sequence_length: u32,
    /// Rows in one execution.
    pub micro_batch: u32,
    /// Rows in one update.
    pub global_batch: u32,
    /// Updates to the schedule's horizon.
    pub steps: u64,
    /// Token positions to the horizon.
    pub tokens: u64,
    /// The same for each parameter of the full-rank model.
    pub tokens_per_parameter: f64,
}

/// Hashes in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashRow {
    /// Parameter names, shapes, formats.
    pub model: String,
    /// Programs and everything that changes training.
    pub numerics: String,
    /// The whole file.
    pub file: String,
}

impl Flops {
    fn add(&mut self, operation: &Operation, cost: Cost) {
        let forward = operation.op.forward_products(cost);
        match operation.phase {
            Phase::Recompute(_) => self.recompute += cost.products,
            Phase::Forward | Phase::Backward | Phase::Update => {
                self.forward += forward;
                self.backward += cost.products - forward;
            }
        }
        self.total += cost.products;
    }

    fn per(self, tokens: u64) -> Flops {
        let tokens = tokens.max(1);
        Flops {
            forward: self.forward / tokens,
            backward: self.backward / tokens,
            recompute: self.recompute / tokens,
            total: self.forward / tokens + self.backward / tokens + self.recompute / tokens,
        }
    }
}

/// Types of an operation's operands and results.
fn types<'p>(plan: &'p Plan, ids: &[TensorId]) -> Vec<&'p TensorType> {
    ids.iter().map(|&id| &plan.tensor(id).ty).collect()
}

/// Price of one execution of an operation.
pub fn cost(plan: &Plan, operation: &Operation) -> Cost {
    operation.op.cost(&types(plan, &operation.operands), &types(plan, &operation.results))
}

impl Inspection {
    /// Counts everything in a plan.
    pub fn new(plan: &Plan) -> Inspection {
        let training = plan.program(ProgramKind::ForwardBackward);
        let recipe = &plan.recipe;
        let tokens = u64::from(recipe.micro_batch) * u64::from(recipe.sequence_length);
        let parameters = parameters(plan);
        let all_tokens = recipe.schedule.steps
            * u64::from(recipe.global_batch)
            * u64::from(recipe.sequence_length);
        let mut flops = Flops::default();
        for operation in &training.operations {
            flops.add(operation, cost(plan, operation));
        }
        Inspection {
            recompute: plan.recompute.clone(),
            name: plan.name.clone(),
            form: plan.form.name(),
            parameters,
            flops_per_token: flops.per(tokens),
            memory: memory(plan),
            per_layer: per_layer(plan, tokens),
            rewritten: rewritten(plan),
            kept_dense: kept_dense(plan),
            operations: operations(plan),
            batch: Batch {
                sequence_length: recipe.sequence_length,
                micro_batch: recipe.micro_batch,
                global_batch: recipe.global_batch,
                steps: recipe.schedule.steps,
                tokens: all_tokens,
                tokens_per_parameter: all_tokens as f64 / parameters.full_rank.max(1) as f64,
            },
            hashes: hashes(plan),
            flops_convention: FLOPS_CONVENTION,
        }
    }
}

fn parameters(plan: &Plan) -> Parameters {
    let mut count = Parameters::default();
    for parameter in &plan.parameters {
        let elements = plan.tensor(parameter.tensor).ty.shape.elements();
        count.total += elements;
        match parameter.role {
            Role::Embedding => count.embedding += elements,
            Role::LowRankDown | Role::LowRankUp => count.low_rank += elements,
            Role::Matrix | Role::Vector => count.other += elements,
        }
    }
    let replaced = plan.linears.iter().filter(|l| matches!(l.decision, Decision::Rewritten { .. }));
    count.full_rank =
        count.total - count.low_rank + replaced.map(|l| l.inputs * l.outputs).sum::<u64>();
    count
}

/// Bytes of master weights: a part of the optimizer's segment, counted apart because it is weights. 0 where weights are not
/// copies.
pub(super) fn master_bytes(plan: &Plan) -> u64 {
    plan.roles.master.map_or(0, |master| aligned(plan.tensor(master).ty.bytes()))
}

fn memory(plan: &Plan) -> Memory {
    let other = [Segment::Constants, Segment::Inputs, Segment::Outputs, Segment::Scalars];
    let master = master_bytes(plan);
    Memory {
        parameters: plan.bytes(Segment::Parameters),
        gradients: plan.bytes(Segment::Gradients),
        optimizer: plan.bytes(Segment::Optimizer) - master,
        master,
        activations: plan.bytes(Segment::Activations),
        activations_lower_bound: plan
            .programs
            .iter()
            .map(|p| p.arena_lower_bound)
            .max()
            .unwrap_or(0),
        workspace: plan.bytes(Segment::Workspace),
        other: other.into_iter().map(|s| plan.bytes(s)).sum(),
        total: plan.total_bytes(),
    }
}

/// The outermost scope that a path lies in.
fn layer_of<'p>(layers: &[&'p str], path: &str) -> Option<&'p str> {
    layers
        .iter()
        .copied()
        .find(|layer| path.strip_prefix(layer).is_some_and(|rest| rest.starts_with('.')))
}

fn per_layer(plan: &Plan, tokens: u64) -> Vec<Layer> {
    // Outermost: no other scope's path is a prefix.
    let outermost = |s: &&str| !plan.scopes.iter().any(|o| s.starts_with(&format!("{o}.")));
    let layers: Vec<&str> =
        plan.scopes.iter().map(String::as_str).filter(|s| outermost(s)).collect();
    let names = layers.iter().copied().chain(["rest"]);
    let mut rows: Vec<Layer> =
        names.map(|path| Layer { path: path.into(), ..Layer::default() }).collect();
    let index: BTreeMap<&str, usize> = layers.iter().enumerate().map(|(i, &l)| (l, i)).collect();
    let outer_of_scope: Vec<usize> = plan
        .scopes
        .iter()
        .map(|s| index.get(s.as_str()).copied().or_else(|| layer_of(&layers, s).map(|l| index[l])))
        .map(|i| i.unwrap_or(layers.len()))
        .collect();
    for parameter in &plan.parameters {
        let row = layer_of(&layers, &parameter.path).map_or(layers.len(), |l| index[l]);
        let elements = plan.tensor(parameter.tensor).ty.shape.elements();
        rows[row].parameters += elements;
        if matches!(parameter.role, Role::LowRankDown | Role::LowRankUp) {
            rows[row].low_rank += elements;
        }
    }
    let training = plan.program(ProgramKind::ForwardBackward);
    let row_of = |operation: &Operation| {
        operation.scope.map_or(layers.len(), |s| outer_of_scope[s as usize])
    };
    let mut flops = vec![Flops::default(); rows.len()];
    for operation in &training.operations {
        flops[row_of(operation)].add(operation, cost(plan, operation));
    }
    for life in lifetimes(plan, training) {
        let (first, last) = (&training.operations[life.first], &training.operations[life.last]);
        if first.phase == Phase::Forward && last.phase != Phase::Forward {
            rows[row_of(first)].kept_bytes += plan.tensor(life.root).ty.bytes();
        }
    }
    for (row, flops) in rows.iter_mut().zip(flops) {
        row.flops_per_token = flops.per(tokens);
    }
    rows
}

fn rewritten(plan: &Plan) -> Vec<Rewritten> {
    let row = |linear: &colac_plan::plan::LinearReport| {
        let Decision::Rewritten { rank, activation } = &linear.decision else { return None };
        let dense = linear.inputs * linear.outputs;
        let pair = rank * (linear.inputs + linear.outputs);
        let saved = dense as i64 - pair as i64;
        Some(Rewritten {
            path: linear.path.clone(),
            inputs: linear.inputs,
            outputs: linear.outputs,
            rank: *rank,
            activation: activation.clone(),
            dense_parameters: dense,
            parameters: pair,
            saved_parameters: saved,
            // Forward one product, backward two, two FLOPs for each weight.
            saved_flops_per_token: 6 * saved,
        })
    };
    plan.linears.iter().filter_map(row).collect()
}

fn kept_dense(plan: &Plan) -> Vec<KeptDense> {
    let row = |linear: &colac_plan::plan::LinearReport| {
        let Decision::KeptDense { reason } = &linear.decision else { return None };
        let (path, reason) = (linear.path.clone(), reason.clone());
        let (inputs, outputs) = (linear.inputs, linear.outputs);
        Some(KeptDense { path, inputs, outputs, is_table: false, reason })
    };
    let mut rows: Vec<KeptDense> = plan.linears.iter().filter_map(row).collect();
    rows.extend(plan.parameters.iter().filter(|p| p.role == Role::Embedding).map(|parameter| {
        let shape = &plan.tensor(parameter.tensor).ty.shape;
        KeptDense {
            path: parameter.path.trim_end_matches(".weight").to_owned(),
            inputs: shape.rows(),
            outputs: shape.width(),
            is_table: true,
            reason: "a table: its rows are looked up, so there is no product to save".to_owned(),
        }
    }));
    rows
}

fn operations(plan: &Plan) -> Vec<OperationRow> {
    let mut rows = Vec::new();
    for program in &plan.programs {
        for (index, operation) in program.operations.iter().enumerate() {
            let price = cost(plan, operation);
            let printed =
                |ids: &[TensorId]| types(plan, ids).iter().map(ToString::to_string).collect();
            rows.push(OperationRow {
                program: program.kind.name(),
                index,
                op: operation.op.name(),
                attributes: operation.op.attributes(),
                path: operation.path.clone(),
                phase: phase_name(operation.phase),
                operands: printed(&operation.operands),
                results: printed(&operation.results),
                flops: price.products,
                other_flops: price.other,
                bytes: price.bytes,
                workspace: operation.workspace,
            });
        }
    }
    rows
}

pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Recompute(_) => "recompute",
        Phase::Update => "update",
    }
}

fn hashes(plan: &Plan) -> HashRow {
    let Hashes { model, numerics, file } = hash::hashes(plan);
    HashRow { model: model.to_string(), numerics: numerics.to_string(), file: file.to_string() }
}
