#!/usr/bin/env python3
"""Makes and checks the fixtures of architectures: weights, and what PyTorch computes with them.

  make_architecture_fixtures.py            write fixtures/<variant>/
  make_architecture_fixtures.py --check    make them again in memory and compare with the committed files

A fixture is a folder: `model.safetensors` holds weights as a checkpoint does, `expected.safetensors` tokens, labels, and
the logits, mean loss and gradients of PyTorch in float32, `spec.toml` the spec of the same model. The dense GPT-2 is
transformers' own, and its folder is what transformers saves; everything else is written down in this file. Needs torch,
numpy, safetensors and transformers in the versions that README.md names.
"""

import argparse
import json
import math
import pathlib
import sys
import tempfile

import safetensors.numpy
import torch
import torch.nn.functional as F

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures"

ROWS, SEQUENCE, RANK = 3, 12, 4
IGNORED = -100

GPT2 = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,  # more than the rows have
    "layer_norm_eps": 1e-3,
}
DUET = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "sliding_window": 4,
    "gate_sharpness": 1.3,
    "logit_cap": 2.0,  # low enough to bend the logits
    "norm_eps": 1e-4,
    "rope_theta": 100.0,
}

# Name, architecture as a spec names it, settings, whether linears are pairs. Others differ by one setting.
VARIANTS = [
    ("gpt2", "gpt2", GPT2, False),
    ("gpt2-exact-gelu", "gpt2", {**GPT2, "hidden_act": "gelu"}, False),
    ("gpt2-cola", "gpt2", GPT2, True),
    ("duet", "../../../../examples/own-architecture/duet.toml", DUET, False),
    ("duet-cola", "../../../../examples/own-architecture/duet.toml", DUET, True),
]


def spec(name, architecture, settings, low_rank):
    lines = ["# Written by make_architecture_fixtures.py.", f'name = "{name}"', f'architecture = "{architecture}"']
    sections = {"model": settings}
    if low_rank:
        sections["cola"] = {"rank": RANK, "activation": "silu"}
    sections["train"] = {"sequence_length": SEQUENCE, "micro_batch": ROWS, "steps": 1}
    sections["optimizer"] = {"learning_rate": 0.001}
    sections["data"] = {"mode": "pad"}
    for section, keys in sections.items():
        # Text, booleans and numbers look the same in JSON and TOML.
        lines += ["", f"[{section}]"] + [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def batch(vocabulary):
    """Tokens and labels, both [ROWS, SEQUENCE]; the last row is a short document."""
    random = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, vocabulary, (ROWS, SEQUENCE), generator=random, dtype=torch.int32)
    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    labels[-1, SEQUENCE // 2 :] = IGNORED
    return tokens, labels


# --- weights ------------------------------------------------------------------------------------


class Weights(dict):
    """Checkpoint name -> tensor. Wider than a real start, so that no gradient is negligible."""

    def __init__(self, low_rank):
        super().__init__()
        self.random = torch.Generator().manual_seed(11)
        self.low_rank = low_rank

    def normal(self, name, *shape, std=0.15, mean=0.0):
        self[name] = mean + std * torch.randn(*shape, generator=self.random)

    def linear(self, name, n_in, n_out):
        """A pair [in, r], [r, out] or a dense [out, in]."""
        if self.low_rank:
            self.normal(f"{name}.cola_a", n_in, RANK, std=0.4)
            self.normal(f"{name}.cola_b", RANK, n_out, std=0.4)
        else:
            self.normal(f"{name}.weight", n_out, n_in)


def pair(weights, name, x):
    return F.silu(x @ weights[f"{name}.cola_a"]) @ weights[f"{name}.cola_b"]


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T if f"{name}.weight" in weights else pair(weights, name, x)


# --- attention, written from its definition -----------------------------------------------------


def attend(q, k, v, window=None):
    """q [batch, seq, heads, d], k and v with fewer heads; a position sees itself and `window` - 1 before."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])[None, :]
    hidden = (distance < 0) | (distance >= (window or q.shape[2]))
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(1, 2)


# --- GPT-2 with pairs ---------------------------------------------------------------------------


def gpt2_weights(s, low_rank):
    d, weights = s["hidden_size"], Weights(low_rank)
    weights.normal("transformer.wte.weight", s["vocab_size"], d)
    weights.normal("transformer.wpe.weight", s["max_position_embeddings"], d)
    for i in range(s["num_hidden_layers"]):
        block = f"transformer.h.{i}"
        for norm in ["ln_1", "ln_2"]:
            weights.normal(f"{block}.{norm}.weight", d, std=0.2, mean=1.0)
            weights.normal(f"{block}.{norm}.bias", d)
        if low_rank:
            for name in "qkv":
                weights.linear(f"{block}.attn.c_attn.{name}", d, d)
        else:
            weights.normal(f"{block}.attn.c_attn.weight", d, 3 * d)
        weights.normal(f"{block}.attn.c_attn.bias", 3 * d)
        for name, n_in, n_out in [("attn.c_proj", d, d), ("mlp.c_fc", d, 4 * d), ("mlp.c_proj", 4 * d, d)]:
            if low_rank:
                weights.linear(f"{block}.{name}", n_in, n_out)
            else:
                # Wide enough before the activation to tell the two forms of GELU apart.
                weights.normal(f"{block}.{name}.weight", n_in, n_out, std=0.6 if name == "mlp.c_fc" else 0.15)
            weights.normal(f"{block}.{name}.bias", n_out)
    weights.normal("transformer.ln_f.weight", d, std=0.2, mean=1.0)
    weights.normal("transformer.ln_f.bias", d)
    return weights


def gpt2_logits(s, weights, tokens):
    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], s["layer_norm_eps"])

    def biased(x, name):
        return pair(weights, name, x) + weights[f"{name}.bias"]

    batch, seq = tokens.shape
    heads = (batch, seq, s["num_attention_heads"], -1)
    x = weights["transformer.wte.weight"][tokens.long()] + weights["transformer.wpe.weight"][:seq]
    for i in range(s["num_hidden_layers"]):
        block = f"transformer.h.{i}"
        y = norm(x, f"{block}.ln_1")
        q, k, v = (pair(weights, f"{block}.attn.c_attn.{name}", y) for name in "qkv")
        q, k, v = (torch.cat([q, k, v], -1) + weights[f"{block}.attn.c_attn.bias"]).chunk(3, -1)
        a = attend(q.reshape(heads), k.reshape(heads), v.reshape(heads))
        x = x + biased(a.reshape(batch, seq, -1), f"{block}.attn.c_proj")
        u = F.gelu(biased(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="tanh")
        x = x + biased(u, f"{block}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ weights["transformer.wte.weight"].T


def transformers_gpt2(s, folder):
    """transformers' model with our weights, saved by transformers into `folder`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    activation = {"gelu": "gelu", "gelu_tanh": "gelu_new"}[s.get("hidden_act", "gelu_tanh")]
    config = GPT2Config(
        vocab_size=s["vocab_size"],
        n_embd=s["hidden_size"],
        n_layer=s["num_hidden_layers"],
        n_head=s["num_attention_heads"],
        n_positions=s["max_position_embeddings"],
        layer_norm_epsilon=s["layer_norm_eps"],
        activation_function=activation,
        attn_implementation="eager",
    )
    model = GPT2LMHeadModel(config)
    missing, unexpected = model.load_state_dict(gpt2_weights(s, False), strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    model.eval()
    model.save_pretrained(folder)
    return model


# --- the architecture of examples/own-architecture ----------------------------------------------


def duet_weights(s, low_rank):
    d, f, weights = s["hidden_size"], s["intermediate_size"], Weights(low_rank)
    head = d // s["num_attention_heads"]
    weights.normal("embed.weight", s["vocab_size"], d)
    for i in range(s["num_hidden_layers"]):
        block = f"layers.{i}"
        for norm in ["norm", "attn_norm", "mlp_norm"]:
            weights.normal(f"{block}.{norm}.weight", d, std=0.2, mean=1.0)
        for norm in ["q_norm", "k_norm"]:
            weights.normal(f"{block}.attn.{norm}.weight", head, std=0.2, mean=1.0)
        kv = s["num_key_value_heads"] * head
        for name, n_out in [("q", d), ("k", kv), ("v", kv), ("o", d)]:
            weights.linear(f"{block}.attn.{name}", d, n_out)
        for name, n_in, n_out in [("gate", d, f), ("up", d, f), ("down", f, d)]:
            weights.linear(f"{block}.mlp.{name}", n_in, n_out)
    weights.normal("norm.weight", d, std=0.2, mean=1.0)
    weights.normal("head.weight", s["vocab_size"], d, std=0.5)
    return weights


def duet_logits(s, weights, tokens):
    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], s["norm_eps"])

    def rotate(x):
        """Rotary positions as complex numbers: element i is the real part, i + d/2 the imaginary one."""
        half = x.shape[-1] // 2
        angle = torch.arange(seq)[:, None] * s["rope_theta"] ** (-torch.arange(half) / half)
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.cat([turned.real, turned.imag], -1)

    batch, seq = tokens.shape
    head = s["hidden_size"] // s["num_attention_heads"]
    x = weights["embed.weight"][tokens.long()]
    for i in range(s["num_hidden_layers"]):
        block = f"layers.{i}"
        y = norm(x, f"{block}.norm")
        q, k, v = (linear(weights, f"{block}.attn.{name}", y).reshape(batch, seq, -1, head) for name in "qkv")
        q, k = rotate(norm(q, f"{block}.attn.q_norm")), rotate(norm(k, f"{block}.attn.k_norm"))
        a = attend(q, k, v, None if i % 3 == 2 else s["sliding_window"])
        a = linear(weights, f"{block}.attn.o", a.reshape(batch, seq, -1))
        g = linear(weights, f"{block}.mlp.gate", y)
        g = 0.1 * g + 0.9 * g * torch.sigmoid(s["gate_sharpness"] * g)
        m = linear(weights, f"{block}.mlp.down", g * linear(weights, f"{block}.mlp.up", y))
        x = x + norm(a, f"{block}.attn_norm") + norm(m, f"{block}.mlp_norm")
    logits = norm(x, "norm") @ weights["head.weight"].T
    return s["logit_cap"] * torch.tanh(logits / s["logit_cap"])


# --- fixtures -----------------------------------------------------------------------------------


def make(name, settings, low_rank, folder):
    """Writes `model.safetensors` into `folder`; returns what is expected of the model."""
    tokens, labels = batch(settings["vocab_size"])
    if name.startswith("gpt2") and not low_rank:
        model = transformers_gpt2(settings, folder)
        weights = dict(model.named_parameters())
        logits = model(tokens.long()).logits
    else:
        make_weights, forward = (gpt2_weights, gpt2_logits) if "gpt2" in name else (duet_weights, duet_logits)
        weights = make_weights(settings, low_rank)
        save(weights, folder / "model.safetensors")
        weights = {key: w.clone().requires_grad_() for key, w in weights.items()}
        logits = forward(settings, weights, tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.long().flatten(), ignore_index=IGNORED)
    loss.backward()
    expected = {"tokens": tokens, "labels": labels, "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    for key, weight in weights.items():
        assert weight.grad.norm() > 1e-4, f"{name}: the gradient of {key} is negligible"
        expected[f"grad.{key}"] = weight.grad
    return expected


def save(tensors, path):
    arrays = {key: tensor.contiguous().numpy() for key, tensor in tensors.items()}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})


def files(name, architecture, settings, low_rank, folder):
    save(make(name, settings, low_rank, folder), folder / "expected.safetensors")
    (folder / "spec.toml").write_text(spec(name, architecture, settings, low_rank))
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        path.chmod(0o644)  # the writers of tensors leave them readable to their owner only


def differences(committed, made):
    """Names of what differs between two folders. Rounding differs between machines: a tenth of the test's tolerance."""
    wrong = []
    if (committed / "spec.toml").read_text() != (made / "spec.toml").read_text():
        wrong.append("its spec")
    for file in ["model.safetensors", "expected.safetensors"]:
        a, b = (safetensors.numpy.load_file(folder / file) for folder in (committed, made))
        wrong += sorted(a.keys() ^ b.keys())
        for key in sorted(a.keys() & b.keys()):
            x, y = torch.from_numpy(a[key]), torch.from_numpy(b[key])
            exact = x.dtype == torch.int32 or file == "model.safetensors"
            same = torch.equal(x, y) if exact else (x - y).norm() <= 1e-5 * x.norm()
            if not same:
                wrong.append(key)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    good = True
    for variant in VARIANTS:
        folder = FIXTURES / variant[0]
        if options.check:
            with tempfile.TemporaryDirectory() as made:
                files(*variant, pathlib.Path(made))
                wrong = differences(folder, pathlib.Path(made))
            print(f"{variant[0]}: {'agrees' if not wrong else 'differs in ' + ', '.join(wrong)}")
            good &= not wrong
        else:
            folder.mkdir(parents=True, exist_ok=True)
            files(*variant, folder)
            loss = safetensors.numpy.load_file(folder / "expected.safetensors")["loss"][0]
            print(f"{variant[0]}: loss {loss:.4f}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
