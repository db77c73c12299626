"""Tokens from logits: each row's own random number, turned into a token by inverting the distribution function."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Tokens of the vocabulary summed together first; then one block alone is looked into."""


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[B,V] -> most likely ids [B] and their log-probs [B]. Overwrites ``logits``."""
    top, ids = logits.max(-1)
    return ids, -logits.sub_(top[:, None]).exp_().sum(-1).log()


def sample(logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """[B,V] logits, numbers [B] float64 in [0,1) -> ids [B] and their log-probs [B]. Overwrites ``logits``.

    The id is the first whose cumulative probability exceeds the number; it never is one of probability 0.
    """
    mass = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    cumulative = _block_sums(mass).cumsum(-1)
    total = cumulative[:, -1:]
    wanted = numbers[:, None] * total
    block = _first_above(cumulative, wanted)
    before = torch.where(block > 0, cumulative.gather(-1, (block - 1).clamp(min=0)), 0.0)
    ids = block * BLOCK + torch.arange(BLOCK, device=logits.device)
    inside = mass.gather(-1, ids.clamp(max=mass.shape[-1] - 1)).where(ids < mass.shape[-1], 0.0).double()
    place = _first_above(inside.cumsum(-1), wanted - before)
    found = ids.gather(-1, place)
    return found.squeeze(-1), (inside.gather(-1, place) / total).log().to(mass.dtype).squeeze(-1)


def _block_sums(mass: Tensor) -> Tensor:
    """[B,V] -> [B, ceil(V / BLOCK)] float64."""
    rows, size = mass.shape
    whole = size // BLOCK * BLOCK
    sums = mass[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1) if whole else mass.new_empty(rows, 0)
    if whole < size:
        sums = torch.cat([sums, mass[:, whole:].sum(-1, keepdim=True)], dim=-1)
    return sums.double()


def _first_above(cumulative: Tensor, wanted: Tensor) -> Tensor:
    """[B,n], [B,1] -> [B,1]: the first place above; the last that adds anything, where rounding left none above."""
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(cumulative, wanted, right=True), last)
