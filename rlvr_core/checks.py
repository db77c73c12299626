"""What a run checks of itself before step 1, and says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlvr_core.errors import DataError
from rlvr_core.events import Event, Notice
from rlvr_core.records import Example, RewardItem, Rollout
from rlvr_core.rollout.collect import WeightedReward
from rlvr_core.rollout.prompts import prompt_text

GOLDS_CHECKED = 256


def check_golds(rewards: Sequence[WeightedReward], examples: Sequence[Example], tell: Callable[[Event], None]) -> None:
    """Each gold, written as an answer, must get full marks from its own reward. Raises DataError where none does."""
    some = [examples[i] for i in range(min(GOLDS_CHECKED, len(examples)))]
    for weighted in rewards:
        written = [(example, weighted.reward.as_completion(example.gold)) for example in some]
        answers = [(example, text) for example, text in written if text is not None]
        if not answers:
            continue
        outcomes = weighted.reward.score([RewardItem("", text, example.gold, example.columns) for example, text in answers])
        failed = [(example, o) for (example, _), o in zip(answers, outcomes, strict=True) if o.value is None or o.value < 1.0]
        if len(failed) == len(answers):
            example, outcome = failed[0]
            raise DataError(
                f"rewards.{weighted.label}: no gold of the task scores 1 as its own answer (row {example.id}: gold {example.gold!r}, "
                f"{outcome.status} {outcome.reason}); map the right answer column, or use another reward"
            )
        if failed:
            names = ", ".join(f"{example.id} ({example.gold!r})" for example, _ in failed[:3])
            tell(
                Notice(
                    f"golds: {len(failed)} of {len(answers)} do not score 1 by '{weighted.label}' and cannot be learned: {names}",
                    "warning",
                )
            )
        else:
            tell(Notice(f"golds: {len(answers)} of {len(answers)} checked score 1 by '{weighted.label}'"))


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
