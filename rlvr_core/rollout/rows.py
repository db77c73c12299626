"""Rows on their way from request to completion, and when they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlvr_core.contracts import PolicyHandle
from rlvr_core.errors import DataError
from rlvr_core.randomness import seed_of
from rlvr_core.records import Completion, FinishReason, Request, Sampling


@dataclass
class Row:
    """One completion being written. ``limit``: its tokens at most; ``seed``: its stream of random numbers, read at the token's index."""

    request: Request
    limit: int
    seed: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def newest(self) -> int:
        """The last token."""
        return self.ids[-1] if self.ids else self.request.prompt_ids[-1]

    @property
    def cached(self) -> int:
        """Tokens before the newest one: what a cache holds of this row."""
        return len(self.request.prompt_ids) + len(self.ids) - 1

    @property
    def sequence(self) -> tuple[int, ...]:
        """Prompt and what was written."""
        return (*self.request.prompt_ids, *self.ids)

    def completion(self) -> Completion:
        """As it stands."""
        return Completion(self.request.key, tuple(self.ids), tuple(self.logprobs), self.finish_reason or "length")


def rows_of(requests: Sequence[Request], sampling: Sampling, positions: int | None) -> list[Row]:
    """A row a request; its limit is the lowest of the run's, its own, and the room that ``positions`` leaves after the prompt.

    Raises DataError for a prompt without tokens, or with no room after it.
    """
    rows = []
    for request in requests:
        if not request.prompt_ids:
            raise DataError(
                f"prompt {request.key.prompt} of step {request.key.step} has no tokens; a completion needs one to start from"
            )
        limits = [sampling.max_completion_length, request.max_completion_length]
        limits += [] if positions is None else [positions - len(request.prompt_ids)]
        limit = min(limit for limit in limits if limit is not None)
        if limit < 1:
            raise DataError(
                f"a prompt of {len(request.prompt_ids)} tokens leaves no room for a completion: the model has {positions} positions; "
                "set prompt.max_length"
            )
        rows.append(Row(request, limit, seed_of("rollout", sampling.seed, *request.key)))
    return rows


class Recorder:
    """Writes sampled tokens down and says which rows have ended."""

    def __init__(self, sampling: Sampling, policy: PolicyHandle) -> None:
        self.minimum = sampling.min_completion_length
        self.ends = frozenset(sampling.stop_token_ids)
        self.strings = sampling.stop_strings
        self.policy = policy
        # A token holds a byte at least; some more for those that decode to nothing.
        self.tail = max((len(stop.encode()) for stop in self.strings), default=0) + 8

    def record(self, rows: Sequence[Row], ids: Sequence[int], logprobs: Sequence[float]) -> list[int]:
        """The next token of each row that goes on; places of the rows that end with it."""
        over = []
        for place, (row, token, logprob) in enumerate(zip(rows, ids, logprobs, strict=True)):
            if row.finish_reason is not None:
                continue
            row.ids.append(token)
            row.logprobs.append(logprob)
            if token in self.ends or (self.strings and self._says_stop(row.ids)):
                row.finish_reason = "stop"
            elif len(row.ids) >= row.limit:
                row.finish_reason = "length"
            else:
                continue
            over.append(place)
        return over

    def _says_stop(self, ids: Sequence[int]) -> bool:
        """Whether the newest token completes a stop string, not before the minimum length."""
        if len(ids) < self.minimum:
            return False
        now, before = self._text(ids[-self.tail :]), ""
        for stop in self.strings:
            if stop in now:
                before = before or self._text(ids[-self.tail : -1])
                if stop not in before:
                    return True
        return False

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.policy.tokenizer.decode(list(ids), skip_special_tokens=False))
