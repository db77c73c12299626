"""Options of GRPO's parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rlvr_core.options import Options, option


class GroupRelativeOptions(Options):
    """A = (reward - mean of its group) / (std + epsilon)."""

    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", "whose standard deviation (ddof 1) divides: the group's, the whole batch's, or none (Dr. GRPO)"
    )
    epsilon: float = option(1e-4, "added to the standard deviation (TRL 1e-4, verl 1e-6, OpenRLHF 1e-9)", ge=0.0)

    def inert(self) -> Mapping[str, str]:
        return {"epsilon": "scale_rewards is none, so nothing is divided"} if self.scale_rewards == "none" else {}
