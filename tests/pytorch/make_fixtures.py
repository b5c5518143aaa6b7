#!/usr/bin/env python3
"""Makes, checks and questions the fixtures of the end-to-end test against PyTorch.

  make_fixtures.py            write fixtures/<variant>.safetensors and .toml
  make_fixtures.py --check    make them again in memory and compare with the committed files
  make_fixtures.py --faults   train with every seeded fault; fail unless each leaves the tolerances
  make_fixtures.py --peers    compare the dense variants with transformers' LlamaForCausalLM

Needs torch, numpy and safetensors; `--peers` needs transformers. README.md beside this file names the versions and
describes what is in a fixture.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import numpy
import safetensors.numpy
import torch

import peer

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures"

VARIANTS = [
    peer.Variant("full", clip_norm=2.0),
    peer.Variant("full-grouped", clip_norm=2.0, num_attention_heads=4, num_key_value_heads=2),
    peer.Variant("cola-outer", clip_norm=1.6, rank=12),
    peer.Variant("cola-bypass", clip_norm=1.6, rank=12, bypass=True),
]

# What the end-to-end test allows. Losses: relative, per step. Gradients: |difference| / |reference|, per tensor.
LOSS_TOLERANCE = 1e-4
LOSS_TOLERANCE_LATER = 1e-3
LATER = 20  # the first step, counted from 0, with the second tolerance
GRADIENT_TOLERANCE = 1e-4

# A seeded fault must leave a tolerance by this factor; another correct implementation must stay this far inside.
MARGIN = 10.0


# --- what is in a fixture ---------------------------------------------------------------------


def model_settings(v):
    """The model under the names that a spec and Hugging Face's `config.json` share."""
    return {
        "vocab_size": v.vocab_size,
        "hidden_size": v.hidden_size,
        "intermediate_size": v.intermediate_size,
        "num_hidden_layers": v.num_hidden_layers,
        "num_attention_heads": v.num_attention_heads,
        "num_key_value_heads": v.num_key_value_heads,
        "hidden_act": "silu",
        "rms_norm_eps": v.rms_norm_eps,
        "rope_theta": v.rope_theta,
        "tie_word_embeddings": False,
    }


def spec(v):
    """The text of a spec that describes the same model and the same run."""
    sections = {"model": model_settings(v)}
    if v.rank is not None:
        sections["cola"] = {"rank": v.rank, "activation": "silu"}
        if v.bypass:
            sections["cola"]["bypass"] = "layers.*.mlp.act_fn"
    sections["train"] = {
        "sequence_length": v.sequence_length,
        "micro_batch": v.micro_batch,
        "global_batch": v.global_batch,
        "steps": v.steps,
        "precision": "f32",
        "loss_normalization": "global-token",
    }
    sections["optimizer"] = {
        "learning_rate": v.learning_rate,
        "beta1": v.betas[0],
        "beta2": v.betas[1],
        "epsilon": v.eps,
        "weight_decay": v.weight_decay,
        "decay": "all",
        "clip_norm": v.clip_norm,
    }
    sections["schedule"] = {
        "kind": "cosine",
        "warmup_steps": v.warmup_steps,
        "final_factor": v.final_factor,
    }
    sections["data"] = {"mode": "pad"}
    lines = ["# Written by make_fixtures.py.", f'name = "{v.name}"', 'architecture = "llama"']
    for section, keys in sections.items():
        lines += ["", f"[{section}]"]
        # Text, booleans and numbers look the same in JSON and TOML.
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def make(v):
    """Trains the variant and returns its fixture: name -> tensor."""
    start = peer.initial_weights(v)
    tokens, labels = peer.batches(v)
    run = peer.train(v, start, tokens, labels)
    demand_useful(v, labels, run)
    with torch.no_grad():
        first = peer.logits(v, start, tokens[0, : v.micro_batch])
    return {
        **start,
        "tokens": tokens,
        "labels": labels,
        "logits": first,
        "losses": torch.tensor(run["losses"]),
        "grad_norms": torch.tensor(run["grad_norms"]),
        "learning_rates": torch.tensor(run["learning_rates"]),
        **{f"grad.{name}": g for name, g in run["gradients"].items()},
        **{f"final.{name}": w for name, w in run["weights"].items()},
    }


def demand_useful(v, labels, run):
    """Refuses a run that would not exercise what the fixtures are for."""
    clipped = [norm > v.clip_norm for norm in run["grad_norms"]]
    if not 5 <= sum(clipped) <= v.steps - 5:
        sys.exit(f"{v.name}: clipping is active in {sum(clipped)} of {v.steps} steps; move clip_norm")
    early = clipped[:LATER]
    if all(early) or not any(early):
        sys.exit(f"{v.name}: clipping never changes in the first {LATER} steps; move clip_norm")
    if run["losses"][-1] > 0.8 * run["losses"][0]:
        sys.exit(f"{v.name}: the loss does not fall: {run['losses'][0]:.3f} to {run['losses'][-1]:.3f}")
    valid = (labels != peer.IGNORED).sum(-1)
    if not (valid[:, -1] < v.sequence_length // 2).all() or not (valid[:, :-1] == v.sequence_length - 1).all():
        sys.exit(f"{v.name}: exactly the last row of each step should be padded")


def write(v, fixture):
    FIXTURES.mkdir(exist_ok=True)
    arrays = {name: tensor.contiguous().numpy() for name, tensor in fixture.items()}
    path = FIXTURES / f"{v.name}.safetensors"
    safetensors.numpy.save_file(arrays, path)
    path.chmod(0o644)  # the writer leaves it readable to its owner only
    (FIXTURES / f"{v.name}.toml").write_text(spec(v))


# --- comparing --------------------------------------------------------------------------------


def relative(value, reference):
    """|value - reference| / |reference| in the Euclidean norm."""
    value, reference = torch.as_tensor(value).double(), torch.as_tensor(reference).double()
    return ((value - reference).norm() / reference.norm()).item()


@dataclasses.dataclass
class Deviation:
    """How far a run is from the reference run: the largest relative deviations of each kind."""

    loss: float  # first LATER steps
    loss_later: float
    gradient: float  # worst tensor of the first step

    @staticmethod
    def between(run, reference):
        losses = [abs(a - b) / abs(b) for a, b in zip(run["losses"], reference["losses"], strict=True)]
        gradients = [relative(run["gradients"][name], g) for name, g in reference["gradients"].items()]
        # A run that left the numbers altogether deviates without bound; max() would lose a NaN.
        losses, gradients = ([x if x == x else float("inf") for x in xs] for xs in (losses, gradients))
        return Deviation(max(losses[:LATER]), max(losses[LATER:]), max(gradients))

    def in_tolerances(self):
        """The largest of the three, each in multiples of its tolerance."""
        return max(
            self.loss / LOSS_TOLERANCE,
            self.loss_later / LOSS_TOLERANCE_LATER,
            self.gradient / GRADIENT_TOLERANCE,
        )


def print_faults():
    """Prints the table of README.md; returns whether every fault shows and the rounding does not."""
    print("| variant | run | loss, first 20 steps | loss, later | gradients of the first step | in tolerances |")
    print("| --- | --- | --- | --- | --- | --- |")
    good = True
    for v in VARIANTS:
        start, (tokens, labels) = peer.initial_weights(v), peer.batches(v)
        reference = peer.train(v, start, tokens, labels)
        runs = [("no fault, in float64", None, torch.float64)]
        runs += [(fault, fault, torch.float32) for fault in v.possible_faults()]
        for title, fault, dtype in runs:
            run = peer.train(v, start, tokens, labels, fault, dtype)
            deviation = Deviation.between(run, reference)
            times = deviation.in_tolerances()
            print(
                f"| {v.name} | {title} | {deviation.loss:.1e} | {deviation.loss_later:.1e} "
                f"| {deviation.gradient:.1e} | {times:.2g} |"
            )
            good &= times < 1 / MARGIN if fault is None else times > MARGIN
    return good


def check():
    """Compares what this machine makes with the committed files; returns whether they agree.

    Tokens and specs must be equal. Floating-point results differ in the last bits between
    machines (vector widths), which training then amplifies: they get a tenth of the test's tolerances,
    and the final weights the tolerance of the late losses.
    """
    good = True
    for v in VARIANTS:
        path = FIXTURES / f"{v.name}.safetensors"
        committed = {name: torch.from_numpy(a) for name, a in safetensors.numpy.load_file(path).items()}
        made = make(v)
        wrong = [] if (FIXTURES / f"{v.name}.toml").read_text() == spec(v) else ["its spec"]
        wrong += sorted(committed.keys() ^ made.keys())
        for name in sorted(committed.keys() & made.keys()):
            if name in ("tokens", "labels"):
                agrees = torch.equal(committed[name], made[name])
            elif name == "losses":
                deviations = (made[name] - committed[name]).abs() / committed[name]
                agrees = deviations[:LATER].max() < LOSS_TOLERANCE / MARGIN
                agrees &= deviations[LATER:].max() < LOSS_TOLERANCE_LATER / MARGIN
            elif name.startswith("final.") or name == "grad_norms":
                agrees = relative(made[name], committed[name]) < LOSS_TOLERANCE_LATER
            else:
                agrees = relative(made[name], committed[name]) < GRADIENT_TOLERANCE / MARGIN
            if not agrees:
                wrong.append(name)
        print(f"{v.name}: {'agrees' if not wrong else 'differs in ' + ', '.join(wrong)}")
        good &= not wrong
    return good


def compare_with_transformers():
    """Logits and gradients of the dense variants against an implementation that is not ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    good = True
    for v in VARIANTS:
        if v.rank is not None:
            continue
        model = LlamaForCausalLM(LlamaConfig(**model_settings(v), attn_implementation="eager"))
        start, (tokens, labels) = peer.initial_weights(v), peer.batches(v)
        model.load_state_dict(start)
        weights = {name: w.clone().requires_grad_() for name, w in start.items()}
        theirs, ours = model(tokens[0].long()).logits, peer.logits(v, weights, tokens[0])
        for result in (theirs, ours):
            peer.loss_sum(result, labels[0]).backward()
        worst = max(relative(weights[name].grad, p.grad) for name, p in model.named_parameters())
        of_logits = relative(ours.detach(), theirs.detach())
        print(f"{v.name}: logits differ by {of_logits:.1e}, the worst gradient by {worst:.1e}")
        good &= of_logits < 1e-5 and worst < 1e-5
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="compare with the committed files")
    action.add_argument("--faults", action="store_true", help="print what each seeded fault changes")
    action.add_argument("--peers", action="store_true", help="compare with transformers")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)

    if options.check:
        good = check()
    elif options.faults:
        good = print_faults()
    elif options.peers:
        good = compare_with_transformers()
    else:
        good = True
        for v in VARIANTS:
            fixture = make(v)
            write(v, fixture)
            norms, losses = fixture["grad_norms"], fixture["losses"]
            print(
                f"{v.name}: loss {losses[0]:.4f} to {losses[-1]:.4f}, gradient norms {norms.min():.3f} to "
                f"{norms.max():.3f}, {int((norms > v.clip_norm).sum())} of {v.steps} steps clipped"
            )
    versions = f"torch {torch.__version__}, numpy {numpy.__version__}, safetensors {safetensors.__version__}"
    print(f"({versions})", file=sys.stderr)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
