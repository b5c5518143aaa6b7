#!/usr/bin/env python3
"""What a full-rank checkpoint computes under transformers, to compare with what colac computes.

  check_transformers.py CHECKPOINT_DIR TOKENS_JSON [OUT_DIR]

CHECKPOINT_DIR holds `config.json` and `model.safetensors`. TOKENS_JSON holds
`{"tokens": [[...]], "labels": [[...]]}`: the label of a position is already the token after it, and -100 means that the
position has no target. Prints one line, `{"loss": MEAN, "tokens": COUNT}`: the mean cross entropy in nats over the
COUNT valid positions, computed in f32 on the CPU. A checkpoint that lacks a weight, or has one that the model does not
know, is an error.

With OUT_DIR also writes there `expected.safetensors`, which holds `logits` and `loss`, and as `grad.NAME` the gradient of
the loss for each parameter; and lets transformers save the model into `OUT_DIR/saved`.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def write(model, logits, loss, out):
    loss.backward()
    expected = {"logits": logits.detach(), "loss": loss.detach().reshape(1)}
    expected |= {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
    out.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, out / "expected.safetensors")
    model.save_pretrained(out / "saved")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    folder, tokens_file, *out = map(pathlib.Path, sys.argv[1:])
    if not (folder / "config.json").is_file():
        sys.exit(f"{folder} is not a checkpoint: it holds no config.json")
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        torch_dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
        output_loading_info=True,
    )
    # transformers only warns about these and goes on with random weights.
    wrong = {kind: sorted(names) for kind, names in report.items() if names}
    if wrong:
        sys.exit(f"the weights of {folder} do not match its config.json: {wrong}")
    model.eval()
    batch = json.loads(tokens_file.read_text())
    tokens, labels = torch.tensor(batch["tokens"]), torch.tensor(batch["labels"])
    if tokens.shape != labels.shape or tokens.ndim != 2:
        sys.exit(f"tokens {tuple(tokens.shape)} and labels {tuple(labels.shape)} should be equal tables of rows")
    with torch.set_grad_enabled(bool(out)):
        logits = model(tokens).logits.float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    if out:
        write(model, logits, loss, out[0])
    print(json.dumps({"loss": loss.item(), "tokens": int((labels != -100).sum())}))


if __name__ == "__main__":
    main()
