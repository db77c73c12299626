"""All benchmarks of the engine, most telling first, each table in a folder of its own.

    .venv/bin/python benchmarks/all.py --output runs/bench

On a GPU each has a time limit; --budget is one for all of them. What a benchmark prints goes to OUTPUT/NAME/log.txt too, its table to
OUTPUT/NAME/table.md as far as it has got. One that fails or is cut off does not keep the others from running; the exit status tells.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
GPU_SECONDS = {"step_time": 240, "rollout_tail": 100, "positive_rate": 90, "memory": 60, "scaling": 100}
"""In the order in which they run, and after which they are cut off on a GPU; about twice what is expected."""
CPU = ("rollout_tail", "positive_rate", "memory", "scaling")
"""Without step_time: it installs TRL, and wants a machine without other work."""
LEAST = 15
"""Seconds with which none is started any more."""


def arguments_for(name: str, device: str, quick: bool, output: Path) -> list[str]:
    """What a benchmark is called with."""
    arguments = ["--device", device, "--output", str(output / name), *(["--quick"] if quick else [])]
    if name == "step_time" and device != "cpu":
        here = importlib.util.find_spec("trl") is not None
        arguments += ["--peers-python", sys.executable] if here else ["--without-trl"]
    return arguments


def run(command: Sequence[str], folder: Path, limit: float) -> str:
    """Run one, printing what it prints; how it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    cut = threading.Event()
    with (
        (folder / "log.txt").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process,
    ):

        def end() -> None:
            cut.set()
            kill(process.pid)

        timer = threading.Timer(min(limit, threading.TIMEOUT_MAX), end)
        timer.start()
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                log.write(line)
            status = process.wait()
        finally:
            timer.cancel()
            kill(process.pid)
    if cut.is_set():
        return f"cut off after {limit:.0f} s"
    return "done" if status == 0 else f"failed ({status}), see {folder / 'log.txt'}"


def kill(leader: int) -> None:
    """A benchmark with all processes that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def stop(number: int, _: FrameType | None) -> None:
    """On SIGTERM: leave, and so end what runs."""
    raise SystemExit(128 + number)


def default_device() -> str:
    """As the benchmarks' own."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main(argv: Sequence[str] | None = None) -> int:
    """Run them and print how each ended. 1 where not all were done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds for all of them")
    parser.add_argument("--only", nargs="+", choices=list(GPU_SECONDS), help="all; on a CPU without step_time")
    parser.add_argument("--device")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: do they run?")
    found = parser.parse_args(argv)
    device = found.device or default_device()
    chosen = found.only or (CPU if device == "cpu" else list(GPU_SECONDS))
    start = time.monotonic()
    ends: dict[str, tuple[str, float]] = {}
    for name in [name for name in GPU_SECONDS if name in chosen]:
        began = time.monotonic() - start
        limit = min(math.inf if device == "cpu" else GPU_SECONDS[name], found.budget - began)
        print(f"\n[{began:.0f} s] {name}", flush=True)
        if limit < LEAST:
            ends[name] = "left out: no time", 0.0
            continue
        command = [sys.executable, str(HERE / name / "run.py"), *arguments_for(name, device, found.quick, found.output)]
        ends[name] = run(command, found.output / name, limit), time.monotonic() - start - began
    print("\n| benchmark | seconds | |\n| --- | --- | --- |")
    for name, (how, seconds) in ends.items():
        print(f"| {name} | {seconds:.0f} | {how} |", flush=True)
    return int(any(how != "done" for how, _ in ends.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
