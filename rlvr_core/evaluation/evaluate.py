"""Score held-out problems with the policy as it is. The same code before, during and after training, and in `rlvr eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlvr_core.evaluation.problems import Problem, figures, to_problems
from rlvr_core.records import Rollout, Sampling
from rlvr_core.rollout.collect import Roller
from rlvr_core.rollout.prompts import Prompt

EVALUATION_STEP = -1
"""The step in row keys of evaluations: each draws with the same random numbers, so two differ by their policies alone."""


@dataclass(frozen=True)
class Draws:
    """What is drawn of each problem, and asked of it. ``greedy``: one completion at temperature 0 besides."""

    samples: int
    sampling: Sampling
    ks: tuple[int, ...] = (1,)
    greedy: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Figures for summary.json, and the completions behind them."""

    figures: dict[str, float | int]
    rollouts: tuple[Rollout, ...]


def evaluate(roller: Roller, prompts: Sequence[Prompt], draws: Draws) -> Evaluation:
    """Every problem at once. On every rank; each ends with every figure."""
    problems, rollouts = draw_problems(roller, prompts, 0, draws)
    return Evaluation(figures(problems, draws.ks, counts_votes(roller)), tuple(rollouts))


def draw_problems(roller: Roller, prompts: Sequence[Prompt], first: int, draws: Draws) -> tuple[list[Problem], list[Rollout]]:
    """Samples of some problems. ``first``: the number of the first among all; random numbers follow from it, not from the batch."""
    rollouts = roller.roll(prompts, EVALUATION_STEP, first, draws.samples, draws.sampling)
    greedy: list[Rollout] = []
    if draws.greedy:
        greedy = roller.roll(prompts, EVALUATION_STEP, first, 1, replace(draws.sampling, temperature=0.0))
    return to_problems(rollouts, greedy, roller.rewards), rollouts


def counts_votes(roller: Roller) -> bool:
    """Whether every reward that counts says what a completion's answer is."""
    return all(weighted.reward.states_answers for weighted in roller.rewards if weighted.weight)
