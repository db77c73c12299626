"""Seconds and memory of a step: rlvr's GRPO and POPO, TRL's GRPOTrainer and a bare loop on the same work, one after the other.

    .venv/bin/python benchmarks/step_time/run.py

The work (workload.py): 16 prompts x 8 completions of a random Qwen2 whose completions end geometrically (mean 80, cut at 512), reward 1 for
30 %, one optimizer step. Each trainer runs in a process of its own, in turn; its first step is left out. TRL is installed into an
environment of its own (--peers). Ratios are of seconds for a thousand sampled tokens, since each trainer samples its own completions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import workload

HERE = Path(__file__).parent
TRL = "trl==1.16.0"
Row = dict[str, Any]


def peers(folder: Path) -> Path:
    """The interpreter of an environment with TRL, made where it is not there yet."""
    python = folder / "bin/python"
    if not (folder / ".ready").exists():
        constraints = HERE.parent.parent / "requirements/constraints.txt"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, f"torch=={torch.__version__.partition('+')[0]}"], check=True)
        subprocess.run([*install, TRL, "-c", str(constraints)], check=True)
        (folder / ".ready").touch()
    return python


def measured(command: list[str | Path], out: Path) -> Row:
    """Run a trainer and read what it wrote."""
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error"}
    if command[1] == HERE / "ours.py":
        environment.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line sets it
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    row: Row = json.loads(out.read_text())
    print(f"{row['name']}: {[round(s, 1) for s in row['seconds']]} s, peak {row['peak_mb']:.0f} MB", file=sys.stderr, flush=True)
    return row


def table(rounds: list[list[Row]], base: str) -> str:
    """Markdown: medians over rounds, and ratios to one trainer."""
    merged: dict[str, list[Row]] = {}
    for row in (row for rows in rounds for row in rows):
        merged.setdefault(row["name"], []).append(row)
    cost = {name: statistics.median(x for row in some for x in per_thousand(row)) for name, some in merged.items()}
    peak = {name: statistics.median(row["peak_mb"] for row in some) for name, some in merged.items()}
    header = ("trainer", "step s", "of it rollout s", "s per 1,000 tokens", "step rate", "peak MB", "peak")
    lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    for name, some in merged.items():
        step, rollout = (statistics.median(s for row in some for s in row[key]) for key in ("seconds", "rollout"))
        cells = (name, f"{step:.1f}", f"{rollout:.1f}", f"{cost[name]:.2f}", f"{cost[base] / cost[name]:.2f}", f"{peak[name]:,.0f}",
                 f"{peak[name] / peak[base]:.0%}")  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nStep rate and peak memory as multiples of those of {base}.\n"


def per_thousand(row: Row) -> list[float]:
    """Seconds of each step for a thousand sampled tokens."""
    return [1000 * seconds / tokens for seconds, tokens in zip(row["seconds"], row["tokens"], strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="steps of each trainer and round, the first not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="0.5B" if torch.cuda.is_available() else "9M")
    parser.add_argument(
        "--trl-rows", type=int, default=32, help="TRL's per_device_train_batch_size; the fastest of 16, 32, 128 on 2 cores"
    )
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="environment for TRL")
    parser.add_argument("--without-trl", action="store_true", help="compare with the bare loop alone")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place), Path(place) / "out.json"
        workload.write(folder, a.size, a.steps, a.seed)
        trl = [] if a.without_trl else [[peers(a.peers), HERE / "trl_grpo.py", folder, out, a.trl_rows, a.steps]]
        ours = [[sys.executable, HERE / "ours.py", folder, out, objective, a.steps] for objective in ("grpo", "popo")]
        ours.append([*ours[1], "objective.regularisers.similarity=null", "objective.regularisers.entropy=null"])
        bare = [[sys.executable, HERE / "bare.py", folder, out, what, a.steps] for what in ("all", "positives")]
        rows = [[measured(command, out) for command in [*trl, *ours, *bare]] for _ in range(a.rounds)]
    print(table(rows, "bare all" if a.without_trl else "TRL GRPOTrainer"))


if __name__ == "__main__":
    main()
