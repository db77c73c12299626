"""Core's own samplers, corrections, shapers, losses and regularisers: those that more than one objective uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlvr_core.components.maths import MAX_LOG_RATIO, kl_estimate
from rlvr_core.contracts import Correction, Loss, Needs, Regulariser, Sampler, Shaper
from rlvr_core.records import Batch, MicroBatch, Rollout, Selection, Term


class AllSampler(Sampler):
    """Every rollout reaches the learner."""

    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        return Selection(list(scored))


def _ratio(logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, level: str) -> Tensor:
    """[B,T]: exp(log pi - log mu), a token's own or its sequence's."""
    difference = (logprobs - sampling_logprobs).where(mask, 0.0)
    if level == "sequence":
        difference = difference.sum(-1, keepdim=True).expand_as(difference)
    return difference.exp()


class TruncatedCorrection(Correction):
    """The ratio, held inside [clip_low, clip]: truncated importance sampling (Ionides 2008)."""

    def importance(self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        return _ratio(logprobs, sampling_logprobs, mask, self.options.level).clamp(self.options.clip_low, self.options.clip)


class MaskedCorrection(Correction):
    """ratio inside [clip_low, clip], else 0."""

    def importance(self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        ratio = _ratio(logprobs, sampling_logprobs, mask, self.options.level)
        inside = (ratio >= self.options.clip_low) & (ratio <= self.options.clip)
        return ratio.where(inside, 0.0)


class KlReward(Shaper):
    """-coef * KL to a reference, added to the reward of each token, before credit (and so before any group normalisation)."""

    def needs(self) -> Needs:
        return Needs(reference=frozenset({"logprobs"}), to=self.options.to, scope="all")

    def shape(self, batch: Batch) -> Tensor:
        reference = batch.references[self.options.to]["logprobs"]
        coef: float = self.options.coef
        return -coef * kl_estimate(batch.logprobs, reference, self.options.estimator, self.options.clamp)


class Overlong(Shaper):
    """DAPO's soft overlong penalty on a sequence's reward."""

    def shape(self, batch: Batch) -> Tensor:
        o = self.options
        limit = o.limit or batch.max_completion_length
        buffer = o.buffer or max(1, limit // 5)
        lengths = torch.tensor([len(r.completion_ids) for r in batch.rollouts], dtype=torch.float64)
        penalty: float = o.penalty
        share: Tensor = (lengths - (limit - buffer)) / buffer
        return -penalty * share.clamp(0.0, 1.0)


def policy_ratio(batch: MicroBatch, clamp: float | None) -> Tensor:
    """[B,T]: pi / pi_old of each token, log-ratios clamped to +-clamp; 1 at padding."""
    log_ratio = (batch["logprobs"] - batch.old_logprobs).where(batch.mask, 0.0)
    return (log_ratio if clamp is None else log_ratio.clamp(-clamp, clamp)).exp()


class ClippedLoss(Loss):
    """-min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) per token, with r = exp(log pi - log pi_old).

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7; the bound for negative advantages:
    Ye et al. 2020, "Mastering complex control in MOBA games with deep reinforcement learning", eq. 4.
    """

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        o, advantage = self.options, batch.advantage
        ratio = policy_ratio(batch, o.log_ratio_clamp)
        clipped = ratio.clamp(1 - o.epsilon_low, 1 + o.epsilon_high)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        if o.dual_clip is not None:
            surrogate = torch.where(advantage < 0, torch.maximum(surrogate, o.dual_clip * advantage), surrogate)
        batch.log("policy/clip_fraction", (surrogate != ratio * advantage).to(ratio.dtype))
        batch.log("policy/ratio", ratio)
        return {"policy": Term(-surrogate * batch.weight * batch.importance)}


class Kl(Regulariser):
    """coef * KL(policy || reference), estimated at the sampled tokens."""

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"logprobs"}), reference=frozenset({"logprobs"}), to=self.options.to)

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        o, logprobs = self.options, batch["logprobs"].where(batch.mask, 0.0)
        reference = batch.references[o.to]["logprobs"]
        values = kl_estimate(logprobs, reference, o.estimator, o.clamp)
        if o.straight_through:
            k2 = kl_estimate(logprobs, reference, "k2")
            values = values.detach() + k2 - k2.detach()
        if o.times_ratio:
            values = values * policy_ratio(batch, MAX_LOG_RATIO)
        batch.log(f"kl/{self.options.to}", values)
        return {f"kl_{self.options.to}": Term(values, coef=self.options.coef)}


class Entropy(Regulariser):
    """-coef * entropy of the next-token distribution, averaged over tokens."""

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"entropy"}), scope=self.options.scope)

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"entropy": Term(-batch["entropy"], over="tokens", scope=self.options.scope, coef=self.options.coef)}
