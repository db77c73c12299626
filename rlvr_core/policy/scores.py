"""Log-probs and entropies of tokens from hidden states, without ever holding all of their logits.

Logits exist for ``chunk`` tokens at a time, in forward and again in backward, in float32 at least, so memory is chunk x V and not
tokens x V. For a head that is a matrix product the gradient is written out; any other is recomputed by autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        matrix = weight.to(dtype)
        for start in range(0, len(ids), chunk):
            here = slice(start, start + chunk)
            z = _logits(hidden[here].to(dtype), matrix, bias, scale, softcap, temperature)[0]
            chosen = z.gather(-1, ids[here, None]).squeeze(-1)
            top = z.max(-1, keepdim=True).values
            p = (z - top).exp_() if entropy else z.sub_(top).exp_()
            total = p.sum(-1)
            normalisers[here] = total.log() + top.squeeze(-1)
            logprobs[here] = chosen - normalisers[here]
            if entropy:
                means[here] = (p.mul_(z)).sum(-1) / total
            del z, p  # or the next chunk's logits are made beside this one's
        ctx.save_for_backward(hidden, ids, weight, bias, normalisers, means)
        ctx.settings = (scale, softcap, temperature, chunk, entropy, dtype)
        found = normalisers - means if entropy else torch.zeros_like(logprobs)
        return logprobs, found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_logprob, of_entropy = gradients
        hidden, ids, weight, bias, normalisers, means = ctx.saved_tensors
        scale, softcap, temperature, chunk, entropy, dtype = ctx.settings
        wants_hidden, _, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        wide = torch.promote_types(weight.dtype, torch.float32)
        to_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        to_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and wants_bias else None
        matrix = weight.to(dtype)
        for start in range(0, len(ids), chunk):
            here = slice(start, start + chunk)
            h = hidden[here].to(dtype)
            z, slope = _logits(h, matrix, bias, scale, softcap, temperature)
            g = of_logprob[here, None]
            p = (z - normalisers[here, None]).exp_() if entropy else z.sub_(normalisers[here, None]).exp_()
            to_z = p.mul_(z.sub_(means[here, None]).mul_(of_entropy[here, None]).add_(g)).neg_() if entropy else p.mul_(-g)
            to_z.scatter_add_(-1, ids[here, None], g.to(to_z.dtype))
            if slope is not None:
                to_z *= slope
            to_z = to_z.mul_(scale / temperature).to(dtype)
            if to_hidden is not None:
                to_hidden[here] = to_z @ matrix
            if to_weight is not None:
                to_weight.addmm_(to_z.T, h) if to_weight.dtype == dtype else to_weight.add_(to_z.T @ h)
            if to_bias is not None:
                to_bias += to_z.sum(0)
            del z, p, to_z, slope
        return (
            to_hidden, None, None if to_weight is None else to_weight.to(weight.dtype), None if to_bias is None else to_bias.to(bias.dtype),
            None, None, None, None, None,
        )  # fmt: skip


def _logits(
    h: Tensor, matrix: Tensor, bias: Tensor | None, scale: float, softcap: float | None, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """[n,V] logits / temperature, float32 at least, and the soft cap's slope where there is one."""
    raw = torch.nn.functional.linear(h, matrix, None if bias is None else bias.to(matrix.dtype))
    z = raw.to(torch.promote_types(raw.dtype, torch.float32))
    if scale != 1.0:
        z.mul_(scale)
    slope = None
    if softcap is not None:
        bent = z.div_(softcap).tanh_()
        z, slope = bent * softcap, 1 - bent.square()
    return (z if temperature == 1.0 else z.div_(temperature)), slope
