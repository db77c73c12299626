"""Asking a reward, whatever it does."""

from __future__ import annotations

from collections.abc import Sequence

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


def said(error: BaseException) -> str:
    """An exception on one line."""
    return shortened(f"{type(error).__name__}: {' '.join(str(error).split())}")


def shortened(reason: str) -> str:
    """A reason of bounded length."""
    return reason if len(reason) <= MAX_REASON else reason[:MAX_REASON] + "…"
