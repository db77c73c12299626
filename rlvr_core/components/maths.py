"""Formulas that more than one component uses."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before they are exponentiated, so that one token cannot make a loss infinite (verl, OpenRLHF)."""


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str, clamp: float | None = None) -> Tensor:
    """Per-token estimate of KL(policy || reference) at tokens sampled from the policy, in nats, same shape.

    With r = reference - logprobs: k1 = -r (unbiased), k2 = r^2 / 2, k3 = exp(r) - r - 1 (unbiased, never negative; r within +-20).
    ``clamp`` bounds the estimate at +-clamp, with gradient 0 beyond. Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    r = reference - logprobs
    if estimator == "k1":
        found = -r
    elif estimator == "k2":
        found = r.square() / 2
    else:
        r = r.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        found = torch.expm1(r) - r
    return found if clamp is None else found.clamp(-clamp, clamp)


def return_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """[B,T] x 2 -> [B,T]: discounted sum of a token's own and later rewards; positions that are no actions are passed over."""
    found, running = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        here = rewards[:, t] + gamma * running
        running = torch.where(mask[:, t], here, running)
        found[:, t] = torch.where(mask[:, t], here, 0.0)
    return found


def at_last_action(values: Tensor, mask: Tensor) -> Tensor:
    """[B] values, [B,T] mask -> [B,T]: each value at its row's last True position, 0 elsewhere."""
    last = mask & (mask.long().cumsum(-1) == mask.sum(-1, keepdim=True))
    return values[:, None] * last.to(values.dtype)


def whitened(values: Tensor, mask: Tensor, ddof: int = 1) -> Tensor:
    """Mean 0 and variance 1 over True positions, 0 elsewhere; a variance of nothing is only centred.

    ddof 1: (x - mean) / sqrt(var + 1e-8), as verl has it; ddof 0: / sqrt(max(var, 1e-8)), as OpenRLHF has it.
    """
    kept = values[mask]
    if kept.numel() <= ddof:
        spread = torch.ones((), dtype=values.dtype)
    elif ddof == 1:
        spread = (kept.var(unbiased=True) + 1e-8).rsqrt()
    else:
        spread = kept.var(unbiased=False).clamp(min=1e-8).rsqrt()
    centre = kept.mean() if kept.numel() else 0.0
    return ((values - centre) * spread).where(mask, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B,T] -> [B]: mean over a row's True positions; 0 where there is none."""
    kept = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return kept.sum(-1) / mask.sum(-1).clamp(min=1)
