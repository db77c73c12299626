"""A trace of a few steps, for Perfetto (https://ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WARM_UP, TRACED = 1, 2
"""Steps that run before the trace, and in it; a shorter run is traced from its first step."""


@contextlib.contextmanager
def traced(file: Path | None, steps: int) -> Iterator[Callable[[], None]]:
    """Trace some of the next ``steps`` steps into ``file`` (None: nothing); gives what must be called after each step."""
    if file is None:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    warm_up = WARM_UP if steps > WARM_UP else 0
    plan = schedule(wait=warm_up, warmup=0, active=min(TRACED, steps - warm_up), repeat=1)

    def write(made: profile) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        made.export_chrome_trace(str(file))

    with profile(activities=activities, schedule=plan, on_trace_ready=write) as made:
        yield made.step
