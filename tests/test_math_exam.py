"""An exam of pairs (gold, completion, value) for the reward ``math``, written from its conventions and from golds of real data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlvr_core.records import RewardItem
from rlvr_core.reward.comparing import compare, not_understood
from rlvr_core.reward.math import MathReward
from rlvr_core.reward.options import MathOptions
from rlvr_core.reward.units import split_unit

LINES = (Path(__file__).parent / "data" / "math_exam.jsonl").read_text(encoding="utf-8").splitlines()
EXAM = [json.loads(line) for line in LINES]
TOPICS = sorted({row["topic"] for row in EXAM})


def wrong(row: Mapping[str, Any]) -> bool:
    outcome = MathReward(MathOptions()).score([RewardItem("", row["completion"], row["gold"], {})])[0]
    return outcome.value != row["value"]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_pair_of_the_exam_is_judged_right(topic: str) -> None:
    assert [row for row in EXAM if row["topic"] == topic and wrong(row)] == []


def test_the_exam_asks_both_ways() -> None:
    for topic in set(TOPICS) - {"code-like", "hostile", "several candidates"}:
        assert {row["value"] for row in EXAM if row["topic"] == topic} == {0.0, 1.0}, topic


PIECES = [
    "1", "2", "10", "000", ",", ";", " ", "x", "N", "i", "e", "=", "<", r"\le ", "+", "-", "^", "_", "{", "}", "(", ")", "[", "]", r"\{",
    r"\}", r"\frac", r"\sqrt", r"\pm ", r"\cup ", r"\pi ", r"\infty ", r"\text{", r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", "%",
    "$", r"\$", "cm", " apples", " or ", "!", r"\sin ", r"\log_", "|", ".", "/", ":", "°", "√", r"\binom", r"\in ", r"\circ ", r"\,",
]  # fmt: skip
formulas = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(formulas, formulas)
@example("1,000", "1,000,")
@example(r"\begin{pmatrix}", r"\end{pmatrix}")
def test_whatever_is_compared_has_a_verdict_and_the_same_one_from_the_other_side(gold: str, answer: str) -> None:
    verdict = compare(gold, answer)
    assert verdict.value in (0.0, 1.0)
    assert verdict.status == "ok" or verdict.value == 0.0
    if verdict.value == 1.0 and verdict.reason != "equal text":
        assert compare(answer, gold).value == 1.0


@pytest.mark.parametrize(
    "gold", ["7", "1,080", r"\frac{1}{2n+2}", "Tuesday", "(A)", "3:30", "204_6", r"(-\infty,0)\cup\{1\}", "y=2x", "5 cm"]
)
def test_golds_of_every_kind_are_understood(gold: str) -> None:
    assert not_understood(gold) == ""


@pytest.mark.parametrize(
    "gold",
    [
        "",
        " ",
        "}",
        "(1,2",
        "t(0,4]",
        r"\sum_{k=1}^n k",
        "x^2+",
        r"\frac{1}{",
        "9^{9^9}",
        "f(x)=ax+b, where b is any integer at all",
    ],
)
def test_golds_that_only_their_own_text_would_equal_are_not_understood(gold: str) -> None:
    assert not_understood(gold)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("5 km/h", "5", "kilometer/hour"), ("5 kilometers per hour", "5", "kilometer/hour"), ("5 square feet", "5", "foot^2"),
        ("5 ft^2", "5", "foot^2"), ("¤5", "5", "dollar"), ("-¤5", "-5", "dollar"), ("5 red apples", "5", "red apples"),
        ("5 thousand", "5 thousand", ""), ("5pt", "5pt", ""), (r"\sin 30 degrees", r"\sin 30 degrees", ""), ("cm", "cm", ""),
    ],
)  # fmt: skip
def test_a_value_is_told_from_its_unit(text: str, value: str, unit: str) -> None:
    assert split_unit(text) == (value, unit)
