r"""Reward ``math``: the completion's final answer equals the gold, as mathematics.

In layers, each final where it can decide: the same text in normal form; two numbers, exactly; and only then math-verify (sympy),
with what could explode, or would be misread there, refused first. A wrong 1 is learned, a wrong 0 is only waste: in doubt it is 0.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

from rlvr_core.contracts import Reward
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.extraction import boxed, extract
from rlvr_core.reward.normal_form import as_number, normal_form, without_one_sided
from rlvr_core.reward.options import MathOptions
from rlvr_core.reward.refusal import refuse
from rlvr_core.reward.symbolic import Verdict, compare_symbolic, mixes_cases, variables


class MathReward(Reward):
    """1 for a correct final answer, 0 otherwise; the status says whether there was no answer or none that could be understood."""

    options: MathOptions
    states_answers = True

    def start(self) -> Sequence[str]:
        """Import and warm up the symbolic layer (half a second)."""
        compare_symbolic("x+1", "1+x")
        return ()

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order. Never raises for what a completion holds."""
        return [self._score(item) for item in items]

    def as_completion(self, gold: str) -> str:
        """A completion that states this gold."""
        return boxed(gold)

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


@lru_cache(maxsize=16_384)
def compare(gold: str, answer: str) -> Verdict:
    """Whether two answers, as they stand in LaTeX or plain text, are the same."""
    g, a = normal_form(gold), normal_form(answer)
    if not a:
        return Verdict(0.0, "no_answer", "the answer is empty")
    if g == a:
        return Verdict(1.0, "ok", "equal text")
    g, a = without_one_sided(g, a)
    numbers = as_number(g), as_number(a)
    if numbers[0] is not None and numbers[1] is not None:
        equal = numbers[0] == numbers[1]
        return Verdict(float(equal), "ok", "equal numbers" if equal else "another number")
    for side, text in (("gold", g), ("answer", a)):
        refusal = refuse(text)
        if refusal:
            return Verdict(0.0, "error" if side == "gold" else "unparsed", f"the {side} {refusal}")
    if ("=" in g) != ("=" in a):
        return Verdict(0.0, "ok", "an equation against a value")
    if any(number is not None and variables(text) - {"e", "i"} for number, text in zip(numbers, (a, g), strict=True)):
        return Verdict(0.0, "ok", "a number against an expression with variables")
    if mixes_cases(g + a):
        return Verdict(0.0, "unparsed", "a letter stands in both cases, which sympy's parser takes for one")
    return compare_symbolic(g, a)
