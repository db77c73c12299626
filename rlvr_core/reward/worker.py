"""A process that scores: ``python -m rlvr_core.reward.worker``, started by the pool and by nobody else. Imports no torch.

It says ``ready`` once its rewards are built, then answers one message after another. It has no time limit of its own: the pool kills
it. It ends when its standard input does, and where the system allows (Linux) at once with its parent, whatever it is doing.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from rlvr_core.contracts import Reward
from rlvr_core.errors import RlvrError
from rlvr_core.records import Outcome
from rlvr_core.reward.judging import judge, said, shortened
from rlvr_core.reward.wire import Frames, frame

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Until standard input ends."""
    end_with_parent()
    requests, replies = _take_pipes()
    messages = _messages(requests)
    try:
        rewards = {label: build() for label, build in pickle.loads(next(messages)).items()}  # noqa: S301 - from our own parent
        warnings = [line for reward in rewards.values() for line in reward.start()]
    except Exception as error:  # foreign code is loaded here
        _reply(replies, {"failed": str(error) if isinstance(error, RlvrError) else said(error)})
        return
    _reply(replies, {"ready": warnings})
    for message in messages:
        _reply(replies, _answer(rewards, *pickle.loads(message)))  # noqa: S301 - from our own parent


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends. Elsewhere it ends when it next reads."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_pipes() -> tuple[int, BinaryIO]:
    """Standard input and output as they are, out of reach of code that reads or prints; what it prints goes to standard error."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, os.fdopen(replies, "wb", buffering=0)


def _messages(requests: int) -> Iterator[bytes]:
    frames = Frames()
    while arrived := os.read(requests, 1 << 20):
        yield from frames.feed(arrived)


def _answer(rewards: Mapping[str, Reward], label: str, items: list[Any]) -> dict[str, Any]:
    try:
        return {"outcomes": [_plain(outcome) for outcome in judge(label, rewards[label], items)]}
    except RlvrError as error:
        return {"refused": str(error)}


def _plain(outcome: Outcome) -> tuple[float | None, str, str, float]:
    value = None if outcome.value is None else float(outcome.value)
    return value, outcome.status, shortened(outcome.reason), outcome.ms


def _reply(replies: BinaryIO, message: Mapping[str, Any]) -> None:
    whole = memoryview(frame(json.dumps(message).encode()))
    while whole:
        whole = whole[replies.write(whole) or 0 :]


if __name__ == "__main__":
    main()
