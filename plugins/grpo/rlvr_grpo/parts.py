"""Parts of GRPO's family: credits, losses, a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlvr_core.components.maths import MAX_LOG_RATIO, at_last_action, masked_mean, return_to_go, whitened
from rlvr_core.components.parts import policy_ratio
from rlvr_core.contracts import CreditAssigner, Loss, Sampler
from rlvr_core.records import Batch, Credit, MicroBatch, Rollout, Selection, Term


class GroupRelative(CreditAssigner):
    """A = (r - mean) / (std + epsilon) over a prompt's rollouts, chosen or not; std has ddof 1.

    Source: Shao et al. 2024, "DeepSeekMath", section 4.1; without the division: Liu et al. 2025, "Understanding R1-Zero-like training".
    """

    def credit(self, batch: Batch) -> Credit:
        o, rewards = self.options, batch.sequence_rewards
        advantage = torch.zeros_like(rewards)
        everyone = _std(torch.cat([group.rewards for group in batch.groups])) if batch.groups else 1.0
        for group in batch.groups:
            if len(group.rewards) == 1:
                # verl takes mean 0 and std 1 for a group of one
                alone = rewards[group.rows] if o.group_of_one == "reward" else torch.zeros_like(rewards[group.rows])
                advantage[group.rows] = alone if o.scale_rewards == "none" else alone / (1 + o.epsilon)
                continue
            centred = rewards[group.rows] - group.rewards.mean()
            spread = _std(group.rewards) if o.scale_rewards == "group" else everyone
            advantage[group.rows] = centred if o.scale_rewards == "none" else centred / (spread + o.epsilon)
        return Credit(advantage)


def _std(rewards: Tensor) -> Tensor:
    """Standard deviation with ddof 1; 0 for a single reward."""
    return rewards.std(unbiased=True) if len(rewards) > 1 else torch.zeros((), dtype=rewards.dtype)


class LeaveOneOut(CreditAssigner):
    """A = r - mean of the group's other rewards. Source: Ahmadian et al. 2024, "Back to basics" (arXiv:2402.14740), eq. 8."""

    def credit(self, batch: Batch) -> Credit:
        rewards = batch.sequence_rewards
        advantage = torch.zeros_like(rewards)
        for group in batch.groups:
            others = len(group.rewards) - 1
            here = rewards[group.rows]
            if others:
                advantage[group.rows] = here - (group.rewards.sum() - here) / others
            elif self.options.group_of_one == "reward":
                advantage[group.rows] = here
        return Credit(advantage)


class ReinforcePP(CreditAssigner):
    """Rewards to go, whitened over the batch's action tokens. Source: Hu 2025, "REINFORCE++" (arXiv:2501.03262)."""

    def credit(self, batch: Batch) -> Credit:
        o, mask = self.options, batch.mask & batch.chosen[:, None]
        rewards = batch.rewards.clone()
        if o.baseline == "group":
            for group in batch.groups:
                rewards[group.rows] -= group.rewards.mean()
        per_token = at_last_action(rewards, mask) + (0.0 if batch.token_rewards is None else batch.token_rewards)
        returns = return_to_go(per_token, mask, o.gamma)
        return Credit(whitened(returns, mask, o.ddof))


def pushed(values: Tensor, batch: MicroBatch) -> dict[str, Term]:
    """The policy term from per-token values, under credit weights and corrections."""
    return {"policy": Term(values * batch.weight * batch.importance)}


class Gspo(Loss):
    """-min(s A, clip(s) A) with s = exp(mean over tokens of log pi - log pi_old). Source: Zheng et al. 2025 (arXiv:2507.18071)."""

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        o, advantage = self.options, batch.advantage
        logprobs = batch["logprobs"].where(batch.mask, 0.0)
        mean = masked_mean(logprobs - batch.old_logprobs, batch.mask)[:, None].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        # GSPO-token: the sequence's value with the token's own gradient
        log_ratio = mean.detach() + logprobs - logprobs.detach() if o.per_token else mean.expand_as(logprobs)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - o.epsilon_low, 1 + o.epsilon_high)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        batch.log("policy/clip_fraction", (surrogate != ratio * advantage).to(ratio.dtype))
        batch.log("policy/ratio", ratio)
        return pushed(-surrogate, batch)


class Cispo(Loss):
    """-sg(clip(r)) A log pi. Source: MiniMax 2025, "MiniMax-M1" (arXiv:2506.13585), eq. 4."""

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        ratio = policy_ratio(batch, MAX_LOG_RATIO).detach()
        weight = ratio.clamp(self.options.ratio_min, self.options.ratio_max)
        batch.log("policy/clip_fraction", (weight != ratio).to(ratio.dtype))
        batch.log("policy/ratio", ratio)
        return pushed(-weight * batch.advantage * batch["logprobs"], batch)


class Sapo(Loss):
    """-(4 / tau) sigmoid(tau (r - 1)) A, tau by the advantage's sign. Source: arXiv:2511.20347, "Soft adaptive policy optimization"."""

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        o, ratio = self.options, policy_ratio(batch, MAX_LOG_RATIO)
        tau = torch.full_like(ratio, o.tau_negative).masked_fill(batch.advantage > 0, o.tau_positive)
        batch.log("policy/ratio", ratio)
        return pushed(-torch.sigmoid(tau * (ratio - 1)) * 4 / tau * batch.advantage, batch)


class Dynamic(Sampler):
    """Keeps groups whose rewards differ, and asks for as many more prompts as were dropped; the engine bounds the rounds.

    Source: Yu et al. 2025, "DAPO" (arXiv:2503.14476), section 3.2.
    """

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._wanted = 0

    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        groups = sorted({r.key.group for r in scored})
        if round == 0:
            self._wanted = len(groups)
        rewards = {r.key.group: r.group_rewards for r in scored}
        telling = {group for group, known in rewards.items() if max(known) - min(known) > self.options.tolerance}
        used = set([group for group in groups if group in telling][: self._wanted])
        return Selection([r for r in scored if r.key.group in used], refill=self._wanted - len(used))
