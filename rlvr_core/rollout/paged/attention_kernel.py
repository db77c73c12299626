"""Attention of one new token a row over keys and values in pages, in Triton.

A program takes one row, one key-value head and one part of the row's pages; the query heads that share the key-value head are a tile of
matrix rows. It reads each page once and nothing else, so time goes with the tokens that rows hold and not with the longest of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlvr_core.rollout.paged.pages import PAGE

PROGRAMS = 512
"""Programs that keep a large GPU busy: fewer rows are cut into more parts."""
MOST_PARTS = 32


def attend(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor,
    scale: float, softcap: float | None = None, window: int | None = None,
) -> Tensor:  # fmt: skip
    """``rlvr_core.rollout.paged.attention.plain``, for tensors of 32 bits or less."""
    rows, heads, width = query.shape
    shared, depth = key.shape[1], value.shape[2]
    group = heads // shared
    parts = max(1, min(MOST_PARTS, PROGRAMS // (rows * shared), tables.shape[1]))
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    out = query.new_empty(rows, heads, depth)
    partial = query.new_empty((rows, heads, parts, depth + 2), dtype=torch.float32) if parts > 1 else out
    _pages[(rows, shared, parts)](
        query, key, value, keys, values, tables, lengths, out, partial, tables.stride(0), parts,
        scale=scale, softcap=softcap, window=window, n_group=group, group_pad=_pad(group), n_width=width, width_pad=_pad(width),
        n_depth=depth, depth_pad=_pad(depth), n_page=PAGE, whole=parts == 1,
    )  # fmt: skip
    if parts > 1:
        _join[(rows, heads)](partial, out, parts, n_heads=heads, n_depth=depth, depth_pad=_pad(depth))
    return out


def _pad(size: int) -> int:
    """The next power of two, 16 at least: what a tile's side may be."""
    return max(16, int(triton.next_power_of_2(size)))


@triton.jit
def _pages(
    query, key, value, keys, values, tables, lengths, out, partial, pages_a_row, parts,
    scale: tl.constexpr, softcap: tl.constexpr, window: tl.constexpr, n_group: tl.constexpr, group_pad: tl.constexpr,
    n_width: tl.constexpr, width_pad: tl.constexpr, n_depth: tl.constexpr, depth_pad: tl.constexpr, n_page: tl.constexpr,
    whole: tl.constexpr,
):  # fmt: skip
    """One part of a row's pages for one key-value head: out where it is the whole, else maximum, sum and weighted values."""
    row, shared, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads_shared = tl.num_programs(1)
    length = tl.load(lengths + row).to(tl.int32)
    g, d, e, c = tl.arange(0, group_pad), tl.arange(0, width_pad), tl.arange(0, depth_pad), tl.arange(0, n_page)
    head = (row * heads_shared + shared) * n_group + g
    q = tl.load(query + head[:, None] * n_width + d[None], mask=(g < n_group)[:, None] & (d < n_width)[None], other=0.0)

    first = 0
    if window is not None:
        first = tl.maximum(0, length + 1 - window)
    last = (length + n_page - 1) // n_page
    each = (last - first // n_page + parts - 1) // parts
    begin = first // n_page + part * each
    end = tl.minimum(begin + each, last)

    top = tl.full([group_pad], float("-inf"), tl.float32)
    total = tl.zeros([group_pad], tl.float32)
    sums = tl.zeros([group_pad, depth_pad], tl.float32)
    if part == 0:  # the new token: from its states at hand, which are written into its page on the way
        new = row * heads_shared + shared
        k = tl.load(key + new * n_width + d, mask=d < n_width, other=0.0)
        v = tl.load(value + new * n_depth + e, mask=e < n_depth, other=0.0)
        page = tl.load(tables + row * pages_a_row + length // n_page).to(tl.int64)
        place = (page * heads_shared + shared) * n_page + length % n_page
        tl.store(keys + place * n_width + d, k, mask=d < n_width)
        tl.store(values + place * n_depth + e, v, mask=e < n_depth)
        z = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None], 1) * scale
        if softcap is not None:
            z = softcap * _tanh(z / softcap)
        top = z
        total += 1.0
        sums += v.to(tl.float32)[None]

    for number in range(begin, end):
        page = tl.load(tables + row * pages_a_row + number).to(tl.int64)
        start = (page * heads_shared + shared) * n_page
        column = number * n_page + c
        seen = (column >= first) & (column < length)
        k = tl.load(keys + (start + c)[None] * n_width + d[:, None], mask=seen[None] & (d < n_width)[:, None], other=0.0)
        z = tl.dot(q, k, input_precision="ieee") * scale
        if softcap is not None:
            z = softcap * _tanh(z / softcap)
        z = tl.where(seen[None], z, float("-inf"))
        higher = tl.maximum(top, tl.max(z, 1))
        shrunk = tl.exp(top - higher)
        p = tl.exp(z - higher[:, None])
        v = tl.load(values + (start + c)[:, None] * n_depth + e[None], mask=seen[:, None] & (e < n_depth)[None], other=0.0)
        total = total * shrunk + tl.sum(p, 1)
        sums = sums * shrunk[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = higher

    real = g < n_group
    if whole:
        found = sums / total[:, None]
        tl.store(
            out + head[:, None] * n_depth + e[None], found.to(out.dtype.element_ty), mask=real[:, None] & (e < n_depth)[None]
        )
    else:
        place = partial + (head * parts + part) * (n_depth + 2)
        tl.store(place, top, mask=real)
        tl.store(place + 1, total, mask=real)
        tl.store(place[:, None] + 2 + e[None], sums, mask=real[:, None] & (e < n_depth)[None])


@triton.jit
def _join(partial, out, parts, n_heads: tl.constexpr, n_depth: tl.constexpr, depth_pad: tl.constexpr):
    """Parts of one row and head put together."""
    head = tl.program_id(0) * n_heads + tl.program_id(1)
    e = tl.arange(0, depth_pad)
    top = tl.load(partial + head * parts * (n_depth + 2))
    total = tl.load(partial + head * parts * (n_depth + 2) + 1)
    sums = tl.load(partial + head * parts * (n_depth + 2) + 2 + e, mask=e < n_depth, other=0.0)
    for part in range(1, parts):
        place = partial + (head * parts + part) * (n_depth + 2)
        its = tl.load(place)  # minus infinity where the part had no pages; the first part's never is
        higher = tl.maximum(top, its)
        total = total * tl.exp(top - higher) + tl.load(place + 1) * tl.exp(its - higher)
        more = tl.load(place + 2 + e, mask=e < n_depth, other=0.0)
        sums = sums * tl.exp(top - higher) + more * tl.exp(its - higher)
        top = higher
    tl.store(out + head * n_depth + e, (sums / total).to(out.dtype.element_ty), mask=e < n_depth)


@triton.jit
def _tanh(x):
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0
