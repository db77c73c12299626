"""What observers are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr_core.records import Rollout


@dataclass(frozen=True)
class Event:
    """Anything that happened in a run."""


@dataclass(frozen=True)
class RunStarted(Event):
    """The run passed its own checks and is about to take step 1."""

    output: Path
    steps: int
    first_step: int
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class StepFinished(Event):
    """One step is done. ``metrics``: the row of metrics.jsonl. ``samples``: a few rollouts of the step."""

    step: int
    metrics: Mapping[str, float | int | bool | str]
    samples: Sequence[Rollout] = field(default_factory=tuple)


@dataclass(frozen=True)
class Evaluated(Event):
    """An evaluation ended. ``when``: ``before``, ``after`` or ``step N``."""

    when: str
    step: int
    result: Mapping[str, float | int]


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint or the model was written."""

    path: Path
    step: int


@dataclass(frozen=True)
class Notice(Event):
    """A line the user should read: ``level`` is ``info`` or ``warning``."""

    message: str
    level: str = "info"


@dataclass(frozen=True)
class RunFinished(Event):
    """The run is over. ``summary``: what summary.json holds."""

    output: Path
    summary: Mapping[str, Any]
