"""The copies of weights that autocast makes, kept at one address, which is what a captured graph reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class CastWeights:
    """Matrices (and biases) of a model's linear layers in autocast's dtype. The layers' own parameters are neither replaced nor moved."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
        named = [(layer, name, p) for layer in layers for name, p in layer._parameters.items() if p is not None]
        cast = [
            (layer, name, p) for layer, name, p in named if p.dtype not in (dtype, torch.float64)
        ]  # autocast leaves float64 alone
        self.pairs = [(layer, name, p, p.detach().to(dtype)) for layer, name, p in cast if dtype is not None]

    def refresh(self) -> None:
        """Follow the parameters."""
        if self.pairs:
            torch._foreach_copy_([copy for *_, copy in self.pairs], [parameter.detach() for *_, parameter, _ in self.pairs])

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Within, layers compute with the copies: attributes of their own come before parameters."""
        for layer, name, _, copy in self.pairs:
            vars(layer)[name] = copy
        try:
            yield
        finally:
            for layer, name, *_ in self.pairs:
                del vars(layer)[name]


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast casts to, where it is on."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


@contextmanager
def uncached_autocast() -> Iterator[None]:
    """Within, autocast keeps no copies: a captured graph would read them after they are gone."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
