"""Roll out, score, gather, select: from prompts to the rollouts that the learner sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from accelerate.utils import gather_object

from rlvr_core.clock import Clock
from rlvr_core.contracts import Reward, RolloutEngine
from rlvr_core.errors import ContractError, DataError
from rlvr_core.randomness import permutation
from rlvr_core.records import Outcome, Request, RewardItem, Rollout, RowKey, Sampling, Selection
from rlvr_core.rollout.prompts import Prompt, prompt_text


@dataclass(frozen=True)
class WeightedReward:
    """A reward under its label, and what its value counts."""

    label: str
    reward: Reward
    weight: float


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    index: int
    number: int


@dataclass(frozen=True)
class Collected:
    """One step's rollouts. ``scored``: every one drawn; ``kept``: those for the learner; ``rounds``: refills done."""

    scored: tuple[Rollout, ...]
    kept: tuple[Rollout, ...]
    rounds: int
    metrics: Mapping[str, float]


class Roller:
    """Draws and scores completions on all ranks; every rank ends with every record."""

    def __init__(
        self,
        engine: RolloutEngine,
        rewards: Sequence[WeightedReward],
        decode: Callable[[Sequence[int]], str],
        ranks: Ranks,
        clock: Clock,
    ) -> None:
        self.engine = engine
        self.rewards = rewards
        self.decode = decode
        self.ranks = ranks
        self.clock = clock

    def roll(self, prompts: Sequence[Prompt], step: int, first: int, group_size: int, sampling: Sampling) -> list[Rollout]:
        """``group_size`` scored completions of each prompt, groups together, in order. ``first``: the first prompt's number in the step."""
        mine = [(first + i, prompt) for i, prompt in enumerate(prompts) if i % self.ranks.number == self.ranks.index]
        requests = [Request(RowKey(step, number, sample), prompt.ids) for number, prompt in mine for sample in range(group_size)]
        with self.clock.timed("rollout"):
            completions = self.engine.generate(requests, sampling) if requests else []
        if [c.key for c in completions] != [r.key for r in requests]:
            raise ContractError(
                f"the rollout engine {type(self.engine).__name__} did not return one completion a request, in order"
            )
        owners = dict(mine)
        exact, version = self.engine.exact(), self.engine.policy_version()
        rollouts = [
            Rollout(
                key=c.key,
                example=owners[c.key.prompt].example,
                prompt_ids=owners[c.key.prompt].ids,
                completion_ids=c.ids,
                logprobs=c.logprobs,
                finish_reason=c.finish_reason,
                exact=exact,
                policy_version=version,
                text=self.decode(c.ids),
            )
            for c in completions
        ]
        with self.clock.timed("reward"):
            scored = self.score(rollouts)
        with self.clock.timed("idle"):
            everyone: list[Rollout] = gather_object(scored) if self.ranks.number > 1 else scored
        return _with_group_rewards(sorted(everyone, key=lambda r: r.key))

    def score(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Outcomes of every reward, and their weighted sum; a reward that gives no value counts 0."""
        items = [RewardItem(prompt_text(r.example), r.text, r.example.gold, r.example.columns) for r in rollouts]
        outcomes: list[dict[str, Outcome]] = [{} for _ in rollouts]
        for weighted in self.rewards:
            given = weighted.reward.score(items) if items else []
            _check_outcomes(weighted.label, given, len(items))
            for row, outcome in zip(outcomes, given, strict=True):
                row[weighted.label] = outcome
        weights = {w.label: w.weight for w in self.rewards}
        return [
            replace(rollout, outcomes=row, reward=sum(weights[label] * (o.value or 0.0) for label, o in row.items()))
            for rollout, row in zip(rollouts, outcomes, strict=True)
        ]


def _check_outcomes(label: str, outcomes: Sequence[Outcome], wanted: int) -> None:
    if len(outcomes) != wanted:
        raise DataError(f"rewards.{label}: gave {len(outcomes)} outcomes for {wanted} completions; one each is wanted")
    for row, outcome in enumerate(outcomes):
        if outcome.value is not None and not math.isfinite(outcome.value):
            raise DataError(f"rewards.{label}: gave {outcome.value} for completion {row}; a finite number or None is wanted")


def _with_group_rewards(rollouts: Sequence[Rollout]) -> list[Rollout]:
    groups: dict[tuple[int, int], list[float]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.key.group, []).append(rollout.reward)
    return [replace(r, group_rewards=tuple(groups[r.key.group])) for r in rollouts]


def shuffled_rewards(rollouts: Sequence[Rollout], seed: int, step: int) -> list[Rollout]:
    """A control: the same rewards, dealt to the step's rollouts at random."""
    order = permutation(len(rollouts), "control", seed, step)
    return _with_group_rewards(
        [replace(r, reward=rollouts[i].reward, outcomes=rollouts[i].outcomes) for r, i in zip(rollouts, order, strict=True)]
    )


def collect(
    roll: Callable[[int, int], list[Rollout]],
    select: Callable[[Sequence[Rollout], int], Selection],
    prompts: int,
    max_refills: int,
    first: int = 0,
) -> Collected:
    """Rounds of ``roll(number of prompts, first prompt's number)`` until the sampler is content or ``max_refills`` are used up."""
    scored = roll(prompts, first)
    rounds, asked = 0, first + prompts
    while True:
        selection = select(scored, rounds)
        if not selection.refill or rounds >= max_refills:
            return Collected(tuple(scored), tuple(selection.kept), rounds, selection.metrics)
        scored = scored + roll(selection.refill, asked)
        rounds, asked = rounds + 1, asked + selection.refill
