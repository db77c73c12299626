"""Warm worker processes that score, each of which can be killed. No thread and no signal handler: the pool watches pipes and the clock.

An item over its time, or whose worker dies or grows too large, costs itself alone: the worker is replaced, and what else it had been
given is given again.
"""

from __future__ import annotations

import os
import pickle
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlvr_core.contracts import Reward
from rlvr_core.errors import DataError, SpecError
from rlvr_core.records import Outcome, RewardItem, Status
from rlvr_core.reward.judging import GoldCheck
from rlvr_core.reward.process import START_LIMIT, Job, Worker

MAX_WORKERS = 8
IN_FLIGHT = 32
"""Jobs that a worker is given ahead at most."""
LOOK_EVERY = 0.1
"""Seconds between looks at workers' memory."""
FAILED_STARTS = 3
"""Workers in a row that may die before they are ready."""


@dataclass(frozen=True)
class Limits:
    """What workers may use. ``workers``: how many; ``seconds`` for one job; ``memory_mb``: resident MiB;
    ``items``: until it is replaced."""

    workers: int
    seconds: float
    memory_mb: int
    items: int


def default_workers() -> int:
    """One for each CPU that this rank may use, 8 at most."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class Pool:
    """Workers that hold the same rewards. ``builders``: label -> picklable callable that makes the reward."""

    def __init__(self, builders: Mapping[str, Callable[[], Reward]], limits: Limits) -> None:
        self._hello = pickle.dumps(dict(builders))
        self._limits = limits
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0
        self._warnings: list[str] | None = None
        self._task: _Task | None = None
        self._looked = 0.0
        self.workers = [self._spawn() for _ in range(limits.workers)]

    def ready(self) -> list[str]:
        """Wait for the first worker; what its rewards warn of. Raises SpecError where the rewards cannot be built there."""
        while self._warnings is None:
            self._turn()
        return self._warnings

    def score(
        self, label: str, items: Sequence[RewardItem], whole_batch: bool = False, seconds: float | None = None
    ) -> list[Outcome]:
        """One outcome an item, in order. ``seconds``: a limit for each job other than the pool's own.

        Raises DataError where the reward gives something ill-formed, or workers cannot be started any more.
        """
        everything = Job(tuple(range(len(items))), tuple(items))
        jobs = [everything] if whole_batch else everything.alone()
        self._task = task = _Task(label, deque(jobs if items else ()), seconds or self._limits.seconds, len(items))
        try:
            self._bury_idle()
            while task.unfinished:
                self._assign(task)
                self._turn()
        except BaseException:
            self._restart_busy()
            raise
        finally:
            self._task = None
        return task.outcomes()

    def close(self) -> None:
        """Kill the workers."""
        for worker in self.workers:
            with suppress(KeyError, ValueError):  # one that could not be replaced
                self._selector.unregister(worker.stdout)
            worker.kill()
        self.workers = []
        self._selector.close()

    def _spawn(self) -> Worker:
        worker = Worker(self._hello)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
        worker.send()
        return worker

    def _replace(self, worker: Worker) -> int:
        """A new worker in its place; the old one's exit code."""
        self._selector.unregister(worker.stdout)
        if worker.unsent:
            self._watch_writing(worker, False)
        code = worker.kill()
        self.workers[self.workers.index(worker)] = self._spawn()
        return code

    def _bury_idle(self) -> None:
        """Workers that died since the last step cost nothing."""
        for worker in list(self.workers):
            if worker.ready and worker.process.poll() is not None:
                self._replace(worker)

    def _restart_busy(self) -> None:
        """After an interruption nobody waits for what is at work."""
        for worker in list(self.workers):
            if worker.jobs:
                self._replace(worker)

    def _assign(self, task: _Task) -> None:
        """Give workers jobs ahead, fewer where jobs are slow or nearly done, so that none waits behind a busy worker for long."""
        ahead = min(IN_FLIGHT, len(task.waiting) // (2 * len(self.workers)) + 1, max(1, int(20.0 / task.mean_ms)))
        for worker in self.workers:
            if worker.ready and not worker.jobs and worker.answered >= self._limits.items:
                self._replace(worker)
                continue
            while worker.ready and task.waiting and len(worker.jobs) < ahead and worker.answered < self._limits.items:
                self._give(worker, task)

    def _give(self, worker: Worker, task: _Task) -> None:
        job = task.waiting.popleft()
        try:
            worker.give(task.label, job)
        except Exception as error:  # pickle raises what the objects do
            raise DataError(f"rewards.{task.label}: a column of the rows cannot be sent to a worker process: {error}") from error
        worker.answered += len(job.items)

    def _turn(self) -> None:
        """Send, wait for something to happen, receive, then look at clocks and memory."""
        for worker in self.workers:
            if worker.unsent:
                worker.send()
                self._watch_writing(worker, bool(worker.unsent))
        for key, _ in self._selector.select(self._wait()):
            if key.fd == key.data.stdout and key.data in self.workers:
                self._hear(key.data)
        self._look()

    def _watch_writing(self, worker: Worker, wanted: bool) -> None:
        watched = worker.stdin in self._selector.get_map()
        if wanted and not watched:
            self._selector.register(worker.stdin, selectors.EVENT_WRITE, worker)
        elif watched and not wanted:
            self._selector.unregister(worker.stdin)

    def _wait(self) -> float:
        """Seconds until a clock runs out, or until memory is looked at again."""
        now = time.monotonic()
        left = [self._deadline(worker) - now for worker in self.workers if worker.jobs or not worker.ready]
        return max(0.0, min([LOOK_EVERY, *left]))

    def _deadline(self, worker: Worker) -> float:
        return worker.since + (START_LIMIT if not worker.ready else self._task.seconds if self._task else self._limits.seconds)

    def _hear(self, worker: Worker) -> None:
        messages, alive = worker.receive()
        for message in messages:
            self._heed(worker, message)
        if not alive:
            self._lost(worker, "crash", "")

    def _heed(self, worker: Worker, message: Mapping[str, Any]) -> None:
        if "failed" in message:
            raise SpecError(f"rewards: {message['failed']}")
        if "refused" in message:
            raise DataError(message["refused"])
        now = time.monotonic()
        if "ready" in message:
            worker.ready, self._failed_starts = True, 0
            self._warnings = message["ready"] if self._warnings is None else self._warnings
        elif self._task is not None:
            self._task.finish(worker.jobs.popleft(), message["outcomes"], (now - worker.since) * 1e3)
        worker.since = now

    def _look(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self.workers if (w.jobs or not w.ready) and now >= self._deadline(w)]:
            seconds = START_LIMIT if not worker.ready else now - worker.since
            self._lost(worker, "timeout", f"not done after {seconds:.1f} s; its worker was killed")
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        for worker in [w for w in self.workers if w.jobs]:
            if (size := worker.memory_mb()) > self._limits.memory_mb:
                self._lost(worker, "crash", f"its worker grew to {size:.0f} MiB, over memory_mb, and was killed")

    def _lost(self, worker: Worker, status: Status, reason: str) -> None:
        """Replace a worker. The job at work pays, or is tried item by item; the others are given again."""
        code = self._replace(worker)
        reason = reason or f"its worker died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise DataError(f"rewards: {FAILED_STARTS} worker processes in a row did not get ready, the last: {reason}")
        if self._task is None or not worker.jobs:
            return
        at_work, *others = worker.jobs
        again = at_work.alone() if len(at_work.items) > 1 else []
        if not again:
            self._task.finish(at_work, [(None, status, reason, (time.monotonic() - worker.since) * 1e3)], 0.0)
        self._task.waiting.extendleft(reversed([*again, *others]))


class _Task:
    """One call of ``score``: what waits, and the outcomes so far."""

    def __init__(self, label: str, waiting: deque[Job], seconds: float, items: int) -> None:
        self.label = label
        self.waiting = waiting
        self.seconds = seconds
        self.unfinished = items
        self.mean_ms = 1.0
        self._outcomes: list[Outcome | None] = [None] * items

    def finish(self, job: Job, outcomes: Sequence[Sequence[Any]], ms: float) -> None:
        """Note a job's outcomes, and how long jobs take of late."""
        for place, (value, status, reason, spent) in zip(job.places, outcomes, strict=True):
            self._outcomes[place] = Outcome(value, status, reason, spent)
        self.unfinished -= len(job.items)
        self.mean_ms = max(0.01, 0.9 * self.mean_ms + 0.1 * ms)

    def outcomes(self) -> list[Outcome]:
        """All of them, in the order of the items."""
        return [outcome for outcome in self._outcomes if outcome is not None]


class PooledReward(Reward):
    """A reward whose scores come from a pool; everything else it answers itself."""

    def __init__(self, label: str, reward: Reward, pool: Pool) -> None:
        super().__init__(reward.options)
        self._label, self._reward, self._pool = label, reward, pool
        self.states_answers = reward.states_answers
        self.looks_at_golds = reward.looks_at_golds

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order."""
        return self._pool.score(self._label, items, self._reward.whole_batch, self._reward.time_limit())

    def gold_problems(self, golds: Sequence[str]) -> list[str]:
        """As the reward says, in the workers; a gold that takes too long has a problem too."""
        outcomes = self._pool.score(gold_label(self._label), [RewardItem("", "", gold, {}) for gold in golds])
        return ["" if outcome.status == "ok" else outcome.reason or outcome.status for outcome in outcomes]

    def as_completion(self, gold: str) -> str | None:
        """As the reward says."""
        return self._reward.as_completion(gold)

    def answer(self, completion: str) -> str | None:
        """As the reward says."""
        return self._reward.answer(completion)


def builder(reward: type[Reward], options: Any) -> Callable[[], Reward]:
    """What makes the reward, here or in a worker."""
    return partial(reward, options)


def builders(rewards: Mapping[str, Reward]) -> dict[str, Callable[[], Reward]]:
    """What makes each reward in a worker, and what looks at its golds there."""
    built: dict[str, Callable[[], Reward]] = {label: builder(type(reward), reward.options) for label, reward in rewards.items()}
    return built | {gold_label(label): partial(GoldCheck, built[label]) for label, r in rewards.items() if r.looks_at_golds}


def gold_label(label: str) -> str:
    """Under which workers hold the look at a reward's golds."""
    return f"{label} golds"
