"""Rewards format and length."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rlvr_core.records import RewardItem
from rlvr_core.reward.form import FormatReward, LengthReward
from rlvr_core.reward.options import FormatOptions, LengthOptions


def item(completion: str) -> RewardItem:
    return RewardItem("", completion, "")


@pytest.mark.parametrize(
    ("options", "completion", "value"),
    [
        ({"pattern": "<a>.*</a>"}, " <a>x</a>\n", 1.0),
        ({"pattern": "<a>.*</a>", "strip": False}, " <a>x</a>", 0.0),
        ({"pattern": "<a>.*</a>"}, "so <a>x</a>", 0.0),
        ({"pattern": "<a>.*</a>", "match": "search"}, "so <a>x</a> it is", 1.0),
        ({"pattern": "<a>.*</a>"}, "<a>x\ny</a>", 0.0),
        ({"pattern": "(?s)<a>.*</a>"}, "<a>x\ny</a>", 1.0),
    ],
)
def test_format_is_one_where_the_pattern_matches(options: dict[str, Any], completion: str, value: float) -> None:
    [outcome] = FormatReward(FormatOptions(**options)).score([item(completion)])
    assert (outcome.value, outcome.status) == (value, "ok")


@pytest.mark.parametrize(
    ("options", "completion", "value"),
    [
        ({"max": 3}, "abc", 1.0),
        ({"max": 3}, "abcd", 0.0),
        ({"min": 2, "max": 3, "unit": "words"}, "a bb", 1.0),
        ({"min": 2, "unit": "words"}, "abba", 0.0),
        ({"max": 1, "unit": "lines"}, "a\nb", 0.0),
        ({"max": 10, "slack": 3}, "x" * 11, 0.75),
        ({"max": 10, "slack": 3}, "x" * 14, 0.0),
        ({"min": 4, "slack": 1}, "abc", 0.5),
    ],
)
def test_length_is_one_within_bounds_and_falls_over_the_slack(options: dict[str, Any], completion: str, value: float) -> None:
    [outcome] = LengthReward(LengthOptions(**options)).score([item(completion)])
    assert outcome.value == value


@pytest.mark.parametrize(
    ("model", "options"),
    [(FormatOptions, {"pattern": "("}), (FormatOptions, {}), (LengthOptions, {}), (LengthOptions, {"min": 5, "max": 4})],
)
def test_options_that_mean_nothing_are_refused(model: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**options)


def test_only_what_is_cheap_whatever_the_completion_runs_in_process() -> None:
    assert LengthReward(LengthOptions(max=1)).in_process()
    assert not FormatReward(FormatOptions(pattern="(a+)+$")).in_process()
