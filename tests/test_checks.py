"""Golds are looked at before a run: rows by whose gold nothing can be judged are an error, or left out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlvr_core.checks import with_usable_golds
from rlvr_core.contracts import Reward
from rlvr_core.errors import DataError, SpecError
from rlvr_core.events import Event, Notice
from rlvr_core.records import Example
from rlvr_core.reward.exact import ExactReward
from rlvr_core.reward.math import MathReward
from rlvr_core.reward.options import ExactOptions, MathOptions
from rlvr_core.reward.pool import Limits, Pool, PooledReward, builders
from rlvr_core.rollout.collect import WeightedReward
from rlvr_core.tasks.sequences import InOrder, Mixed, Share

MATH = MathReward(MathOptions())


def rows(*golds: str, name: str = "row") -> list[Example]:
    return [Example(f"{name}-{number}", "p", gold) for number, gold in enumerate(golds)]


def weighted(reward: Reward) -> list[WeightedReward]:
    return [WeightedReward("math", reward, 1.0)]


def test_golds_that_are_all_understood_pass_untouched() -> None:
    examples = rows("72", r"\frac{1}{2}", "Tuesday")
    assert with_usable_golds(examples, weighted(MATH), "error", pytest.fail) is examples


def test_a_gold_that_is_not_understood_is_an_error_that_names_rows_and_the_way_out() -> None:
    with pytest.raises(DataError) as caught:
        with_usable_golds(rows("72", *["x^2+"] * 7), weighted(MATH), "error", pytest.fail)
    line = str(caught.value)
    assert line.startswith("7 of 8 golds cannot be judged by: row-1 ('x^2+': math: the gold is not understood)")
    assert "and 2 more" in line
    assert "scoring.unusable_golds: drop" in line
    assert "\n" not in line


def test_they_can_be_left_out_which_is_said() -> None:
    told: list[Event] = []
    left = with_usable_golds(rows("72", "}", "5"), weighted(MATH), "drop", told.append)
    assert [example.gold for example in left] == ["72", "5"]
    assert isinstance(told[0], Notice)
    assert told[0].message.startswith("golds: 1 of 3 golds")


def test_leaving_out_keeps_order_and_shares() -> None:
    mixed = Mixed([Share("a", 0.5, InOrder(rows("1", "}", name="a"))), Share("b", 0.5, rows("2", name="b"))])
    left = with_usable_golds(mixed, weighted(MATH), "drop", lambda event: None)
    assert isinstance(left, Mixed)
    assert [(part.label, part.share, len(part.examples), isinstance(part.examples, InOrder)) for part in left.parts] == [
        ("a", 0.5, 1, True),
        ("b", 0.5, 1, False),
    ]


def test_where_none_is_left_it_is_an_error_all_the_same() -> None:
    with pytest.raises(DataError, match="map the right answer column"):
        with_usable_golds(rows("}", "x^2+"), weighted(MATH), "drop", pytest.fail)


def test_leaving_out_where_no_reward_looks_is_refused() -> None:
    exact = weighted(ExactReward(ExactOptions()))
    assert len(with_usable_golds(rows("}"), exact, "error", pytest.fail)) == 1
    with pytest.raises(SpecError, match="has no effect"):
        with_usable_golds(rows("}"), exact, "drop", pytest.fail)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(builders({"math": MATH}), Limits(1, 10.0, 2048, 1000))
    yield pool
    pool.close()


def test_workers_look_at_golds_as_the_reward_does(pool: Pool) -> None:
    pooled = PooledReward("math", MATH, pool)
    assert pooled.looks_at_golds
    golds = ["72", "}", r"\sqrt{2}", "x^2+"]
    assert pooled.gold_problems(golds) == MATH.gold_problems(golds)
    assert [bool(problem) for problem in pooled.gold_problems(golds)] == [False, True, False, True]
