"""What becomes of outcomes: a policy for each status, and the rollout's reward. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

from rlvr_core.errors import DataError
from rlvr_core.records import Outcome, Rollout, Status

Policy = Literal["zero", "skip", "drop", "drop_group", "stop"]
Policies = Mapping[Status, Policy]

STATUSES: tuple[Status, ...] = get_args(Status)
FAULTS: tuple[Status, ...] = ("timeout", "crash", "error")
"""Statuses that speak of the verifier more than of the completion."""
MANY = 8
"""Completions of which not all can time out, or crash their worker, by chance."""


def checked(label: str, outcomes: Sequence[Outcome], wanted: int) -> list[Outcome]:
    """The outcomes as they are, where there is one for each completion and each is well formed.

    Raises DataError, naming the reward, for another number of them, a value that is no finite number, an unknown status, or a value
    other than 0 with a status other than ``ok``: what a failure is worth is for the spec to say.
    """
    if len(outcomes) != wanted:
        raise DataError(f"rewards.{label}: gave {len(outcomes)} outcomes for {wanted} completions; one each is wanted")
    return [_checked(label, row, outcome) for row, outcome in enumerate(outcomes)]


def _checked(label: str, row: int, outcome: Outcome) -> Outcome:
    if not isinstance(outcome, Outcome):
        raise DataError(f"rewards.{label}: gave a {type(outcome).__name__} for completion {row}; an Outcome is wanted")
    if outcome.status not in STATUSES:
        raise DataError(f"rewards.{label}: gave the status {outcome.status!r} for completion {row}; known: {', '.join(STATUSES)}")
    if outcome.value is None:
        return replace(outcome, status="abstain") if outcome.status == "ok" else outcome
    if not _is_finite(outcome.value):
        raise DataError(f"rewards.{label}: gave {outcome.value!r} for completion {row}; a finite number or None is wanted")
    if outcome.value != 0 and outcome.status != "ok":
        raise DataError(
            f"rewards.{label}: gave {outcome.value} with the status {outcome.status} for completion {row}; only ok brings a value"
        )
    return outcome


def _is_finite(value: object) -> bool:
    """One number: no text, no list, no array of several."""
    try:
        return not isinstance(value, str | bytes) and math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def settle(rollouts: Sequence[Rollout], weights: Mapping[str, float], policies: Policies) -> list[Rollout]:
    """Apply the policies: each rollout's reward, whether it is dropped, and the rewards of its group.

    Afterwards an outcome's value is what counts: 0 under ``zero``, None under every other policy. A rollout to which no reward gives a
    value is dropped. Raises DataError under ``stop``, and where a reward fails on every single completion.
    """
    _refuse_stopping(rollouts, policies)
    _refuse_broken(rollouts)
    settled = [_settled(rollout, weights, policies) for rollout in rollouts]
    spoilt: dict[tuple[int, int], str] = {}
    for rollout in rollouts:
        for label, outcome in rollout.outcomes.items():
            if policies.get(outcome.status) == "drop_group":
                spoilt.setdefault(rollout.key.group, f"{label} of its group: {outcome.status}")
    return with_group_rewards([replace(r, dropped=r.dropped or spoilt.get(r.key.group, "")) for r in settled])


def with_group_rewards(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Fill in each rollout's group: rewards of the members that count, and which members do not."""
    counting: dict[tuple[int, int], list[float]] = {}
    dropped: dict[tuple[int, int], list[int]] = {}
    for rollout in sorted(rollouts, key=lambda r: r.key):
        if rollout.dropped:
            dropped.setdefault(rollout.key.group, []).append(rollout.key.sample)
        else:
            counting.setdefault(rollout.key.group, []).append(rollout.reward)
    groups = {r.key.group for r in rollouts}  # one tuple a group, which its members share: a copy each would be G x G numbers
    filled = {group: (tuple(counting.get(group, ())), tuple(dropped.get(group, ()))) for group in groups}
    return [replace(r, group_rewards=filled[r.key.group][0], group_dropped=filled[r.key.group][1]) for r in rollouts]


def _settled(rollout: Rollout, weights: Mapping[str, float], policies: Policies) -> Rollout:
    outcomes = {label: _counted(outcome, policies) for label, outcome in rollout.outcomes.items()}
    values = {label: o.value for label, o in outcomes.items() if o.value is not None}
    why = [f"{label}: {o.status}" for label, o in outcomes.items() if policies.get(o.status) == "drop"]
    if not values:
        why = why or [f"no reward gives a value ({', '.join(f'{label}: {o.status}' for label, o in outcomes.items())})"]
    return replace(
        rollout,
        outcomes=outcomes,
        reward=float(sum(weights[label] * value for label, value in values.items())),
        dropped="; ".join(why),
    )


def _counted(outcome: Outcome, policies: Policies) -> Outcome:
    if outcome.status == "ok":
        return outcome
    return replace(outcome, value=0.0 if policies[outcome.status] == "zero" else None)


def _refuse_stopping(rollouts: Sequence[Rollout], policies: Policies) -> None:
    for rollout in rollouts:
        for label, outcome in rollout.outcomes.items():
            if policies.get(outcome.status) == "stop":
                raise DataError(
                    f"rewards.{label}: {outcome.status} on sample {rollout.key.sample} of problem {rollout.example.id} "
                    f"({outcome.reason or 'no reason given'}), and scoring.on_{outcome.status} is stop"
                )


def _refuse_broken(rollouts: Sequence[Rollout]) -> None:
    """A reward that fails on every completion is at fault itself: no policy of single rollouts fits that."""
    for label in rollouts[0].outcomes if len(rollouts) > 1 else ():
        outcomes = [r.outcomes[label] for r in rollouts]
        found = {o.status for o in outcomes}
        if found == {"error"} or (found <= set(FAULTS) and len(outcomes) >= MANY):
            raise DataError(f"rewards.{label}: failed on all {len(outcomes)} completions: {outcomes[0].reason}")
