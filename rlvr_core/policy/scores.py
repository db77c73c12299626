"""Log-probs and entropies of tokens from hidden states, without ever holding all of their logits.

Logits exist for ``chunk`` tokens at a time, in forward and again in backward, in float32 at least, so memory is chunk x V and not
tokens x V. For a head that is a matrix product the gradient is written out; any other is recomputed by autograd. On CUDA the written-out
way runs in two kernels (``score_kernels``), for which logits stay in the dtype of the product.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Scores(NamedTuple):
    """Log-prob and entropy (nats) of some tokens, each [N], float32 or wider."""

    logprobs: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Linear:
    """A head that is a matrix product: logits = cap(scale * (h W^T + b)), cap(x) = softcap * tanh(x / softcap) where there is one."""

    weight: Tensor
    """[V,D]."""
    bias: Tensor | None = None
    """[V]."""
    scale: float = 1.0
    softcap: float | None = None


def score_tokens(
    hidden: Tensor, ids: Tensor, head: Linear | Callable[[Tensor], Tensor], temperature: float, chunk: int, entropy: bool
) -> Scores:
    """Log-prob and entropy of ``ids`` [N] from ``hidden`` [N,D].

    ``head``: a matrix product, or anything that maps [n,D] to logits [n,V]. log-prob = log softmax(logits / temperature)[id]; entropy is
    that distribution's, and zeros where it was not asked for. Gradients flow through both.
    """
    if isinstance(head, Linear):
        scores: Any = _LinearScores.apply
        return Scores(*scores(hidden, ids, head.weight, head.bias, head.scale, head.softcap, temperature, chunk, entropy))

    def one(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        normaliser = logits.logsumexp(-1)
        chosen = logits.gather(-1, i[:, None]).squeeze(-1) - normaliser
        if not entropy:
            return chosen, torch.zeros_like(chosen)
        return chosen, normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)

    pieces = []
    for h, i in zip(hidden.split(chunk), ids.split(chunk), strict=True):
        recompute = torch.is_grad_enabled() and hidden.shape[0] > chunk
        pieces.append(checkpoint(one, h, i, use_reentrant=False) if recompute else one(h, i))
    return Scores(torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]))


class Curve(NamedTuple):
    """From what a matrix product gives to logits / temperature: z = cap(scale x) / temperature."""

    scale: float
    softcap: float | None
    temperature: float


def has_kernels(kind: str, dtype: torch.dtype) -> bool:
    """Whether there are kernels for logits of a dtype on a kind of device: on CUDA, where Triton is installed, but for float64."""
    return kind == "cuda" and dtype != torch.float64 and find_spec("triton") is not None


class _LinearScores(torch.autograd.Function):
    """Scores under a matrix-product head.

    With z = logits / temperature, p = softmax(z), m = sum p z:  log-prob = z_id - lse,  H = lse - m,  and for gradients g of the log-prob
    and k of the entropy  dL/dz = g onehot(id) - p (g + k (z - m)).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, ids: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None,
        temperature: float, chunk: int, entropy: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)
        logprobs, normalisers, means = (torch.empty(len(ids), dtype=wide, device=hidden.device) for _ in range(3))
        curve = Curve(scale, softcap, temperature)
        statistics, gradient = _passes(hidden.device, dtype)
        matrix = weight.to(dtype)
        for start in range(0, len(ids), chunk):
            here = slice(start, start + chunk)
            # The product gets no name here, or it would live on beside the float32 copy that is made of it.
            found = statistics(_product(hidden[here].to(dtype), matrix, bias), ids[here], curve, entropy)
            chosen, normalisers[here], means[here] = found
            logprobs[here] = chosen - normalisers[here]
        ctx.save_for_backward(hidden, ids, weight, bias, normalisers, means)
        ctx.settings = (curve, chunk, entropy, dtype, gradient)
        return logprobs, normalisers - means if entropy else torch.zeros_like(logprobs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_logprob, of_entropy = gradients
        hidden, ids, weight, bias, normalisers, means = ctx.saved_tensors
        curve, chunk, entropy, dtype, gradient = ctx.settings
        wants_hidden, _, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        wide = torch.promote_types(weight.dtype, torch.float32)
        to_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        to_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and wants_bias else None
        matrix = weight.to(dtype)
        for start in range(0, len(ids), chunk):
            here = slice(start, start + chunk)
            h = hidden[here].to(dtype)
            to_raw = gradient(  # the same; *arguments would hold it too
                _product(h, matrix, bias), ids[here], normalisers[here], means[here], of_logprob[here], of_entropy[here], curve, entropy
            )  # fmt: skip
            if to_hidden is not None:
                to_hidden[here] = to_raw @ matrix
            if to_weight is not None:
                _add_product(to_weight, to_raw.T, h)
            if to_bias is not None:
                to_bias += to_raw.sum(0)
            del to_raw  # or the next chunk's logits are made beside it
        return (
            to_hidden, None, None if to_weight is None else to_weight.to(weight.dtype), None if to_bias is None else to_bias.to(bias.dtype),
            None, None, None, None, None,
        )  # fmt: skip


def _product(h: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """[n,V], in the dtype of the matrix."""
    return torch.nn.functional.linear(h, matrix, None if bias is None else bias.to(matrix.dtype))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b; in one step where it can be, so that there is no second tensor of that size."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.dtype == torch.float32 and _adds_to_float32(a.device, a.dtype):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.add_(a @ b)


@cache
def _adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch adds a product of narrower matrices to a float32 one in place, as it does on CUDA since 2.10: found out by trying."""
    total, ones = torch.ones(64, 64, device=device), torch.ones(64, 64, dtype=dtype, device=device)
    try:
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
    except (TypeError, RuntimeError):
        return False
    return bool((total == 65).all())


def _passes(device: torch.device, dtype: torch.dtype) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two passes over logits: kernels where there are some, or else operations of torch."""
    kernels = _kernels(device) if has_kernels(device.type, dtype) else None
    return (_statistics, _gradient) if kernels is None else (kernels.statistics, kernels.gradient)


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    """The kernels, after a trial; None, with a warning, where Triton cannot build them (it needs a C compiler)."""
    logits, ids = torch.zeros(1, 2, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    try:
        from rlvr_core.policy import score_kernels

        score_kernels.statistics(logits, ids, Curve(1.0, None, 1.0), True)
    except Exception as error:  # a compiler, a driver: they fail in every way
        said = " ".join(str(error).split())[:200]
        warnings.warn(f"no Triton kernels for log-probs, which take longer without: {said}", RuntimeWarning, stacklevel=2)
        return None
    return score_kernels


def _statistics(raw: Tensor, ids: Tensor, curve: Curve, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """z_id, lse z and m = sum p z, [n] each, float32 at least, of logits ``raw`` [n,V], which are used up; m is 0 without entropy."""
    z = _curved(raw, curve)[0]
    del raw
    chosen = z.gather(-1, ids[:, None]).squeeze(-1)
    top = z.max(-1, keepdim=True).values
    p = (z - top).exp_() if entropy else z.sub_(top).exp_()
    total = p.sum(-1)
    return chosen, total.log() + top.squeeze(-1), p.mul_(z).sum(-1) / total if entropy else torch.zeros_like(total)


def _gradient(
    raw: Tensor, ids: Tensor, normalisers: Tensor, means: Tensor, of_logprob: Tensor, of_entropy: Tensor, curve: Curve, entropy: bool
) -> Tensor:  # fmt: skip
    """The gradient of logits ``raw`` [n,V], which are used up, in their dtype. The others: [n]."""
    dtype = raw.dtype
    z, slope = _curved(raw, curve)
    del raw
    g = of_logprob[:, None]
    p = (z - normalisers[:, None]).exp_() if entropy else z.sub_(normalisers[:, None]).exp_()
    to_z = p.mul_(z.sub_(means[:, None]).mul_(of_entropy[:, None]).add_(g)).neg_() if entropy else p.mul_(-g)
    to_z.scatter_add_(-1, ids[:, None], g.to(to_z.dtype))
    if slope is not None:
        to_z *= slope
    return to_z.mul_(curve.scale / curve.temperature).to(dtype)


def _curved(raw: Tensor, curve: Curve) -> tuple[Tensor, Tensor | None]:
    """z [n,V], float32 at least, in place of ``raw`` where that is as wide; and the soft cap's slope where there is one."""
    z = raw.to(torch.promote_types(raw.dtype, torch.float32))
    if curve.scale != 1.0:
        z.mul_(curve.scale)
    slope = None
    if curve.softcap is not None:
        bent = z.div_(curve.softcap).tanh_()
        z, slope = bent * curve.softcap, 1 - bent.square()
    return (z if curve.temperature == 1.0 else z.div_(curve.temperature)), slope
