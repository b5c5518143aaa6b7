"""Stage `quality`: CoLA and full-rank trained on the device, on the shipped corpus, compared by `colac race`.

Run by `accept.sh`. As many steps as the time allows, up to those of the spec: the corpus is small, and more passes over
it would compare how the forms learn it by heart.
"""

import json
import re
import shutil
import statistics

from stage import ROOT, Failed, Stage

# Spec, precision, runs of each form.
CUDA = [("llama-tiny", "bf16", 3), ("llama-tiny", "f32", 3), ("llama-nano", "bf16", 3), ("llama-nano", "bf16-pure", 3)]
CPU = [("llama-nano", "f32", 1)]


def main():
    stage = Stage("quality")
    races = CUDA if stage.cuda else CPU
    for index, (spec, precision, seeds) in enumerate(races):
        # What is left is shared by the races that are left.
        share = stage.left() / (len(races) - index)
        name = f"{spec}, {precision}"
        stage.row(name, 20, lambda s=spec, p=precision, n=seeds, t=share: race(stage, s, p, n, t))
    stage.finish()


def step_seconds(stage, spec, *options):
    """Of a short run, by its own log: what a step costs in training."""
    folder = stage.scratch / "short"
    shutil.rmtree(folder, ignore_errors=True)
    steps = 30 if stage.cuda else 6
    once = ("--set", "evaluation.every=0", "--set", "evaluation.tokens=256", "--set", "checkpoint.every=0")
    stage.run([
        stage.colac, "train", spec, *stage.device, "--steps", steps, "--out", folder, "--no-tensorboard", *once, *options,
    ])  # fmt: skip
    with open(folder / "metrics.jsonl") as lines:
        records = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    tokens = records[-1]["tokens"] / len(records)
    return tokens / statistics.median(record["tokens_per_second"] for record in records[len(records) // 2 :])


def recipe(spec):
    """Steps and warm-up of a shipped spec."""
    text = (ROOT / "specs" / f"{spec}.toml").read_text()
    steps, warmup = (re.search(rf"^{key} *= *([\d_]+)", text, re.M) for key in ("steps", "warmup_steps"))
    return int(steps[1].replace("_", "")), int(warmup[1].replace("_", ""))


def race(stage, spec, precision, seeds, seconds):
    precise = ("--set", f"train.precision={precision}")
    pair = step_seconds(stage, spec, *precise) + step_seconds(stage, spec, "--full-rank", *precise)
    all_steps, all_warmup = recipe(spec)
    # Evaluations, checkpoints and starts take some of the time.
    steps = min(all_steps, int(0.6 * seconds / (seeds * pair)))
    if not stage.cuda:
        steps = min(steps, 20)
    warmup = max(1, all_warmup * steps // all_steps)
    if steps < 10:
        raise Failed(f"{seconds:.0f} s give {steps} steps of {pair:.3f} s")
    found = stage.json([
        stage.colac, "race", spec, "--against", "full-rank", "--seeds", seeds, "--steps", steps, *stage.device,
        "--out", stage.scratch / f"{spec}-{precision}", "--json", *precise,
        "--set", f"schedule.warmup_steps={warmup}", "--tokens", 0 if stage.cuda else 2_000,
    ])  # fmt: skip
    names = ", ".join(f"{run['name']} {run['mean_loss']:.4f}" for run in found["contenders"])
    return {
        "spec": spec,
        "precision": precision,
        "steps": steps,
        "of_steps": all_steps,
        "result": found,
        "summary": f"{steps} of {all_steps} steps, {seeds} seeds: validation loss {names}",
    }


main()
