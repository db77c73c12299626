"""A sampler with a buffer, and a credit for what it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlvr_core.contracts import CreditAssigner, Sampler
from rlvr_core.records import Batch, Credit, Rollout, Selection


class Replay(Sampler):
    """Keeps every rollout of the step, and the right ones of earlier steps that were learned from least often, oldest first.

    A replayed rollout was sampled by an older policy, so the engine computes its log-probs anew and hands the ratio to the correction.
    """

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.buffer: list[Rollout] = []
        self.uses: list[int] = []

    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        step = scored[0].key.step
        young = [i for i, r in enumerate(self.buffer) if r.key.step < step <= r.key.step + self.options.max_age]
        chosen = sorted(young, key=lambda i: (self.uses[i], i))[: self.options.replayed]
        again = [self.buffer[i] for i in chosen]
        for i in chosen:
            self.uses[i] += 1
        right = [r for r in scored if r.reward > self.options.threshold and r.completion_ids]
        kept = [(self.buffer[i], self.uses[i]) for i in young] + [(r, 0) for r in right]
        self.buffer = [r for r, _ in kept[-self.options.capacity :]]
        self.uses = [uses for _, uses in kept[-self.options.capacity :]]
        return Selection([*scored, *again], metrics={"replay/replayed": len(again), "replay/buffer": len(self.buffer)})

    def state_dict(self) -> dict[str, Any]:
        return {"buffer": list(self.buffer), "uses": list(self.uses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buffer, self.uses = list(state["buffer"]), list(state["uses"])


class AboveMean(CreditAssigner):
    """Reward less the mean of its group; of a group of one, the reward."""

    def credit(self, batch: Batch) -> Credit:
        advantage = torch.zeros_like(batch.rewards)
        for group in batch.groups:
            mean = group.rewards.mean() if len(group.rewards) > 1 else 0.0
            advantage[group.rows] = batch.sequence_rewards[group.rows] - mean
        return Credit(advantage)
