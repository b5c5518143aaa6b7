#!/usr/bin/env python3
"""The stages' results as one Markdown table for each stage and one for the targets, on stdout.

    table.py DIR|FILE ...

Takes any number of folders and files; of two results of the same row the later one counts, so that a stage run again
with --only replaces single rows. A target without a row stays "not measured yet".
"""

import json
import statistics
import sys
from pathlib import Path

STAGES = ("conformance", "bench", "peer", "quality")
NOT_MEASURED = "not measured yet"


class Results:
    """Rows of all files by stage and name, with what was left out and what failed."""

    def __init__(self, paths):
        self.rows = {stage: {} for stage in STAGES}
        self.left_out = {stage: {} for stage in STAGES}
        self.failed = {stage: {} for stage in STAGES}
        self.machines = []
        for path in paths:
            files = [path / f"{stage}.json" for stage in STAGES] if path.is_dir() else [path]
            for file in files:
                if file.exists():
                    self.take(json.loads(file.read_text()))

    def take(self, report):
        stage = report["stage"]
        machine = {**report["machine"], "device": report["device"]}
        if machine not in self.machines:
            self.machines.append(machine)
        for row in report["rows"]:
            self.rows[stage][row["row"]] = row
            self.left_out[stage].pop(row["row"], None)
            self.failed[stage].pop(row["row"], None)
        for other in report["left_out"]:
            if other["row"] not in self.rows[stage]:
                self.left_out[stage][other["row"]] = other["why"]
        for other in report["failed"]:
            self.rows[stage].pop(other["row"], None)
            self.failed[stage][other["row"]] = other["why"]

    def bench(self, size, form):
        """The row of one form at the recipe's sequence length, if it is there."""
        return self.rows["bench"].get(f"llama-{size} {form}")

    def product_rate(self):
        """Sustained FLOP/s of one large product, else `None`; what a CPU does to try the script is none."""
        row = self.rows["bench"].get("products")
        large = row is not None and row["result"]["size"] == 8192
        return row["result"]["sustained_flops_per_second"] if large else None


# --- words ----------------------------------------------------------------------------------------


def table(heading, rows):
    """Columns of words end with a colon in the heading; those of numbers stand to the right."""
    lines = [
        "| " + " | ".join(name.rstrip(":") for name in heading) + " |",
        "| " + " | ".join("---" if name.endswith(":") else "---:" for name in heading) + " |",
    ]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def gib(count):
    return "–" if count is None else f"{count / 2**30:.2f}"


def grouped(number):
    return f"{number:,.0f}"


def step(spread):
    return f"{1e3 * spread['median']:.1f} ({1e3 * spread['lower']:.1f} to {1e3 * spread['upper']:.1f})"


def percent(share):
    return "–" if share is None else f"{100 * share:.1f} %"


def one_line(text):
    return " ".join(text.split()).replace("|", "\\|")[:200]


# --- the targets ----------------------------------------------------------------------------------


def quotient(results, size, one, other):
    a, b = results.bench(size, one), results.bench(size, other)
    if not (a and b):
        return NOT_MEASURED
    rates = [row["result"]["tokens_per_second"] for row in (a, b)]
    return f"{rates[0] / rates[1]:.2f}"


def against_peer(results, size, published):
    """Ours over the peer's fastest row at the spec's own widths; ours is the mean of its runs around that row."""
    rows = [
        row
        for row in results.rows["peer"].values()
        if row["size"] == size and row["form"] == "CoLA" and row["published"] == published and "intermediate" not in row["row"]
    ]
    if not rows:
        return NOT_MEASURED
    best = max(rows, key=lambda row: row["peer"]["tokens_per_second"])
    return f"{best['ratio']:.2f} ({best['row'].split('PyTorch ')[1]})"


def utilisation(results, row):
    rate = results.product_rate()
    return row["result"]["flops_per_second"] / rate if row and rate else None


def predicted_step(row):
    """Predicted over measured step time, less 1, else `None`."""
    predicted = row["result"].get("predicted")
    return predicted and predicted["error"]


def prediction(row):
    """The same in words, with what the prediction rests on."""
    error = predicted_step(row)
    return "–" if error is None else f"{100 * error:+.1f} %, {row['result']['predicted']['basis']}"


def targets(results):
    cola = results.bench("1b", "CoLA")
    share = utilisation(results, cola)
    memory = NOT_MEASURED
    if cola and cola["device_used_bytes"] is not None:
        plan, used = cola["result"]["memory"]["plan_bytes"], cola["device_used_bytes"]
        memory = f"{gib(plan)} and {gib(used)} GiB, {gib(used - plan)} more"
    sizes = ("60m", "350m", "1b")
    # Only rates that were measured on the card count, not those of a data sheet.
    errors = [
        predicted_step(row)
        for name, row in results.rows["bench"].items()
        if row.get("size") in sizes and "profile" not in name and "measured" in prediction(row)
    ]
    start = results.rows["bench"].get("llama-1b CoLA, second start")
    peers = [against_peer(results, size, False) for size in sizes]
    return table(
        (":", "target:", "measured:"),
        [
            ("CoLA-1b / full-rank-1b, tokens/s, both ours", "≥ 1.86, the paper's figure", quotient(results, "1b", "CoLA", "full-rank")),
            ("CoLA-M / CoLA, 1b", "≥ 0.85", quotient(results, "1b", "CoLA-M", "CoLA")),
            ("CoLA / PyTorch compiled, its fastest row, 60m", "≥ 1.5", peers[0]),
            ("the same, 350m", "≥ 1.25", peers[1]),
            ("the same, 1b", "≥ 1.15", peers[2]),
            ("CoLA-1b / PyTorch eager with math attention, as published", "≥ 2", against_peer(results, "1b", True)),
            ("model FLOP utilisation of CoLA-1b, of the rate of one large product", "≥ 60 %",
             percent(share) if share is not None else NOT_MEASURED),
            ("predicted and used device memory, CoLA-1b", "equal, apart from the context", memory),
            ("predicted / measured step time", "within 15 % after `calibrate`",
             f"{min(errors):+.1%} to {max(errors):+.1%}".replace("%", " %") if errors else NOT_MEASURED),
            ("start to first step, 1b, warm caches", "≤ 5 s", f"{start['result']['seconds']:.1f} s" if start else NOT_MEASURED),
        ],
    )  # fmt: skip


# --- the stages -----------------------------------------------------------------------------------


def conformance(results):
    rows = [(name, row.get("summary", "")) for name, row in results.rows["conformance"].items()]
    text = table(("check:", "held:"), [(name, one_line(summary)) for name, summary in rows])
    verified = results.rows["conformance"].get("operations")
    if verified:
        heading = ("operation:", "cases", "largest error / bound")
        operations = verified["result"]["operations"]
        text += "\n" + table(heading, [(o["name"], str(o["cases"]), f"{o['worst']:.3f}") for o in operations])
    return text


def bench(results):
    rate = results.product_rate()
    rows = []
    for name, row in results.rows["bench"].items():
        if "form" not in row or "profile" in name:
            continue
        found = row["result"]
        rows.append((
            name, str(row["micro_batch"]), grouped(found["tokens_per_second"]), step(found["step_seconds"]),
            percent(utilisation(results, row)), gib(found["memory"]["plan_bytes"]), gib(row["device_used_bytes"]),
            prediction(row),
        ))  # fmt: skip
    heading = ("model:", "micro-batch", "tokens/s", "step, ms (middle half)", "share of products", "plan, GiB", "used, GiB", "predicted step")
    text = table(heading, rows)
    if rate:
        size = results.rows["bench"]["products"]["result"]["size"]
        text += f"\nOne bf16 product of {size}³ in PyTorch, sustained: {rate * 1e-12:.1f} TFLOP/s.\n"
    for name, row in results.rows["bench"].items():
        if name.endswith("start"):
            text += f"{name}: {row['result']['seconds']:.2f} s.\n"
        if "profile" in name:
            operations = [
                (o["op"], o["path"], f"{1e3 * o['seconds']:.3f}", percent(o["share"])) for o in row["result"]["operations"]
            ]
            text += f"\n{name}, the operations that take most time:\n\n"
            text += table(("operation:", "where:", "ms", "share"), operations)
    return text


def peer(results):
    rows = []
    for name, row in results.rows["peer"].items():
        ours = [run["tokens_per_second"] for run in row["ours"]]
        theirs = row["peer"]
        rows.append((
            name, str(row["micro_batch"]), " and ".join(map(grouped, ours)), grouped(theirs["tokens_per_second"]),
            f"{row['ratio']:.2f}", gib(row["ours"][0]["memory"]["plan_bytes"]),
            gib(theirs["memory"].get("peak_allocated_bytes", theirs["memory"].get("peak_resident_bytes"))),
            f"{theirs['first_step_seconds']:.0f}",
        ))  # fmt: skip
    heading = ("model, peer:", "micro-batch", "tokens/s", "PyTorch", "ratio", "plan, GiB", "PyTorch's tensors, GiB", "its first step, s")
    text = table(heading, rows)
    versions = {json.dumps(row["peer"]["versions"], sort_keys=True) for row in results.rows["peer"].values()}
    for found in sorted(versions):
        text += "\n" + ", ".join(f"{name} {value}" for name, value in json.loads(found).items()) + "\n"
    return text


def quality(results):
    rows = []
    for name, row in results.rows["quality"].items():
        for run in row["result"]["contenders"]:
            seconds = [finish["training_seconds"] for finish in run["finishes"]]
            deviation = run.get("loss_deviation")
            rows.append((
                name, run["name"], grouped(run["parameters"]), f"{row['steps']} of {row['of_steps']}",
                str(len(run["finishes"])), f"{run['mean_loss']:.4f}" + (f" ± {deviation:.4f}" if deviation is not None else ""),
                f"{run['perplexity']:.2f}", f"{statistics.mean(seconds):.1f}",
            ))  # fmt: skip
    return table(("spec:", "form:", "parameters", "steps", "seeds", "validation loss", "perplexity", "seconds of a run"), rows)


def rest(results, stage):
    text = ""
    for heading, found in (("Failed", results.failed[stage]), ("Left out", results.left_out[stage])):
        if found:
            text += f"\n{heading}:\n\n" + "".join(f"- {name}: {one_line(why)}\n" for name, why in found.items())
    return text


def main():
    paths = [Path(path) for path in sys.argv[1:]]
    if not paths or not all(path.exists() for path in paths):
        sys.exit(__doc__)
    results = Results(paths)
    if not results.machines:
        sys.exit("error: no stage has written its results there")
    for machine in results.machines:
        gpu = machine.get("gpu")
        where = f"{gpu}, driver {machine['driver']}, {machine['power_limit_watts']} W" if gpu else "the CPU, to try the script"
        print(f"On {where}; {machine['cores']} cores; {machine.get('colac', 'colac')}, {machine['colac_sha256'][:12]}.\n")
    print("### Targets\n")
    print(targets(results))
    for stage, section in zip(STAGES, (conformance, bench, peer, quality)):
        text = section(results) if results.rows[stage] else f"{NOT_MEASURED}\n"
        print(f"### {stage.capitalize()}\n\n{text}{rest(results, stage)}")


if __name__ == "__main__":
    main()
