"""Stage `bench`: how fast plans train on the device, and whether memory and time are as predicted. Run by `accept.sh`.

Rows come in the order in which they matter for the targets of `docs/benchmarks.md`, so that a short run has those.
"""

import shutil
import sys

from stage import ROOT, DeviceMemory, Failed, Stage

FORMS = {
    "CoLA": ["--set", "recompute.policy=none"],
    "full-rank": ["--full-rank", "--set", "recompute.policy=none"],
    "CoLA-M": ["--set", "recompute.policy=cola-m"],
    # What joining rotations with the derivative of attention is worth.
    "CoLA, rotations apart": [
        "--set", "recompute.policy=none",
        "--set", 'compiler.fuse=["remake", "vertical", "horizontal", "norm", "norm-backward"]',
    ],
}  # fmt: skip
CUDNN = ["--attention", "cudnn"]
# Shipped profiles by a word in the name that the driver gives the card.
PROFILES = {"H100": "h100", "H200": "h200", "A100": "a100-80", "4090": "rtx-4090"}


def main():
    stage = Stage("bench")
    # What `calibrate` finds is for this run alone.
    environment = {"COLAC_CONFIG_DIR": str(stage.scratch / "configuration")}
    stage.row("products", 20, lambda: products(stage))
    if not stage.cuda or stage.offers("calibrate", "--device"):
        patience = [] if stage.cuda else ["--patience", "0.01"]
        command = [stage.colac, "calibrate", *stage.device, *patience, "--json"]
        stage.row("calibrate", 40, lambda: {"result": stage.json(command, environment=environment)})
    elif stage.only.search("calibrate"):
        stage.leave_out("calibrate", "this colac calibrates no device but the CPU")

    sizes = ("1b", "350m", "60m") if stage.cuda else ("nano",)
    for size in sizes:
        for form in ("CoLA", "full-rank", "CoLA-M"):
            name = f"llama-{size} {form}"
            stage.row(name, 35, lambda s=size, f=form: bench(stage, s, f, environment), f"llama-{size}")
    # The same beside our own attention, at the size whose rows were measured just before.
    compared = "350m" if stage.cuda else "nano"
    name = f"llama-{compared} CoLA, attention by cuDNN"
    missing = stage.without_cudnn()
    if missing is None:
        stage.row(name, 35, lambda: bench(stage, compared, "CoLA", environment, kernels=CUDNN), f"llama-{compared}")
    elif stage.only.search(name):
        stage.leave_out(name, missing)
    apart = "CoLA, rotations apart"
    stage.row(f"llama-{compared} {apart}", 35, lambda: bench(stage, compared, apart, environment), f"llama-{compared}")
    largest = sizes[0]
    length = 2048 if stage.cuda else 192
    name = f"llama-{largest} CoLA, sequence {length}"
    stage.row(name, 35, lambda: bench(stage, largest, "CoLA", environment, length), f"llama-{largest}")
    # The first start fills the cache of kernels; the second is what a user sees ever after.
    for which in ("first", "second"):
        stage.row(f"llama-{largest} CoLA, {which} start", 20, lambda: start(stage, largest), "start")
    for form in ("CoLA", "full-rank"):
        name = f"llama-{largest} {form}, profile"
        stage.row(name, 35, lambda f=form: profile(stage, largest, f, environment), f"llama-{largest}")
    stage.finish()


def products(stage):
    options = ["10"] if stage.cuda else ["0.2", "--device", "cpu", "--size", "256"]
    found = stage.json([sys.executable, ROOT / "tests/gpu/product_rate.py", *options])
    rate = found["sustained_flops_per_second"]
    return {"result": found, "summary": f"{rate * 1e-12:.1f} TFLOP/s sustained at {found['size']}³"}


def shipped_profile(stage):
    """Name of the profile that ships for this card, else `None`."""
    name = stage.report["machine"].get("gpu", "")
    return next((profile for word, profile in PROFILES.items() if word in name), None)


def micro_batch(stage, size, form, sequence):
    """The fastest micro-batch that fits by `colac fit`, with its row. Steps stay below 2^16 tokens."""
    spec = f"llama-{size}"
    length = sequence or (256 if stage.cuda else 128)
    most = 2**16 // length if stage.cuda else 4
    candidates = [str(2**n) for n in range(10) if 2**n <= min(most, 512)]
    known = shipped_profile(stage)
    if known:
        memory = ["--device", known]
    else:
        # A gibibyte for the driver's context and libraries.
        mib = stage.report["machine"].get("memory_mib", 5120) - 1024
        memory = ["--memory", f"{mib}MiB"]
    batch = ["--set", f"train.global_batch={candidates[-1]}", "--set", f"train.micro_batch={candidates[-1]}"]
    found = stage.json([
        stage.colac, "fit", spec, *memory, "--json", "--micro-batches", ",".join(candidates),
        "--policies", "cola-m" if form == "CoLA-M" else "none", *FORMS[form], *batch, *longer(sequence),
    ])  # fmt: skip
    # The fastest first where speed is predicted; without a prediction the largest that fits.
    rows = found["rows"]
    if not rows:
        raise Failed(f"{spec} {form} fits with no micro-batch")
    return rows[0] if known else max(rows, key=lambda row: row["micro_batch"])


def longer(sequence):
    return ["--set", f"train.sequence_length={sequence}"] if sequence else []


def command(stage, size, form, rows, sequence, steps, warmup, kernels=()):
    # A GPU has no profile of its own unless `calibrate` takes it; then what ships for the card, from its data sheet.
    known = shipped_profile(stage) if stage.cuda and "calibrate" not in stage.taken else None
    predict = ["--predict-for", known] if known else []
    return [
        stage.colac, "bench", f"llama-{size}", *stage.device, *predict, "--json", "--steps", steps, "--warmup", warmup,
        "--set", f"train.micro_batch={rows}", "--set", f"train.global_batch={rows}", *longer(sequence), *FORMS[form],
        *kernels,
    ]  # fmt: skip


def bench(stage, size, form, environment, sequence=None, kernels=()):
    chosen = micro_batch(stage, size, form, sequence)
    rows = chosen["micro_batch"]
    steps, warmup = (10, 3) if stage.cuda else (2, 1)
    with DeviceMemory(stage.cuda) as memory:
        run = command(stage, size, form, rows, sequence, steps, warmup, kernels)
        found = stage.json(run, environment=environment)
    return {
        "size": size,
        "form": form,
        "micro_batch": rows,
        "sequence": sequence,
        "attention": found.get("attention"),
        "fit": chosen,
        "device_used_bytes": memory.used_bytes(),
        "result": found,
        "summary": f"micro-batch {rows}, {found['tokens_per_second']:,.0f} tokens/s",
    }


def profile(stage, size, form, environment):
    """Which operations take the time. Apart from the other rows, since looking at single operations costs time."""
    rows = micro_batch(stage, size, form, None)["micro_batch"]
    found = stage.json([*command(stage, size, form, rows, None, 2, 1), "--profile"], environment=environment)
    found["operations"] = found["operations"][:10]
    return {"size": size, "form": form, "micro_batch": rows, "result": found}


def start(stage, size):
    """Seconds from the command to the end of the first step of training, on text with the shipped tokenizer."""
    corpus = ROOT / "examples" / "corpus"
    rows = 32 if stage.cuda else 2
    seconds = stage.run(
        [
            stage.colac, "train", f"llama-{size}", *stage.device, "--no-tensorboard", "--out", stage.scratch / "start",
            "--data", corpus / "validation", "--validation", corpus / "validation",
            "--tokenizer", corpus / f"tokenizer-{8192 if stage.cuda else 4096}.json",
            "--set", "data.mode=pack", "--set", f"train.micro_batch={rows}", "--set", f"train.global_batch={rows}",
            "--steps", 1_000, "--set", "evaluation.every=0", "--set", "checkpoint.every=0",
        ],
        watch=r"step 1/",
    )  # fmt: skip
    # The second start is a fresh one, too: only caches may have stayed.
    shutil.rmtree(stage.scratch / "start", ignore_errors=True)
    return {"result": {"seconds": seconds, "micro_batch": rows}, "summary": f"{seconds:.2f} s to the first step"}


main()
