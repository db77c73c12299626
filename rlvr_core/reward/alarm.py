"""Warns where a verifier fails more often than it should, and again where that gets worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rlvr_core.records import Rollout, Status
from rlvr_core.reward.outcomes import FAULTS


class Alarm:
    """Speaks when a fault's share of a step reaches ``share``, again whenever it has doubled since, and anew after it sank to half."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._heard: dict[tuple[str, Status], float] = {}

    def listen(self, rollouts: Sequence[Rollout]) -> list[str]:
        """The warnings that a step's rollouts give cause for."""
        labels = rollouts[0].outcomes if rollouts else ()
        return [line for label in labels for status in FAULTS for line in self._one(rollouts, label, status)]

    def _one(self, rollouts: Sequence[Rollout], label: str, status: Status) -> Iterator[str]:
        reasons = [o.reason for r in rollouts if (o := r.outcomes[label]).status == status]
        share, before = len(reasons) / len(rollouts), self._heard.get((label, status), 0.0)
        if share < self._share / 2:
            self._heard.pop((label, status), None)
        if not reasons or share < max(self._share, 2 * before):
            return
        self._heard[label, status] = share
        reason, _ = Counter(reasons).most_common(1)[0]
        rise = f", up from {before:.0%}" if before else ""
        yield (
            f"rewards.{label}: {status} on {share:.0%} of the step's rollouts{rise}; most often: {reason or 'no reason given'}; "
            f"scoring.on_{status} says what becomes of them"
        )
