"""Cutting micro-batches out of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlvr_core.policy.forward import sent
from rlvr_core.policy.root import Root
from rlvr_core.randomness import generator
from rlvr_core.records import Batch, Credit, Credited, MicroBatch


def credited(batch: Batch, credit: Credit, importance: Tensor | None) -> Credited:
    """Spread credit over tokens. A weight per token counts for its row with its mean."""
    ones = torch.ones(batch.mask.shape, dtype=torch.float64)
    weight = ones if credit.weight is None else _per_token(credit.weight, ones)
    lengths = batch.mask.sum(-1).clamp(min=1)
    row_weight = weight.where(batch.mask, 0.0).sum(-1) / lengths
    row_weight = row_weight.where(batch.mask.any(-1), 0.0)
    if credit.weight is not None and credit.weight.dim() == 1:
        row_weight = credit.weight.double()
    return Credited(
        _per_token(credit.advantage, ones),
        weight,
        row_weight,
        ones if importance is None else importance.double(),
        credit.returns,
    )


def _per_token(values: Tensor, like: Tensor) -> Tensor:
    return (values[:, None] if values.dim() == 1 else values).double() * like


def micro_batch(
    batch: Batch, rows: Sequence[int], width: int, credit: Credited | None, root: Root, noise: tuple[int, int, int] | None = None
) -> MicroBatch:
    """The tensors of some rows, cut to ``width`` tokens, on the policy's device in its dtype (float32 at least).

    ``noise``: (seed, step, iteration), which with prompt, sample and a name decide each row's noise.
    """
    device = root.policy.device
    dtype = torch.promote_types(root.policy.dtype, torch.float32)
    index = torch.tensor(list(rows))

    def cut(values: Tensor) -> Tensor:
        return sent(values[index, :width].to(dtype), device)

    ones = torch.ones(len(index), width, dtype=dtype, device=device)  # not the whole batch's: this is run for every micro-batch
    fixed = {f"old_{name}": cut(values) for name, values in batch.provided.items()}
    if credit is not None and credit.returns is not None:
        fixed["returns"] = cut(credit.returns)
    return MicroBatch(
        chosen=sent(batch.chosen[index], device),
        mask=sent(batch.mask[index, :width], device),
        advantage=cut(credit.advantage) if credit else torch.zeros_like(ones),
        weight=cut(credit.weight) if credit else ones,
        row_weight=sent(credit.row_weight[index].to(dtype), device)
        if credit
        else torch.ones(len(index), dtype=dtype, device=device),
        old_logprobs=cut(batch.logprobs),
        sampling_logprobs=cut(batch.sampling_logprobs),
        importance=cut(credit.importance) if credit else ones.clone(),
        temperature=root.numerics.temperature,
        references={label: {q: cut(v) for q, v in quantities.items()} for label, quantities in batch.references.items()},
        fixed=fixed,
        normal=_keyed_noise(batch, rows, noise, device, dtype) if noise else None,
    )


def _keyed_noise(
    batch: Batch, rows: Sequence[int], noise: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> Callable[[str, int, float], Tensor]:
    keys = [batch.rollouts[row].key for row in rows]

    def normal(name: str, size: int, std: float) -> Tensor:
        drawn = [torch.randn(size, generator=generator("noise", name, *noise, *key), dtype=torch.float64) for key in keys]
        return sent((torch.stack(drawn) * std).to(dtype), device)

    return normal
