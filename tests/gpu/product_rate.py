#!/usr/bin/env python3
"""The rate of one large bf16 product in PyTorch, sustained: what model FLOP utilisation is measured against.

    product_rate.py SECONDS [--device cpu] [--size N]

Prints FLOP/s of N × N × N products on random data: the median of the last half of the time, when the card is as warm
as a training step makes it, and the best.
"""

import argparse
import json
import statistics
import time

import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=8192)
    chosen = parser.parse_args()
    size, cuda = chosen.size, chosen.device == "cuda"
    a, b = (torch.randn(size, size, device=chosen.device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    wait = torch.cuda.synchronize if cuda else lambda: None
    for _ in range(3):
        torch.mm(a, b, out=out)
    wait()
    # Several products between two looks at the clock, so that the launch costs nothing.
    batch = 10 if cuda else 1
    rates, start = [], time.perf_counter()
    while not rates or time.perf_counter() - start < chosen.seconds:
        before = time.perf_counter()
        for _ in range(batch):
            torch.mm(a, b, out=out)
        wait()
        rates.append(batch * 2 * size**3 / (time.perf_counter() - before))
    print(json.dumps({
        "size": size,
        "seconds": chosen.seconds,
        "sustained_flops_per_second": statistics.median(rates[len(rates) // 2 :]),
        "best_flops_per_second": max(rates),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
