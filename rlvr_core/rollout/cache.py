"""A key-value cache whose rows come and go while it is in use.

All rows share one clock of columns: every row's newest token stands in the last column, its first one wherever that leaves it, so
distances between columns are distances between tokens and a sliding window's mask needs nothing of its own. Columns before a row's first
token hold stale, finite numbers; the attention mask hides them.

Buffers are allocated ahead and written in place. A row that leaves is replaced by the last one, so leaving costs one row's copy; columns
that no row needs any more are forgotten by moving ``begin``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

GROWTH = 4
"""A full buffer is replaced by one with a quarter more columns (64 at least)."""


class RowsLayer(CacheLayerMixin):
    """One attention layer's keys and values: [rows, heads, columns, D] each. ``window``: tokens that a query sees, itself included."""

    def __init__(self, window: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window, self.is_sliding = window, window is not None
        self.rows = self.width = 0
        self.begin = self.end = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.rows = key_states.shape[0]
        self.keys, self.values = (_room(states, self.rows, 0, states.shape[2]) for states in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the newest tokens' states; what a query may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None  # just made
        new = key_states.shape[2]
        if self.end + new > self.keys.shape[2]:
            self._reallocate(self.rows, self.end - self.begin, new)
        self.keys[: self.rows, :, self.end : self.end + new] = key_states
        self.values[: self.rows, :, self.end : self.end + new] = value_states
        self.end += new
        self.width += new
        if self.window is not None and new == 1:
            self.begin = max(self.begin, self.end - self.window)
        seen = slice(self.begin, self.end)
        return self.keys[: self.rows, :, seen], self.values[: self.rows, :, seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns that ``update`` will return, number of columns before them)."""
        seen = self.end - self.begin + query_length
        if self.window is not None and query_length == 1:
            seen = min(seen, self.window)
        return seen, self.width + query_length - seen

    def get_seq_length(self) -> int:
        return self.width

    def get_max_length(self) -> int:
        return -1 if self.window is None else self.window

    def forget(self, columns: int) -> None:
        """The first columns belong to no row any more."""
        self.width -= columns
        self.begin = max(self.begin, self.end - self.width)

    def leave(self, holes: Tensor, movers: Tensor, rows: int) -> None:
        """Rows ``movers`` take the places ``holes``; ``rows`` remain."""
        seen = slice(self.begin, self.end)
        for states in (self.keys, self.values):
            if states is not None and len(holes):
                states[holes, :, seen] = states[movers, :, seen]
        self.rows = rows

    def reserve(self, rows: int, width: int, like: RowsLayer) -> None:
        """Places for more rows, up to ``rows`` in all, of up to ``width`` columns. ``like``: a layer with states of the same shape."""
        if self.is_initialized or like.is_initialized:
            self._reallocate(
                rows, width if self.window is None else min(width, self.window), 1, self if self.is_initialized else like
            )
            self.width = width

    def place(self, row: int, copies: int, layer: RowsLayer, source: int, length: int) -> None:
        """The first ``length`` columns of a row of another layer become those before the next one, in ``copies`` rows from ``row`` on."""
        taken = min(length, self.end)
        for mine, theirs in ((self.keys, layer.keys), (self.values, layer.values)):
            if mine is not None and theirs is not None:
                mine[row : row + copies, :, self.end - taken : self.end] = theirs[source, :, length - taken : length]

    def _reallocate(self, rows: int, held: int, new: int, like: RowsLayer | None = None) -> None:
        """Buffers for ``rows`` and the last ``held`` columns, with room for ``new`` ones and some to spare."""
        kept = min(held, self.end - self.begin)
        for name in ("keys", "values"):
            old, shape = getattr(self, name), getattr(like or self, name)
            buffer = _room(shape, rows, held, new)
            if kept and self.rows:
                buffer[: self.rows, :, held - kept : held] = old[: self.rows, :, self.end - kept : self.end]
            setattr(self, name, buffer)
        self.rows, self.begin, self.end, self.is_initialized = rows, 0, held, True


def _room(like: Tensor, rows: int, held: int, new: int) -> Tensor:
    """Zeros (what the mask hides must be finite): [rows, heads, held + new and some to spare, D]."""
    spare = max(64, held // GROWTH) if new == 1 else 0
    return like.new_zeros(rows, like.shape[1], held + new + spare, like.shape[3])


class RowsCache(Cache):
    """``RowsLayer`` for every layer of a model."""

    def __init__(self, windows: Sequence[int | None]) -> None:
        self.of_rows = [RowsLayer(window) for window in windows]
        super().__init__(layers=list(self.of_rows))

    @property
    def width(self) -> int:
        """Columns of the longest row."""
        return self.of_rows[0].width

    def forget(self, columns: int) -> None:
        """The first columns belong to no row any more."""
        for layer in self.of_rows:
            layer.forget(columns)

    def leave(self, holes: Sequence[int], movers: Sequence[int], rows: int, device: torch.device) -> None:
        """Rows ``movers`` take the places ``holes``; ``rows`` remain."""
        there, these = (torch.tensor(places, dtype=torch.int64, device=device) for places in (holes, movers))
        for layer in self.of_rows:
            layer.leave(there, these, rows)

    def reserve(self, rows: int, width: int, like: RowsCache) -> None:
        """Places for more rows, up to ``rows`` in all, of up to ``width`` columns. ``like``: a cache of the same model."""
        for mine, theirs in zip(self.of_rows, like.of_rows, strict=True):
            mine.reserve(rows, width, theirs)

    def place(self, row: int, copies: int, cache: RowsCache, source: int, length: int) -> None:
        """Row ``source`` of a cache prefilled from its first column, ``length`` columns of it, as ``copies`` rows from ``row`` on."""
        for mine, theirs in zip(self.of_rows, cache.of_rows, strict=True):
            mine.place(row, copies, theirs, source, length)


def windows_of(config: PretrainedConfig) -> list[int | None] | str:
    """Each layer's sliding window (None: full attention), or why the model's cache is of another kind."""
    layers = DynamicCache(config=config).layers
    if not layers:
        return "its configuration does not say what its layers cache"
    strange = sorted({type(layer).__name__ for layer in layers} - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__})
    if strange:
        return f"it caches more than keys and values ({', '.join(strange)})"
    return [getattr(layer, "sliding_window", None) for layer in layers]


def refilled(rows: int, leaving: Collection[int]) -> tuple[list[int], list[int]]:
    """(places that fall empty among the first ones when rows leave, the last rows that refill them)."""
    remain = rows - len(leaving)
    return sorted(row for row in leaving if row < remain), [row for row in range(remain, rows) if row not in leaving]
