"""The PyTorch peer: a LLaMA-family model, full-rank or in CoLA form, and the loop that trains it.

Written for clarity, not speed: weights live in one dictionary under their checkpoint names, the
forward pass is a function of that dictionary, and autograd does the rest. It owns no file formats
and no command line; `make_fixtures.py` does.

Every place where an implementation is easily wrong takes a `fault`. With `fault=None` the code is the
reference; each other value breaks one thing, so that `make_fixtures.py --faults` can show that the
fixtures notice it.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F

IGNORED = -100  # label of a position that has no target
PAD = 0  # token that fills a row after its document; never part of a document

FAULTS = {
    "no bias correction": "AdamW divides by the raw moments",
    "L2 instead of decoupled decay": "the decay is added to the gradient, as torch.optim.Adam does",
    "mean of micro-batch means": "each micro-batch is normalised by its own valid tokens, then averaged",
    "RoPE interleaved": "rotates neighbouring pairs instead of the two halves of a head",
    "clip before accumulation": "clips the gradient of each micro-batch, then adds",
    "transposed A": "reads the memory of A [in, r] as [r, in]",
    "sigma after B": "y = sigma((x A) B) instead of y = sigma(x A) B",
    "schedule one step ahead": "the first update uses factor(1) instead of factor(0)",
    "no clipping": "the clip factor is always 1",
    "no decay on norms": "the decay skips vectors",
    "outer SiLU confused": "keeps the outer SiLU of the gate where it is dropped, and the reverse",
    "key/value heads tiled": "query head h reads key/value head h mod n instead of h div (heads/n)",
}
# Faults of the forward pass that only some variants can have.
LOW_RANK_FAULTS = {"transposed A", "sigma after B", "outer SiLU confused"}
GROUPED_FAULTS = {"key/value heads tiled"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One model and its training run. Field names follow Hugging Face's `config.json` where it has them."""

    name: str
    rank: int | None = None  # None: full-rank
    bypass: bool = False  # drop the outer SiLU of the gate
    num_key_value_heads: int = 3
    num_attention_heads: int = 3
    vocab_size: int = 96
    hidden_size: int = 48
    intermediate_size: int = 112
    num_hidden_layers: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    # One run.
    sequence_length: int = 24
    micro_batch: int = 2  # rows
    micro_batches: int = 2  # per step
    steps: int = 40
    warmup_steps: int = 4
    final_factor: float = 0.1
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 2.0
    seed: int = 1

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    @property
    def global_batch(self):
        return self.micro_batch * self.micro_batches

    def possible_faults(self):
        """The names in FAULTS that this variant can have."""
        skip = set()
        if self.rank is None:
            skip |= LOW_RANK_FAULTS
        if self.num_key_value_heads == self.num_attention_heads:
            skip |= GROUPED_FAULTS
        return [name for name in FAULTS if name not in skip]


# --- weights ----------------------------------------------------------------------------------


def block_linears(v):
    """Path inside a block -> (in, out) of its seven linears."""
    d, f = v.hidden_size, v.intermediate_size
    kv = v.num_key_value_heads * v.head_dim
    return {
        "self_attn.q_proj": (d, d),
        "self_attn.k_proj": (d, kv),
        "self_attn.v_proj": (d, kv),
        "self_attn.o_proj": (d, d),
        "mlp.gate_proj": (d, f),
        "mlp.up_proj": (d, f),
        "mlp.down_proj": (f, d),
    }


def initial_weights(v):
    """Checkpoint name -> tensor. Dense weights are [out, in]; CoLA factors are [in, r] and [r, out].

    Wider than a real initialisation (0.1 for 0.02), so that attention is far from uniform and no
    gradient is negligible; norm weights are off 1, so that a forgotten one shows.
    """
    random = torch.Generator().manual_seed(v.seed)

    def normal(*shape, std):
        return torch.randn(*shape, generator=random) * std

    def norm_weight():
        return 1.0 + 0.2 * torch.randn(v.hidden_size, generator=random)

    weights = {"model.embed_tokens.weight": normal(v.vocab_size, v.hidden_size, std=0.1)}
    for i in range(v.num_hidden_layers):
        block = f"model.layers.{i}"
        weights[f"{block}.input_layernorm.weight"] = norm_weight()
        weights[f"{block}.post_attention_layernorm.weight"] = norm_weight()
        for path, (n_in, n_out) in block_linears(v).items():
            if v.rank is None:
                weights[f"{block}.{path}.weight"] = normal(n_out, n_in, std=0.1)
            else:
                std = v.rank**-0.25 * (n_in + n_out) ** -0.25
                weights[f"{block}.{path}.cola_a"] = normal(n_in, v.rank, std=std)
                weights[f"{block}.{path}.cola_b"] = normal(v.rank, n_out, std=std)
    weights["model.norm.weight"] = norm_weight()
    weights["lm_head.weight"] = normal(v.vocab_size, v.hidden_size, std=0.1)
    return weights


# --- data -------------------------------------------------------------------------------------


def batches(v):
    """Tokens and labels, both [steps, global_batch, sequence_length] of int32.

    Documents come from a seeded Markov chain, so that there is something to learn. The label of a
    position is the token after it; the last position of a row has none. The last row of every step is
    a short document, padded on the right: micro-batches hold different numbers of valid tokens.
    """
    random = torch.Generator().manual_seed(v.seed + 1000)
    successors = torch.randint(1, v.vocab_size // 4, (v.vocab_size, 4), generator=random)
    chances = torch.tensor([0.7, 0.15, 0.1, 0.05])
    s = v.sequence_length
    tokens = torch.full((v.steps, v.global_batch, s), PAD, dtype=torch.int32)
    labels = torch.full_like(tokens, IGNORED)
    for step in range(v.steps):
        for row in range(v.global_batch):
            length = s
            if row == v.global_batch - 1:
                length = int(torch.randint(3, s // 3, (), generator=random))
            token = int(torch.randint(1, v.vocab_size, (), generator=random))
            for position in range(length):
                tokens[step, row, position] = token
                if position > 0:
                    labels[step, row, position - 1] = token
                choice = int(torch.multinomial(chances, 1, generator=random))
                token = int(successors[token, choice])
    return tokens, labels


# --- forward ----------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def linear(v, weights, path, x, fault):
    """x W^T for a dense linear, silu(x A) B in CoLA form."""
    if v.rank is None:
        return x @ weights[f"{path}.weight"].T
    a, b = weights[f"{path}.cola_a"], weights[f"{path}.cola_b"]
    if fault == "transposed A":
        a = a.reshape(a.shape[1], a.shape[0]).T
    if fault == "sigma after B":
        return F.silu(x @ a @ b)
    return F.silu(x @ a) @ b


def rotary(x, theta, fault):
    """Rotary positions over x [batch, heads, sequence, head_dim]: element i turns with i + head_dim/2."""
    sequence, dim = x.shape[-2:]
    frequency = theta ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    angle = torch.outer(torch.arange(sequence, dtype=x.dtype), frequency)
    if fault == "RoPE interleaved":
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = x.chunk(2, -1)
    turned = (
        first * angle.cos() - second * angle.sin(),
        second * angle.cos() + first * angle.sin(),
    )
    if fault == "RoPE interleaved":
        return torch.stack(turned, -1).flatten(-2)
    return torch.cat(turned, -1)


def attention(v, weights, path, x, fault):
    batch, sequence, _ = x.shape

    def heads(name, count):
        y = linear(v, weights, f"{path}.{name}", x, fault)
        return y.view(batch, sequence, count, v.head_dim).transpose(1, 2)

    query = rotary(heads("q_proj", v.num_attention_heads), v.rope_theta, fault)
    key = rotary(heads("k_proj", v.num_key_value_heads), v.rope_theta, fault)
    value = heads("v_proj", v.num_key_value_heads)
    group = v.num_attention_heads // v.num_key_value_heads
    if fault == "key/value heads tiled":
        key, value = key.repeat(1, group, 1, 1), value.repeat(1, group, 1, 1)
    else:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(-1, -2) / math.sqrt(v.head_dim)
    future = torch.ones(sequence, sequence, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ value
    merged = mixed.transpose(1, 2).reshape(batch, sequence, v.hidden_size)
    return linear(v, weights, f"{path}.o_proj", merged, fault)


def mlp(v, weights, path, x, fault):
    gate = linear(v, weights, f"{path}.gate_proj", x, fault)
    if v.bypass == (fault == "outer SiLU confused"):
        gate = F.silu(gate)
    up = linear(v, weights, f"{path}.up_proj", x, fault)
    return linear(v, weights, f"{path}.down_proj", gate * up, fault)


def logits(v, weights, tokens, fault=None):
    """Tokens [batch, sequence] -> logits [batch, sequence, vocab_size]."""
    x = F.embedding(tokens.long(), weights["model.embed_tokens.weight"])
    for i in range(v.num_hidden_layers):
        block = f"model.layers.{i}"
        y = rms_norm(x, weights[f"{block}.input_layernorm.weight"], v.rms_norm_eps)
        x = x + attention(v, weights, f"{block}.self_attn", y, fault)
        y = rms_norm(x, weights[f"{block}.post_attention_layernorm.weight"], v.rms_norm_eps)
        x = x + mlp(v, weights, f"{block}.mlp", y, fault)
    x = rms_norm(x, weights["model.norm.weight"], v.rms_norm_eps)
    return x @ weights["lm_head.weight"].T


def loss_sum(logits, labels):
    """Sum of the cross entropies of all valid positions, in nats."""
    return F.cross_entropy(logits.flatten(0, 1), labels.long().flatten(), ignore_index=IGNORED, reduction="sum")


# --- training ---------------------------------------------------------------------------------


def schedule(v, step):
    """Factor on the learning rate of update `step`, counted from 0."""
    if step < v.warmup_steps:
        return step / v.warmup_steps
    progress = (step - v.warmup_steps) / (v.steps - v.warmup_steps)
    return v.final_factor + (1 - v.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(v, weights, fault):
    options = dict(lr=0.0, betas=v.betas, eps=v.eps, weight_decay=v.weight_decay, foreach=False)
    parameters = list(weights.values())
    if fault == "L2 instead of decoupled decay":
        return torch.optim.Adam(parameters, **options)
    if fault == "no bias correction":
        return UncorrectedAdamW(parameters, v)
    if fault == "no decay on norms":
        vectors = [p for p in parameters if p.ndim == 1]
        matrices = [p for p in parameters if p.ndim == 2]
        return torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], **options)
    return torch.optim.AdamW(parameters, **options)


class UncorrectedAdamW:
    """AdamW with its bias correction left out, which no optimizer of torch offers."""

    def __init__(self, parameters, v):
        self.v = v
        self.param_groups = [{"lr": 0.0}]
        self.state = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self):
        rate, (beta1, beta2) = self.param_groups[0]["lr"], self.v.betas
        for parameter, first, second in self.state:
            first.lerp_(parameter.grad, 1 - beta1)
            second.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            parameter.mul_(1 - rate * self.v.weight_decay)
            parameter.sub_(rate * first / (second.sqrt() + self.v.eps))


def accumulate(v, weights, tokens, labels, fault):
    """Adds the gradient of one step to `.grad`; returns the loss, a mean over the global batch's valid tokens."""
    valid = int((labels != IGNORED).sum())
    total = 0.0
    for rows in torch.arange(v.global_batch).split(v.micro_batch):
        loss = loss_sum(logits(v, weights, tokens[rows], fault), labels[rows])
        total += loss.item()
        if fault == "mean of micro-batch means":
            (loss / int((labels[rows] != IGNORED).sum()) / v.micro_batches).backward()
        elif fault == "clip before accumulation":
            kept = {name: p.grad for name, p in weights.items()}
            for p in weights.values():
                p.grad = None
            (loss / valid).backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), v.clip_norm, foreach=False)
            for name, p in weights.items():
                p.grad = p.grad if kept[name] is None else p.grad + kept[name]
        else:
            (loss / valid).backward()
    return total / valid


def train(v, start, tokens, labels, fault=None, dtype=torch.float32):
    """Trains from the weights `start`.

    Returns a dictionary: `losses`, `grad_norms` (before clipping) and `learning_rates`, one number per
    step; `gradients`, name -> gradient of the first step before clipping; `weights`, name -> tensor
    after the last step. The loss reported is always the right mean, whatever a fault does to the
    gradient.
    """
    weights = {name: w.to(dtype, copy=True).requires_grad_() for name, w in start.items()}
    optimizer = make_optimizer(v, weights, fault)
    ahead = 1 if fault == "schedule one step ahead" else 0
    result = dict(losses=[], grad_norms=[], learning_rates=[])
    for step in range(v.steps):
        for p in weights.values():
            p.grad = None
        result["losses"].append(accumulate(v, weights, tokens[step], labels[step], fault))
        if step == 0:
            result["gradients"] = {name: p.grad.clone() for name, p in weights.items()}
        clips_here = fault not in ("no clipping", "clip before accumulation")
        limit = v.clip_norm if clips_here else math.inf
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), limit, foreach=False)
        result["grad_norms"].append(norm.item())
        rate = v.learning_rate * schedule(v, step + ahead)
        result["learning_rates"].append(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    result["weights"] = {name: p.detach() for name, p in weights.items()}
    return result
