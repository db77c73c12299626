"""The one root module: the policy and every trainable part that components brought.

Every pass goes through its ``forward``, so data-parallel wrappers see all parameters and sharded ones are gathered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from rlvr_core.contracts import Differentiable
from rlvr_core.learner.terms import all_terms
from rlvr_core.policy.blocks import CompiledBlocks, used
from rlvr_core.policy.forward import POLICY_QUANTITIES, Head, Rows, completion_quantities
from rlvr_core.records import MicroBatch, Term

UNPLANNED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Not cuDNN's attention, which torch takes on Hopper: it makes a plan for each shape that it has not met (hundreds of milliseconds,
others report), and micro-batches are hardly ever of one shape."""


@dataclass(frozen=True)
class Numerics:
    """How forwards are computed."""

    temperature: float
    chunk: int
    autocast: torch.dtype | None

    @contextlib.contextmanager
    def context(self, device: torch.device) -> Iterator[None]:
        """Autocast, where it is on, and no attention that is planned anew for each shape."""
        with contextlib.ExitStack() as entered:
            if self.autocast is not None:
                entered.enter_context(torch.autocast(device.type, dtype=self.autocast))
            if device.type == "cuda":
                entered.enter_context(sdpa_kernel(UNPLANNED))
            yield


class Root(nn.Module):
    """Policy and trainable parts. ``differentiables``: loss and regularisers by label; ``blocks``: the policy's layers, compiled."""

    def __init__(
        self,
        policy: PreTrainedModel,
        differentiables: Mapping[str, Differentiable],
        modules: Mapping[str, nn.Module],
        numerics: Numerics,
        blocks: CompiledBlocks | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.parts = nn.ModuleDict(modules)
        self.head = Head(policy)
        self.numerics = numerics
        self.blocks = blocks
        self.differentiables = dict(differentiables)
        self.providers = {name: part for part in self.differentiables.values() for name in part.provides}

    def forward(self, mode: str, *args: Any, **kwargs: Any) -> Any:
        """``learn`` | ``prepare`` | ``decode`` | ``generate``: one door for wrappers to guard."""
        if mode == "learn":
            return self._learn(*args)
        if mode == "prepare":
            return self._quantities(*args)
        if mode in ("decode", "generate"):
            run: Any = self.policy if mode == "decode" else self.policy.generate
            with self.numerics.context(self.policy.device):
                return run(**kwargs)
        raise ValueError(f"no mode '{mode}'")

    def _learn(self, rows: Rows, batch: MicroBatch, wanted: frozenset[str]) -> dict[str, Term]:
        """Every term of every part, for these rows."""
        # Layers recompute their activations in training mode alone; nothing else depends on it, dropout is off.
        recompute = self.policy.is_activation_checkpointing
        if recompute:  # each change of mode walks through all modules
            self.policy.train()
        batch.quantities = self._quantities(rows, batch, wanted)
        if recompute:
            self.policy.eval()
        return all_terms(self.differentiables, batch)

    def _quantities(self, rows: Rows, batch: MicroBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Named quantities of the policy, those of providers included."""
        provided = wanted - POLICY_QUANTITIES
        basic = (wanted & POLICY_QUANTITIES) | {
            q for name in provided for q in self.providers[name].needs().policy if q in POLICY_QUANTITIES
        }
        with self.numerics.context(self.policy.device), used(self.blocks):
            found = completion_quantities(self.policy, self.head, rows, basic, self.numerics.temperature, self.numerics.chunk)
        batch.quantities, batch.rows = found, rows
        for name in sorted(provided):
            found[name] = self.providers[name].provide(name, batch)
        return found


def moved(model: PreTrainedModel, **where: Any) -> PreTrainedModel:
    """``model.to(device=..., dtype=...)``."""
    nn.Module.to(model, **where)
    return model


def make_quiet(model: PreTrainedModel) -> PreTrainedModel:
    """A model nobody trains: evaluation mode, no gradient."""
    model.eval()
    model.requires_grad_(False)
    return model
