r"""Reward ``math``: the completion's final answer equals the gold, as mathematics.

In layers, each final where it can decide: the same text in normal form; the same structure (list, tuple, interval, matrix, relation);
for each value in it two exact numbers; and only then sympy through math-verify's parser, with what could explode, or would be misread
there, refused first. A wrong 1 is learned, a wrong 0 is only waste: in doubt it is 0.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rlvr_core.contracts import Reward
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.comparing import compare, not_understood
from rlvr_core.reward.extraction import boxed, extract
from rlvr_core.reward.normal_form import normal_form
from rlvr_core.reward.numbers import as_number
from rlvr_core.reward.options import MathOptions
from rlvr_core.reward.symbolic import Verdict, compare_values


class MathReward(Reward):
    """1 for a correct final answer, 0 otherwise; the status says whether there was no answer or none that could be understood."""

    options: MathOptions
    states_answers = True
    looks_at_golds = True

    def start(self) -> Sequence[str]:
        """Import and warm up the symbolic layer (half a second)."""
        compare_values("x+1", "1+x")
        return ()

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order. Never raises for what a completion holds."""
        return [self._score(item) for item in items]

    def as_completion(self, gold: str) -> str:
        """A completion that states this gold."""
        return boxed(gold)

    def gold_problems(self, golds: Sequence[str]) -> list[str]:
        """Golds that are not understood can be compared as text at most: the same answer written otherwise would count as wrong."""
        return [not_understood(gold) for gold in golds]

    def answer(self, completion: str) -> str | None:
        """The final answer in normal form; of a number its value."""
        found = extract(completion, self.options.require_box).answer
        form = normal_form(found) if found is not None else ""
        number = as_number(form)
        return (form or None) if number is None else str(number)

    def _score(self, item: RewardItem) -> Outcome:
        start = time.perf_counter()
        found = extract(item.completion, self.options.require_box)
        verdict = Verdict(0.0, "no_answer", found.reason) if found.answer is None else compare(item.gold, found.answer)
        return Outcome(verdict.value, verdict.status, verdict.reason, (time.perf_counter() - start) * 1e3)
