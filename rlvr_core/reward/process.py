"""One worker as the pool sees it: a process, two pipes that never block, the jobs it was given."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_core.records import RewardItem
from rlvr_core.reward.wire import Frames, frame

START_LIMIT = 120.0
"""Seconds in which a worker must be ready."""


@dataclass(frozen=True)
class Job:
    """One call of a reward's ``score``: items with their places among all."""

    places: tuple[int, ...]
    items: tuple[RewardItem, ...]

    def alone(self) -> list[Job]:
        """A job for each item."""
        return [Job((place,), (item,)) for place, item in zip(self.places, self.items, strict=True)]


class Worker:
    """``jobs`` are answered in order; the first is the one at work since ``since``."""

    def __init__(self, hello: bytes) -> None:
        # In a session of its own: Ctrl-C on the terminal is the run's affair, and the whole group can be killed.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rlvr_core.reward.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=_environment(), start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self.jobs: deque[Job] = deque()
        self.ready = False
        self.answered = 0
        self.since = time.monotonic()
        self._frames = Frames()
        self.unsent = bytearray(frame(hello))

    def give(self, label: str, job: Job) -> None:
        """Queue a job. Sent by ``send``."""
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        self.unsent += frame(pickle.dumps((label, list(job.items)), protocol=pickle.HIGHEST_PROTOCOL))

    def send(self) -> None:
        """As much as the pipe takes. A worker that is gone takes nothing; reading tells."""
        with suppress(BlockingIOError, BrokenPipeError):
            while self.unsent:
                del self.unsent[: os.write(self.stdin, self.unsent[: 1 << 20])]

    def receive(self) -> tuple[list[Mapping[str, Any]], bool]:
        """(messages that have come, whether it can still answer)."""
        messages: list[Mapping[str, Any]] = []
        try:
            while arrived := os.read(self.stdout, 1 << 20):
                messages += [json.loads(message) for message in self._frames.feed(arrived)]
        except BlockingIOError:
            return messages, True
        except ValueError:  # the reward's code wrote into the pipe
            return messages, False
        return messages, False

    def memory_mb(self) -> float:
        """Resident MiB; 0 where the system does not say."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except OSError:
            return 0.0

    def kill(self) -> int:
        """End it and what it started, and wait. Returns the exit code."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        return self.process.wait()


def _environment() -> dict[str, str]:
    """Ours, so that what imports here imports there; one thread for each worker unless the user said otherwise."""
    path: Sequence[str] = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path)}
