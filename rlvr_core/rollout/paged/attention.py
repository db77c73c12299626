"""Attention of one new token a row over keys and values in pages: one operation, on CUDA a kernel, elsewhere the plain computation."""

from __future__ import annotations

import torch
from torch import Tensor

from rlvr_core.rollout.paged.pages import PAGE

SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor(a!) keys, Tensor(b!) values, Tensor tables, Tensor lengths, float scale, "
    "float? softcap, int? window) -> Tensor"
)


@torch.library.custom_op("rlvr::attend", mutates_args=("keys", "values"), schema=SCHEMA)
def attend(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor,
    scale: float, softcap: float | None = None, window: int | None = None,
) -> Tensor:  # fmt: skip
    """Write the new tokens' ``key``, ``value`` [R,K,D] into their pages and attend to all that each row sees. Returns [R,H,D].

    ``query`` [R,H,D], H a multiple of K heads; ``keys``, ``values`` [pages,K,PAGE,D]; ``tables`` [R,N] int32: each row's pages, in order;
    ``lengths`` [R] int64: tokens that each row has there; the new one comes after them. softmax over columns of cap(scale q k),
    cap(x) = softcap tanh(x / softcap); ``window``: columns seen, the new one included.
    """
    if query.device.type != "cuda":
        return plain(query, key, value, keys, values, tables, lengths, scale, softcap, window)
    from rlvr_core.rollout.paged import attention_kernel

    return attention_kernel.attend(query, key, value, keys, values, tables, lengths, scale, softcap, window)


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: object) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], value.shape[2])


def plain(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor,
    scale: float, softcap: float | None = None, window: int | None = None,
) -> Tensor:  # fmt: skip
    """The same over all columns of the tables, seen or not."""
    rows, shared = key.shape[:2]
    page = tables[torch.arange(rows, device=key.device), lengths // PAGE].long()
    keys[page, :, lengths % PAGE] = key
    values[page, :, lengths % PAGE] = value
    k, v = (pool[tables.long()].transpose(1, 2).flatten(2, 3) for pool in (keys, values))  # [R,K,N*PAGE,D]
    column = torch.arange(k.shape[2], device=k.device)[None]
    seen = column <= lengths[:, None]
    if window is not None:
        seen = seen & (column > lengths[:, None] - window)
    z = query.unflatten(1, (shared, -1)) @ k.transpose(-1, -2) * scale  # [R,K,G,N*PAGE]
    if softcap is not None:
        z = torch.tanh(z / softcap) * softcap
    p = torch.softmax(z.masked_fill(~seen[:, None, None], -torch.inf).to(torch.promote_types(z.dtype, torch.float32)), -1)
    return (p.to(v.dtype) @ v).flatten(1, 2)
