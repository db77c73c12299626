"""Everything that a run must remember to go on as if it had never stopped.

Random numbers need no state: they follow from the seed and the step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from rlvr_core.errors import RunFolderError
from rlvr_core.learner.learner import Learner
from rlvr_core.loop import Training
from rlvr_core.records import Example, Outcome, Rollout, RowKey

FOLDER = "checkpoints"


def state_of(training: Training, step: int) -> dict[str, Any]:
    """What the learner must remember, and where the prompts stand."""
    return {"step": step, **learner_state(training.learner), "prompts": training.prompts.state_dict()}


def restore(training: Training, state: Mapping[str, Any]) -> None:
    """Take it all back. Every part's state must be there."""
    restore_learner(training.learner, state)
    training.prompts.load_state_dict(state["prompts"])
    training.first_step = state["step"] + 1


def learner_state(learner: Learner) -> dict[str, Any]:
    """Weights, optimizer, schedule, references, every component's state."""
    return {
        "version": learner.version,
        "root": learner.root.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "components": {name: part.state_dict() for name, part in learner.objective.components()},
    }


def restore_learner(learner: Learner, state: Mapping[str, Any]) -> None:
    """Take the learner's state back."""
    learner.root.load_state_dict(state["root"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scheduler.load_state_dict(state["scheduler"])
    learner.version = state["version"]
    for name, part in learner.objective.components():
        part.load_state_dict(state["components"][name])


def save(output: Path, training: Training, step: int, keep: int) -> Path:
    """Write checkpoints/step-N; older ones beyond ``keep`` go."""
    folder = output / FOLDER
    target, partial = folder / f"step-{step:06d}", folder / f".step-{step:06d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "state.pt").open("wb") as file:
        torch.save(state_of(training, step), file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in finished(output)[:-keep]:
        shutil.rmtree(old)
    return target


def finished(output: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted((output / FOLDER).glob("step-*"))


def load(output: Path, device: torch.device) -> dict[str, Any]:
    """The newest checkpoint. Raises RunFolderError where there is none."""
    found = finished(output)
    if not found:
        raise RunFolderError(f"{output} holds no checkpoint to resume from; set checkpoint.every in the spec, and start it anew")
    return read(found[-1] / "state.pt", device)


def read(file: Path | IO[bytes], device: torch.device) -> dict[str, Any]:
    """A state as ``torch.save`` wrote it: tensors, plain data and records of rollouts. Nothing else is let in, so no code can be."""
    with torch.serialization.safe_globals([Rollout, RowKey, Example, Outcome]):
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    return state


def drop_rows_after(path: Path, step: int) -> None:
    """Forget rows of steps that the resumed run will take again."""
    if not path.exists():
        return
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n") and json.loads(line)["step"] <= step
    ]
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)
