"""What a run checks of itself before step 1, and says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rlvr_core.contracts import Reward
from rlvr_core.errors import DataError, SpecError
from rlvr_core.events import Event, Notice
from rlvr_core.records import Example, RewardItem, Rollout
from rlvr_core.rollout.collect import WeightedReward
from rlvr_core.rollout.prompts import prompt_text
from rlvr_core.tasks.sequences import kept

GOLDS_CHECKED = 256
GOLDS_SHOWN = 5
"""Rows that an error about golds spells out."""


def check_golds(rewards: Sequence[WeightedReward], examples: Sequence[Example], tell: Callable[[Event], None]) -> None:
    """Each gold, stated as an answer, must get full marks from its own reward. Raises DataError where none does."""
    some = [examples[i] for i in range(min(GOLDS_CHECKED, len(examples)))]
    for weighted in rewards:
        label = weighted.label
        if all(weighted.reward.as_completion(example.gold) is None for example in some):
            continue
        failing = failing_golds(some, weighted.reward)
        if len(failing) == len(some):
            row, gold, reason = failing[0]
            raise DataError(
                f"rewards.{label}: no gold of the task scores 1 as its own answer (row {row}: gold {gold!r}, {reason}); "
                "map the right answer column, or use another reward"
            )
        if failing:
            names = ", ".join(f"{row} ({gold!r})" for row, gold, _ in failing[:3])
            line = f"golds: {len(failing)} of {len(some)} do not score 1 by '{label}' and cannot be learned: {names}"
            tell(Notice(line, "warning"))
        else:
            tell(Notice(f"golds: {len(some)} of {len(some)} checked score 1 by '{label}'"))


def with_usable_golds(
    examples: Sequence[Example],
    rewards: Sequence[WeightedReward],
    unusable: Literal["error", "drop"],
    tell: Callable[[Event], None],
    ranks: int = 1,
) -> Sequence[Example]:
    """The examples by whose golds every reward can judge; ``unusable`` says whether others are an error or left out.

    Raises DataError that names them, also where none is left; SpecError where ``drop`` has no effect. Only the first of several ranks
    looks, so that all agree.
    """
    asked = [weighted for weighted in rewards if weighted.reward.looks_at_golds]
    if not asked:
        if unusable == "drop":
            raise SpecError("scoring.unusable_golds: drop has no effect: no reward of this run looks at golds; leave it out")
        return examples
    golds = list(dict.fromkeys(example.gold for example in examples))
    problems = _told_by_first(lambda: _gold_problems(golds, asked), ranks)
    bad = [example for example in examples if example.gold in problems]
    if not bad:
        return examples
    names = ", ".join(f"{example.id} ({_short(example.gold, 60)!r}: {problems[example.gold]})" for example in bad[:GOLDS_SHOWN])
    more = f" and {len(bad) - GOLDS_SHOWN} more" if len(bad) > GOLDS_SHOWN else ""
    line = f"{len(bad)} of {len(examples)} golds cannot be judged by: {names}{more}"
    if unusable == "error":
        raise DataError(f"{line}; correct them, or leave them out with scoring.unusable_golds: drop")
    if len(bad) == len(examples):
        raise DataError(f"{line}; map the right answer column, or use another reward")
    tell(Notice(f"golds: {line}; left out"))
    return kept(examples, lambda some: [example for example in some if example.gold not in problems])


def _gold_problems(golds: Sequence[str], rewards: Sequence[WeightedReward]) -> dict[str, str]:
    """Gold -> what is wrong with it, and by which reward."""
    found: dict[str, str] = {}
    for weighted in rewards:
        for gold, problem in zip(golds, weighted.reward.gold_problems(golds), strict=True):
            if problem:
                found.setdefault(gold, f"{weighted.label}: {problem}")
    return found


def _told_by_first(find: Callable[[], dict[str, str]], ranks: int) -> dict[str, str]:
    if ranks == 1:
        return find()
    from accelerate.utils import broadcast_object_list
    from torch.distributed import get_rank

    told = [find() if get_rank() == 0 else {}]
    broadcast_object_list(told, from_process=0)
    return told[0]


def failing_golds(examples: Sequence[Example], reward: Reward) -> list[tuple[str, str, str]]:
    """Score every gold, stated as a completion would, against itself: (id, gold, reason) of each that does not get the value 1.

    Golds of which the reward cannot say how a completion states them (``as_completion`` gives None) are passed over.
    """
    stated = [(example, text) for example in examples if (text := reward.as_completion(example.gold)) is not None]
    items = [RewardItem("", text, example.gold, example.columns) for example, text in stated]
    outcomes = reward.score(items)
    if len(outcomes) != len(items):
        raise DataError(f"{type(reward).__name__} gave {len(outcomes)} outcomes for {len(items)} golds")
    return [
        (example.id, example.gold, outcome.reason or outcome.status)
        for (example, _), outcome in zip(stated, outcomes, strict=True)
        if outcome.value != 1.0
    ]


def show_rollouts(rollouts: Sequence[Rollout], tell: Callable[[Event], None]) -> None:
    """Three rollouts with their scores, and advice where the first figures promise little."""
    for rollout in rollouts[:3]:
        scores = ", ".join(f"{label} {o.value if o.value is not None else o.status}" for label, o in rollout.outcomes.items())
        tell(
            Notice(
                f"sample: {_short(prompt_text(rollout.example))!r} -> {_short(rollout.text)!r} (gold {rollout.example.gold!r}): {scores}"
            )
        )
    right = sum(r.reward > 0 for r in rollouts) / len(rollouts)
    if right == 0.0:
        tell(Notice(f"none of the first {len(rollouts)} rollouts has a reward above 0: {_advice(rollouts)}", "warning"))
    elif right == 1.0:
        tell(
            Notice(
                f"all of the first {len(rollouts)} rollouts are right: the task may be too easy to learn from; try a harder one",
                "warning",
            )
        )
    else:
        tell(Notice(f"pass rate of the first {len(rollouts)} rollouts: {right:.2f}"))


def _advice(rollouts: Sequence[Rollout]) -> str:
    """The likeliest reason for a pass rate of 0."""
    cut = sum(r.finish_reason == "length" for r in rollouts) / len(rollouts)
    if cut > 0.5:
        return f"{cut:.0%} were cut at rollout.max_completion_length; raise it, or ask for shorter answers in prompt.template"
    unread = sum(any(o.status in ("no_answer", "unparsed") for o in r.outcomes.values()) for r in rollouts) / len(rollouts)
    if unread > 0.5:
        return f"in {unread:.0%} no answer was found; say in prompt.template how the answer must be given, as in \\boxed{{}}"
    return "the answers are read but wrong; the task may be too hard for this model: try easier problems or a larger rollout.group_size"


def _short(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit // 2] + " … " + text[-limit // 2 :]
