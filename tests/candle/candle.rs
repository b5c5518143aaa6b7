//! A whole model against candle: the same weights and tokens give the same logits, losses and gradients.
//!
//! The model is written here once more, with candle's operations in f64 and its automatic differentiation, from the
//! papers and not from colac's code: RMSNorm (arXiv 1910.07467), rotary positions over the halves of a head
//! (arXiv 2104.09864), grouped-query attention (arXiv 2305.13245), SwiGLU (arXiv 2002.05202), CoLA pairs
//! (arXiv 2502.10940).

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use colac_plan::parameter::Role;
use colac_plan::{Plan, ProgramKind, TensorId};
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::reference::ReferenceExecutor;

const VOCABULARY: usize = 101;
const HIDDEN: usize = 40;
const INTERMEDIATE: usize = 56;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KEY_VALUE_HEADS: usize = 2;
const HEAD_DIM: usize = HIDDEN / HEADS;
const RANK: usize = 7;
const SEQUENCE: usize = 19;
const ROWS: usize = 3;
const EPSILON: f64 = 1e-5;
const THETA: f64 = 500.0;

/// Largest ‖Δ‖/‖expected‖ of a tensor; f32 against f64 stays far below.
const TOLERANCE: f64 = 1e-4;

/// Which form of the model is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    FullRank,
    /// Low-rank pairs, and the gate keeps its own SiLU.
    Cola,
    /// Low-rank pairs, and the gate has no SiLU of its own.
    ColaWithBypass,
}

fn plan(form: Form) -> Arc<Plan> {
    let settings = [
        format!("model.vocab_size={VOCABULARY}"),
        format!("model.hidden_size={HIDDEN}"),
        format!("model.intermediate_size={INTERMEDIATE}"),
        format!("model.num_hidden_layers={LAYERS}"),
        format!("model.num_attention_heads={HEADS}"),
        format!("model.num_key_value_heads={KEY_VALUE_HEADS}"),
        format!("model.rms_norm_eps={EPSILON}"),
        format!("model.rope_theta={THETA:?}"),
        format!("cola.rank={RANK}"),
        format!("train.sequence_length={SEQUENCE}"),
        format!("train.micro_batch={ROWS}"),
        format!("train.global_batch={ROWS}"),
        format!(
            "cola.bypass={}",
            if form == Form::ColaWithBypass { "[\"layers.*.mlp.act_fn\"]" } else { "[]" }
        ),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    common::plan("llama-nano", &settings, form == Form::FullRank)
}

/// Numbers that repeat from run to run (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// The model in candle.
struct Model {
    form: Form,
    weights: BTreeMap<String, Var>,
}

impl Model {
    /// The parameters that the executor holds, by path.
    fn of(executor: &dyn Executor, form: Form) -> Result<Model> {
        let plan = executor.plan();
        let weight = |parameter: &colac_plan::parameter::Parameter| {
            let shape: Vec<usize> = plan
                .tensor(parameter.tensor)
                .ty
                .shape
                .extents()
                .iter()
                .map(|&extent| extent as usize)
                .collect();
            let tensor = Tensor::from_vec(read(executor, parameter.tensor), shape, &Device::Cpu)?;
            Ok((parameter.path.clone(), Var::from_tensor(&tensor)?))
        };
        Ok(Model { form, weights: plan.parameters.iter().map(weight).collect::<Result<_>>()? })
    }

    fn weight(&self, path: &str) -> &Tensor {
        self.weights
            .get(path)
            .unwrap_or_else(|| panic!("the plan has no parameter {path}"))
            .as_tensor()
    }

    /// `[tokens, vocabulary]` for rows of tokens, one after the other.
    fn logits(&self, tokens: &[i32]) -> Result<Tensor> {
        let ids: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut x = self.weight("embed_tokens.weight").index_select(&ids, 0)?;
        for layer in 0..LAYERS {
            let path = format!("layers.{layer}");
            let h = self.norm(&x, &format!("{path}.input_layernorm"))?;
            x = (&x + self.attention(&h, &format!("{path}.self_attn"))?)?;
            let h = self.norm(&x, &format!("{path}.post_attention_layernorm"))?;
            x = (&x + self.mlp(&h, &format!("{path}.mlp"))?)?;
        }
        let x = self.norm(&x, "norm")?;
        x.matmul(&self.weight("lm_head.weight").t()?)
    }

    fn norm(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let root = (x.sqr()?.mean_keepdim(D::Minus1)? + EPSILON)?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(self.weight(&format!("{path}.weight")))
    }

    fn linear(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        if self.form == Form::FullRank {
            return x.matmul(&self.weight(&format!("{path}.weight")).t()?);
        }
        let z = x.matmul(&self.weight(&format!("{path}.cola_a")).t()?)?;
        silu(&z)?.matmul(&self.weight(&format!("{path}.cola_b")).t()?)
    }

    fn mlp(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let gate = self.linear(x, &format!("{path}.gate_proj"))?;
        let gate = if self.form == Form::ColaWithBypass { gate } else { silu(&gate)? };
        let up = self.linear(x, &format!("{path}.up_proj"))?;
        self.linear(&(gate * up)?, &format!("{path}.down_proj"))
    }

    fn attention(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let rows = x.dim(0)? / SEQUENCE;
        let heads = |name: &str, heads: usize| {
            let y = self.linear(x, &format!("{path}.{name}"))?;
            y.reshape((rows, SEQUENCE, heads, HEAD_DIM))?.transpose(1, 2)?.contiguous()
        };
        let q = rotate(&heads("q_proj", HEADS)?)?;
        let k = shared(&rotate(&heads("k_proj", KEY_VALUE_HEADS)?)?)?;
        let v = shared(&heads("v_proj", KEY_VALUE_HEADS)?)?;
        let future = |i: usize| if i % SEQUENCE > i / SEQUENCE { f64::NEG_INFINITY } else { 0.0 };
        let mask = Tensor::from_vec(
            (0..SEQUENCE * SEQUENCE).map(future).collect(),
            (SEQUENCE, SEQUENCE),
            x.device(),
        )?;
        let scores = (q.matmul(&k.t()?.contiguous()?)? * (HEAD_DIM as f64).powf(-0.5))?
            .broadcast_add(&mask)?;
        let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
        let a = weights
            .matmul(&v)?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((rows * SEQUENCE, HIDDEN))?;
        self.linear(&a, &format!("{path}.o_proj"))
    }
}

fn silu(x: &Tensor) -> Result<Tensor> {
    x / (x.neg()?.exp()? + 1.0)?
}

/// Rotary positions of `[rows, heads, sequence, head_dim]`: number `i` of the first half turns with number `i` of the
/// second.
fn rotate(x: &Tensor) -> Result<Tensor> {
    let half = HEAD_DIM / 2;
    let angle = |i: usize| (i / half) as f64 * THETA.powf(-((i % half) as f64) / half as f64);
    let table = |f: fn(f64) -> f64| {
        Tensor::from_vec(
            (0..SEQUENCE * half).map(|i| f(angle(i))).collect(),
            (SEQUENCE, half),
            x.device(),
        )
    };
    let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
    let (first, second) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[turned_first, turned_second], 3)
}

/// Key/value heads repeated for the query heads that share them: neighbours share.
fn shared(x: &Tensor) -> Result<Tensor> {
    let (rows, heads, sequence, width) = x.dims4()?;
    let times = HEADS / heads;
    x.unsqueeze(2)?
        .expand((rows, heads, times, sequence, width))?
        .reshape((rows, HEADS, sequence, width))
}

/// The loss of every position in nats, 0 where there is no label.
fn losses(logits: &Tensor, labels: &[i32]) -> Result<Tensor> {
    let index: Vec<u32> = labels.iter().map(|&label| label.max(0) as u32).collect();
    let counts: Vec<f64> = labels.iter().map(|&label| if label < 0 { 0.0 } else { 1.0 }).collect();
    let index = Tensor::from_vec(index, (labels.len(), 1), logits.device())?;
    let counts = Tensor::from_vec(counts, (labels.len(), 1), logits.device())?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let total = shifted.exp()?.sum_keepdim(1)?.log()?;
    (total - shifted.gather(&index, 1)?)? * counts
}

fn read(executor: &dyn Executor, id: TensorId) -> Vec<f64> {
    let mut values = vec![0.0; executor.plan().tensor(id).ty.shape.elements() as usize];
    executor.read_f32(id, &mut values);
    values.into_iter().map(f64::from).collect()
}

fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
    assert_eq!(tensor.dtype(), DType::F64);
    tensor.flatten_all()?.to_vec1()
}

fn compare(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let difference = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 0.0, "{what} is nothing but zeros, so that nothing is compared");
    assert!(difference <= TOLERANCE * norm, "{what} is off by {:e} of its norm", difference / norm);
}

fn check(plan: &Plan, executor: &mut dyn Executor, form: Form) -> Result<()> {
    initialize(executor);
    let mut random = Random(1);
    // Gains start at 1, where a forgotten one would not show.
    for parameter in plan.parameters.iter().filter(|p| p.role == Role::Vector) {
        let gains: Vec<f32> =
            (0..HIDDEN).map(|_| 0.5 + random.below(1000) as f32 / 1000.0).collect();
        executor.write_f32(parameter.tensor, &gains);
    }
    let mut token = || random.below(VOCABULARY as u64) as i32;
    let tokens: Vec<i32> = (0..ROWS * SEQUENCE).map(|_| token()).collect();
    let labels: Vec<i32> =
        (0..ROWS * SEQUENCE).map(|i| if i % 5 == 4 { -100 } else { token() }).collect();
    let counted = labels.iter().filter(|&&label| label >= 0).count();

    let model = Model::of(executor, form)?;
    let logits = model.logits(&tokens)?;
    let losses = losses(&logits, &labels)?;
    let gradients = (losses.sum_all()? / counted as f64)?.backward()?;

    let expected = flat(&logits)?;
    for (row, expected) in
        tokens.chunks_exact(SEQUENCE).zip(expected.chunks_exact(SEQUENCE * VOCABULARY))
    {
        executor.write_i32(plan.roles.logits_tokens, row);
        executor.run(ProgramKind::Logits, true);
        compare("a row of logits", &read(executor, plan.roles.logits), expected);
    }

    executor.write_i32(plan.roles.train.tokens, &tokens);
    executor.write_i32(plan.roles.train.labels, &labels);
    executor.write_f32(plan.roles.loss_scale, &[1.0 / counted as f32]);
    executor.write_f32(plan.roles.accumulate, &[0.0]);
    executor.run(ProgramKind::ForwardBackward, true);
    let rows = flat(&losses.reshape((ROWS, SEQUENCE))?.sum(1)?)?;
    compare("the losses of the rows", &read(executor, plan.roles.train_loss), &rows);
    assert_eq!(
        plan.parameters.len(),
        2 + LAYERS * 2 + 1 + LAYERS * 7 * if form == Form::FullRank { 1 } else { 2 }
    );
    for parameter in &plan.parameters {
        let expected = gradients
            .get(model.weight(&parameter.path))
            .expect("every parameter matters to the loss");
        compare(
            &format!("the gradient of {}", parameter.path),
            &read(executor, parameter.gradient),
            &flat(expected)?,
        );
    }
    Ok(())
}

fn check_executors(form: Form) {
    let plan = plan(form);
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    let mut cpu = CpuExecutor::new(Arc::clone(&plan), options).expect("the CPU runs f32 plans");
    check(&plan, &mut cpu, form).expect("candle computes what it is asked for");
    let mut reference = ReferenceExecutor::new(Arc::clone(&plan));
    check(&plan, &mut reference, form).expect("candle computes what it is asked for");
}

#[test]
fn full_rank_is_as_in_candle() {
    check_executors(Form::FullRank);
}

#[test]
fn cola_is_as_in_candle() {
    check_executors(Form::Cola);
}

#[test]
fn cola_with_bypass_is_as_in_candle() {
    check_executors(Form::ColaWithBypass);
}
