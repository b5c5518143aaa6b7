"""What all stages of the acceptance script share: the time they have, the commands they run, the JSON they write.

Must not know what any stage measures.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A row that did not hold; the message says why."""


class Stage:
    """One stage: rows are run in the order of their weight, for as long as there is time."""

    def __init__(self, name):
        parser = argparse.ArgumentParser()
        parser.add_argument("--device", required=True)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--colac", required=True)
        parser.add_argument("--minutes", type=float, required=True)
        parser.add_argument("--only", type=re.compile, required=True)
        chosen = parser.parse_args()
        self.name, self.colac, self.out, self.only = name, chosen.colac, chosen.out, chosen.only
        self.cuda = chosen.device == "cuda"
        # The default of every command is the CPU.
        self.device = ["--device", "cuda"] if self.cuda else []
        self.deadline = time.monotonic() + 60 * chosen.minutes
        # Seconds that the last row of a kind took.
        self.taken = {}
        # Runs and their checkpoints are large and need not come back.
        self.scratch = Path(tempfile.mkdtemp(prefix=f"colac-{name}-"))
        self.log = open(self.out / f"{name}.log", "w")
        self.report = {
            "stage": name,
            "device": chosen.device,
            "minutes": chosen.minutes,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": self.machine(),
            "rows": [],
            "left_out": [],
            "failed": [],
        }
        self.save()

    # --- commands ---------------------------------------------------------------------------------

    def run(self, command, seconds=None, environment=None, watch=None, accepted=(0,)):
        """Runs a command; returns its stdout. Raises `Failed` if it has not ended in time with an accepted status.

        With `watch`, a pattern, returns the seconds until a line of stderr matched, and ends the command there.
        """
        limit = max(1.0, self.left() if seconds is None else min(seconds, self.left()))
        command = [str(part) for part in command]
        print("$", shlex.join(command), file=self.log, flush=True)
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # A group of its own, so that the processes that it started end with it.
            start_new_session=True,
        )
        stdout, stderr, seen = [], [], []

        def read(stream, lines):
            for line in stream:
                lines.append(line)
                if watch and lines is stderr and not seen and re.search(watch, line):
                    seen.append(time.monotonic() - start)
                    end(process)

        readers = [
            threading.Thread(target=read, args=pair)
            for pair in ((process.stdout, stdout), (process.stderr, stderr))
        ]
        for reader in readers:
            reader.start()
        in_time = True
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            # In time, out of time or interrupted: nothing that was started stays.
            end(process)
            process.wait()
        for reader in readers:
            reader.join()
        took = time.monotonic() - start
        self.log.write("".join(stdout + stderr))
        print(f"[{process.returncode}, {took:.1f} s]\n", file=self.log, flush=True)
        if seen:
            return seen[0]
        if not in_time:
            raise Failed(f"not done after {limit:.0f} s: {self.told(command)}")
        if process.returncode not in accepted or watch:
            tail = "".join((stderr or stdout)[-12:]).strip()
            raise Failed(f"{self.told(command)} ended with {process.returncode}: {tail}")
        return "".join(stdout)

    def told(self, command):
        """A command as a reader of the table needs it: without the folders of this machine."""
        text = shlex.join(str(part) for part in command).replace(self.colac, "colac").replace(sys.executable, "python3")
        return text.replace(f"{ROOT}/", "").replace(f"{self.scratch}/", "")

    def json(self, command, **options):
        """Runs a command that prints one JSON value."""
        text = self.run(command, **options)
        try:
            return json.loads(text)
        except ValueError as error:
            raise Failed(f"no JSON from {self.told(command)}: {error}") from None

    def offers(self, command, option):
        """Whether a command of colac has an option: this script may be older or newer than the binary."""
        with contextlib.suppress(Failed):
            return re.search(rf"^\s+(-\w, )?{option}\b", self.run([self.colac, command, "--help"], 10), re.M) is not None
        return False

    def without_cudnn(self):
        """Why attention by cuDNN is left out; `None` where it can be had."""
        if not self.cuda:
            return "nothing runs on a GPU here"
        if not self.offers("doctor", "--attention"):
            return "this colac has no attention by cuDNN"
        try:
            report = self.json([self.colac, "doctor", *self.device, "--json"], accepted=(0, 1))
        except Failed as failure:
            return str(failure)
        for library in (report.get("gpu") or {}).get("libraries", []):
            if library["name"] == "cuDNN":
                return library["found"].get("Err")
        return "doctor says nothing of cuDNN"

    # --- rows -------------------------------------------------------------------------------------

    def left(self):
        return self.deadline - time.monotonic()

    def row(self, name, seconds, measure, kind=None):
        """Runs `measure`, which returns what is worth keeping, if about `seconds` are left; returns that or `None`.

        Rows of the same kind take about as long: from the second on what the last one took counts.
        """
        if not self.only.search(name):
            return None
        expected = 1.1 * self.taken.get(kind, seconds)
        if self.left() < expected:
            self.leave_out(name, f"{max(self.left(), 0):.0f} s left, about {expected:.0f} s needed")
            return None
        start = time.monotonic()
        try:
            found = measure()
        except Exception as failure:
            # Whatever went wrong, the rows behind it are still worth their time on the device.
            why = str(failure) if isinstance(failure, Failed) else f"{type(failure).__name__}: {failure}"
            traceback.print_exc(file=self.log)
            self.report["failed"].append({"row": name, "why": why})
            print(f"FAILED    {name}: {why}")
            found = None
        else:
            took = time.monotonic() - start
            self.taken[kind or name] = took
            self.report["rows"].append({"row": name, "wall_seconds": round(took, 3), **found})
            print(f"{took:6.1f} s  {name}{': ' if 'summary' in found else ''}{found.get('summary', '')}")
        self.save()
        return found

    def leave_out(self, name, why):
        self.report["left_out"].append({"row": name, "why": why})
        print(f"left out  {name}: {why}")
        self.save()

    def save(self):
        """Whole or not at all: a stage that is killed leaves the rows that it had."""
        path = self.out / f"{self.name}.json"
        beside = path.with_suffix(".json.part")
        beside.write_text(json.dumps(self.report, indent=1) + "\n")
        beside.replace(path)

    def finish(self):
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.save()
        self.log.close()
        report = self.report
        counts = ", ".join(f"{len(report[key])} {word}" for key, word in
                           (("rows", "rows"), ("left_out", "left out"), ("failed", "failed")))
        print(f"{self.name}: {counts}; {self.out / self.name}.json")
        sys.exit(1 if report["failed"] else 0)

    # --- the machine ------------------------------------------------------------------------------

    def machine(self):
        found = {"cores": os.cpu_count()}
        with open(self.colac, "rb") as binary:
            found["colac_sha256"] = hashlib.file_digest(binary, "sha256").hexdigest()
        with contextlib.suppress(Failed):
            found["colac"] = self.run([self.colac, "--version"], 10).strip()
        if self.cuda:
            with contextlib.suppress(Failed, OSError, ValueError):
                query = "name,driver_version,memory.total,power.limit"
                text = self.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", "0"], 30)
                name, driver, memory, power = (part.strip() for part in text.strip().split(","))
                found |= {"gpu": name, "driver": driver, "memory_mib": int(memory), "power_limit_watts": power}
        return found


def end(process):
    """Ends a process that was started here, with what it started itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class DeviceMemory:
    """The most memory of the GPU that was in use at once, less what was in use before, by nvidia-smi twice a second."""

    def __init__(self, cuda):
        self.cuda = cuda
        self.samples = []

    def __enter__(self):
        self.process = None
        if self.cuda and shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0", "-lms", "500"]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
            with contextlib.suppress(ValueError):
                self.samples.append(int(self.process.stdout.readline()))
            self.reader = threading.Thread(target=self.read)
            self.reader.start()
        return self

    def read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.samples.append(int(line))

    def __exit__(self, *_):
        if self.process:
            end(self.process)
            self.process.wait()
            self.reader.join()

    def used_bytes(self):
        """`None` without a GPU."""
        return (max(self.samples) - self.samples[0]) * 2**20 if self.samples else None
