"""Stage `conformance`: whether the device computes what the reference and the CPU compute, twice the same bits, and
touches no memory that is not its own. Run by `accept.sh`.
"""

import hashlib
import json
import shutil

from stage import Failed, Stage

# Relative differences of a loss from the CPU's: within the first 20 steps, and later. Differences of rounding grow from
# step to step; a wrong operation is far outside from the first one on.
BOUNDS = {"f32": (1e-4, 1e-2), "bf16": (1e-2, 3e-2)}


CUDNN = ("--attention", "cudnn")


def main():
    stage = Stage("conformance")
    if stage.cuda:
        stage.row("operations", 90, lambda: operations(stage))
    elif stage.only.search("operations"):
        stage.leave_out("operations", "on the CPU colac's own tests run them")
    missing = stage.without_cudnn()
    if missing is None:
        stage.row("attention by cuDNN", 40, lambda: attention_by_cudnn(stage))
    elif stage.only.search("attention by cuDNN"):
        stage.leave_out("attention by cuDNN", missing)
    for precision in BOUNDS:
        stage.row(f"training beside the CPU, {precision}", 60, lambda p=precision: beside_cpu(stage, p), "beside")
    for precision in BOUNDS:
        stage.row(f"two runs, {precision}", 20, lambda p=precision: equal_bits(stage, p), "twice")
    # What is said of missing rows is said once, above.
    if missing is None:
        stage.row("training beside the CPU, bf16, cuDNN", 60, lambda: beside_cpu(stage, "bf16", CUDNN), "beside")
        stage.row("two runs, bf16, cuDNN", 20, lambda: equal_bits(stage, "bf16", CUDNN), "twice")
    for tool in ("memcheck", "racecheck", "synccheck"):
        sanitize(stage, tool)
    stage.finish()


def operations(stage):
    """Machine, libraries, and every operation as `colac doctor --verify` compared it."""
    # Status 1 says that something is missing or differs: the report tells what.
    found = stage.json([stage.colac, "doctor", *stage.device, "--verify", "--json"], accepted=(0, 1))
    if not found.get("operations"):
        raise Failed(f"doctor verified no operation: {json.dumps(found.get('gpu'))}")
    if found["failed"]:
        failures = {o["name"]: o["failures"] for o in found["operations"] if o["failures"]}
        raise Failed(f"operations that differ from the reference: {json.dumps(failures)}")
    cases = sum(operation["cases"] for operation in found["operations"])
    return {"result": found, "summary": f"{len(found['operations'])} operations, {cases} cases"}


def attention_by_cudnn(stage):
    """The samples of attention and its derivative, as far as cuDNN takes them, which must be some."""
    command = [stage.colac, "doctor", *stage.device, *CUDNN, "--verify", "--json"]
    found = stage.json(command, accepted=(0, 1))
    if not found.get("operations"):
        raise Failed(f"doctor verified no attention: {json.dumps(found.get('gpu'))}")
    if found["failed"]:
        failures = {o["name"]: o["failures"] for o in found["operations"] if o["failures"]}
        raise Failed(f"attention by cuDNN that differs from the reference: {json.dumps(failures)}")
    cases = sum(operation["cases"] for operation in found["operations"])
    by_cudnn = found["cases_by_cudnn"]
    if by_cudnn == 0:
        raise Failed(f"cuDNN took none of {cases} cases")
    worst = max(operation["worst"] for operation in found["operations"])
    return {"result": found, "summary": f"{by_cudnn} of {cases} cases by cuDNN, error {worst:.2f} of its bound"}


def train(stage, folder, steps, precision, device, spec, *options):
    """A run in the scratch folder, nothing but its steps and one checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = ("evaluation.every=0", "evaluation.tokens=256", "checkpoint.every=0", f"train.precision={precision}")
    return [
        stage.colac, "train", spec, "--steps", steps, "--out", folder, "--no-tensorboard", *device, *options,
        *(part for setting in settings for part in ("--set", setting)),
    ]  # fmt: skip


def losses(folder):
    with open(folder / "metrics.jsonl") as lines:
        records = [json.loads(line) for line in lines]
    return [record["loss"] for record in records if record["kind"] == "train"]


def beside_cpu(stage, precision, kernels=()):
    spec, steps = ("llama-tiny", 200) if stage.cuda else ("llama-nano", 12)
    ours, cpu = stage.scratch / "device", stage.scratch / "cpu"
    stage.run(train(stage, ours, steps, precision, stage.device, spec, *kernels))
    # Without a device the other side is one thread, which must give the same bits.
    stage.run(train(stage, cpu, steps, precision, (), spec, *([] if stage.cuda else ["--threads", 1])))
    found, expected = losses(ours), losses(cpu)
    if len(found) != steps or len(expected) != steps:
        raise Failed(f"{len(found)} and {len(expected)} losses of {steps} steps")
    off = [abs(a - b) / abs(b) for a, b in zip(found, expected)]
    early, late = max(off[:20]), max(off)
    bounds = BOUNDS[precision] if stage.cuda else (0.0, 0.0)
    # A loss that is not a number compares as false, and so fails.
    if not (early <= bounds[0] and late <= bounds[1]):
        raise Failed(f"losses are off by {early:.1e} in the first 20 steps and {late:.1e} later; at most {bounds}")
    return {
        "result": {
            "spec": spec, "steps": steps, "precision": precision, "early": early, "late": late, "bounds": bounds,
            "losses": found, "cpu_losses": expected,
        },
        "summary": f"{spec}, {steps} steps, losses off by {early:.1e} and {late:.1e}",
    }  # fmt: skip


def equal_bits(stage, precision, kernels=()):
    spec, steps = ("llama-tiny", 50) if stage.cuda else ("llama-nano", 5)
    hashes = []
    for name in ("first", "second"):
        folder = stage.scratch / name
        stage.run(train(stage, folder, steps, precision, stage.device, spec, *kernels))
        (checkpoint,) = (folder / "checkpoints").glob("step-*")
        files = ("model.safetensors", "optimizer.safetensors")
        hashes.append({file: hashlib.sha256((checkpoint / file).read_bytes()).hexdigest() for file in files})
    if hashes[0] != hashes[1]:
        raise Failed(f"two equal runs have different checkpoints: {hashes}")
    return {
        "result": {"spec": spec, "steps": steps, "precision": precision, "sha256": hashes[0]},
        "summary": f"{spec}, {steps} steps, equal checkpoints",
    }


def sanitize(stage, tool):
    name = f"compute-sanitizer {tool}"
    if not stage.cuda or not shutil.which("compute-sanitizer"):
        if stage.only.search(name):
            stage.leave_out(name, "there is no compute-sanitizer here" if stage.cuda else "nothing runs on a GPU here")
        return
    # One small step in bf16: tools slow kernels by factors of ten to a hundred.
    small = ("--set", "train.micro_batch=2", "--set", "train.global_batch=2", "--set", "model.num_hidden_layers=2")

    def measure():
        command = train(stage, stage.scratch / tool, 1, "bf16", stage.device, "llama-nano", *small)
        tools = ["compute-sanitizer", "--tool", tool, "--error-exitcode", 9, "--print-limit", 20]
        # Its findings are on stdout.
        text = stage.run(tools + command, 150)
        summary = [line for line in text.splitlines() if "SUMMARY" in line]
        if not summary:
            raise Failed("compute-sanitizer ended without a summary")
        return {"result": {"tool": tool, "summary": summary}, "summary": "; ".join(summary)}

    stage.row(name, 60, measure, "sanitizer")


main()
