"""Stage `peer`: the same models in PyTorch (`runtime/benches/torch_peer.py`), interleaved with ours. Run by `accept.sh`.

Both sides take the same micro-batch, that of the published recipe where the row does not say another, and bf16 with f32
master weights where it does not say all bf16. The last rows look for the peer's best cell: what the table compares with
is its fastest row.
"""

import statistics
import sys

from stage import ROOT, Failed, Stage

PEER = ROOT / "runtime" / "benches" / "torch_peer.py"
BLOCKS = ("--compile", "default", "--compile-scope", "block")
GRAPHS = ("--compile", "max-autotune", "--compile-scope", "model", "--grouped")
TUNED = ("--compile", "max-autotune-no-cudagraphs", "--compile-scope", "block", "--grouped")
# What the published trainer runs: nothing compiled, no flash attention, everything bf16.
PUBLISHED = ("--precision", "pure", "--attention", "math")

# Size, form, intermediate size instead of the spec's, PyTorch's options, seconds that the row is expected to take, and
# a micro-batch instead of the recipe's.
CUDA = [
    ("1b", "CoLA", None, "compiled by block", BLOCKS, 75),
    ("1b", "full-rank", None, "compiled by block", BLOCKS, 75),
    ("1b", "CoLA", None, "eager, math attention, all bf16", PUBLISHED, 45),
    ("350m", "CoLA", None, "compiled by block", BLOCKS, 65),
    ("350m", "full-rank", None, "compiled by block", BLOCKS, 65),
    ("1b", "CoLA", 5464, "compiled by block", BLOCKS, 75),
    ("1b", "full-rank", 5464, "compiled by block", BLOCKS, 75),
    ("60m", "CoLA", None, "compiled whole, autotuned, graphs", GRAPHS, 120),
    ("1b", "CoLA", None, "compiled by block, 64 rows", BLOCKS, 75, 64),
    ("350m", "CoLA", None, "compiled by block, 128 rows", BLOCKS, 65, 128),
    ("1b", "CoLA", None, "compiled by block, autotuned", TUNED, 120),
    ("350m", "CoLA", None, "compiled whole, autotuned, graphs", GRAPHS, 200),
    ("1b", "full-rank", None, "compiled by block, autotuned", TUNED, 120),
    ("350m", "CoLA", None, "eager, math attention, all bf16", PUBLISHED, 40),
]
CPU = [
    ("nano", "CoLA", None, "eager", (), 10),
    ("nano", "full-rank", None, "eager", (), 10),
    ("nano", "CoLA", None, "eager, math attention, all bf16", PUBLISHED, 10),
    ("nano", "CoLA", 352, "eager, master weights", ("--precision", "master"), 10),
]
FORMS = {"CoLA": ("cola", []), "full-rank": ("full", ["--full-rank"])}
# Of the published recipes.
MICRO_BATCHES = {"60m": 256, "350m": 64, "1b": 32, "nano": 2}


def main():
    stage = Stage("peer")
    try:
        stage.run([sys.executable, "-c", "import torch"], 120)
    except Failed as failure:
        stage.report["failed"].append({"row": "torch", "why": str(failure)})
        print(f"FAILED    {sys.executable} has no torch")
        stage.finish()
    latest = {}
    for size, form, intermediate, label, options, seconds, *rows in CUDA if stage.cuda else CPU:
        rows = rows[0] if rows else MICRO_BATCHES[size]
        width = f", intermediate {intermediate}" if intermediate else ""
        stage.row(
            f"llama-{size} {form}{width}, PyTorch {label}",
            seconds,
            lambda s=size, f=form, i=intermediate, r=rows, o=options: compare(stage, s, f, i, r, o, latest),
            (size, label),
        )
    stage.finish()


def compare(stage, size, form, intermediate, rows, options, latest):
    """Ours, PyTorch, ours again: what the machine does meanwhile shows in the difference of our two.

    Of a model that was there before, our last run is the first of the two.
    """
    model = (size, form, intermediate, rows)
    ours = [latest.get(model) or bench(stage, *model)]
    theirs = peer(stage, *model, options)
    ours.append(bench(stage, *model))
    latest[model] = ours[1]
    rates = [run["tokens_per_second"] for run in ours]
    ratio = statistics.mean(rates) / theirs["tokens_per_second"]
    return {
        "size": size,
        "form": form,
        "intermediate_size": theirs["intermediate_size"],
        "micro_batch": theirs["micro_batch"],
        "published": options == PUBLISHED,
        "ours": ours,
        "peer": theirs,
        "ratio": ratio,
        "summary": f"{rates[0]:,.0f} and {rates[1]:,.0f} tokens/s, PyTorch {theirs['tokens_per_second']:,.0f}: {ratio:.2f}×",
    }


def bench(stage, size, form, intermediate, rows):
    settings = [f"train.micro_batch={rows}", f"train.global_batch={rows}", "recompute.policy=none"]
    if stage.cuda:
        settings.append("train.precision=bf16")
    if intermediate:
        settings.append(f"model.intermediate_size={intermediate}")
    steps, warmup = (10, 3) if stage.cuda else (2, 1)
    threads = [] if stage.cuda else ["--threads", 1]
    return stage.json([
        stage.colac, "bench", f"llama-{size}", *stage.device, "--json", "--steps", steps, "--warmup", warmup, *threads,
        *FORMS[form][1], *(part for setting in settings for part in ("--set", setting)),
    ])  # fmt: skip


def peer(stage, size, form, intermediate, rows, options):
    steps, warmup = (15, 4) if stage.cuda else (2, 1)
    command = [
        sys.executable, PEER, "--size", size, "--variant", FORMS[form][0], "--batch", rows,
        "--steps", steps, "--warmup", warmup, *stage.device, *options,
    ]  # fmt: skip
    if intermediate:
        command += ["--intermediate-size", intermediate]
    if not stage.cuda:
        command += ["--threads", 1]
    return stage.json(command)


main()
