"""Options of the parts of GRPO's family. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rlvr_core.options import Options, option

GroupOfOne = Literal["zero", "reward"]


class GroupRelativeOptions(Options):
    """A = (reward - mean of its group) / (std + epsilon)."""

    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", "whose standard deviation (ddof 1) divides: the group's, the whole batch's, or none (Dr. GRPO)"
    )
    epsilon: float = option(1e-4, "added to the standard deviation (TRL 1e-4, verl 1e-6, OpenRLHF 1e-9)", ge=0.0)
    group_of_one: GroupOfOne = option("zero", "advantage of a rollout without companions: zero (TRL), or its reward (verl)")

    def inert(self) -> Mapping[str, str]:
        return {"epsilon": "scale_rewards is none, so nothing is divided"} if self.scale_rewards == "none" else {}


class LeaveOneOutOptions(Options):
    """A = reward - mean of the others of its group."""

    group_of_one: GroupOfOne = option("zero", "advantage of a rollout without companions: zero, or its reward (verl's rloo)")


class ReinforcePPOptions(Options):
    """Discounted rewards to go, whitened over all action tokens of the batch."""

    baseline: Literal["none", "group"] = option("none", "what is taken off the reward first: nothing, or the mean of its group")
    gamma: float = option(1.0, "discount from one action token to the next", ge=0.0, le=1.0, symbol="gamma")
    ddof: Literal[0, 1] = option(1, "variance in the whitening: 1 unbiased (verl), 0 biased (OpenRLHF)")


class GspoOptions(Options):
    """A clipped surrogate on the ratio of whole sequences, s = (pi(y) / pi_old(y))^(1/|y|)."""

    epsilon_low: float = option(3e-4, "s is clipped below at 1 - epsilon_low", ge=0.0, lt=1.0, symbol="epsilon_left")
    epsilon_high: float = option(4e-4, "and above at 1 + epsilon_high", ge=0.0, symbol="epsilon_right")
    per_token: bool = option(
        False,
        "GSPO-token: each token keeps its own gradient under its own advantage (verl); otherwise it is spread over the sequence (TRL)",
    )


class CispoOptions(Options):
    """-sg(clip(r, ratio_min, ratio_max)) A log pi: clips the weight, not the gradient."""

    ratio_max: float = option(
        1.28, "upper bound of the ratio (verl: 1 + clip_ratio_high; TRL: epsilon_high itself)", gt=0.0, symbol="1 + epsilon_high"
    )
    ratio_min: float | None = option(
        None, "lower bound of the ratio (verl: 1 - clip_ratio_low); null: none (TRL, the paper)", ge=0.0, symbol="1 - epsilon_low"
    )


class SapoOptions(Options):
    """-(4 / tau) sigmoid(tau (r - 1)) A: a soft gate in place of the clip."""

    tau_positive: float = option(1.0, "steepness of the gate for positive advantages", gt=0.0, symbol="tau_pos")
    tau_negative: float = option(1.05, "and for the others", gt=0.0, symbol="tau_neg")


class DynamicOptions(Options):
    """DAPO's dynamic sampling: groups whose rewards are all the same are dropped and replaced."""

    tolerance: float = option(0.0, "rewards of a group that differ by at most this count as the same", ge=0.0)
