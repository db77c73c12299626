"""Seconds and memory of a step: rlvr's GRPO and POPO, TRL's GRPOTrainer and a bare loop on the same work, one after the other.

    .venv/bin/python benchmarks/step_time/run.py

The work (workload.py): 16 prompts x 8 completions of a random Qwen2 whose completions end geometrically (mean 80, cut at 512), reward 1 for
30 %, one optimizer step; on a GPU 32 x 16 of a Qwen2 of 0.5 B (mean 128). Each trainer runs in a process of its own, in turn; its first
step is left out. TRL is installed into an environment of its own (--peers), unless an interpreter that has it is named (--peers-python).
Ratios are of seconds for a thousand sampled tokens, since each trainer samples its own completions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import workload  # noqa: E402
from common import (  # noqa: E402
    DECODE_SHARE,
    LEARNER_SHARE,
    Ceilings,
    Table,
    arguments_of,
    ceilings,
    decoding_bytes,
    learning_work,
    release,
)

TRL = "trl==1.16.0"
Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""What was measured, by trainer: a row each round."""
OURS = {
    "grpo": ("grpo", ""),
    "popo": ("popo", ""),
    "popo_plain": (
        "popo", " without similarity and entropy", "objective.regularisers.similarity=null", "objective.regularisers.entropy=null",
    ),
    "grpo_compiled": ("grpo", ", layers compiled", "learner.compile=true", "rollout.engine.compile=true"),
    "popo_compiled": ("popo", ", layers compiled", "learner.compile=true", "rollout.engine.compile=true"),
}  # fmt: skip
"""Objective, what its row says, and what is set, by trainer."""
COLUMNS = ("trainer", "step s", "of it rollout s", "s per 1,000 tokens", "step rate", "peak MB", "peak")
GPU_COLUMNS = ("rollout tokens/s", "its share of bandwidth", "learner tokens/s", "its share of peak")
TRAINERS = ("trl", *OURS, "bare_all", "bare_positives")
"""In the table's order."""
CPU_TRAINERS = ("trl", "grpo", "popo", "popo_plain", "bare_all", "bare_positives")
GPU_TRAINERS = ("grpo", "popo", "grpo_compiled", "trl", "bare_all")
"""In the order of what matters most, if time runs out."""


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


def script_of(trainer: str, a: argparse.Namespace) -> tuple[str, list[str]]:
    """A trainer's script, and its arguments behind FOLDER OUT DEVICE."""
    if trainer == "trl":
        return "trl_grpo", [str(a.trl_rows), str(a.steps), *a.trl]
    if trainer.startswith("bare"):
        return "bare", [trainer.removeprefix("bare_"), str(a.steps)]
    objective, label, *assignments = OURS[trainer]
    return "ours", [objective, label, str(a.steps), *assignments]


def measured(trainer: str, folder: Path, a: argparse.Namespace) -> Row | str:
    """Run a trainer and read what it wrote, or why there is nothing."""
    name, arguments = script_of(trainer, a)
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    if a.quick:  # in this process: starting another takes longer than what it does
        main = importlib.import_module(name).main
        main(folder, out, a.device, *(int(value) if value.isdecimal() else value for value in arguments))
    else:
        python = (a.peers_python or peers(a.peers)) if trainer == "trl" else Path(sys.executable)
        environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}  # all it loads lies in the folder
        if name == "ours":
            environment.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line sets it
        command = [str(python), str(HERE / f"{name}.py"), str(folder), str(out), a.device, *arguments]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=a.most_s)
        except subprocess.TimeoutExpired:
            return f"{' '.join(command)} took longer than {a.most_s:.0f} s"
        if done.returncode:
            return f"{' '.join(command)} failed:\n{done.stderr[-3000:]}"
    row: Row = json.loads(out.read_text())
    return row


def tokens(lengths: workload.Lengths) -> int:
    """Of completions."""
    return sum(completion for _, completion in lengths)


def per_thousand(row: Row) -> list[float]:
    """Seconds of each step for a thousand sampled tokens."""
    return [1000 * seconds / tokens(drawn) for seconds, drawn in zip(row["seconds"], row["drawn"], strict=True)]


def rates(rows: Sequence[Row], work: workload.Work, most: Ceilings) -> list[str]:
    """Cells of ``GPU_COLUMNS``: medians over steps. The learner's time is all of a step but the rollout."""
    drawn, read, learned, done = [], [], [], []
    for row in rows:
        for step, rollout, completions, rows_learned in zip(
            row["seconds"], row["rollout"], row["drawn"], row["learned"], strict=True
        ):
            drawn.append(tokens(completions) / rollout)
            read.append(decoding_bytes(work.shape, completions) / rollout / most.bytes)
            learned.append(sum(map(sum, rows_learned)) / (step - rollout))
            done.append(learning_work(work.shape, rows_learned) / (step - rollout) / most.operations)
    shares = [f"{statistics.median(values):.1%}" for values in (read, done)]
    speeds = [f"{statistics.median(values):,.0f}" for values in (drawn, learned)]
    return [speeds[0], shares[0], speeds[1], shares[1]]


def tabulate(found: Mapping[str, Sequence[Row]], work: workload.Work, most: Ceilings | None, table: Table) -> None:
    """Medians over rounds, and ratios to one trainer."""
    base = next(trainer for trainer in ("trl", "bare_all", *TRAINERS) if trainer in found)
    cost = {trainer: statistics.median(x for row in rows for x in per_thousand(row)) for trainer, rows in found.items()}
    peak = {trainer: statistics.median(row["peak_mb"] for row in rows) for trainer, rows in found.items()}
    digits = 2 if most is None else 4
    for trainer in TRAINERS:
        if trainer in found:
            rows = found[trainer]
            step, rollout = (statistics.median(s for row in rows for s in row[key]) for key in ("seconds", "rollout"))
            table.row(
                rows[0]["name"], f"{step:.{digits - 1}f}", f"{rollout:.{digits - 1}f}", f"{cost[trainer]:.{digits}f}",
                f"{cost[base] / cost[trainer]:.2f}", f"{peak[trainer]:,.0f}", f"{peak[trainer] / peak[base]:.0%}",
                *([] if most is None else rates(rows, work, most)),
            )  # fmt: skip
    table.note(f"Step rate and peak memory as multiples of those of {found[base][0]['name']}.")
    if most is not None:
        table.note(
            f"{most} The learner's time is all of a step but the rollout; its tokens are those of prompts and completions that are "
            f"learned from. {LEARNER_SHARE} {DECODE_SHARE}"
        )


def columns_of(most: Ceilings | None) -> tuple[str, ...]:
    """Shares need ceilings."""
    return COLUMNS if most is None else COLUMNS + GPU_COLUMNS


def keep(found: Rows, work: workload.Work, most: Ceilings | None, folder: Path | None) -> None:
    """What there is so far, should it end here; in ``rows.json`` as it was measured."""
    if folder is not None:
        tabulate(found, work, most, Table(columns_of(most), folder, quiet=True))
        (folder / "rows.json").write_text(json.dumps(found))


def work_of(a: argparse.Namespace) -> workload.Work:
    """A size's work, with what the command line changes."""
    changes = {name: getattr(a, name) for name in ("prompts", "group", "mean", "limit") if getattr(a, name) is not None}
    return replace(workload.WORKS[a.size], **changes)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, help="steps of each trainer and round, the first not counted; 3, on a GPU 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=sorted(workload.WORKS), help="9M, on a GPU 0.5B")
    for name, what in (("prompts", "of a step"), ("group", "completions of each"), ("mean", "tokens"), ("limit", "tokens")):
        parser.add_argument(f"--{name}", type=int, help=f"{what}; the size says")
    parser.add_argument(
        "--trainers",
        nargs="+",
        choices=TRAINERS,
        help=f"in this order; {' '.join(CPU_TRAINERS)}, on a GPU {' '.join(GPU_TRAINERS)}",
    )
    parser.add_argument(
        "--trl-rows", type=int, default=32, help="TRL's per_device_train_batch_size; the fastest of 16, 32, 128 on 2 cores"
    )
    parser.add_argument(
        "--trl", nargs="+", default=[], metavar="OPTION=VALUE", help="GRPOConfig's, as use_transformers_continuous_batching=true"
    )
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="environment for TRL")
    parser.add_argument("--peers-python", type=Path, help="an interpreter that has TRL; nothing is installed then")
    parser.add_argument("--without-trl", action="store_true", help="compare with the bare loop alone; --quick does too")
    parser.add_argument("--most-s", type=float, help="seconds after which a trainer is stopped; on a GPU 110")
    a = arguments_of(__doc__, parser, argv, rounds=2, clock=False)
    gpu = a.device != "cpu"
    a.steps, a.size = a.steps or (2 if gpu else 3), a.size or ("0.5B" if gpu else "9M")
    a.trainers, a.most_s = a.trainers or (GPU_TRAINERS if gpu else CPU_TRAINERS), a.most_s or (110.0 if gpu else None)
    if a.quick:
        a.size, a.steps, a.rounds, a.trainers = "tiny", 2, 1, ("grpo", "popo", "bare_all", "bare_positives")
    trainers = [trainer for trainer in a.trainers if trainer != "trl" or not a.without_trl]
    work, most = work_of(a), ceilings(a.device) if gpu else None
    found: Rows = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        workload.write(Path(place), work, a.steps, a.seed, a.device)
        release(a.device)
        for _ in range(a.rounds):
            for trainer in trainers:
                row = measured(trainer, Path(place), a)
                if isinstance(row, str):
                    failures.append(row)
                    print(row, file=sys.stderr, flush=True)
                    continue
                told = f"{row['name']}: {[round(s, 1) for s in row['seconds']]} s, peak {row['peak_mb']:.0f} MB {row['stages'] or ''}"
                print(told, file=sys.stderr, flush=True)
                found.setdefault(trainer, []).append(row)
                keep(found, work, most, a.output)
    if found:
        tabulate(found, work, most, Table(columns_of(most), a.output))
    if failures:
        raise SystemExit(f"{len(failures)} of {len(trainers) * a.rounds} runs failed; why stands above")


if __name__ == "__main__":
    main()
