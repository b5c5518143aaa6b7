#!/usr/bin/env python3
"""Loss of a full-rank checkpoint under transformers, to compare with the loss colac computes.

  check_transformers.py CHECKPOINT_DIR TOKENS_JSON

CHECKPOINT_DIR holds `config.json` and `model.safetensors`. TOKENS_JSON holds
`{"tokens": [[...]], "labels": [[...]]}`: the label of a position is already the token after it, and -100 means that the
position has no target. Prints one line, `{"loss": MEAN, "tokens": COUNT}`: the mean cross entropy in nats over the
COUNT valid positions, computed in f32 on the CPU. A checkpoint that lacks a weight, or has one that the model does not
know, is an error.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, tokens_file = map(pathlib.Path, sys.argv[1:])
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
    with torch.no_grad():
        logits = model(tokens).logits.float()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    print(json.dumps({"loss": loss.item(), "tokens": int((labels != -100).sum())}))


if __name__ == "__main__":
    main()
