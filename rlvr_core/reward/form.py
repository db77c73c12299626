"""Rewards ``format`` and ``length``: what a completion looks like, whatever it says."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from rlvr_core.contracts import Reward
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.options import FormatOptions, LengthOptions


class FormatReward(Reward):
    """1 where the pattern matches. In a worker: a pattern may take for ever on a text made for it."""

    options: FormatOptions

    def __init__(self, options: FormatOptions) -> None:
        super().__init__(options)
        pattern = re.compile(options.pattern)
        self._match = pattern.fullmatch if options.match == "full" else pattern.search

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order."""
        return [self._score(item) for item in items]

    def _score(self, item: RewardItem) -> Outcome:
        start = time.perf_counter()
        found = self._match(item.completion.strip() if self.options.strip else item.completion)
        reason = "the pattern matches" if found else "the pattern does not match"
        return Outcome(float(found is not None), reason=reason, ms=(time.perf_counter() - start) * 1e3)


class LengthReward(Reward):
    """1 within the bounds; outside a straight line to 0 over ``slack``."""

    options: LengthOptions

    def in_process(self) -> bool:
        """Counting is cheap."""
        return True

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order."""
        return [self._score(self._count(item.completion)) for item in items]

    def _count(self, completion: str) -> int:
        if self.options.unit == "characters":
            return len(completion)
        return len(completion.split() if self.options.unit == "words" else completion.splitlines())

    def _score(self, count: int) -> Outcome:
        o = self.options
        short = 0 if o.min is None else o.min - count
        outside = max(0, short, 0 if o.max is None else count - o.max)
        value = 1.0 if outside == 0 else max(0.0, 1.0 - outside / (o.slack + 1))
        where = "within bounds" if outside == 0 else f"{outside} too {'few' if outside == short else 'many'}"
        return Outcome(value, reason=f"{count} {o.unit}, {where}")
