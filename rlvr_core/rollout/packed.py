"""Linear layers with their weights in oneDNN's own layout, while a CPU decodes.

A product with few rows is bound by how fast weights are read; from a layout made for its kernels oneDNN reads them about twice as fast as
BLAS does from a plain matrix. The layout is a copy, made for each rollout and dropped after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Within, float32 linear layers on the CPU multiply with packed copies: a layer's own attribute comes before its class's method."""
    layers = [module for module in model.modules() if type(module) is nn.Linear and packable(module.weight)]
    try:
        for layer in layers:
            vars(layer)["forward"] = _product(layer.weight, layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def packable(weight: Tensor) -> bool:
    """Whether products with this matrix, as they are now, could be taken with a packed copy of it."""
    return (weight.device.type, weight.dtype) == ("cpu", torch.float32) and not torch.is_autocast_enabled("cpu") and works()


@cache
def works() -> bool:
    """Whether torch has the two operations (they are its compiler's, and not documented) and they multiply: found out by trying."""
    x, weight, bias = (torch.arange(float(rows * 8)).view(rows, 8) / 8 for rows in (3, 4, 1))
    try:
        return torch.allclose(_product(weight, bias[0, :4])(x), torch.nn.functional.linear(x, weight, bias[0, :4]))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    operations: Any = torch.ops.mkldnn
    packed = operations._reorder_linear_weight(weight.detach(), None)
    added = None if bias is None else bias.detach()

    def product(x: Tensor) -> Tensor:
        found: Tensor = operations._linear_pointwise(x, packed, added, "none", [], "")
        return found

    return product
