"""Steps of rlvr on the workload, through the command line's own code: python ours.py FOLDER OUT OBJECTIVE STEPS DTYPE [assignment ...]"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import workload
from accelerate import Accelerator

from rlvr_core import setup
from rlvr_core.events import Event, StepFinished
from rlvr_core.loop import take_step
from rlvr_core.running import load


def main(folder: Path, out: Path, objective: str, steps: int, *assignments: str) -> None:
    """Time each step."""
    rows: list[StepFinished] = []

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished):
            rows.append(event)

    spec = {
        "steps": steps,
        "model": {"name": str(folder / "model")},
        "task": {"name": "jsonl", "path": str(folder / "rows.jsonl"), "eval_fraction": 0.0},
        "rewards": {
            "share": {"name": "function", "function": f"{Path(workload.__file__).resolve()}:rewards", "in_process": True}
        },
        "objective": {"name": objective},
        "rollout": {"prompts_per_step": workload.PROMPTS, "group_size": workload.GROUP, "max_completion_length": workload.LIMIT},
        "learner": {"learning_rate": workload.LEARNING_RATE},
    }
    training = setup.build(load(spec, assignments), Accelerator(cpu=not torch.accelerator.is_available()), tell).training
    seconds = []
    for step in range(1, steps + 1):
        start = time.perf_counter()
        take_step(training, step)
        seconds.append(time.perf_counter() - start)
    tokens = [round(row.metrics["rollout/completion_length"] * row.metrics["select/scored"]) for row in rows]
    name = f"rlvr {objective}" + (" without similarity and entropy" if assignments else "")
    workload.report(out, name, seconds, [float(row.metrics["time/rollout"]) for row in rows], tokens)
    for stage in ("rollout", "reward", "prepare", "reference", "learn", "other"):
        print(stage, [round(float(row.metrics[f"time/{stage}"]), 2) for row in rows], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
