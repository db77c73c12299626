"""What each term of a loss is averaged over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlvr_core.contracts import Differentiable
from rlvr_core.objective import Objective
from rlvr_core.policy.forward import Rows, collate, completion_quantities
from rlvr_core.policy.root import Numerics, Root
from rlvr_core.records import MicroBatch, Scope
from rlvr_core.setup import build_modules
from rlvr_core.testing.fakes import scripted_rollouts, tiny_policy


@dataclass(frozen=True)
class Averaged:
    """One term of the loss: whose it is, and what it is averaged over. ``failure``: why a part's terms are not known."""

    part: str
    name: str = ""
    over: str | float = ""
    scope: Scope = "chosen"
    coef: float = 1.0
    failure: str = ""


def averages(objective: Objective) -> list[Averaged]:
    """Every term, found out by asking the parts themselves for the terms of two made-up rollouts under a policy of two small layers."""
    policy, parts = tiny_policy(dtype=torch.float32), objective.differentiables
    root = Root(policy, parts, build_modules(parts, policy, 0), Numerics(1.0, 1024, None))
    rows = collate(scripted_rollouts([[1.0, 0.0]], [[3, 2]]), policy.device)
    micro = _made_up(rows, [name for part in parts.values() for name in part.provides])
    for label, quantities in objective.reference_quantities(objective.learn_needs()).items():
        micro.references[label] = completion_quantities(policy, root.head, rows, quantities, 1.0, 1024)
    return [found for label, part in parts.items() for found in _asked(label, part, root, rows, micro)]


def _made_up(rows: Rows, provided: Sequence[str]) -> MicroBatch:
    """A micro-batch in which every token counts alike."""
    mask = torch.arange(rows.width) < rows.completion_lengths[:, None]
    ones, zeros = torch.ones(mask.shape), torch.zeros(mask.shape)
    return MicroBatch(
        chosen=mask.any(-1), mask=mask, advantage=ones, weight=ones, row_weight=ones[:, 0], old_logprobs=zeros, sampling_logprobs=zeros,
        importance=ones, temperature=1.0, fixed={"returns": zeros, **{f"old_{name}": zeros for name in provided}},
        normal=lambda _, size, std: torch.full((len(mask), size), std),
    )  # fmt: skip


def _asked(label: str, part: Differentiable, root: Root, rows: Rows, micro: MicroBatch) -> list[Averaged]:
    try:
        root("prepare", rows, micro, part.needs().policy)
        return [Averaged(label, name, term.over, term.scope, term.coef) for name, term in part.terms(micro).items()]
    except Exception as error:  # foreign code may want more than made-up rollouts have
        return [Averaged(label, failure=f"{type(error).__name__}: {' '.join(str(error).split())}")]
