"""Formulas that more than one component uses."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Per-token estimate of KL(policy || reference) at tokens sampled from the policy, in nats, same shape.

    With r = reference - logprobs: k1 = -r (unbiased), k2 = r^2 / 2, k3 = exp(r) - r - 1 (unbiased, never negative).
    Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    r = reference - logprobs
    if estimator == "k1":
        return -r
    if estimator == "k2":
        return r.square() / 2
    return torch.expm1(r) - r


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B,T] -> [B]: mean over a row's True positions; 0 where there is none."""
    kept = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return kept.sum(-1) / mask.sum(-1).clamp(min=1)
