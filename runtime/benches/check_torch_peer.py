#!/usr/bin/env python3
"""Whether `torch_peer.py` computes what it should: sizes, losses, gradients and steps of training, on the CPU.

    check_torch_peer.py                          against specs/ and tests/pytorch/peer.py
    check_torch_peer.py --baseline OTHER.py      and against another peer, given by its path

Another peer is a script with `Model(config, variant, fuse=…)`, a module from tokens to the loss, whose blocks hold
`n1`, `n2` and a dictionary `w` of `a_q`, `b_q` …, or `w_q` …, and whose variants have the same names.
Needs Python 3.11 or newer and torch; exits with 1 if anything differs.
"""

import argparse
import dataclasses
import importlib.util
import sys
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F

import torch_peer as peer

ROOT = Path(__file__).resolve().parents[2]
# Published counts (arXiv 2502.10940): full rank, CoLA.
PARAMETERS = {
    "60m": (58_073_600, 42_770_944),
    "130m": (134_105_856, 93_997_824),
    "350m": (367_969_280, 185_222_144),
    "1b": (1_339_082_752, 609_310_720),
    "7b": (6_738_415_616, 2_820_935_680),
}
# Distance ‖a - b‖ / ‖b‖ that two orders of f32 arithmetic may leave.
EXACT = 2e-5
# After some updates: AdamW turns a small difference of a small gradient into one of a whole step.
TRAINED = 1e-3
SMALL = peer.Size(
    hidden=48, intermediate=112, layers=3, heads=3, vocabulary=96, rank=12, outer_silu=True, sequence=24, micro_batch=2
)

failures = []


def check(what, distance, bound, least=False):
    """Prints one line; with `least` the distance must be above the bound, so that a fault would show."""
    held = distance > bound if least else distance <= bound
    relation = "above" if least else "at most"
    print(f"{'ok    ' if held else 'FAILED'}  {what}: {distance:.2e}, {relation} {bound:.0e}")
    if not held:
        failures.append(what)


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# --- sizes ----------------------------------------------------------------------------------------


def check_sizes():
    for name, size in peer.SIZES.items():
        spec = tomllib.loads((ROOT / "specs" / f"llama-{name}.toml").read_text())
        model, train, cola = spec["model"], spec["train"], spec["cola"]
        divisor = int(cola["rank"].removeprefix("hidden_size / "))
        expected = peer.Size(
            hidden=model["hidden_size"],
            intermediate=model["intermediate_size"],
            layers=model["num_hidden_layers"],
            heads=model["num_attention_heads"],
            vocabulary=model["vocab_size"],
            rank=model["hidden_size"] // divisor,
            outer_silu="bypass" not in cola,
            sequence=train["sequence_length"],
            micro_batch=train["micro_batch"],
        )
        check(f"{name} is specs/llama-{name}.toml", float(size != expected), 0)
        if name in PARAMETERS:
            with torch.device("meta"):
                found = tuple(sum(p.numel() for p in peer.Model(size, v).parameters()) for v in ("full", "cola"))
            check(f"{name} has the published parameters", float(found != PARAMETERS[name]), 0)


# --- weights of others, put into the peer ---------------------------------------------------------


def projections(block):
    """Each projection's name with the module that holds it."""
    yield block.qkv, ("q", "k", "v")
    yield block.output, ("o",)
    yield block.gate_up, ("gate", "up")
    yield block.mlp_down, ("down",)


def names_and_weights(model):
    """(name of the projection's first or second matrix, parameter, rows of it) for every matrix of the blocks."""
    for index, block in enumerate(model.blocks):
        for module, names in projections(block):
            start = 0
            for position, name in enumerate(names):
                rows = module.widths[position]
                if len(module.first) < len(names):
                    yield index, name, "first", module.first[0], slice(start, start + rows)
                    start += rows
                else:
                    yield index, name, "first", module.first[position], slice(None)
                if module.rank:
                    yield index, name, "second", module.second[position], slice(None)


def put(model, matrix, vectors, ends):
    """Copies weights in. `matrix(block, name, which)`, [out, in]; `vectors(block)`, two norms; `ends`, the rest."""
    with torch.no_grad():
        for index, name, which, parameter, rows in names_and_weights(model):
            parameter[rows] = matrix(index, name, which)
        for index, block in enumerate(model.blocks):
            for parameter, value in zip((block.attention_norm, block.mlp_norm), vectors(index)):
                parameter.copy_(value)
        for parameter, value in zip((model.embedding, model.norm, model.head), ends):
            parameter.copy_(value)


def check_gradients(what, model, matrix, vectors, ends):
    """The same accessors, now for the gradients to be met."""
    worst = max(
        distance(parameter.grad[rows], matrix(index, name, which))
        for index, name, which, parameter, rows in names_and_weights(model)
    )
    for index, block in enumerate(model.blocks):
        for parameter, value in zip((block.attention_norm, block.mlp_norm), vectors(index)):
            worst = max(worst, distance(parameter.grad, value))
    for parameter, value in zip((model.embedding, model.norm, model.head), ends):
        worst = max(worst, distance(parameter.grad, value))
    check(f"{what}, gradients", worst, EXACT)


def table(size):
    return peer.rope_table(size.sequence, size.hidden // size.heads, "cpu")


# --- the peer of the fixtures ---------------------------------------------------------------------

PATHS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip


def accessors(of):
    """Accessors of `put` for a dictionary under checkpoint names; `of` takes from a tensor what is wanted."""

    def matrix(weights, low_rank):
        def get(block, name, which):
            path = f"model.layers.{block}.{PATHS[name]}"
            if not low_rank:
                return of(weights[f"{path}.weight"])
            return of(weights[f"{path}.cola_{'a' if which == 'first' else 'b'}"]).T

        return get

    def vectors(weights):
        norms = ("input_layernorm", "post_attention_layernorm")
        return lambda block: [of(weights[f"model.layers.{block}.{norm}.weight"]) for norm in norms]

    def ends(weights):
        return [of(weights[f"{name}.weight"]) for name in ("model.embed_tokens", "model.norm", "lm_head")]

    return lambda weights, low_rank: (matrix(weights, low_rank), vectors(weights), ends(weights))


def check_against_fixture_peer():
    fixtures = load(ROOT / "tests" / "pytorch" / "peer.py", "fixture_peer")
    weight, gradient = accessors(lambda t: t.detach()), accessors(lambda t: t.grad)
    random = torch.Generator().manual_seed(1)
    rows = torch.randint(0, SMALL.vocabulary, (6, 2, SMALL.micro_batch, SMALL.sequence), generator=random)
    for variant in peer.VARIANTS:
        low_rank = variant.startswith("cola")
        for outer in (True, False) if low_rank else (True,):
            for grouped in (False, True):
                size = dataclasses.replace(SMALL, outer_silu=outer)
                other = fixtures.Variant(
                    "check", rank=size.rank if low_rank else None, bypass=not outer, num_hidden_layers=size.layers
                )
                start = fixtures.initial_weights(other)
                weights = {name: value.clone().requires_grad_() for name, value in start.items()}
                tokens = rows[0, 0]
                labels = F.pad(tokens[:, 1:], (0, 1), value=fixtures.IGNORED)
                expected = fixtures.loss_sum(fixtures.logits(other, weights, tokens), labels) / (labels >= 0).sum()
                expected.backward()
                model = peer.Model(size, variant, grouped)
                put(model, *weight(weights, low_rank))
                loss = model(tokens, *table(size))
                loss.backward()
                what = f"{variant}{', grouped' if grouped else ''}{'' if outer else ', gate without SiLU'}"
                check(f"{what}, loss", distance(loss.detach(), expected.detach()), EXACT)
                check_gradients(what, model, *gradient(weights, low_rank))
        check_training(fixtures, variant, weight, rows)
    # What tells the two gates apart must be far above the bound, else the lines above would prove nothing.
    losses = []
    for outer in (True, False):
        model = peer.Model(dataclasses.replace(SMALL, outer_silu=outer), "cola")
        put(model, *weight(fixtures.initial_weights(fixtures.Variant("check", rank=12, num_hidden_layers=3)), True))
        losses.append(model(rows[0, 0], *table(SMALL)).detach())
    check("the gate's SiLU shows in the loss", distance(losses[0], losses[1]), 10 * EXACT, least=True)


def check_training(fixtures, variant, weight, rows):
    """Two micro-batches a step, clipping, AdamW: the loop against its plainest form."""
    low_rank = variant.startswith("cola")
    other = fixtures.Variant("check", rank=SMALL.rank if low_rank else None, num_hidden_layers=SMALL.layers)
    start = fixtures.initial_weights(other)
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    plain = torch.optim.AdamW(weights.values(), lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, foreach=False)
    expected, norms = [], []
    for micro_batches in rows:
        total = 0.0
        for tokens in micro_batches:
            labels = F.pad(tokens[:, 1:], (0, 1), value=fixtures.IGNORED)
            loss = fixtures.loss_sum(fixtures.logits(other, weights, tokens), labels) / (labels >= 0).sum() / len(rows[0])
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), 1.0, foreach=False).item())
        plain.step()
        plain.zero_grad()
        expected.append(total)
    assert max(norms) > 1.0, "clipping must take part"
    bounds = {"f32": TRAINED, "master": 1e-2, "pure": 5e-2}
    for precision, bound in bounds.items():
        model = peer.Model(SMALL, variant)
        put(model, *weight(start, low_rank))
        trainer = peer.Trainer(model, precision, accumulation=2, clip=1.0, learning_rate=5e-3, weight_decay=0.1)
        cos, sin = (x.to(model.embedding.dtype) for x in table(SMALL))
        losses, found = [], []
        for micro_batches in rows:
            losses.append(trainer.step(micro_batches, cos, sin))
            found.append(trainer.norm.float())
        check(f"{variant}, {precision}, losses of training", distance(torch.stack(losses), torch.tensor(expected)), bound)
        # AdamW hides a wrong scale of gradients; their norm shows it.
        check(f"{variant}, {precision}, gradient norms", distance(torch.stack(found), torch.tensor(norms)), bound)
        if precision == "master":
            off = sum((w != m.bfloat16()).sum().item() for w, m in zip(trainer.weights, trainer.stepped))
            check(f"{variant}, weights are their masters rounded", float(off), 0)
            kinds = {s.dtype for state in trainer.optimizer.state.values() for s in state.values() if s.dim()}
            check(f"{variant}, master moments are f32", float(kinds != {torch.float32}), 0)


# --- another peer ---------------------------------------------------------------------------------


def check_against_baseline(path):
    baseline = load(path, "baseline")
    random = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, SMALL.vocabulary, (2, SMALL.sequence), generator=random)
    for variant in peer.VARIANTS:
        low_rank = variant.startswith("cola")
        for outer in (True, False):
            for grouped in (False, True):
                size = dataclasses.replace(SMALL, outer_silu=outer)
                config = dict(
                    hidden=size.hidden, ffn=size.intermediate, layers=size.layers, heads=size.heads,
                    vocab=size.vocabulary, rank=size.rank, glu_act=outer,
                )  # fmt: skip
                torch.manual_seed(3)
                other = baseline.Model(config, variant, fuse=False)
                for norm in [other.norm, *(n for b in other.blocks for n in (b.n1, b.n2))]:
                    norm.data += 0.2 * torch.randn(size.hidden)

                def given(of):
                    def matrix(block, name, which):
                        prefix = ("a_" if which == "first" else "b_") if low_rank else "w_"
                        return of(other.blocks[block].w[prefix + name])

                    def vectors(block):
                        return [of(other.blocks[block].n1), of(other.blocks[block].n2)]

                    return matrix, vectors, [of(other.embed), of(other.norm), of(other.head)]

                expected = other(tokens)
                expected.backward()
                model = peer.Model(size, variant, grouped)
                put(model, *given(lambda t: t.detach()))
                loss = model(tokens, *table(size))
                loss.backward()
                what = f"baseline {variant}{', grouped' if grouped else ''}{'' if outer else ', gate without SiLU'}"
                check(f"{what}, loss", distance(loss.detach(), expected.detach()), EXACT)
                check_gradients(what, model, *given(lambda t: t.grad))
    for name, size in peer.SIZES.items():
        config = baseline.PRESETS.get(name)
        if config:
            ours = (size.hidden, size.intermediate, size.layers, size.heads, size.vocabulary, size.rank)
            theirs = tuple(config[key] for key in ("hidden", "ffn", "layers", "heads", "vocab", "rank"))
            check(f"baseline {name}", float((*ours, size.outer_silu) != (*theirs, config["glu_act"])), 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="another peer to be held to as well")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    check_sizes()
    check_against_fixture_peer()
    if chosen.baseline:
        check_against_baseline(chosen.baseline)
    if failures:
        print(f"\n{len(failures)} of the checks failed", file=sys.stderr)
        sys.exit(1)
    print("\nall checks held")


if __name__ == "__main__":
    main()
