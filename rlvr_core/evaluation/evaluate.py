"""Score held-out problems with the policy as it is. The same code before, during and after training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr_core.records import Rollout, Sampling
from rlvr_core.rollout.collect import Roller
from rlvr_core.rollout.prompts import Prompt

EVALUATION_STEP = -1
"""The step in row keys of evaluations: each draws with the same random numbers, so two differ by their policies alone."""


@dataclass(frozen=True)
class Evaluation:
    """Figures for summary.json, and the completions behind them."""

    figures: dict[str, float | int]
    rollouts: tuple[Rollout, ...]


def is_right(rollout: Rollout, label: str) -> bool:
    """A completion is right where the deciding reward gives full marks (1)."""
    value = rollout.outcomes[label].value
    return value is not None and value >= 1.0


def evaluate(roller: Roller, prompts: Sequence[Prompt], samples: int, sampling: Sampling) -> Evaluation:
    """Draw ``samples`` completions a problem. The spec's first reward decides what is right.

    ``pass@1``: the mean over problems of the share of right completions; ``stderr``: its standard error over problems.
    """
    rollouts = roller.roll(prompts, EVALUATION_STEP, 0, samples, sampling)
    label = roller.rewards[0].label
    shares = [0.0] * len(prompts)
    for rollout in rollouts:
        shares[rollout.key.prompt] += is_right(rollout, label) / samples
    mean = sum(shares) / len(shares)
    variance = sum((share - mean) ** 2 for share in shares) / max(1, len(shares) - 1)
    figures: dict[str, float | int] = {
        "pass@1": mean,
        "n": len(prompts),
        "samples": samples,
        "stderr": math.sqrt(variance / len(shares)),
        "reward": sum(r.reward for r in rollouts) / len(rollouts),
        "completion_length": sum(len(r.completion_ids) for r in rollouts) / len(rollouts),
        "truncated": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "no_answer": sum(r.outcomes[label].status in ("no_answer", "unparsed") for r in rollouts) / len(rollouts),
    }
    return Evaluation(figures, tuple(rollouts))
