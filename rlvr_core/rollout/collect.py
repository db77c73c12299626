"""Roll out, score, gather, select: from prompts to the rollouts that the learner sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from accelerate.utils import gather_object

from rlvr_core.clock import Clock
from rlvr_core.contracts import Reward, RolloutEngine
from rlvr_core.errors import ContractError
from rlvr_core.randomness import permutation
from rlvr_core.records import Outcome, Request, RewardItem, Rollout, RowKey, Sampling, Selection
from rlvr_core.reward.judging import judge
from rlvr_core.reward.outcomes import Policies, settle, with_group_rewards
from rlvr_core.rollout.prompts import Prompt, prompt_text
from rlvr_core.spec.model import ScoringSection


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
    """One step's rollouts.

    ``scored``: those that count; ``kept``: those of them for the learner; ``rounds``: refills done; ``dropped``: those that scoring
    left out, which nothing after it sees.
    """

    scored: tuple[Rollout, ...]
    kept: tuple[Rollout, ...]
    rounds: int
    metrics: Mapping[str, float]
    dropped: tuple[Rollout, ...] = ()

    @property
    def drawn(self) -> tuple[Rollout, ...]:
        """All of them, in order."""
        return tuple(sorted((*self.scored, *self.dropped), key=lambda r: r.key))


class Roller:
    """Draws and scores completions on all ranks; every rank ends with every record."""

    def __init__(
        self,
        engine: RolloutEngine,
        rewards: Sequence[WeightedReward],
        decode: Callable[[Sequence[int]], str],
        ranks: Ranks,
        clock: Clock,
        policies: Policies | None = None,
    ) -> None:
        self.engine = engine
        self.rewards = rewards
        self.decode = decode
        self.ranks = ranks
        self.clock = clock
        self.policies = ScoringSection().policies() if policies is None else policies

    def roll(self, prompts: Sequence[Prompt], step: int, first: int, group_size: int, sampling: Sampling) -> list[Rollout]:
        """``group_size`` scored completions of each prompt, groups together, in order, those that scoring drops among them.

        ``first``: the first prompt's number in the step.
        """
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
        weights = {w.label: w.weight for w in self.rewards}
        return settle(sorted(everyone, key=lambda r: r.key), weights, self.policies)

    def score(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Outcomes of every reward. What they come to, ``settle`` says, once all ranks' are there."""
        items = [RewardItem(prompt_text(r.example), r.text, r.example.gold, r.example.columns) for r in rollouts]
        outcomes: list[dict[str, Outcome]] = [{} for _ in rollouts]
        for weighted in self.rewards:
            for row, outcome in zip(outcomes, judge(weighted.label, weighted.reward, items), strict=True):
                row[weighted.label] = outcome
        return [replace(rollout, outcomes=row) for rollout, row in zip(rollouts, outcomes, strict=True)]


def shuffled_rewards(rollouts: Sequence[Rollout], seed: int, step: int) -> list[Rollout]:
    """A control: the same rewards, dealt at random to those of the step's rollouts that count."""
    counting = [r for r in rollouts if not r.dropped]
    order = permutation(len(counting), "control", seed, step)
    dealt = [replace(r, reward=counting[i].reward, outcomes=counting[i].outcomes) for r, i in zip(counting, order, strict=True)]
    everyone = [*dealt, *(r for r in rollouts if r.dropped)]
    return with_group_rewards(sorted(everyone, key=lambda r: r.key))


def collect(
    roll: Callable[[int, int], list[Rollout]],
    select: Callable[[Sequence[Rollout], int], Selection],
    prompts: int,
    max_refills: int,
    first: int = 0,
) -> Collected:
    """Rounds of ``roll(number of prompts, first prompt's number)`` until the sampler is content or ``max_refills`` are used up.

    The sampler sees the rollouts that count; where there are none, it is not asked.
    """
    drawn = roll(prompts, first)
    rounds, asked = 0, first + prompts
    while True:
        scored = [r for r in drawn if not r.dropped]
        selection = select(scored, rounds) if scored else Selection(())
        if not selection.refill or rounds >= max_refills:
            dropped = tuple(r for r in drawn if r.dropped)
            return Collected(tuple(scored), tuple(selection.kept), rounds, selection.metrics, dropped)
        drawn = drawn + roll(selection.refill, asked)
        rounds, asked = rounds + 1, asked + selection.refill
