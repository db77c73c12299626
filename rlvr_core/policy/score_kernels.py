"""Scores from logits, and their gradient back to the logits, in one pass over memory each: Triton kernels.

Elementwise, a row of V logits takes a dozen passes in float32; on a GPU that traffic costs more than the matrix products. Here logits are
read in the dtype of the product that made them, all arithmetic is float32, and the gradient takes their place.

``x`` is a logit as the product made it, and z = outer x, or outer tanh(inner x) under a soft cap (``Curve``).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlvr_core.policy.scores import Curve

BLOCK = 4096
"""Logits of a row that a program holds at once; a power of 2."""
HOW = {"num_warps": 8, "enable_fp_fusion": True}
"""How programs are built: 16 logits a thread; a product and a sum in one instruction (said, since Triton's default will change)."""


def statistics(raw: Tensor, ids: Tensor, curve: Curve, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """z_id, lse z and m = sum p z, [n] float32 each, of logits ``raw`` [n,V]; m is 0 where entropy is not wanted."""
    assert raw.is_contiguous()
    chosen, normalisers, means = (torch.empty(len(ids), dtype=torch.float32, device=raw.device) for _ in range(3))
    with torch.cuda.device_of(raw):
        _statistics[(len(ids),)](
            raw, ids.contiguous(), chosen, normalisers, means, *_factors(curve),
            raw.shape[1], curve.softcap is not None, entropy, BLOCK, **HOW,
        )  # fmt: skip
    return chosen, normalisers, means


def gradient(
    raw: Tensor, ids: Tensor, normalisers: Tensor, means: Tensor, of_logprob: Tensor, of_entropy: Tensor, curve: Curve, entropy: bool
) -> Tensor:  # fmt: skip
    """``raw`` [n,V] itself, overwritten by the gradient of its logits. The others: [n]."""
    assert raw.is_contiguous()
    columns = [x.contiguous() for x in (ids, normalisers, means, of_logprob, of_entropy)]
    with torch.cuda.device_of(raw):
        _gradient[(len(ids) * triton.cdiv(raw.shape[1], BLOCK),)](
            raw, *columns, *_factors(curve), raw.shape[1], curve.softcap is not None, entropy, BLOCK, **HOW
        )
    return raw


def _factors(curve: Curve) -> tuple[float, float]:
    """(inner, outer)."""
    if curve.softcap is None:
        return 1.0, curve.scale / curve.temperature
    return curve.scale / curve.softcap, curve.softcap / curve.temperature


@triton.jit
def _bent(x: tl.tensor, inner: tl.tensor, outer: tl.tensor, capped: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """z and dz/dx. With e = exp(-2 |y|): tanh |y| = (1 - e) / (1 + e), and its slope is 4 e / (1 + e)^2."""
    if capped:
        y = inner * x
        e = tl.exp(-2.0 * tl.abs(y))
        share = 1.0 / (1.0 + e)
        height = (1.0 - e) * share
        z = outer * tl.where(y < 0, -height, height)
        slope = inner * outer * 4.0 * e * share * share
    else:
        z = outer * x
        slope = outer
    return z, slope


@triton.jit
def _statistics(
    raw: tl.tensor,
    ids: tl.tensor,
    chosen: tl.tensor,
    normalisers: tl.tensor,
    means: tl.tensor,
    inner: tl.tensor,
    outer: tl.tensor,
    vocabulary: tl.constexpr,
    capped: tl.constexpr,
    entropy: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """A program a row: ``total`` = sum exp(z - top) and ``weighted`` = sum exp(z - top) z over the blocks so far, top their largest z."""
    row = tl.program_id(0).to(tl.int64)
    logits = raw + row * vocabulary
    top = -3.0e38  # finite, so that a block of -inf alone is no inf - inf
    total = 0.0
    weighted = 0.0
    for start in range(0, vocabulary, block):
        columns = start + tl.arange(0, block)
        inside = columns < vocabulary
        x = tl.load(logits + columns, mask=inside, other=0.0).to(tl.float32)
        z, _ = _bent(x, inner, outer, capped)
        z = tl.where(inside, z, -3.0e38)
        higher = tl.maximum(top, tl.max(z, 0))
        p = tl.exp(z - higher)
        kept = tl.exp(top - higher)
        total = total * kept + tl.sum(p, 0)
        if entropy:
            weighted = weighted * kept + tl.sum(p * z, 0)
        top = higher
    z, _ = _bent(tl.load(logits + tl.load(ids + row)).to(tl.float32), inner, outer, capped)
    tl.store(chosen + row, z)
    tl.store(normalisers + row, top + tl.log(total))
    tl.store(means + row, weighted / total)


@triton.jit
def _gradient(
    raw: tl.tensor,
    ids: tl.tensor,
    normalisers: tl.tensor,
    means: tl.tensor,
    of_logprob: tl.tensor,
    of_entropy: tl.tensor,
    inner: tl.tensor,
    outer: tl.tensor,
    vocabulary: tl.constexpr,
    capped: tl.constexpr,
    entropy: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """A program a block of a row; g and k are the gradients of log-prob and entropy, and dL/dz = g onehot(id) - p (g + k (z - m))."""
    blocks = (vocabulary + block - 1) // block
    row = (tl.program_id(0) // blocks).to(tl.int64)
    columns = tl.program_id(0) % blocks * block + tl.arange(0, block)
    inside = columns < vocabulary
    logits = raw + row * vocabulary + columns
    x = tl.load(logits, mask=inside, other=0.0).to(tl.float32)
    z, slope = _bent(x, inner, outer, capped)
    g = tl.load(of_logprob + row)
    pull = g
    if entropy:
        pull += tl.load(of_entropy + row) * (z - tl.load(means + row))
    to_z = tl.where(columns == tl.load(ids + row), g, 0.0) - tl.exp(z - tl.load(normalisers + row)) * pull
    tl.store(logits, (to_z * slope).to(raw.dtype.element_ty), mask=inside)
