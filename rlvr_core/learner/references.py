"""References: policies to hold on to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from rlvr_core.contracts import Reference
from rlvr_core.policy.root import make_quiet, moved


class _Copy(Reference):
    """A reference with weights of its own."""

    model: PreTrainedModel

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])


class FrozenReference(_Copy):
    """The policy as it was before the first step."""

    def build(self, policy: PreTrainedModel) -> PreTrainedModel:
        self.model = make_quiet(copy.deepcopy(policy))
        return self.model


class EmaTwin(_Copy):
    """An exponential moving average of the policy: xi <- decay xi + (1 - decay) theta after each optimizer step.

    Kept in float32 at least: in bfloat16 a decay of 0.995 rounds every update away.
    """

    moves = True

    def build(self, policy: PreTrainedModel) -> PreTrainedModel:
        self.model = make_quiet(moved(copy.deepcopy(policy), dtype=torch.promote_types(policy.dtype, torch.float32)))
        return self.model

    @torch.no_grad()
    def follow(self, policy: PreTrainedModel) -> None:
        decay = self.options.decay
        for twin, online in zip(self.model.parameters(), policy.parameters(), strict=True):
            twin.lerp_(online.to(twin.dtype), 1.0 - decay)
        for kept, buffer in zip(self.model.buffers(), policy.buffers(), strict=True):
            kept.copy_(buffer)
