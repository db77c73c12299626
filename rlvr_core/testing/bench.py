"""One objective on a tiny policy, without rollouts: what losses and gradients does an update give?

The very classes that training uses, on made-up rollouts, so that tests can split the work differently and compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from rlvr_core.learner.learner import Learner, When
from rlvr_core.learner.prepare import Preparer
from rlvr_core.loop import assign_credit
from rlvr_core.objective import Objective, build_objective
from rlvr_core.plugins import Catalogue, catalogue
from rlvr_core.records import Batch, Credited, Rollout
from rlvr_core.setup import build_learner
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.resolved import Resolved
from rlvr_core.spec.source import from_mapping
from rlvr_core.testing.fakes import tiny_policy


def resolved_for(objective: Mapping[str, Any], installed: Catalogue | None = None, **learner: Any) -> Resolved:
    """A resolved spec around an objective; ``learner`` sets options of the learner section."""
    rollout = {"group_size": 4, "prompts_per_step": 4, "max_completion_length": 8, "temperature": 1.0}
    data = {
        "model": {"name": "none"},
        "task": {"name": "arithmetic"},
        "objective": dict(objective),
        "rollout": rollout,
        "learner": {"learning_rate": 1e-3, "max_grad_norm": None, **learner},
    }
    return resolve(from_mapping(data, "test"), installed or catalogue())


@dataclass
class Bench:
    """An objective with a learner on a tiny policy."""

    resolved: Resolved
    objective: Objective
    learner: Learner
    preparer: Preparer

    @classmethod
    def of(
        cls,
        objective: Mapping[str, Any],
        *,
        dtype: torch.dtype = torch.float64,
        installed: Catalogue | None = None,
        policy: PreTrainedModel | None = None,
        **learner: Any,
    ) -> Bench:
        """Set one up; the policy (a tiny one, unless given) and every module start from fixed seeds."""
        resolved = resolved_for(objective, installed, **learner)
        accelerator = Accelerator(cpu=True)
        built = build_objective(resolved.objective)
        made, preparer = build_learner(resolved, built, policy or tiny_policy(dtype=dtype), accelerator)
        return cls(resolved, built, made, preparer)

    def select(self, scored: Sequence[Rollout]) -> tuple[list[Rollout], list[Rollout]]:
        """(kept, dropped) as a step would have them."""
        kept = list(self.objective.sampler.select(scored, 0).kept)
        keys = {r.key for r in kept}
        dropped = [r for r in scored if r.key not in keys] if self.objective.wants_dropped_rows() else []
        return kept, dropped

    def prepare(self, scored: Sequence[Rollout]) -> tuple[Batch, Credited]:
        """Select, prepare, credit."""
        batch = self.preparer.prepare(*self.select(scored), self.learner.version)
        return batch, assign_credit(self.objective, batch, self.learner.version)[0]

    def gradients(self, scored: Sequence[Rollout], seed: int = 0) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of one update, and the gradient that each parameter had at its (first) optimizer step."""
        return self.learn(*self.prepare(scored), len(scored), When(seed, 1))

    def learn(self, batch: Batch, credit: Credited, drawn: int, when: When) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The same for a batch that is prepared and credited. ``drawn``: rollouts drawn for it."""
        found: dict[str, Tensor] = {}

        def record(*_: Any) -> None:
            for name, parameter in self.learner.root.named_parameters():
                if name not in found and parameter.grad is not None:
                    found[name] = parameter.grad.clone()

        handle = self.learner.optimizer.register_step_pre_hook(record)
        metrics = self.learner.update(batch, credit, drawn, when)
        handle.remove()
        return metrics, found

    def parameters(self) -> dict[str, Tensor]:
        """A copy of every trainable parameter."""
        return {name: p.detach().clone() for name, p in self.learner.root.named_parameters()}
