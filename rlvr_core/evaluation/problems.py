"""What was drawn for each problem, and the figures that follow. Training, `rlvr eval` and a resumed one all come through here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlvr_core.evaluation.estimators import bootstrap, maj_at_k, pass_at_k
from rlvr_core.records import Outcome, Rollout
from rlvr_core.rollout.collect import WeightedReward
from rlvr_core.tasks.mixture import PART


@dataclass(frozen=True)
class Sample:
    """One completion, as the figures need it and as a row of problems.jsonl shows it."""

    completion: str
    tokens: int
    finish_reason: str
    reward: float
    right: bool
    answer: str | None
    """What the deciding reward takes for its answer; None where it finds none, or cannot say."""
    outcomes: Mapping[str, Mapping[str, Any]]
    status: str
    """The deciding reward's."""


@dataclass(frozen=True)
class Problem:
    """A problem with its samples. ``greedy``: the completion at temperature 0, where one was drawn."""

    id: str
    part: str | None
    prompt: Any
    gold: str
    samples: tuple[Sample, ...]
    greedy: Sample | None = None

    @property
    def right(self) -> int:
        """Samples that are right."""
        return sum(sample.right for sample in self.samples)

    def as_row(self) -> dict[str, Any]:
        """A line of problems.jsonl. ``pass_rate`` is what a task's difficulty filter reads."""
        found = asdict(self)
        head = {key: found.pop(key) for key in ("id", "part", "prompt", "gold")}
        return {**head, "n": len(self.samples), "right": self.right, "pass_rate": self.right / len(self.samples), **found}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Problem:
        """What ``as_row`` gave, read back. Raises KeyError or TypeError for anything else."""
        greedy = None if row["greedy"] is None else Sample(**row["greedy"])
        samples = tuple(Sample(**sample) for sample in row["samples"])
        return cls(row["id"], row["part"], row["prompt"], row["gold"], samples, greedy)


def deciding(rollout: Rollout, rewards: Sequence[WeightedReward]) -> tuple[WeightedReward, Outcome]:
    """The first reward, in the spec's order, that does not abstain; the first one where all do."""
    for weighted in rewards:
        outcome = rollout.outcomes[weighted.label]
        if outcome.status != "abstain":
            return weighted, outcome
    return rewards[0], rollout.outcomes[rewards[0].label]


def to_sample(rollout: Rollout, rewards: Sequence[WeightedReward]) -> Sample:
    """A completion is right where the deciding reward gives full marks (at least 1)."""
    weighted, outcome = deciding(rollout, rewards)
    return Sample(
        completion=rollout.text,
        tokens=len(rollout.completion_ids),
        finish_reason=rollout.finish_reason,
        reward=rollout.reward,
        right=outcome.value is not None and outcome.value >= 1.0,
        answer=weighted.reward.answer(rollout.text),
        outcomes={label: {"value": o.value, "status": o.status, "reason": o.reason} for label, o in rollout.outcomes.items()},
        status=outcome.status,
    )


def to_problems(rollouts: Sequence[Rollout], greedy: Sequence[Rollout], rewards: Sequence[WeightedReward]) -> list[Problem]:
    """Rollouts, groups together, as problems in the order of their prompts. ``greedy``: one of each problem, or none at all."""
    groups: dict[tuple[int, int], list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.key.group, []).append(rollout)
    beside = {rollout.key.group: to_sample(rollout, rewards) for rollout in greedy}
    return [
        Problem(
            id=group[0].example.id,
            part=group[0].example.columns.get(PART),
            prompt=group[0].example.prompt,
            gold=group[0].example.gold,
            samples=tuple(to_sample(rollout, rewards) for rollout in group),
            greedy=beside.get(key),
        )
        for key, group in groups.items()
    ]


def maj_of(problem: Problem, k: int) -> float:
    """maj@k of one problem. Right samples agree by definition; wrong ones do where the reward finds the same answer."""
    wrong = Counter(sample.answer for sample in problem.samples if not sample.right)
    silent = wrong.pop(None, 0)
    return maj_at_k(problem.right, list(wrong.values()), silent, k)


def figures(problems: Sequence[Problem], ks: Sequence[int], votes: bool) -> dict[str, float | int]:
    """Every figure of an evaluation, flat: those with ``_low`` and ``_high`` beside them have a bootstrap interval over problems.

    ``ks``: for pass@k and, from k = 2 and where there are ``votes``, maj@k. Raises DataError for a k above the number of samples.
    """
    samples = len(problems[0].samples)
    shares = [problem.right / samples for problem in problems]
    table: dict[str, list[float]] = {"pass@1": shares}
    table |= {f"pass@{k}": [pass_at_k(samples, problem.right, k) for problem in problems] for k in ks if k > 1}
    if samples > 1:
        table[f"avg@{samples}"] = shares
    table |= {f"maj@{k}": [maj_of(problem, k) for problem in problems] for k in ks if k > 1 and votes}
    if all(problem.greedy is not None for problem in problems):
        table["greedy"] = [float(problem.greedy.right) for problem in problems if problem.greedy is not None]
    found: dict[str, float | int] = {}
    for name, interval in zip(table, bootstrap(list(table.values())), strict=True):
        found |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return (
        found
        | {"n": len(problems), "samples": samples, "stderr": _standard_error(shares)}
        | _means(problems)
        | _by_part(problems)
    )


def _standard_error(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return math.sqrt(variance / len(values))


def _means(problems: Sequence[Problem]) -> dict[str, float | int]:
    """Over all samples."""
    samples = [sample for problem in problems for sample in problem.samples]
    return {
        "reward": sum(sample.reward for sample in samples) / len(samples),
        "completion_length": sum(sample.tokens for sample in samples) / len(samples),
        "truncated": sum(sample.finish_reason == "length" for sample in samples) / len(samples),
        "no_answer": sum(sample.status in ("no_answer", "unparsed") for sample in samples) / len(samples),
    }


def _by_part(problems: Sequence[Problem]) -> dict[str, float | int]:
    """pass@1 of each part of a mixture."""
    parts: dict[str, list[float]] = {}
    for problem in problems:
        if problem.part is not None:
            parts.setdefault(problem.part, []).append(problem.right / len(problem.samples))
    return {f"pass@1/{part}": sum(shares) / len(shares) for part, shares in sorted(parts.items())}
