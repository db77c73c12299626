"""Outcomes: what becomes of each status, what stays of a group, what is warned of, what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr_core.contracts import Sampler
from rlvr_core.errors import DataError
from rlvr_core.learner.prepare import blank_batch, with_groups
from rlvr_core.metrics import rollout_metrics
from rlvr_core.options import Options
from rlvr_core.records import Outcome, Rollout, Selection, Status
from rlvr_core.reward.alarm import Alarm
from rlvr_core.reward.outcomes import STATUSES, checked, settle
from rlvr_core.rollout.collect import collect, shuffled_rewards
from rlvr_core.spec.model import ScoringSection
from rlvr_core.testing.fakes import scripted_rollouts

OK = Outcome(1.0)


def rolled(*groups: Sequence[Outcome]) -> list[Rollout]:
    """Rollouts with these outcomes of a reward ``math``, a list for each prompt."""
    rollouts = scripted_rollouts([[0.0] * len(g) for g in groups], [[3] * len(g) for g in groups])
    outcomes = [outcome for group in groups for outcome in group]
    return [replace(r, outcomes={"math": outcome}) for r, outcome in zip(rollouts, outcomes, strict=True)]


def settled(rollouts: Sequence[Rollout], **options: Any) -> list[Rollout]:
    return settle(rollouts, {"math": 1.0, "style": 0.5}, ScoringSection(**options).policies())


def failed(status: Status, value: float | None = None) -> Outcome:
    return Outcome(value, status, "why")


@pytest.mark.parametrize("status", [s for s in STATUSES if s != "ok"])
@pytest.mark.parametrize("value", [None, 0.0])
def test_each_status_has_the_policy_that_the_spec_gives_it(status: Status, value: float | None) -> None:
    group = [OK, failed(status, value), Outcome(0.0)]

    def under(policy: str) -> list[Rollout]:
        return settle(rolled(group, [OK]), {"math": 1.0}, ScoringSection(**{f"on_{status}": policy}).policies())

    assert [(r.reward, r.dropped) for r in under("zero")] == [(1.0, ""), (0.0, ""), (0.0, ""), (1.0, "")]
    dropped = under("drop")
    assert [bool(r.dropped) for r in dropped] == [False, True, False, False]
    assert status in dropped[1].dropped
    assert [bool(r.dropped) for r in under("drop_group")] == [True, True, True, False]
    assert [bool(r.dropped) for r in under("skip")] == [False, True, False, False], "nothing else gives a value"
    with pytest.raises(DataError, match=rf"rewards.math: {status} on sample 1 of problem 0 \(why\)"):
        under("stop")


def test_a_skipped_reward_leaves_the_sum_of_the_others() -> None:
    rollout = replace(rolled([OK])[0], outcomes={"math": Outcome(None, "abstain"), "style": Outcome(1.0)})
    assert (settled([rollout])[0].reward, settled([rollout])[0].dropped) == (0.5, "")
    alone = replace(rollout, outcomes={"math": Outcome(None, "abstain")})
    assert "no reward gives a value" in settled([alone])[0].dropped


def test_a_reward_that_fails_on_every_completion_ends_the_run() -> None:
    with pytest.raises(DataError, match=r"rewards\.math: failed on all 2 completions: why"):
        settle(rolled([failed("error"), failed("error")]), {"math": 1.0}, ScoringSection().policies())


@given(
    groups=st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, None]), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_group_statistics_are_those_of_the_rollouts_that_count(groups: list[list[float | None]]) -> None:
    """A batch of the counting rollouts has, for each group, exactly their rewards; shaped rewards go to the right member."""
    outcomes = [[failed("crash") if v is None else Outcome(v) for v in group] for group in groups]
    counting = [r for r in settle(rolled(*outcomes), {"math": 1.0}, ScoringSection().policies()) if not r.dropped]
    wanted = [left for group in groups if (left := [v for v in group if v is not None])]
    if not counting:
        assert not wanted
        return
    batch = blank_batch(counting, [], 8)
    assert [group.rewards.tolist() for group in batch.groups] == wanted
    shaped = with_groups(replace(batch, rewards=torch.arange(len(counting), dtype=torch.float64)))
    for group in shaped.groups:
        assert group.rewards.tolist() == [float(row) for row in group.rows]


class AskAll(Sampler):
    """Keeps everything; notes what it saw."""

    seen: Sequence[Rollout] = ()

    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        self.seen = scored
        assert scored, "not asked where nothing counts"
        return Selection(scored)


def test_the_sampler_never_sees_a_dropped_rollout() -> None:
    rollouts = settled(rolled([OK, failed("crash")], [failed("error"), OK]))
    sampler = AskAll(Options())
    collected = collect(lambda prompts, first: rollouts, sampler.select, 2, 0)
    assert [r.key.sample for r in sampler.seen] == [0, 1]
    assert collected.drawn == tuple(rollouts)
    nothing = collect(lambda prompts, first: [replace(r, dropped="all") for r in rollouts], sampler.select, 2, 0)
    assert (nothing.scored, nothing.kept, len(nothing.drawn)) == ((), (), 4)


def test_the_control_deals_rewards_to_those_that_count() -> None:
    rollouts = settled(rolled([OK, failed("crash"), Outcome(0.0), OK], [Outcome(0.0), Outcome(0.0)]))
    dealt = shuffled_rewards(rollouts, seed=1, step=2)
    assert [r.key for r in dealt] == [r.key for r in rollouts]
    assert [bool(r.dropped) for r in dealt] == [bool(r.dropped) for r in rollouts]
    assert sorted(r.reward for r in dealt if not r.dropped) == sorted(r.reward for r in rollouts if not r.dropped)
    assert all(r.dropped or r.group_rewards[r.group_index] == r.reward for r in dealt)


def test_metrics_have_the_share_of_each_status_and_means_of_what_counts() -> None:
    rollouts = settled(rolled([OK, failed("crash"), failed("timeout"), failed("no_answer", 0.0)]))
    found = rollout_metrics(collect(lambda prompts, first: rollouts, AskAll(Options()).select, 1, 0))
    assert {k: v for k, v in found.items() if k.startswith("reward/math") and v} == {
        "reward/math/mean": pytest.approx(1 / 3),
        **{f"reward/math/{status}": 0.25 for status in ("ok", "crash", "timeout", "no_answer")},
    }
    assert (found["reward/dropped"], found["reward/mean"], found["select/scored"]) == (0.25, pytest.approx(1 / 3), 4.0)
    empty = rollout_metrics(collect(lambda p, f: [replace(r, dropped="x") for r in rollouts], AskAll(Options()).select, 1, 0))
    assert "reward/mean" not in empty
    assert all(math.isfinite(value) for value in empty.values())


def test_the_alarm_speaks_where_faults_begin_and_where_they_double() -> None:
    alarm = Alarm(0.05)

    def step(faults: int) -> list[str]:
        return alarm.listen(rolled([failed("timeout")] * faults + [OK] * (100 - faults)))

    assert step(4) == []
    [first] = step(5)
    assert "rewards.math: timeout on 5%" in first
    assert "why" in first
    assert step(9) == []
    [again] = step(10)
    assert "up from 5%" in again
    assert step(2) == []
    assert step(6) != [], "speaks anew after it was quiet"


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([OK], "gave 1 outcomes for 2 completions"),
        ([OK, Outcome(math.nan)], "gave nan for completion 1"),
        ([OK, Outcome(math.inf)], "gave inf for completion 1"),
        ([OK, Outcome("1")], "gave '1' for completion 1"),  # type: ignore[arg-type]
        ([OK, Outcome([1.0, 2.0])], "completion 1"),  # type: ignore[arg-type]
        ([OK, Outcome(1.0, "timeout")], "only ok brings a value"),
        ([OK, Outcome(None, "bad")], "'bad' for completion 1; known"),  # type: ignore[arg-type]
        ([OK, 1.0], "gave a float for completion 1"),
    ],
)
def test_an_ill_formed_outcome_is_an_error_that_names_the_reward(outcomes: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=r"^rewards\.mine: ") as error:
        checked("mine", outcomes, 2)
    assert said in str(error.value)


def test_ok_without_a_value_is_an_abstention() -> None:
    assert checked("mine", [Outcome(None)], 1)[0].status == "abstain"
