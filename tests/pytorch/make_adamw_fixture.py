#!/usr/bin/env python3
"""Makes the fixture of AdamW on numbers that are all bf16: what PyTorch's fused implementation does to them.

Needs torch with a fused AdamW on the CPU, and safetensors. README.md beside this file describes what is in the fixture.
"""

import pathlib

import safetensors.torch
import torch

FIXTURE = pathlib.Path(__file__).resolve().parent / "fixtures" / "adamw-bf16.safetensors"
ELEMENTS, STEPS, RATE = 256, 24, 0.01


def main():
    generator = torch.Generator().manual_seed(11)
    start = torch.randn(ELEMENTS, generator=generator).to(torch.bfloat16)
    # Gradients of sizes far apart, and none in the second half of the run, where the moments should decay.
    scales = torch.logspace(-4, 1, ELEMENTS)
    gradients = (torch.randn(STEPS, ELEMENTS, generator=generator) * scales).to(torch.bfloat16)
    gradients[STEPS // 2 :] = 0
    weight = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([weight], lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, fused=True)
    weights, first, second = [], [], []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        state = optimizer.state[weight]
        weights.append(weight.detach().clone())
        first.append(state["exp_avg"].clone())
        second.append(state["exp_avg_sq"].clone())
    assert all(t.dtype == torch.bfloat16 for t in weights + first + second)
    tensors = {"start": start, "gradients": gradients}
    tensors |= {"weights": torch.stack(weights), "first": torch.stack(first), "second": torch.stack(second)}
    safetensors.torch.save_file(tensors, FIXTURE)
    FIXTURE.chmod(0o644)
    print(f"{FIXTURE.name}: {ELEMENTS} elements, {STEPS} steps (torch {torch.__version__})")


if __name__ == "__main__":
    main()
