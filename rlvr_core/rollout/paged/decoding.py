"""Decoding with keys and values in pages.

The host decides between stretches of steps: rows that have ended leave, waiting ones enter, each gets the pages it needs for a stretch.
Within a stretch the device runs step after step, and the host reads the tokens of one step while the next runs; a row that has ended is
noticed one step late, and what it still writes is in pages of its own or in the one that nobody owns.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import torch

from rlvr_core.contracts import PolicyHandle
from rlvr_core.policy.blocks import CompiledBlocks
from rlvr_core.records import Sampling
from rlvr_core.rollout.cache import RowsCache
from rlvr_core.rollout.decoding import ALLOWANCE, ENTRANTS, Forward, Limits, in_order, portions
from rlvr_core.rollout.paged.cache import PagedCache
from rlvr_core.rollout.paged.pages import PAGE, Pages, pages_for
from rlvr_core.rollout.paged.steps import Drawn, State, Steps, size_for
from rlvr_core.rollout.paged.weights import CastWeights, autocast_dtype, uncached_autocast
from rlvr_core.rollout.rows import Recorder, Row

STRIDE = 32
"""Steps of a stretch at most."""
OVERRUN = STRIDE + 2
"""Tokens that a row may write before the host looks at it again."""


@dataclass
class Seat:
    """A row in the batch, and its pages."""

    row: Row
    pages: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        """Tokens of the row when it is as long as it may be."""
        return len(self.row.request.prompt_ids) + self.row.limit

    def wanted(self) -> int:
        """Pages that it still lacks for the next stretch."""
        return max(0, pages_for(min(self.row.cached + OVERRUN, self.last)) - len(self.pages))


class PagedDecoding:
    """Decodes again and again; buffers and graphs stay. Raises whatever a model raises whose forward cannot be run or captured so."""

    def __init__(self, policy: PolicyHandle, windows: Sequence[int | None], limits: Limits, compiled: bool = False) -> None:
        self.blocks = CompiledBlocks(policy.model) if compiled else None
        self.policy, self.windows, self.limits, self.device = policy, windows, limits, policy.model.device
        self.forward = Forward(policy)
        with policy.held():
            self.autocast = autocast_dtype(self.device)
        self.weights = CastWeights(policy.model, self.autocast)
        self.capacity = self.width = self.most = 0
        self.steps: Steps
        self.drawn: Drawn
        self.pages: Pages
        self.seats: list[Seat] = []
        self.waiting: deque[Row] = deque()

    @torch.no_grad()
    def run(self, rows: Iterable[Row], sampling: Sampling) -> None:
        """Write every row to its end."""
        self.waiting = deque(in_order(rows))
        if not self.waiting:
            return
        recorder = Recorder(sampling, self.policy)
        allowance = sampling.max_completion_length // ALLOWANCE + 1
        with self._cast():
            self._fit(self.waiting)
            try:
                while self.waiting or self.seats:
                    self._make_room()
                    self._admit(allowance)
                    self._stretch(recorder, sampling)
                    self._leave([seat for seat in self.seats if seat.row.finish_reason is not None])
            finally:
                self._leave(self.seats)

    @contextmanager
    def _cast(self) -> Iterator[None]:
        """Layers compute with weights as autocast casts them."""
        self.weights.refresh()
        with uncached_autocast(), self.weights.worn():
            yield

    def _fit(self, rows: Iterable[Row]) -> None:
        """Buffers for these rows, within the limits; those that are there, where they are large enough."""
        longest = sorted((Seat(row).last for row in rows), reverse=True)
        most = min(len(longest), self.limits.rows)
        width = pages_for(longest[0] + OVERRUN)
        wanted = sum(pages_for(tokens) for tokens in longest[:most])
        capacity = max(min(wanted, self.limits.tokens // PAGE), width) + 1
        if capacity <= self.capacity and width <= self.width and most <= self.most:
            return
        sizes = max(self.capacity, capacity), max(self.width, width), max(self.most, size_for(most))
        self.capacity = 0
        for old in ("steps", "drawn"):
            self.__dict__.pop(old, None)
        gc.collect()  # a cache refers to itself; else old buffers and new ones would exist together
        cache = PagedCache(self.windows, self._prefill([(0,)]), sizes[0], self.autocast)
        state = State.of(sizes[2], sizes[1], self.device)
        self.steps = Steps(self.forward, cache, state, self.limits.positions, self.blocks)
        self.drawn, self.pages, self.seats = Drawn(state), Pages(sizes[0]), []
        self.capacity, self.width, self.most = sizes

    def _leave(self, leaving: Sequence[Seat]) -> None:
        """Rows give up their pages."""
        for seat in leaving:
            self.pages.give_back(seat.pages)
        gone = {id(seat) for seat in leaving}
        self.seats = [seat for seat in self.seats if id(seat) not in gone]

    def _make_room(self) -> None:
        """Pages for a stretch; where there are too few, rows that have written least go back to wait."""
        self.seats.sort(key=lambda seat: -len(seat.row.ids))
        put_back = []
        while len(self.seats) > 1 and sum(seat.wanted() for seat in self.seats) > self.pages.free:
            put_back.append(self.seats[-1])
            self._leave(self.seats[-1:])
        self.waiting.extendleft(seat.row for seat in put_back)
        for seat in self.seats:
            seat.pages += self.pages.take(seat.wanted())

    def _admit(self, allowance: int) -> None:
        """Waiting rows enter where there is room for a fair number of them; one enters an empty batch in any case."""
        fit = self._fitting(allowance)
        if not fit or (fit < len(self.waiting) and ENTRANTS * fit < len(self.seats)):
            return
        self._enter([self.waiting.popleft() for _ in range(fit)])

    def _fitting(self, allowance: int) -> int:
        """How many waiting rows there are pages for, shared ones counted once, each row allowed to grow by some of what it may write."""
        free, fit, shared = self.pages.free - len(self.seats) * pages_for(allowance), 0, None
        for row in self.waiting:
            if len(self.seats) + fit == self.limits.rows:
                break
            prefix = row.sequence[:-1]
            free -= pages_for(max(allowance, OVERRUN)) + 1 + (0 if prefix == shared else len(prefix) // PAGE)
            shared = prefix
            if free < 0:
                break
            fit += 1
        return fit if fit or self.seats or not self.waiting else 1

    def _enter(self, entering: Sequence[Row]) -> None:
        """Prefill, a prompt once for all its rows; they share its full pages."""
        prefixes = [(prefix, list(same)) for prefix, same in groupby(entering, key=lambda row: row.sequence[:-1])]
        for part in portions(prefixes, lambda item: len(item[0])):
            cache = self._prefill([prefix for prefix, _ in part])
            copies: list[tuple[int, int, int]] = []
            for source, (prefix, rows) in enumerate(part):
                full, rest = divmod(len(prefix), PAGE)
                shared = self.pages.take(full)
                copies += [(source, number, page) for number, page in enumerate(shared)]
                for copy, row in enumerate(rows):
                    seat = Seat(row, self.pages.share(shared) if copy else shared)
                    seat.pages = [*seat.pages, *self.pages.take(1 if rest else 0)]
                    copies += [(source, full, seat.pages[-1])] if rest else []
                    seat.pages += self.pages.take(seat.wanted())
                    self.seats.append(seat)
            if copies:
                self.steps.cache.place(cache, copies)

    def _prefill(self, sequences: Sequence[tuple[int, ...]]) -> RowsCache:
        """Keys and values of sequences, each from the first column on, padded on the right to whole pages."""
        cache, length = RowsCache(self.windows), PAGE * pages_for(max(len(sequence) for sequence in sequences))
        if length:
            ids = torch.tensor([(*s, *[0] * (length - len(s))) for s in sequences], dtype=torch.int64).to(self.device)
            positions = torch.arange(length, device=self.device)
            if self.limits.positions is not None:
                positions = positions.clamp(max=self.limits.positions - 1)
            self.forward(ids, positions.expand(len(sequences), -1), cache)
        return cache

    def _stretch(self, recorder: Recorder, sampling: Sampling) -> None:
        """Steps until enough rows have ended, or it is time to look for pages."""
        rows = [seat.row for seat in self.seats]
        step = self.steps.of(size_for(len(rows)), sampling)
        numbers = [(row.newest, row.cached, len(row.ids), row.seed) for row in rows]
        self.steps.state.set(numbers, [seat.pages for seat in self.seats])
        alive = len(rows)
        for number in range(STRIDE):
            step()
            self.drawn.send(number)
            if number:
                alive -= len(recorder.record(rows, *self.drawn.receive(number - 1, len(rows))))
            if self._worthwhile(alive):
                break
        recorder.record(rows, *self.drawn.receive(number, len(rows)))

    def _worthwhile(self, alive: int) -> bool:
        """Whether so many rows have ended that the others should go on without them."""
        ended = len(self.seats) - alive
        smaller = not alive or size_for(alive) < size_for(len(self.seats))
        return smaller or bool(self.waiting and ENTRANTS * ended >= len(self.seats))
