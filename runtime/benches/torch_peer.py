#!/usr/bin/env python3
"""How fast PyTorch trains what colac trains: LLaMA in full rank, in CoLA form, and CoLA with checkpoints.

Owns the peer's model, its training step and its clock. Knows nothing of plans, specs and checkpoints, and needs
nothing but torch. `check_torch_peer.py` holds it to other implementations and to `specs/`.

    torch_peer.py --size 1b --variant cola --device cuda --precision master --compile default
    torch_peer.py --size 1b --variant cola --device cuda --precision pure --attention math      # as published
    torch_peer.py --size nano --variant full --steps 3                                          # on the CPU

Prints one JSON object. Steps are those of training on made-up tokens, without data, logging and checkpoints.

variants
  full      dense projections
  cola      each of the seven projections of a block is B silu(A x)
  gcp       full, each block checkpointed
  cola-gcp  cola, each block checkpointed
  cola-m    cola, checkpointed between the tensors that are as wide as the rank, as the published CoLA-M:
            what lives from forward to backward is two residuals and seven such tensors for each block, and the
            backward pass computes everything else again, products by A included

precisions
  f32       everything in f32, without TF32
  master    bf16 weights and activations; f32 master weights, f32 gradients and f32 moments: colac's `bf16`. Autograd
            makes a bf16 gradient of a bf16 weight; it is added to an f32 buffer after each micro-batch
  pure      everything in bf16, as the published code: colac's `bf16-pure`
"""

import argparse
import contextlib
import dataclasses
import json
import platform
import resource
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

VARIANTS = ("full", "cola", "gcp", "cola-gcp", "cola-m")
NORM_EPS = 1e-6
ROPE_THETA = 10000.0
INITIALIZER_RANGE = 0.02


@dataclasses.dataclass(frozen=True)
class Size:
    """A model of `specs/llama-NAME.toml`, and the micro-batch of its published recipe."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    rank: int
    # Whether the gate of the MLP keeps its own SiLU in CoLA form; full rank always does.
    outer_silu: bool
    sequence: int
    micro_batch: int


SIZES = {
    "nano": Size(128, 344, 4, 2, 4096, 32, True, 128, 8),
    "tiny": Size(256, 688, 6, 4, 8192, 64, True, 256, 8),
    "60m": Size(512, 1376, 8, 8, 32000, 128, True, 256, 256),
    "130m": Size(768, 2048, 12, 12, 32000, 256, True, 256, 256),
    "350m": Size(1024, 2736, 24, 16, 32000, 256, False, 256, 64),
    "1b": Size(2048, 5461, 24, 32, 32000, 512, False, 256, 32),
    "7b": Size(4096, 11008, 32, 32, 32000, 1024, False, 256, 16),
}


# --- the model ------------------------------------------------------------------------------------


def rms_norm(x, gain):
    """Statistics in f32, result in the type of `x`, as LLaMA."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + NORM_EPS)
    return wide.to(x.dtype) * gain


def rope_table(positions, head_width, device):
    """Cosines and sines, [positions, head_width], for pairs of the two halves of a head."""
    exponents = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    angles = torch.outer(torch.arange(positions, device=device, dtype=torch.float32), ROPE_THETA**-exponents)
    return torch.cat((angles.cos(),) * 2, -1), torch.cat((angles.sin(),) * 2, -1)


def rotate(x, cos, sin):
    """Rotary positions on [batch, heads, positions, head_width]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Projections(nn.Module):
    """Projections that read the same input: queries, keys and values; gate and up; or a single one.

    `down` is the product that reads the wide input, by A and with the activation behind it, and `up` the one by B.
    In full rank `down` is the whole projection and `up` passes it on, so a block is written once for both forms.
    With `grouped` the matrices of `down` are one parameter and one product.
    """

    def __init__(self, inputs, outputs, rank, grouped):
        super().__init__()
        self.widths = [rank or width for width in outputs]
        self.rank = rank
        # Both factors of a pair: the entries of B A then have the variance 1 / (inputs + outputs).
        deviations = [(inputs + width) ** -0.25 * rank**-0.25 if rank else INITIALIZER_RANGE for width in outputs]
        first = [torch.randn(rows, inputs) * std for rows, std in zip(self.widths, deviations)]
        self.first = nn.ParameterList([torch.cat(first)] if grouped else first)
        second = [torch.randn(width, rank) * std for width, std in zip(outputs, deviations)] if rank else []
        self.second = nn.ParameterList(second)

    def down(self, x):
        products = [F.linear(x, weight) for weight in self.first]
        if len(products) < len(self.widths):
            products = products[0].split(self.widths, -1)
        return tuple(F.silu(z) for z in products) if self.rank else tuple(products)

    def up(self, *narrow):
        return tuple(F.linear(z, weight) for z, weight in zip(narrow, self.second)) if self.rank else narrow


class Block(nn.Module):
    """A decoder block in five stretches; between two of them lies what a checkpoint of CoLA-M keeps."""

    def __init__(self, size, low_rank, grouped):
        super().__init__()
        width, intermediate = size.hidden, size.intermediate
        rank = size.rank if low_rank else None
        self.heads = size.heads
        self.outer_silu = size.outer_silu or not low_rank
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.mlp_norm = nn.Parameter(torch.ones(width))
        self.qkv = Projections(width, [width] * 3, rank, grouped)
        self.output = Projections(width, [width], rank, False)
        self.gate_up = Projections(width, [intermediate] * 2, rank, grouped)
        self.mlp_down = Projections(intermediate, [width], rank, False)

    def into_attention(self, residual):
        return self.qkv.down(rms_norm(residual, self.attention_norm))

    def attention(self, q, k, v, cos, sin):
        batch, positions = q.shape[:2]
        heads = [x.view(batch, positions, self.heads, -1).transpose(1, 2) for x in self.qkv.up(q, k, v)]
        q, k, v = rotate(heads[0], cos, sin), rotate(heads[1], cos, sin), heads[2]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output.down(mixed.transpose(1, 2).reshape(batch, positions, -1))[0]

    def into_mlp(self, residual, narrow):
        residual = residual + self.output.up(narrow)[0]
        return residual, *self.gate_up.down(rms_norm(residual, self.mlp_norm))

    def mlp(self, gate, up):
        gate, up = self.gate_up.up(gate, up)
        return self.mlp_down.down((F.silu(gate) if self.outer_silu else gate) * up)[0]

    def out_of_mlp(self, residual, narrow):
        return residual + self.mlp_down.up(narrow)[0]

    def forward(self, residual, cos, sin):
        narrow = self.attention(*self.into_attention(residual), cos, sin)
        residual, gate, up = self.into_mlp(residual, narrow)
        return self.out_of_mlp(residual, self.mlp(gate, up))


def out_of_one_into_next(previous, block, residual, narrow):
    """The end of a block and the beginning of the next: one stretch, since a residual lies between."""
    residual = previous.out_of_mlp(residual, narrow)
    return residual, *block.into_attention(residual)


class Model(nn.Module):
    """Tokens [batch, positions] to the mean loss of predicting each row's next tokens, in f32."""

    def __init__(self, size, variant, grouped=False):
        super().__init__()
        self.size, self.variant = size, variant
        low_rank = variant.startswith("cola")
        self.embedding = nn.Parameter(torch.randn(size.vocabulary, size.hidden) * INITIALIZER_RANGE)
        self.blocks = nn.ModuleList(Block(size, low_rank, grouped) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.hidden))
        self.head = nn.Parameter(torch.randn(size.vocabulary, size.hidden) * INITIALIZER_RANGE)
        self.compiled = lambda function: function
        self.loss = self.loss_of_residual

    def compile_parts(self, mode):
        """Compile block by block: all blocks share one compilation, which takes a tenth of the whole model's time."""
        if self.variant == "cola-m":
            parts = {}
            self.compiled = lambda function: parts.setdefault(function, torch.compile(function, mode=mode))
        else:
            for block in self.blocks:
                block.compile(mode=mode)
        self.loss = torch.compile(self.loss_of_residual, mode=mode)

    def trunk(self, residual, cos, sin):
        # There is no randomness to repeat in the backward pass.
        kept = dict(use_reentrant=False, preserve_rng_state=False)
        if self.variant == "cola-m":
            return self.trunk_between_narrow_tensors(residual, cos, sin, kept)
        for block in self.blocks:
            if self.variant.endswith("gcp"):
                residual = checkpoint(block, residual, cos, sin, **kept)
            else:
                residual = block(residual, cos, sin)
        return residual

    def trunk_between_narrow_tensors(self, residual, cos, sin, kept):
        def stretch(function, *tensors):
            return checkpoint(self.compiled(function), *tensors, **kept)

        previous, narrow = None, None
        for block in self.blocks:
            if previous is None:
                qkv = stretch(Block.into_attention, block, residual)
            else:
                residual, *qkv = stretch(out_of_one_into_next, previous, block, residual, narrow)
            narrow = stretch(Block.attention, block, *qkv, cos, sin)
            residual, gate, up = stretch(Block.into_mlp, block, residual, narrow)
            narrow = stretch(Block.mlp, block, gate, up)
            previous = block
        return stretch(Block.out_of_mlp, previous, residual, narrow)

    def loss_of_residual(self, residual, tokens):
        logits = F.linear(rms_norm(residual, self.norm), self.head).float()
        # The last position of a row has nothing to predict; leaving it out of the logits would copy them.
        labels = F.pad(tokens[:, 1:], (0, 1), value=-100)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)

    def forward(self, tokens, cos, sin):
        residual = F.embedding(tokens, self.embedding)
        return self.loss(self.trunk(residual, cos, sin), tokens)


# --- a step of training ---------------------------------------------------------------------------


class Trainer:
    """Micro-batches, clipping and AdamW; what is f32 and what bf16 is said by `precision`."""

    def __init__(self, model, precision, accumulation=1, clip=1.0, learning_rate=1e-3, weight_decay=0.01, fused=True):
        self.model, self.accumulation, self.clip = model, accumulation, clip
        self.call = model
        # Of the last step's gradient, before clipping.
        self.norm = None
        self.weights = list(model.parameters())
        self.stepped = self.weights
        if precision == "master":
            self.stepped = [nn.Parameter(weight.detach().float()) for weight in self.weights]
        if precision != "f32":
            model.to(torch.bfloat16)
        # With master weights gradients need another type; with several micro-batches a compiled model may write each
        # one's gradients into the same memory. Otherwise the gradients that autograd leaves are stepped with.
        self.gradients = None
        if precision == "master" or accumulation > 1:
            self.gradients = [torch.zeros_like(weight) for weight in self.stepped]
        self.optimizer = torch.optim.AdamW(
            self.stepped, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, fused=fused
        )

    def step(self, rows, cos, sin):
        """One update from rows [accumulation, batch, positions]; returns the mean of the micro-batches' losses."""
        losses = []
        for index, tokens in enumerate(rows):
            loss = self.call(tokens, cos, sin)
            (loss if self.accumulation == 1 else loss / self.accumulation).backward()
            losses.append(loss.detach().clone())
            if self.gradients is not None:
                self.take_gradients(is_first=index == 0)
        if self.gradients is not None:
            for weight, gradient in zip(self.stepped, self.gradients):
                weight.grad = gradient
        if self.clip:
            self.norm = torch.nn.utils.clip_grad_norm_(self.stepped, self.clip, foreach=True)
        self.optimizer.step()
        for weight in self.stepped:
            weight.grad = None
        if self.stepped is not self.weights:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.stepped)
        return torch.stack(losses).mean()

    def take_gradients(self, is_first):
        made = [weight.grad for weight in self.weights]
        if is_first:
            torch._foreach_copy_(self.gradients, made)
        else:
            for total, gradient in zip(self.gradients, made):
                total.add_(gradient)
        for weight in self.weights:
            weight.grad = None


# --- the command ----------------------------------------------------------------------------------


def attention_backend(name):
    """The context in which attention runs."""
    if name == "auto":
        return contextlib.nullcontext()
    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    return sdpa_kernel(backends[name])


def timed(trainer, rows, table, warmup, cuda):
    """Seconds of each step after the warm-up, seconds of the first step, and all losses.

    On a GPU the clock is events between the steps and nothing waits for the device meanwhile.
    """
    marks, losses, first = [], [], None

    def mark():
        if not cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    start = time.perf_counter()
    for index, micro_batches in enumerate(rows):
        if index == warmup:
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            marks.append(mark())
        losses.append(trainer.step(micro_batches, *table))
        if index == 0:
            losses[0].item()
            first = time.perf_counter() - start
        if index >= warmup:
            marks.append(mark())
    if cuda:
        torch.cuda.synchronize()
        seconds = [a.elapsed_time(b) * 1e-3 for a, b in zip(marks, marks[1:])]
    else:
        seconds = [b - a for a, b in zip(marks, marks[1:])]
    return seconds, first, [loss.item() for loss in losses]


def summary(seconds):
    """Median and quartiles, in the field names of `colac bench --json`."""
    lower, upper = seconds[0], seconds[0]
    if len(seconds) > 1:
        lower, _, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        "median": statistics.median(seconds),
        "lower": lower,
        "upper": upper,
        "least": min(seconds),
        "count": len(seconds),
    }


def memory(cuda):
    """Bytes: what tensors took at the peak of the timed steps, and what the process took."""
    if cuda:
        free, total = torch.cuda.mem_get_info()
        return {
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.memory_reserved(),
            "device_used_bytes": total - free,
        }
    # In KiB, except on macOS, where it is bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def versions(cuda):
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if cuda:
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()
    with contextlib.suppress(ImportError):
        import triton

        found["triton"] = triton.__version__
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=SIZES, default="nano")
    add("--variant", choices=VARIANTS, default="cola")
    add("--intermediate-size", type=int, metavar="N", help="instead of the size's own, such as 5464 for 5461")
    add("--grouped", action="store_true", help="one product for queries, keys and values, and one for gate and up")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("f32", "master", "pure"), help="[default: f32 on the CPU, else master]")
    add("--attention", choices=("auto", "flash", "cudnn", "efficient", "math"),
        help="[default: flash on a GPU in bf16, else what PyTorch chooses]")
    add("--compile", choices=("off", "default", "max-autotune", "max-autotune-no-cudagraphs"), default="off")
    add("--compile-scope", choices=("model", "block"), default="model",
        help="one compilation of everything, or one that all blocks share and one for the head")
    add("--batch", type=int, metavar="N", help="rows of a micro-batch [default: the published recipe's]")
    add("--sequence", type=int, metavar="N", help="tokens of a row [default: the published recipe's]")
    add("--accumulation", type=int, default=1, metavar="N", help="micro-batches of a step")
    add("--steps", type=int, default=10, metavar="N", help="steps to time")
    add("--warmup", type=int, default=3, metavar="N", help="steps before them; the first one compiles")
    add("--clip", type=float, default=1.0, metavar="NORM", help="global norm to clip to; 0 does not clip")
    add("--learning-rate", type=float, default=1e-3, metavar="RATE")
    add("--seed", type=int, default=0, metavar="N")
    add("--threads", type=int, metavar="N", help="threads on the CPU [default: PyTorch's]")
    chosen = parser.parse_args()
    if chosen.compile_scope == "block" and chosen.compile == "max-autotune":
        parser.error("graphs of single blocks do not nest: add --compile max-autotune-no-cudagraphs")
    if min(chosen.steps, chosen.warmup + 1, chosen.accumulation, chosen.batch or 1, chosen.sequence or 2) < 1:
        parser.error("steps, rows and micro-batches are counted from 1")
    return chosen


def main():
    chosen = arguments()
    cuda = chosen.device == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    precision = chosen.precision or ("master" if cuda else "f32")
    attention = chosen.attention or ("flash" if cuda and precision != "f32" else "auto")
    torch.backends.cuda.matmul.allow_tf32 = False

    size = SIZES[chosen.size]
    if chosen.intermediate_size:
        size = dataclasses.replace(size, intermediate=chosen.intermediate_size)
    batch, sequence = chosen.batch or size.micro_batch, chosen.sequence or size.sequence
    torch.manual_seed(chosen.seed)
    with torch.device(chosen.device):
        model = Model(size, chosen.variant, chosen.grouped)
    trainer = Trainer(model, precision, chosen.accumulation, chosen.clip, chosen.learning_rate)
    parameters = sum(weight.numel() for weight in trainer.weights)
    kind = model.embedding.dtype
    table = tuple(x.to(kind) for x in rope_table(sequence, size.hidden // size.heads, chosen.device))
    if chosen.compile != "off":
        mode = None if chosen.compile == "default" else chosen.compile
        if chosen.compile_scope == "block":
            model.compile_parts(mode)
        else:
            trainer.call = torch.compile(model, mode=mode)
    shape = (chosen.warmup + chosen.steps, chosen.accumulation, batch, sequence)
    generator = torch.Generator().manual_seed(chosen.seed)
    rows = torch.randint(0, size.vocabulary, shape, generator=generator).to(chosen.device)
    with attention_backend(attention):
        seconds, first, losses = timed(trainer, rows, table, chosen.warmup, cuda)

    tokens = chosen.accumulation * batch * sequence
    spread = summary(seconds)
    print(json.dumps({
        "name": f"llama-{chosen.size}",
        "variant": chosen.variant,
        "intermediate_size": size.intermediate,
        "parameters": parameters,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": None if cuda else torch.get_num_threads(),
        "precision": precision,
        "attention": attention,
        "grouped": chosen.grouped,
        "compile": chosen.compile,
        "compile_scope": None if chosen.compile == "off" else chosen.compile_scope,
        "micro_batch": batch,
        "sequence_length": sequence,
        "accumulation": chosen.accumulation,
        "tokens_per_step": tokens,
        "tokens_per_second": tokens / spread["median"],
        "step_seconds": spread,
        "first_step_seconds": first,
        "memory": memory(cuda),
        "losses": {"first": losses[0], "last": losses[-1]},
        "versions": versions(cuda),
    }))


if __name__ == "__main__":
    main()
