"""Reward ``exact``: the completion, or what a pattern finds in it, is the gold as text."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from rlvr_core.contracts import Reward
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.options import ExactOptions


class ExactReward(Reward):
    """1 for equal text, 0 otherwise; without a match of the pattern there is no answer."""

    options: ExactOptions
    states_answers = True

    def __init__(self, options: ExactOptions) -> None:
        super().__init__(options)
        self._pattern = None if options.pattern is None else re.compile(options.pattern)

    def in_process(self) -> bool:
        """Comparing text is cheap; a pattern may backtrack without end."""
        return self._pattern is None

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order."""
        return [self._score(item) for item in items]

    def as_completion(self, gold: str) -> str | None:
        """The gold itself; None under a pattern, since what it wants around the answer is unknown."""
        return gold if self._pattern is None else None

    def answer(self, completion: str) -> str | None:
        """The text that is compared."""
        found = self._answer(completion)
        return None if found is None else self._form(found)

    def _score(self, item: RewardItem) -> Outcome:
        start = time.perf_counter()
        answer = self._answer(item.completion)
        ms = (time.perf_counter() - start) * 1e3
        if answer is None:
            return Outcome(0.0, "no_answer", "the pattern matches nothing", ms)
        equal = self._form(answer) == self._form(item.gold)
        return Outcome(float(equal), reason="equal text" if equal else "another text", ms=ms)

    def _answer(self, completion: str) -> str | None:
        if self._pattern is None:
            return completion
        matches = list(self._pattern.finditer(completion))
        if not matches:
            return None
        found: str | None = matches[-1][1 if self._pattern.groups else 0]
        return found

    def _form(self, text: str) -> str:
        text = text.strip() if self.options.strip else text
        return text.casefold() if self.options.ignore_case else text
