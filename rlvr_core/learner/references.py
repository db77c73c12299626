"""References: policies to hold on to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rlvr_core.contracts import Reference
from rlvr_core.policy.root import make_quiet


class _Copy(Reference):
    """A copy of what the optimizer moves. Parameters that it does not move (a base under adapters) are shared with the policy."""

    model: PreTrainedModel
    own: dict[str, nn.Parameter]

    def copied(self, policy: PreTrainedModel) -> PreTrainedModel:
        """The copy, without gradient, in evaluation mode."""
        shared = {id(p): p for p in policy.parameters() if not p.requires_grad}
        self.model = copy.deepcopy(policy, shared)  # the memo: these are not copied
        self.own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return make_quiet(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"parameters": {name: p.detach() for name, p in self.own.items()}, "buffers": dict(self.model.named_buffers())}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for kept, mine in ((state["parameters"], self.own), (state["buffers"], dict(self.model.named_buffers()))):
            if kept.keys() != mine.keys():
                raise ValueError(f"{type(self).__name__}: the state is of another model: {sorted(kept.keys() ^ mine.keys())[:3]}")
            for name, values in kept.items():
                mine[name].copy_(values)


class FrozenReference(_Copy):
    """The policy as it was before the first step."""

    def build(self, policy: PreTrainedModel) -> PreTrainedModel:
        return self.copied(policy)


class EmaTwin(_Copy):
    """An exponential moving average of the policy: xi <- decay xi + (1 - decay) theta after each optimizer step.

    Kept in float32 at least: in bfloat16 a decay of 0.995 rounds every update away.
    """

    moves = True

    def build(self, policy: PreTrainedModel) -> PreTrainedModel:
        model = self.copied(policy)
        for parameter in self.own.values():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        return model

    @torch.no_grad()
    def follow(self, policy: PreTrainedModel) -> None:
        decay = self.options.decay
        online = dict(policy.named_parameters())
        for name, twin in self.own.items():
            twin.lerp_(online[name].to(twin.dtype), 1.0 - decay)
        for kept, buffer in zip(self.model.buffers(), policy.buffers(), strict=True):
            kept.copy_(buffer)
