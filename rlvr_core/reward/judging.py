"""Asking a reward, whatever it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlvr_core.contracts import Reward
from rlvr_core.errors import RlvrError
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.outcomes import checked

MAX_REASON = 400
"""Characters of a reason that are kept."""


def judge(label: str, reward: Reward, items: Sequence[RewardItem]) -> list[Outcome]:
    """One well-formed outcome an item. Where the reward raises, the items are tried alone, and those that raise alone get ``error``.

    Raises RlvrError as the reward does, and DataError for ill-formed outcomes.
    """
    try:
        return checked(label, reward.score(items), len(items)) if items else []
    except RlvrError:
        raise
    except Exception as error:  # a reward, or what it is made of, may raise anything at all
        if len(items) == 1:
            return [Outcome(None, "error", said(error))]
    return [outcome for item in items for outcome in judge(label, reward, [item])]


class GoldCheck(Reward):
    """A reward's opinion of golds as outcomes, so that workers can be asked for it: ``ok``, or ``error`` with the reason."""

    def __init__(self, build: Callable[[], Reward]) -> None:
        self._reward = build()
        super().__init__(self._reward.options)

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, of its gold alone."""
        problems = self._reward.gold_problems([item.gold for item in items])
        return [Outcome(None, "error", problem) if problem else Outcome(1.0) for problem in problems]


def said(error: BaseException) -> str:
    """An exception on one line."""
    return shortened(f"{type(error).__name__}: {' '.join(str(error).split())}")


def shortened(reason: str) -> str:
    """A reason of bounded length."""
    return reason if len(reason) <= MAX_REASON else reason[:MAX_REASON] + "…"
