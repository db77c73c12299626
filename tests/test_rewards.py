"""Rewards: where the answer is found, what counts as equal, and what a foreign function may give."""

from __future__ import annotations

import logging
import os.path
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlvr_core.checks import failing_golds
from rlvr_core.errors import DataError, SpecError
from rlvr_core.records import Example, Outcome, RewardItem
from rlvr_core.reward.comparing import compare
from rlvr_core.reward.exact import ExactReward
from rlvr_core.reward.extraction import MAX_ANSWER, boxed, extract, find_box
from rlvr_core.reward.function import FunctionReward, load_function
from rlvr_core.reward.judging import judge
from rlvr_core.reward.math import MathReward
from rlvr_core.reward.normal_form import normal_form
from rlvr_core.reward.numbers import as_number
from rlvr_core.reward.options import ExactOptions, FunctionOptions, MathOptions
from rlvr_core.reward.refusal import refuse

GSM8K = [
    (r"Natalia sold 48/2 = <<48/2=24>>24 clips in May." "\n" r"altogether 48+24 = <<48+24=72>>72 clips" "\n#### 72", "72"),
    ("Mary has 200 + 880 = <<200+880=1080>>1080 pages.\n#### 1,080", "1,080"),
    ("Nine minus nineteen is -10.\n#### -10", "-10"),
]


def item(completion: str, gold: str, **columns: Any) -> RewardItem:
    return RewardItem("prompt", completion, gold, columns)


def math_outcome(completion: str, gold: str, require_box: bool = False) -> Outcome:
    return MathReward(MathOptions(require_box=require_box)).score([item(completion, gold)])[0]


# ------------------------------------------------------------------------------------------------------------ extraction


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"first \boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{7} and no more", "7"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\boxed{5}+1}", r"\boxed{5}+1"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{3} and then \boxed{4", "3"),
        (r"\boxed{the outer never closes \boxed{8}", "8"),
        (r"{{ \boxed{9} }", "9"),
        (r"\boxed{6} #### 7", "6"),
        ("#### 5\nno,\n#### 1,080\n", "1,080"),
        ("so the answer is 12.5.", "12.5"),
        ("The answer is 3. No: the answer is 4. I am sure.", "4"),
        ("**Final Answer:** 42", "42"),
        ("Answer:\n\n  17\n", "17"),
        ("Answer: the answer is 5", "5"),
        (r"The answer is $\frac12$.", r"$\frac12$"),
    ],
)
def test_the_last_stated_answer_is_found(completion: str, answer: str) -> None:
    assert extract(completion).answer == answer


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (r"the answer is 5, so \boxed{5", "never closed"),
        (r"\boxed{3} no: \boxed{}", "empty"),
        (r"\boxed{  }", "empty"),
        (r"boxed{5}", "no "),
        ("5", "no "),
        ("", "no "),
        ("####", "nothing follows"),
        ("##### 5", "no "),
        ("the answer is", "no answer follows"),
        (rf"\boxed{{{'1' * (MAX_ANSWER + 1)}}}", "characters"),
    ],
)
def test_what_states_no_answer_has_none_and_says_why(completion: str, reason: str) -> None:
    found = extract(completion)
    assert found.answer is None
    assert reason in found.reason


def test_a_spec_can_require_the_box() -> None:
    assert math_outcome("#### 72", "72").value == 1.0
    assert math_outcome("#### 72", "72", require_box=True).status == "no_answer"
    assert math_outcome(r"\boxed{72}", "72", require_box=True).value == 1.0


unhurried = settings(deadline=None)  # a deadline measures the machine
balanced = st.recursive(
    st.text(st.characters(exclude_characters="\\{}", exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner.map(lambda text: f"{{{text}}}"), max_size=3).map("".join),
    max_leaves=8,
)


@unhurried
@given(
    before=st.text(st.characters(exclude_characters="\\{}")),
    content=balanced,
    after=st.text(st.characters(exclude_characters="\\{}")),
)
def test_whatever_balanced_text_stands_in_a_box_comes_back(before: str, content: str, after: str) -> None:
    assert find_box(f"{before}\\boxed{{{content}}}{after}") == (content, True)


@unhurried
@given(st.text(alphabet="\\boxedf{} #answeris:5\n", max_size=60))
def test_extraction_never_raises_and_gives_an_answer_or_a_reason(text: str) -> None:
    found = extract(text)
    assert (found.answer is None) == bool(found.reason)


@pytest.mark.parametrize(
    "piece", ["\\", "{", "\\boxed{", "\\boxed{}", "answer ", "answer:\n", "####", "*", " ", "answer:" + "*" * 9]
)
def test_a_long_completion_of_one_piece_is_scored(piece: str) -> None:
    """These took minutes with a pattern that backtracks; here a slow one would be noticed as a hanging test."""
    completion = piece * 100_000
    assert math_outcome(completion, "5").value == 0.0
    assert math_outcome("answer is" + completion, "5").value == 0.0


# ------------------------------------------------------------------------------------------------------------------ math

EQUAL = [
    ("72", "72"), ("1,080", "1080"), ("1080", r"1{,}080"), ("1080", r"1\,080"), ("10,000", r"10,\!000"), ("72", "$72$."),
    ("72", r"\text{72}"),
    ("-5", "\u22125"), ("0.5", r"\frac{1}{2}"), (r"\frac{1}{2}", r"\dfrac12"), ("1/2", ".50"), ("2.5", r"2\frac{1}{2}"),
    ("5/2", "2 1/2"),
    ("0.3", r"30\%"), ("1.2e5", r"1.2 \times 10^{5}"), ("18", r"\$18.00"), ("18", "18 dollars"), ("5", r"5\text{ cm}"),
    ("90", r"90^\circ"),
    ("5", "x=5"), ("x=5", "5"), ("f(x)=2x", "2x"), ("x=1,x=2", "1,2"), (r"\text{(A)}", "A"), ("Tuesday", "Tuesday"),
    (r"2\sqrt{2}", r"\sqrt{8}"), ("2n", "n+n"), (r"0.3\sqrt{2}", r"0.1\sqrt{2}+0.2\sqrt{2}"), ("n(n-1)", "n^2-n"),
    (r"\frac{3 m}{2}-1", "1.5m-1"), ("3^{0.5}", r"\sqrt{3}"),
    ("1,3", "3,1"), ("1,3", r"1 \text{ and } 3"), ("(1,2)", "(1, 2)"), (r"(-\infty,0)", r"(-\infty, 0)"),
    ("(0.5,1)", r"(\frac12,1)"),
    ("1024", "2^{10}"), (r"k \geqslant 2", r"k\ge 2"), ("x^2", "x²"), ("sqrt(2)/2", r"\frac{\sqrt2}{2}"),
    ("x+y=1", "2x+2y=2"), ("x<1", "1>x"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"), (r"\binom{2n}{n}", r"\frac{(2n)!}{n!n!}"),
]  # fmt: skip

DIFFERENT = [
    ("72", "73"), ("72", "-72"), ("1", "1/2"), ("5", "5,6"), ("5", "5 or 6"), ("1,2", "1"), ("(1,2)", "(2,1)"),
    ("[1,2)", "(1,2)"),
    (r"\frac13", "0.333333"), ("0.333333", r"\frac13"), (r"\sqrt2", "1.41421356237"), ("0.00000001", "0.00000002"), ("5", r"5\%"),
    ("5 cm", "5 m"), ("5 cm", "5 km"), ("12", "1 2"), ("2", "1 2"), ("23", "2 3"), ("5", "not 5"), ("5", "print(5)"), ("7", "int(7)"),
    ("5", '"5"'),
    ("6", "204_6"), ("0", r"1\,000"), ("5", "5x"), ("5", "5i"), ("5", "5!"), ("5", "5 thousand"), ("5", "x^2=5"),
    ("5", "4=5"), ("2", "x=1,y=2"),
    ("x=1,y=2", "x=2,y=1"), ("a=5", "b=5"), ("x+1", "y+1"), ("N=n", "N=n+1"), ("n", "N"), ("x^2+1=0", "x^2+2=0"), ("0=0", "1=1"),
    ("x<1", "x>1"), ("x<1", r"x\le 1"), ("x+y=1", "x+y=2"), ("2^{10}", r"-\sqrt{\infty}"), (r"\sqrt{2}", r"\infty \cdot 99"),
    ("12", "12:30"), ("x+1", "x^2=x+1"), ("1,2", "x=1,y=2"), ("204", "204_6"), ("11", "1_1"),
    ("5", ""), ("5", "{5"), ("5", "}{"),
]  # fmt: skip

EXPLOSIVE = [
    "9^{9^{9}}", "9^9^9", "((((9^9)^9)^9)^9)^9", "10^{10^{10}}", "2^{99999999}", "2^{9999 \\cdot 9999}",
    "((x+1)^{50})^{50}", "(x+y+z+w+1)^{90}",
    "(a+b)" * 40, r"\sin(\infty)", "999999999!", "(10^6)!", "5!!!!", "2^{3!}", r"\binom{1000000}{500000}", r"\sum_{i=1}^{10^9} i",
    r"\int_0^1 x^x dx",
    "{" * 300 + "5" + "}" * 300, "(" * 200 + "5" + ")" * 200, "1e999999999", "9" * 1900 + "+1", "x+" * 400 + "1",
    r"\sqrt{2+" * 20 + "1" + "}" * 20,
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_the_same_answer_written_otherwise_scores_one(gold: str, answer: str) -> None:
    assert compare(gold, answer).value == 1.0, compare(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_another_answer_scores_zero(gold: str, answer: str) -> None:
    assert compare(gold, answer).value == 0.0, compare(gold, answer)


@pytest.mark.parametrize("answer", EXPLOSIVE)
def test_what_could_explode_is_refused_before_sympy_sees_it(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr_core.reward.comparing.compare_values", lambda *sides: pytest.fail(f"sympy got {sides}"))
    for gold in ("x+1", "7"):
        assert compare(gold, answer).value == 0.0
    assert refuse(normal_form(answer))


@pytest.mark.parametrize(("gold", "answer"), [("5", r"\frac{x^2-1}{x-1}"), ("x+1", "7"), ("0.5", "n")])
def test_a_number_is_no_expression_with_variables_and_sympy_is_not_asked(
    gold: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cheap where a policy rambles: golds are mostly numbers."""
    monkeypatch.setattr("rlvr_core.reward.comparing.compare_values", lambda *sides: pytest.fail(f"sympy got {sides}"))
    assert compare(gold, answer).value == 0.0


@pytest.mark.parametrize(("completion", "gold"), GSM8K)
def test_a_worked_solution_scores_one_and_its_neighbour_zero(completion: str, gold: str) -> None:
    assert math_outcome(completion, gold).value == 1.0
    assert math_outcome(completion, str(int(gold.replace(",", "")) + 1)).value == 0.0


@unhurried
@given(st.integers(), st.integers())
def test_integers_are_equal_exactly_when_they_are(gold: int, answer: int) -> None:
    assert compare(str(gold), f"{answer:,}").value == float(gold == answer)
    assert compare(f"{gold:,}", str(gold)).value == 1.0


@unhurried
@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_fractions_are_equal_exactly_when_they_are(gold: Fraction, answer: Fraction) -> None:
    latex = f"\\frac{{{answer.numerator}}}{{{answer.denominator}}}"
    assert compare(str(gold), latex).value == float(gold == answer)


@unhurried
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6))
def test_a_finite_decimal_is_its_fraction(value: Any) -> None:
    assert as_number(f"{value:f}") == Fraction(value)


@unhurried
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e300))
def test_scientific_notation_keeps_its_value(value: float) -> None:
    assert as_number(f"{value!r}") == Fraction(repr(value))


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789.,-+/% ex{}\\$")), st.text(st.sampled_from("0123456789.,-+/% ex{}\\$")))
@example("1,000", "1000")
def test_numbers_that_compare_equal_have_the_same_value(gold: str, answer: str) -> None:
    """No layer before the exact one may make two different numbers the same."""
    values = as_number(normal_form(gold)), as_number(normal_form(answer))
    if None not in values and normal_form(gold) == normal_form(answer):
        assert values[0] == values[1]


@unhurried
@given(st.text(max_size=30))
def test_every_gold_with_balanced_braces_is_its_own_answer(gold: str) -> None:
    found = extract(boxed(gold))
    if find_box(boxed(gold))[0] == gold and found.answer is not None and normal_form(gold):
        assert compare(gold, gold).value == 1.0


def test_the_status_tells_no_answer_from_one_that_is_not_understood() -> None:
    assert math_outcome("I do not know", "5").status == "no_answer"
    assert math_outcome(r"\boxed{two apples and three pears}", "5").status == "unparsed"
    outcome = math_outcome(r"\boxed{6}", "5")
    assert (outcome.value, outcome.status, outcome.reason) == (0.0, "ok", "another number")
    assert outcome.ms > 0.0


def test_a_failure_inside_the_symbolic_layer_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str) -> Any:
        raise RecursionError("too deep")

    monkeypatch.setattr("rlvr_core.reward.symbolic._parse", fails)
    outcome = math_outcome(r"\boxed{y+1+0}", "y+1+z")
    assert (outcome.value, outcome.status) == (0.0, "unparsed")
    assert "RecursionError: too deep" in outcome.reason


def test_numbers_never_import_sympy() -> None:
    """Start-up costs nothing on data with plain answers."""
    code = (
        "import sys; from rlvr_core.reward.comparing import compare; "
        "assert compare('1,080', '1080').value == 1.0 and compare('72', '73').value == 0.0; "
        "assert 'sympy' not in sys.modules and 'math_verify' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_math_verify_does_not_warn_of_its_timeouts(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("parser", "grader"):  # it warns once a process
        monkeypatch.setattr(f"math_verify.{module}.TIMEOUT_WARNING_SHOWN", False)
    with caplog.at_level(logging.WARNING):
        assert compare(r"3\sqrt{3}", r"\sqrt{27}").value == 1.0
    assert not caplog.records


# ----------------------------------------------------------------------------------------------------------------- golds


def test_golds_that_do_not_score_one_by_their_own_reward_are_listed() -> None:
    golds = ["72", "1,080", r"$\frac{1}{2 n+2}$", "}", "  ", "Tuesday"]
    rows = [Example(f"row-{n}", "p", gold) for n, gold in enumerate(golds)]
    failing = failing_golds(rows, MathReward(MathOptions()))
    assert [(name, gold) for name, gold, _ in failing] == [("row-3", "}"), ("row-4", "  ")]
    assert all(reason for _, _, reason in failing)


def test_golds_that_cannot_be_stated_are_passed_over() -> None:
    rows = [Example("a", "p", "72")]
    assert failing_golds(rows, ExactReward(ExactOptions())) == []
    assert failing_golds(rows, ExactReward(ExactOptions(pattern=r"answer: (\d+)"))) == []


# ----------------------------------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize(
    ("options", "completion", "gold", "value"),
    [
        ({}, " yes\n", "yes", 1.0),
        ({"strip": False}, " yes", "yes", 0.0),
        ({}, "Yes", "yes", 0.0),
        ({"ignore_case": True}, "STRASSE", "straße", 1.0),
        ({"pattern": r"<a>(.*?)</a>"}, "<a>1</a> no <a>2</a>", "2", 1.0),
        ({"pattern": r"[0-9]+"}, "1 then 2", "2", 1.0),
        ({"pattern": r"[0-9]+"}, "1 then 2", "1", 0.0),
    ],
)
def test_exact_compares_text_as_its_options_say(options: dict[str, Any], completion: str, gold: str, value: float) -> None:
    outcome = ExactReward(ExactOptions(**options)).score([item(completion, gold)])[0]
    assert (outcome.value, outcome.status) == (value, "ok")


@pytest.mark.parametrize(("pattern", "completion"), [("[0-9]+", "none"), ("x(y)?", "x")])
def test_exact_without_a_match_has_no_answer(pattern: str, completion: str) -> None:
    outcome = ExactReward(ExactOptions(pattern=pattern)).score([item(completion, "1")])[0]
    assert (outcome.value, outcome.status) == (0.0, "no_answer")


def test_a_pattern_that_is_none_is_refused_in_the_spec() -> None:
    with pytest.raises(ValidationError, match="no regular expression"):
        ExactOptions(pattern="(")


# -------------------------------------------------------------------------------------------------------------- function


def reward_from(tmp_path: Path, source: str, **options: Any) -> FunctionReward:
    file = tmp_path / "rewards.py"
    file.write_text(source, encoding="utf-8")
    return FunctionReward(FunctionOptions(function=f"{file}:reward", **options))


def values(outcomes: Sequence[Outcome]) -> list[float | None]:
    return [outcome.value for outcome in outcomes]


ITEMS = [item("one", "1", level=3), item("two", "2", level=4, hint="h")]


def test_a_function_of_trl_gets_lists_by_keyword(tmp_path: Path) -> None:
    source = """
def reward(prompts, completions, answer, level, **kwargs):
    assert prompts == ["prompt", "prompt"] and completions == ["one", "two"]
    assert answer == kwargs["gold"] == ["1", "2"] and kwargs["hint"] == [None, "h"]
    return [float(n) for n in level]
"""
    assert values(reward_from(tmp_path, source).score(ITEMS)) == [3.0, 4.0]


def test_a_function_without_keyword_rest_gets_what_it_takes(tmp_path: Path) -> None:
    assert values(
        reward_from(tmp_path, "def reward(completions, gold):\n    return [len(c) for c in completions]\n").score(ITEMS)
    ) == [3.0, 3.0]


def test_a_column_named_answer_goes_before_the_gold(tmp_path: Path) -> None:
    reward = reward_from(tmp_path, "def reward(answer, gold, **kw):\n    assert gold == ['1']\n    return answer\n")
    assert values(reward.score([item("c", "1", answer=7)])) == [7.0]


def test_the_golds_go_by_the_name_the_function_wants(tmp_path: Path) -> None:
    reward = reward_from(tmp_path, "def reward(solution):\n    return [float(s) for s in solution]\n", gold_name="solution")
    assert values(reward.score(ITEMS)) == [1.0, 2.0]


def test_messages_are_passed_as_trl_does_for_chats(tmp_path: Path) -> None:
    source = """
def reward(prompts, completions):
    assert prompts[0] == [{"role": "user", "content": "prompt"}] and completions[0][0]["role"] == "assistant"
    return [len(c[0]["content"]) for c in completions]
"""
    assert values(reward_from(tmp_path, source, messages=True).score(ITEMS)) == [3.0, 3.0]


def test_none_abstains(tmp_path: Path) -> None:
    outcomes = reward_from(tmp_path, "def reward(completions):\n    return [None, 1]\n").score(ITEMS)
    assert [(o.value, o.status) for o in outcomes] == [(None, "abstain"), (1.0, "ok")]


def test_an_async_function_is_awaited_also_inside_a_running_loop(tmp_path: Path) -> None:
    import asyncio

    reward = reward_from(
        tmp_path,
        "import asyncio\nasync def reward(completions):\n    await asyncio.sleep(0)\n    return [1.0 for _ in completions]\n",
    )

    async def notebook() -> list[float | None]:
        return values(reward.score(ITEMS))

    assert values(reward.score(ITEMS)) == asyncio.run(notebook()) == [1.0, 1.0]


def test_a_tensor_is_a_list_of_numbers(tmp_path: Path) -> None:
    assert values(
        reward_from(tmp_path, "import torch\ndef reward(completions):\n    return torch.tensor([0.5, 1.0])\n").score(ITEMS)
    ) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0]", "gave 1 values for 2 completions"),
        ("[1.0, 2.0, 3.0]", "gave 3 values for 2"),
        ("1.0", "gave a float, not a list"),
        ("[1.0, float('nan')]", "gave nan for completion 1"),
        ("[float('inf'), 1.0]", "gave inf for completion 0"),
        ("['1.0', 1.0]", "no finite number"),
        ("[[1.0], 1.0]", "no finite number"),
    ],
)
def test_what_is_no_list_of_numbers_is_an_error_that_names_the_reward(tmp_path: Path, returned: str, message: str) -> None:
    reward = reward_from(tmp_path, f"def reward(completions):\n    return {returned}\n")
    with pytest.raises(DataError, match=message) as caught:
        reward.score(ITEMS)
    assert "rewards.py:reward" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_that_fails_on_some_completions_costs_those_alone(tmp_path: Path) -> None:
    """It is asked for all at once, and where that fails for each alone."""
    source = "def reward(completions):\n    return [1 / (len(c) - 3) for c in completions]\n"
    outcomes = judge("mine", reward_from(tmp_path, source), [item("four", "1"), item("two", "1"), item("eight", "2")])
    assert [(o.value, o.status) for o in outcomes] == [(1.0, "ok"), (None, "error"), (0.5, "ok")]
    assert outcomes[1].reason.startswith("ZeroDivisionError")


def test_a_required_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="requires 'levels', which is no column of the task; did you mean 'level'"):
        reward_from(tmp_path, "def reward(levels, **kw):\n    return levels\n").score(ITEMS)


def test_functions_of_installed_modules_load_by_import_path() -> None:
    assert load_function("os.path:basename") is os.path.basename


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no_such_package.rewards:f", "does not import: ModuleNotFoundError"),
        ("nowhere/rewards.py:f", "no file nowhere/rewards.py"),
        ("json:dupms", "has no 'dupms'; did you mean 'dumps'"),
        ("json:__name__", "is a str, not a callable"),
    ],
)
def test_a_function_that_is_not_there_is_a_mistake_of_the_spec(where: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FunctionReward(FunctionOptions(function=where)).start()


def test_a_place_without_a_name_is_refused_in_the_spec() -> None:
    with pytest.raises(ValidationError):
        FunctionOptions(function="rewards.py")
