"""Where the time goes: seconds by stage, each second counted once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from torch.profiler import record_function

STAGES = ("rollout", "reward", "select", "prepare", "reference", "learn", "probe", "eval", "checkpoint", "idle")
"""``reference``: forwards of references, in prepare and learn; ``idle``: waiting for the other ranks; ``eval`` and ``checkpoint`` come
after a step, so a row of metrics has those of before its step."""
BETWEEN_STEPS = ("eval", "checkpoint")


class Clock:
    """Seconds by stage. A stage inside another is taken off that, but evaluation and saving keep what they do.

    On an accelerator it waits for the device at a stage's ends. ``now``: what is read, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds: dict[str, float] = {}
        self.total: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """``with clock.timed("rollout"): ...``; a range of that name in a profile too."""
        assert stage in STAGES
        self._charge()
        outer = self._running[-1] if self._running else stage
        self._running.append(outer if outer in BETWEEN_STEPS else stage)
        try:
            with record_function(f"rlvr/{stage}"):
                yield
        finally:
            self._charge()
            self._running.pop()

    def take(self) -> dict[str, float]:
        """Seconds since the last call, by stage."""
        taken, self.seconds = self.seconds, {}
        for stage, spent in taken.items():
            self.total[stage] = self.total.get(stage, 0.0) + spent
        return taken

    def _charge(self) -> None:
        """Count the time since the last change for the stage that runs."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = self.now()
        if self._running:
            stage = self._running[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
