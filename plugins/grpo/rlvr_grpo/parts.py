"""GRPO's parts."""

from __future__ import annotations

import torch

from rlvr_core.contracts import CreditAssigner
from rlvr_core.records import Batch, Credit


class GroupRelative(CreditAssigner):
    """A = (r - mean) / (std + epsilon) over a prompt's rollouts, chosen or not; std has ddof 1. A group of one gets 0.

    Source: Shao et al. 2024, "DeepSeekMath", section 4.1.
    """

    def credit(self, batch: Batch) -> Credit:
        advantage = torch.zeros_like(batch.rewards)
        rewards = batch.sequence_rewards
        for group in batch.groups:
            advantage[group.rows] = rewards[group.rows] - group.rewards.mean()
        return Credit(self._scaled(advantage, batch))

    def _scaled(self, advantage: torch.Tensor, batch: Batch) -> torch.Tensor:
        scale, epsilon = self.options.scale_rewards, self.options.epsilon
        if scale == "group":
            for group in batch.groups:
                advantage[group.rows] /= _std(group.rewards) + epsilon
        elif scale == "batch" and batch.groups:
            advantage = advantage / (_std(torch.cat([group.rewards for group in batch.groups])) + epsilon)
        return advantage


def _std(rewards: torch.Tensor) -> torch.Tensor:
    """Standard deviation with ddof 1; 0 for a single reward."""
    return rewards.std(unbiased=True) if len(rewards) > 1 else torch.zeros((), dtype=rewards.dtype)
