"""One step of decoding over fixed buffers, replayed as a CUDA graph, a graph for each number of rows in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr_core.policy.blocks import CompiledBlocks, used
from rlvr_core.records import Sampling
from rlvr_core.rollout.decoding import Forward, Sampler
from rlvr_core.rollout.paged.cache import PagedCache

SIZES = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of rows that graphs are captured for; beyond, multiples of 256. Not 1, which compiled code would take for a case of its own."""


def size_for(rows: int) -> int:
    """Rows of the graph that takes so many."""
    return next((size for size in SIZES if size >= rows), -(-rows // 256) * 256)


@dataclass
class State:
    """What a step reads and moves on, a column each row."""

    numbers: Tensor
    """[4,M] int64: newest tokens, tokens in the pages, tokens written, seeds."""
    tables: Tensor
    """[M,N] int32: pages."""
    ids: Tensor
    """[M] int64: drawn last."""
    logprobs: Tensor
    """[M] float64."""

    @classmethod
    def of(cls, rows: int, pages: int, device: torch.device) -> State:
        """For so many rows of so many pages; all of them in the page that nobody owns."""
        numbers = torch.zeros(4, rows, dtype=torch.int64, device=device)
        tables = torch.zeros(rows, pages, dtype=torch.int32, device=device)
        return cls(numbers, tables, numbers[0].clone(), torch.zeros(rows, dtype=torch.float64, device=device))

    def clear(self) -> None:
        """As it was made."""
        self.numbers.zero_()
        self.tables.zero_()

    def set(self, numbers: Sequence[Sequence[int]], tables: Sequence[Sequence[int]]) -> None:
        """Rows' numbers and pages; places after them are cleared."""
        self.clear()
        width = max(len(pages) for pages in tables)
        padded = torch.tensor([[*pages, *[0] * (width - len(pages))] for pages in tables], dtype=torch.int32)
        self.numbers[:, : len(tables)] = torch.tensor(numbers, dtype=torch.int64).T.to(self.numbers.device)
        self.tables[: len(tables), :width] = padded.to(self.tables.device)


class Steps:
    """Draws the next token of every row. ``positions``: the model's, where it has a last one."""

    def __init__(
        self, forward: Forward, cache: PagedCache, state: State, positions: int | None, blocks: CompiledBlocks | None = None
    ) -> None:
        self.forward, self.cache, self.state, self.positions, self.blocks = forward, cache, state, positions, blocks
        self.replays: dict[tuple[Any, ...], Callable[[], None]] = {}
        self.pool: Any = None
        # Some models look into their ids, which waits for the device, where they are given no mask. One of four axes they pass on as it is.
        self.no_mask = torch.zeros(1, 1, 1, 1, device=state.ids.device)

    def of(self, rows: int, sampling: Sampling) -> Callable[[], None]:
        """A step for so many rows. Where it has to be captured, the state is cleared."""
        name = (rows, sampling.temperature, sampling.min_completion_length, sampling.stop_token_ids)
        if name not in self.replays:
            device = self.state.numbers.device
            sampler = Sampler(sampling, device, compiled=self.blocks is not None)

            def step() -> None:
                self._step(rows, sampler)

            self.replays[name] = self._captured(step) if device.type == "cuda" else step
        return self.replays[name]

    def _step(self, rows: int, sampler: Sampler) -> None:
        state = self.state
        tokens, lengths, written, seeds = (numbers[:rows] for numbers in state.numbers)
        positions = lengths if self.positions is None else lengths.clamp(max=self.positions - 1)
        self.cache.tables, self.cache.lengths = state.tables[:rows], lengths
        with self.cache.attended(self.forward.policy.model, alike=self.blocks is not None), used(self.blocks):
            logits = self.forward(tokens[:, None], positions[:, None], self.cache, self.no_mask)
        ids, logprobs = sampler(logits, seeds, written)
        state.ids[:rows] = ids
        state.logprobs[:rows] = logprobs
        tokens.copy_(ids)
        state.numbers[1:3, :rows] += 1

    def _captured(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run once aside, so that whatever is made on first use is there, then captured. Graphs share their memory: one runs at a time."""
        self.state.clear()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            step()
        torch.cuda.current_stream().wait_stream(aside)
        self.state.clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            step()
        self.pool = self.pool or graph.pool()
        return graph.replay


class Drawn:
    """Ids and log-probs on their way to the host, two steps' at most: the device goes on meanwhile."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.on_device = state.ids.device.type == "cuda"
        self.slots = [
            tuple(torch.empty(kind.shape, dtype=kind.dtype, pin_memory=self.on_device) for kind in (state.ids, state.logprobs))
            for _ in range(2)
        ]
        self.events = [torch.cuda.Event() for _ in self.slots] if self.on_device else []

    def send(self, number: int) -> None:
        """Copy what the step that was launched last draws."""
        for here, there in zip(self.slots[number % 2], (self.state.ids, self.state.logprobs), strict=True):
            here.copy_(there, non_blocking=True)
        if self.events:
            self.events[number % 2].record()

    def receive(self, number: int, rows: int) -> tuple[list[int], list[float]]:
        """What was sent under this number, once it is there."""
        if self.events:
            self.events[number % 2].synchronize()
        ids, logprobs = (values[:rows].tolist() for values in self.slots[number % 2])
        return ids, logprobs
