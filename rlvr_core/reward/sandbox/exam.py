"""Starts examiner and program, waits for the verdict, leaves nothing behind."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent
PREFIX = "rlvr-code-"
"""How names of sandboxes' folders on the disk begin."""
NOWHERE = "/nonexistent"
"""In place of a folder where none is needed. Nothing can be done there, should one be needed after all."""
MAX_VERDICT = 1 << 16
"""Bytes of a verdict at most."""

_START = """
import sys, types
for name, path in (("rlvr_core", []), ("rlvr_core.reward", []), ("rlvr_core.reward.sandbox", [{folder!r}])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = path
from rlvr_core.reward.sandbox.{module} import main
main({channel})
"""
"""Our modules without the package around them, which would import much more."""


@dataclass(frozen=True)
class Verdict:
    """What came of it. ``broken``: the tests, or the sandbox, are at fault. ``held``: which measures the system allowed."""

    verdict: Literal["passed", "failed", "broken"]
    reason: str
    held: Mapping[str, bool]


def examine(
    source: str,
    tests: str,
    *,
    prompt: str = "",
    setup: str = "",
    entry_point: str | None = None,
    continued: bool = False,
    limits: Mapping[str, Any],
    memory_folder: bool = False,
) -> Verdict:
    """Run ``source`` against ``tests``, each in a process of its own.

    ``prompt``: code of the task's own that stands before both; ``continued``: the source holds it already. ``setup``: more of it, for
    the tests alone. ``limits``: seconds (by the clock), cpu_seconds, memory_mb (both of each process), folder_mb, processes.
    ``memory_folder``: the system is known to give each process a folder in memory, so none is made on the disk.
    """
    before = set(_children())
    with (
        nullcontext(NOWHERE)
        if memory_folder
        else tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder
    ):
        common = {"limits": dict(limits), "folder": folder}
        ours, theirs = socket.socketpair()
        with ours, theirs:
            program = _start("program", theirs, {**common, "prompt": "" if continued else prompt, "source": source})
            exam = {**common, "prompt": prompt, "setup": setup, "tests": tests, "entry_point": entry_point}
            examiner = _start("examiner", ours, exam)
        with _ended(program, examiner, spare=before):
            said = _read(examiner, limits["seconds"])
    return _verdict(said, limits["seconds"])


def _start(module: str, channel: socket.socket, task: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    code = _START.format(folder=str(FOLDER), module=module, channel=channel.fileno())
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(task).encode())
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env={}, cwd="/",
            pass_fds=[channel.fileno()], start_new_session=True,
        )  # fmt: skip


def _read(examiner: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """What the examiner says until it ends; None where time is up first."""
    assert examiner.stdout is not None
    deadline, said = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(examiner.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            arrived = os.read(examiner.stdout.fileno(), MAX_VERDICT)
            said += arrived
            if not arrived or len(said) > MAX_VERDICT:
                return said
    return None


def _verdict(said: bytes | None, seconds: float) -> Verdict:
    if said is None:
        return Verdict("failed", f"the tests were not done after {seconds:g} s", {})
    try:
        return Verdict(**json.loads(said))
    except (ValueError, TypeError):
        return Verdict("failed", "the tests ended without a verdict (out of memory or time)", {})


@contextmanager
def _ended(*processes: subprocess.Popen[bytes], spare: set[int]) -> Iterator[None]:
    """Afterwards none of them is alive, nor anything that they started. ``spare``: children of ours from before."""
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        for process in processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        _end_strays(spare)


def adopt_strays() -> None:
    """Make this process the parent of whatever its descendants leave behind, so that it is found and ended (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _end_strays(spare: set[int]) -> None:
    """Kill the children of this process, until there are none but ``spare``."""
    while found := [pid for pid in _children() if pid not in spare]:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    """Of this thread, which starts them all; none where the system does not say."""
    try:
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text(encoding="ascii").split()]
    except OSError:
        return []
