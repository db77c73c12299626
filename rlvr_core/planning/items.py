"""What takes memory, and in which units it is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

When = Literal["always", "learning", "rolling out"]
GIB = 2**30


@dataclass(frozen=True)
class Item:
    """Something that takes memory on each rank. ``kept``: no option of the batch makes it smaller."""

    what: str
    bytes: int
    when: When
    how: str
    kept: bool = False


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def gib(size: float) -> str:
    """Bytes in a reader's unit."""
    for unit, scale in (("GiB", GIB), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


def count(number: int) -> str:
    """Parameters in a reader's unit."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"


def name_of(dtype: torch.dtype) -> str:
    """As a spec writes it."""
    return str(dtype).removeprefix("torch.")
