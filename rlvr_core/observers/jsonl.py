"""Rows in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr_core.contracts import Observer
from rlvr_core.events import Event, RunStarted, StepFinished
from rlvr_core.records import Rollout


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """A rollout as a line of JSON shows it."""
    return {
        "step": rollout.key.step,
        "prompt_number": rollout.key.prompt,
        "sample": rollout.key.sample,
        "id": rollout.example.id,
        "prompt": rollout.example.prompt,
        "gold": rollout.example.gold,
        "completion": rollout.text,
        "tokens": len(rollout.completion_ids),
        "finish_reason": rollout.finish_reason,
        "reward": rollout.reward,
        **({"dropped": rollout.dropped} if rollout.dropped else {}),
        "outcomes": {label: {"value": o.value, "status": o.status, "reason": o.reason} for label, o in rollout.outcomes.items()},
    }


def append(path: Path, row: Mapping[str, Any]) -> None:
    """One line more; whole or not at all for readers that wait for the newline."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


class JsonlObserver(Observer):
    """metrics.jsonl: a row a step. samples.jsonl: some rollouts with their rewards."""

    output: Path

    def observe(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.output = event.output
        elif isinstance(event, StepFinished):
            append(self.output / "metrics.jsonl", event.metrics)
            if self.options.samples and (event.step == 1 or event.step % self.options.samples_every == 0):
                for rollout in event.samples[: self.options.samples]:
                    append(self.output / "samples.jsonl", rollout_row(rollout))
