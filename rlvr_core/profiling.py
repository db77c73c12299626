"""A trace of a few steps, for Perfetto (https://ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

WARM_UP, TRACED = 1, 2
"""Steps that run before the trace, and in it; a run of one step is traced in that."""


@contextlib.contextmanager
def traced(file: Path | None, steps: int) -> Iterator[Callable[[], None]]:
    """Trace some of the next ``steps`` steps into ``file`` (None: nothing); gives what must be called after each step."""
    if file is None:
        yield lambda: None
        return
    trace = _Trace(file, first=min(WARM_UP, steps - 1))
    trace.go_on()
    try:
        yield trace.go_on
    finally:
        trace.end()


class _Trace:
    """Counts steps; starts before the first that is traced, ends after the last."""

    def __init__(self, file: Path, first: int) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self.file, self.first, self.done = file, first, -1
        self.profile = profile(activities=activities)
        self.running = False

    def go_on(self) -> None:
        """A step has ended (the first call: none yet)."""
        self.done += 1
        if self.done == self.first:
            self.profile.start()
            self.running = True
        elif self.done == self.first + TRACED:
            self.end()

    def end(self) -> None:
        """Write what was traced."""
        if self.running:
            self.running = False
            self.profile.stop()
            self.profile.export_chrome_trace(str(self.file))
