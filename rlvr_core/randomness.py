"""Random numbers named by what they are for.

Nothing draws from a global generator: each number follows from the run's seed and a name (step, prompt, sample ...), so how the work
is split, and what else was drawn before, changes nothing, and a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: the increment of SplitMix64 (Steele, Lea, Flood 2014)
_MIX = (-4658895280553007687, -7723592293110705685)  # its two multipliers, as int64


def seed_of(*name: int | str) -> int:
    """A 63-bit seed from a name."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*name: int | str) -> torch.Generator:
    """A CPU generator seeded by a name."""
    return torch.Generator().manual_seed(seed_of(*name))


def permutation(size: int, *name: int | str) -> list[int]:
    """A permutation of range(size) named so."""
    order: list[int] = torch.randperm(size, generator=generator(*name)).tolist()
    return order


def stream_seeds(names: Sequence[tuple[int | str, ...]], device: torch.device) -> Tensor:
    """[B] int64: one counter-based stream for each name; read it with ``uniform``."""
    return torch.tensor([seed_of(*name) for name in names], dtype=torch.int64, device=device)


def uniform(seeds: Tensor, counters: Tensor) -> Tensor:
    """[B] seeds, [B] counters -> [B] float64 in [0, 1): SplitMix64's output at that position of each stream."""
    x = seeds + (counters + 1) * _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX[0]
    x = (x ^ _shift(x, 27)) * _MIX[1]
    return _shift(x ^ _shift(x, 31), 11).double() * 2.0**-53


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift right of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
