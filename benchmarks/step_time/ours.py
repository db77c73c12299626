"""Steps of rlvr on the workload, by the command line's own code: python ours.py FOLDER OUT DEVICE OBJECTIVE LABEL STEPS [assignment ...]"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import workload
from accelerate import Accelerator

from rlvr_core import setup
from rlvr_core.events import Event, StepFinished
from rlvr_core.loop import take_step
from rlvr_core.running import load


def main(folder: Path, out: Path, device: str, objective: str, label: str, steps: int, *assignments: str) -> None:
    """Time each step."""
    work = workload.read(folder)
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
        "rollout": {"prompts_per_step": work.prompts, "group_size": work.group, "max_completion_length": work.limit},
        "learner": {"learning_rate": workload.LEARNING_RATE},
    }
    training = setup.build(load(spec, assignments), Accelerator(cpu=device == "cpu"), tell).training
    seconds = []
    for step in range(1, steps + 1):
        start = time.perf_counter()
        take_step(training, step)
        workload.wait(device)
        seconds.append(time.perf_counter() - start)
    drawn = [[(len(r.prompt_ids), len(r.completion_ids)) for r in row.samples] for row in rows]
    learned = [
        [(len(r.prompt_ids), len(r.completion_ids)) for r in row.samples if objective != "popo" or r.reward > 0] for row in rows
    ]
    stages = {
        stage: [round(float(row.metrics[f"time/{stage}"]), 3) for row in rows]
        for stage in ("rollout", "reward", "prepare", "reference", "learn", "other")
    }
    workload.report(
        out,
        f"rlvr {objective}{label}",
        device,
        seconds,
        [float(row.metrics["time/rollout"]) for row in rows],
        drawn,
        learned,
        stages,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5], int(sys.argv[6]), *sys.argv[7:])
