"""From terms to a loss: the only place where anything is masked, summed or divided.

Denominators are counted over the whole minibatch and all ranks before its first forward, so micro-batches and ranks cannot change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr_core.contracts import Differentiable
from rlvr_core.errors import ContractError
from rlvr_core.records import Batch, Credited, MicroBatch, Scope, Term

SCOPES: tuple[Scope, ...] = ("chosen", "all")


@dataclass(frozen=True)
class Denominators:
    """What terms are divided by in one minibatch: (over, scope) -> count."""

    counts: Mapping[tuple[str, Scope], float]
    loss_agg_mode: str
    max_completion_length: int

    def of(self, name: str, term: Term) -> float:
        """The denominator of a term; 0 where nothing is counted."""
        if isinstance(term.over, int | float):
            return float(term.over)
        over = term.over
        if over == "agg":
            if term.values.dim() != 2:
                raise ContractError(f"term '{name}' has values per sequence, so it cannot go over 'agg'; use 'sequences'")
            count = self.counts[("tokens" if self.loss_agg_mode == "token-mean" else "sequences", term.scope)]
            return count * self.max_completion_length if self.loss_agg_mode.endswith("-norm") else count
        if (over, term.scope) not in self.counts:
            known = sorted({key for key, _ in self.counts} | {"agg"})
            raise ContractError(f"term '{name}' is over '{over}', which nothing counts; known: {', '.join(known)}")
        return self.counts[(over, term.scope)]


def count(
    mask: Tensor, chosen: Tensor, weight: Tensor, rows: Tensor, prompts: int, batch: float, own: Mapping[str, Tensor]
) -> dict[tuple[str, Scope], float]:
    """Count the denominators of one minibatch.

    ``mask`` [B,T] and ``chosen`` [B] are the whole batch's, ``weight`` [B] the credit weights, ``rows`` the minibatch's row indices,
    ``prompts`` its groups with something chosen, ``batch`` the rollouts drawn for it, ``own`` components' denominators [B].
    """
    lengths = mask.sum(-1)
    counts: dict[tuple[str, Scope], float] = {}
    for scope in SCOPES:
        counted = rows if scope == "all" else rows[chosen[rows]]
        counts[("tokens", scope)] = float(lengths[counted].sum())
        counts[("sequences", scope)] = float((lengths[counted] > 0).sum())
        counts[("weight", scope)] = float(weight[counted].double().sum())
        counts[("prompts", scope)] = float(prompts)
        counts[("batch", scope)] = batch
        for name, values in own.items():
            counts[(name, scope)] = float(values[counted].double().sum())
    return counts


BUILT_IN = ("agg", "tokens", "sequences", "prompts", "weight", "batch")
"""What terms may be over without a denominator of their component's own."""


def own_denominators(parts: Mapping[str, Differentiable], batch: Batch, credit: Credited) -> dict[str, Tensor]:
    """Denominators that components bring, [B] each. Raises ContractError for a name that is taken or another shape."""
    own: dict[str, Tensor] = {}
    for label, part in parts.items():
        for name, values in part.denominators(batch, credit).items():
            if name in own or name in BUILT_IN:
                raise ContractError(f"{label}: a denominator named '{name}' is there already; give it a name of its own")
            if values.shape != batch.chosen.shape:
                raise ContractError(
                    f"{label}: denominator '{name}' has shape {tuple(values.shape)}; [B] is wanted, a row's share each"
                )
            own[name] = values
    return own


def all_terms(parts: Mapping[str, Differentiable], batch: MicroBatch) -> dict[str, Term]:
    """Every term of every part. Raises ContractError where two have one name."""
    terms: dict[str, Term] = {}
    for label, part in parts.items():
        for name, term in part.terms(batch).items():
            if name in terms:
                raise ContractError(f"{label}: a term named '{name}' is there already")
            terms[name] = term
    return terms


def reduce(name: str, term: Term, batch: MicroBatch, present: Tensor, denominators: Denominators) -> Tensor:
    """One term's contribution to the loss from one micro-batch: masked, summed, divided by the global count, times its coefficient.

    ``present`` [B] bool: rows that are no dummies. Contributions of all micro-batches and ranks add up to the term's value.
    """
    rows = batch.chosen if term.scope == "chosen" else present
    values = term.values
    if values.dim() == 2:
        kept = batch.mask & rows[:, None]
        per_row = torch.where(kept, values, torch.zeros((), dtype=values.dtype, device=values.device)).sum(-1)
        if term.over == "agg" and denominators.loss_agg_mode == "seq-mean-token-mean":
            per_row = per_row / batch.mask.sum(-1).clamp(min=1)
    elif values.dim() == 1:
        per_row = torch.where(rows, values, torch.zeros((), dtype=values.dtype, device=values.device))
    else:
        raise ContractError(f"term '{name}' has values of shape {tuple(values.shape)}; [B] or [B,T] is wanted")
    denominator = denominators.of(name, term)
    return per_row.sum() * (term.coef / denominator if denominator > 0 else 0.0)
