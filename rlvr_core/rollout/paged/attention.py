"""Attention of one new token a row over keys and values in pages: the plain computation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr_core.rollout.paged.pages import PAGE


@dataclass(frozen=True)
class Paged:
    """Where the rows of a batch keep their keys and values."""

    tables: Tensor
    """[R,N] int32: each row's pages, in order."""
    lengths: Tensor
    """[R] int64: tokens that each row has there; the new one comes after them."""


@dataclass(frozen=True)
class Score:
    """softmax over columns of cap(scale q k), cap(x) = softcap tanh(x / softcap). ``window``: columns seen, the new one included."""

    scale: float
    softcap: float | None = None
    window: int | None = None


def attend(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, paged: Paged, score: Score) -> Tensor:
    """Write the new tokens' ``key``, ``value`` [R,K,D] into their pages and attend to all that each row sees.

    ``query`` [R,H,D], H a multiple of K heads; ``keys``, ``values`` [pages,K,PAGE,D]. Returns [R,H,D].
    """
    rows, heads = key.shape[:2]
    row = torch.arange(rows, device=key.device)
    page = paged.tables[row, paged.lengths // PAGE].long()
    keys[page, :, paged.lengths % PAGE] = key
    values[page, :, paged.lengths % PAGE] = value
    k, v = (pool[paged.tables.long()].transpose(1, 2).flatten(2, 3) for pool in (keys, values))  # [R,K,N*PAGE,D]
    column = torch.arange(k.shape[2], device=k.device)[None]
    seen = column <= paged.lengths[:, None]
    if score.window is not None:
        seen = seen & (column > paged.lengths[:, None] - score.window)
    z = query.unflatten(1, (heads, -1)) @ k.transpose(-1, -2) * score.scale  # [R,K,G,N*PAGE]
    if score.softcap is not None:
        z = torch.tanh(z / score.softcap) * score.softcap
    p = torch.softmax(z.masked_fill(~seen[:, None, None], -torch.inf).to(torch.promote_types(z.dtype, torch.float32)), -1)
    return (p.to(v.dtype) @ v).flatten(1, 2)
