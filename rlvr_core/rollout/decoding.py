"""Decoding one batch, which rows leave and enter while it goes on.

A row enters with the keys and values of all its tokens but the last, which the next forward of the whole batch takes in; so prefill needs
no logits, and a row that was put back half-written enters again like any other. Prompts are prefilled padded on the right: a causal
model sees no padding there, whatever its attention.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from rlvr_core.contracts import PolicyHandle
from rlvr_core.randomness import uniform
from rlvr_core.records import Sampling
from rlvr_core.rollout.cache import RowsCache, refilled
from rlvr_core.rollout.draw import greedy, sample
from rlvr_core.rollout.rows import Recorder, Row

T = TypeVar("T")

PREFILL_TOKENS = 16384
"""Padded tokens of one prefill forward at most."""
ALLOWANCE = 4
"""A row is let in where there is room for a quarter of the tokens that it may write."""
ENTRANTS = 4
"""Rows enter a running batch when they make a quarter of it, or are the last."""


class Forward:
    """The policy's forward, with the arguments that it knows."""

    def __init__(self, policy: PolicyHandle) -> None:
        self.policy = policy
        self.knows = frozenset(inspect.signature(policy.model.forward).parameters)

    def __call__(self, ids: Tensor, positions: Tensor, cache: Cache, attention: Tensor | None = None) -> Tensor:
        """Logits of the last position, [B,V]."""
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": attention,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        output = self.policy.decode(**{name: value for name, value in inputs.items() if name in self.knows})
        logits: Tensor = output.logits[:, -1]
        return logits


class Sampler:
    """Draws every row's next token."""

    def __init__(self, sampling: Sampling, device: torch.device, compiled: bool = False) -> None:
        self.draw: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = (
            torch.compile(self._draw, dynamic=True) if compiled else self._draw
        )
        self.temperature, self.minimum = sampling.temperature, sampling.min_completion_length
        self.ends = torch.tensor(sampling.stop_token_ids, dtype=torch.int64, device=device)

    def __call__(self, logits: Tensor, seeds: Tensor, counters: Tensor) -> tuple[Tensor, Tensor]:
        """[B,V] logits, [B] seeds, [B] tokens written so far -> ids [B], log-probs [B]. Overwrites ``logits``."""
        return self.draw(logits, seeds, counters)

    def _draw(self, logits: Tensor, seeds: Tensor, counters: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.minimum and len(self.ends):
            early = (counters < self.minimum)[:, None]
            logits[:, self.ends] = logits[:, self.ends].masked_fill(early, -torch.inf)
        if self.temperature == 0:
            return greedy(logits)
        if self.temperature != 1:
            logits.div_(self.temperature)
        return sample(logits, uniform(seeds, counters))


@dataclass(frozen=True)
class Limits:
    """``tokens``: columns times rows of the cache at most; ``rows``: rows at most; ``shrink``: ended rows leave once they are this part."""

    tokens: int
    rows: int
    shrink: float
    positions: int | None = None
    """Positions that the model has embeddings for; None: any."""


@dataclass
class Inputs:
    """What the next forward and draw take, a row each: ``tokens``, ``positions`` [B,1]; ``counters`` (tokens written), ``seeds`` [B]."""

    tokens: Tensor
    positions: Tensor
    counters: Tensor
    seeds: Tensor
    starts: Tensor | None
    """[B,1] column of the row's first token; None: 0 for all."""


class Decoding:
    """Rows in the cache (``rows``, in the cache's order) and rows that wait."""

    def __init__(self, policy: PolicyHandle, windows: Sequence[int | None], sampling: Sampling, limits: Limits) -> None:
        self.forward = Forward(policy)
        self.windows, self.limits, self.device = windows, limits, policy.model.device
        self.sampler = Sampler(sampling, self.device)
        self.recorder = Recorder(sampling, policy)
        self.allowance = sampling.max_completion_length // ALLOWANCE + 1
        self.cache = RowsCache(windows)
        self.inputs: Inputs
        self.rows: list[Row] = []
        self.ended: set[int] = set()
        self.waiting: deque[Row] = deque()

    def run(self, rows: Iterable[Row]) -> None:
        """Write every row to its end."""
        self.waiting.extend(in_order(rows))
        while self.waiting or self.rows:
            self._put_back()
            self._admit()
            self._step()
            if self.ended and len(self.ended) >= self.limits.shrink * len(self.rows):
                self._leave(self.ended)

    def _step(self) -> None:
        """One more token for every row."""
        now, attention = self.inputs, None
        if now.starts is not None:
            attention = torch.arange(self.cache.width + 1, device=self.device) >= now.starts
        logits = self.forward(now.tokens, now.positions, self.cache, attention)
        ids, logprobs = self.sampler(logits, now.seeds, now.counters)
        self.inputs = replace(now, tokens=ids[:, None], positions=self._next(now.positions), counters=now.counters + 1)
        self.ended.update(self.recorder.record(self.rows, ids.tolist(), logprobs.tolist()))

    def _next(self, positions: Tensor) -> Tensor:
        """Ended rows that are still here may be past the last one."""
        return positions + 1 if self.limits.positions is None else (positions + 1).clamp(max=self.limits.positions - 1)

    def _leave(self, leaving: Collection[int]) -> None:
        """Rows give up their places in the cache."""
        if not leaving:
            return
        remain = len(self.rows) - len(leaving)
        holes, movers = refilled(len(self.rows), leaving)
        for hole, mover in zip(holes, movers, strict=True):
            self.rows[hole] = self.rows[mover]
        del self.rows[remain:]
        self.ended.clear()
        if not remain:
            self.cache = RowsCache(self.windows)
            return
        self.cache.leave(holes, movers, remain, self.device)
        self.cache.forget(self.cache.width - max(row.cached for row in self.rows))
        self._refresh()

    def _refresh(self) -> None:
        """Inputs that follow from the rows."""

        def made(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=self.device)

        cached = [row.cached for row in self.rows]
        starts = made([self.cache.width - columns for columns in cached])[:, None] if min(cached) < self.cache.width else None
        tokens, written = made([row.newest for row in self.rows])[:, None], made([len(row.ids) for row in self.rows])
        self.inputs = Inputs(tokens, made(cached)[:, None], written, made([row.seed for row in self.rows]), starts)

    def _put_back(self) -> None:
        """Where the cache has outgrown its limit, rows that have written least go back to wait, an eighth of the room at once."""
        if self._outgrown():
            self._leave(self.ended)
        if not self._outgrown():
            return
        keep = max(1, self.limits.tokens * 7 // 8 // (self.cache.width + 1))
        order = sorted(range(len(self.rows)), key=lambda place: -len(self.rows[place].ids))
        self.waiting.extendleft(self.rows[place] for place in order[keep:])
        self._leave(set(order[keep:]))

    def _outgrown(self) -> bool:
        return len(self.rows) > 1 and len(self.rows) * (self.cache.width + 1) > self.limits.tokens

    def _admit(self) -> None:
        """Waiting rows enter where there is room for a fair number of them; one enters an empty cache in any case."""
        fit = self._fitting()
        if not fit or (fit < len(self.waiting) and ENTRANTS * fit < len(self.rows)):
            return
        self._leave(self.ended)
        self._enter([self.waiting.popleft() for _ in range(fit)])

    def _fitting(self) -> int:
        """How many waiting rows there is room for, each allowed to grow by some of what it may write."""
        width, present, fit = self.cache.width, len(self.rows) - len(self.ended), 0
        for row in islice(self.waiting, self.limits.rows - present):
            width = max(width, row.cached)
            if (present + fit + 1) * (width + self.allowance) > self.limits.tokens:
                break
            fit += 1
        return fit if fit or self.rows or not self.waiting else 1

    def _enter(self, entering: Sequence[Row]) -> None:
        """Prefill and take in."""
        width = max(self.cache.width, max(row.cached for row in entering))
        place = present = len(self.rows)
        self.rows.extend(entering)
        prefixes = [(prefix, len(list(same))) for prefix, same in groupby(entering, key=lambda row: row.sequence[:-1])]
        for part in portions(prefixes, lambda item: len(item[0])):
            prefilled = self._prefill([prefix for prefix, _ in part])
            if place == present:
                self.cache.reserve(len(self.rows), width, prefilled)
            for source, (prefix, copies) in enumerate(part):
                self.cache.place(place, copies, prefilled, source, len(prefix))
                place += copies
        self._refresh()

    def _prefill(self, sequences: Sequence[tuple[int, ...]]) -> RowsCache:
        """Keys and values of sequences, each from the first column on."""
        cache, length = RowsCache(self.windows), max(len(sequence) for sequence in sequences)
        if length:
            ids = torch.tensor([(*s, *[0] * (length - len(s))) for s in sequences], dtype=torch.int64, device=self.device)
            self.forward(ids, torch.arange(length, device=self.device).expand(len(sequences), -1), cache)
        return cache


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows of one prompt together, prompts of like length beside each other."""
    return sorted(rows, key=lambda row: (len(row.request.prompt_ids), row.request.prompt_ids))


def portions(items: Iterable[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """Runs of items that make at most ``PREFILL_TOKENS`` tokens when padded to the longest, or one item."""
    part: list[T] = []
    longest = 0
    for item in items:
        longest = max(longest, length(item))
        if part and (len(part) + 1) * longest > PREFILL_TOKENS:
            yield part
            part, longest = [], length(item)
        part.append(item)
    yield part
