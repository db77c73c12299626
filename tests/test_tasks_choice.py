"""Which rows become problems: layouts, conditions, pass rates; and in which order they are drawn: mixtures, rows as they stand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlvr_core.errors import DataError, SpecError
from rlvr_core.plugins import catalogue
from rlvr_core.records import Example
from rlvr_core.rollout.prompts import PromptStream
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.source import apply_assignments, from_mapping
from rlvr_core.tasks.conditions import Condition, as_condition
from rlvr_core.tasks.jsonl import JsonlTask
from rlvr_core.tasks.mixture import MixtureTask
from rlvr_core.tasks.options import HubOptions, JsonlOptions, MixtureOptions
from rlvr_core.tasks.prompts import PromptOptions, Shot, render
from rlvr_core.tasks.rows import to_example
from rlvr_core.tasks.sequences import InOrder, Mixed, Share, kept


def write_rows(file: Path, rows: Sequence[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def jsonl(path: str, **options: Any) -> JsonlTask:
    return JsonlTask(JsonlOptions(path=path, **({"eval_fraction": 0.0} | options)))


def numbered(tmp_path: Path, number: int = 10, **columns: Any) -> str:
    rows = [{"problem": f"problem {n}", "answer": n, **{k: v[n] for k, v in columns.items()}} for n in range(number)]
    return write_rows(tmp_path / "rows.jsonl", rows)


def problems(task: JsonlTask) -> list[str]:
    return [str(example.prompt) for example in task.train()]


# --------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("layout", "row", "prompt", "gold"),
    [
        ("gsm8k", {"question": "How many?", "answer": "48/2 = 24\n#### 24"}, "How many?", "24"),
        ("math", {"problem": "p", "level": "Level 5", "solution": r"\boxed{1} so \boxed{\frac{1}{2}}."}, "p", r"\frac{1}{2}"),
        ("aime", {"ID": "2024-I-1", "Problem": "p", "Solution": "s", "Answer": 204}, "p", "204"),
        ("aime", {"problem_idx": 1, "problem": "p", "answer": "70"}, "p", "70"),
        ("aime", {"question": "p", "answer": "033"}, "p", "033"),
        ("deepscaler", {"problem": "p", "answer": "-1", "solution": "long"}, "p", "-1"),
        ("verl", {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": "34"}}, None, "34"),
    ],
)
def test_a_layout_is_one_line(layout: str, row: dict[str, Any], prompt: str | None, gold: str) -> None:
    example = to_example(row, JsonlOptions(path="x", layout=layout), "x:1")
    assert example.gold == gold
    assert example.prompt == (row["prompt"] if prompt is None else prompt)


def test_what_is_written_goes_before_the_layout_and_both_survive_the_resolved_spec() -> None:
    options = JsonlOptions(path="x", layout="gsm8k", prompt="text")
    assert (options.prompt, options.answer_after) == ("text", "####")
    assert JsonlOptions(**options.model_dump(exclude=set(options.inert()))) == options


@pytest.mark.parametrize(
    ("solution", "reason"),
    [("no box", r"holds no \\boxed{}"), (r"\boxed{1", "never closed"), (r"\boxed{ }", "is empty")],
)
def test_a_solution_without_a_boxed_answer_is_a_bad_row(tmp_path: Path, solution: str, reason: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"problem": "p", "solution": solution}])
    with pytest.raises(DataError, match=rf"1 of 1 rows cannot be used: column 'solution' .*{reason}.* \(line 1\)"):
        jsonl(path, layout="math").train()


def test_evaluation_rows_alone_are_enough_for_an_evaluation(tmp_path: Path) -> None:
    task = JsonlTask(JsonlOptions(eval_path=numbered(tmp_path)))
    assert (len(task.train()), len(task.evaluation())) == (0, 10)
    assert {"limit", "order"} <= set(JsonlOptions(eval_path="x").inert())
    with pytest.raises(ValidationError, match="path is required, or eval_path"):
        JsonlOptions()
    with pytest.raises(ValidationError, match="both null"):
        HubOptions(path="x", split=None)


# ------------------------------------------------------------------------------------------------------------ conditions


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"level": 3}, [3]),
        ({"level": [1, 3, 99]}, [1, 3]),
        ({"level": {"min": 7}}, [7, 8, 9]),
        ({"level": {"min": 2, "max": 4, "not_in": [3]}}, [2, 4]),
        ({"name": {"matches": "^b"}}, [5, 6, 7, 8, 9]),
        ({"name": {"matches": "^b"}, "level": {"max": 6}}, [5, 6]),
        ({"maybe": {"not_in": [None]}}, [1, 3, 5, 7, 9]),
        ({"maybe": None}, [0, 2, 4, 6, 8]),
    ],
)
def test_rows_are_those_that_meet_every_condition(tmp_path: Path, where: dict[str, Any], expected: list[int]) -> None:
    path = numbered(tmp_path, level=range(10), name=["a"] * 5 + ["b"] * 5, maybe=[None if n % 2 == 0 else n for n in range(10)])
    assert problems(jsonl(path, where=where)) == [f"problem {n}" for n in expected]


def test_true_is_not_one() -> None:
    assert not as_condition(1).holds(True) and not as_condition(True).holds(1)
    assert as_condition(1).holds(1.0) and not Condition(min=0).holds(True)


def test_rows_that_a_condition_drops_need_not_be_good(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": None, "use": False}, {"problem": "q", "answer": 1, "use": True}]
    assert problems(jsonl(write_rows(tmp_path / "rows.jsonl", rows), where={"use": True})) == ["q"]


def test_a_condition_that_no_row_meets_or_can_meet_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 10 rows meets the conditions"):
        jsonl(numbered(tmp_path), where={"answer": 77}).train()
    with pytest.raises(DataError, match="no column 'levl', did you mean 'level'"):
        jsonl(numbered(tmp_path, level=range(10)), where={"levl": 7}).train()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, "level: asks nothing"),
        ({"minimum": 1}, "level: minimum: unknown key; known: min, max"),
        ({"matches": "("}, "level: matches: .*no regular expression"),
        ({"min": "1"}, "level: min: .*number"),
    ],
)
def test_a_condition_that_makes_no_sense_is_an_error(condition: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JsonlOptions(path="x", where={"level": condition})


# ------------------------------------------------------------------------------------------------------------ pass rates


def rates(tmp_path: Path, rows: Sequence[Any]) -> str:
    return write_rows(tmp_path / "rates.jsonl", rows)


def measured(tmp_path: Path, number: int = 10) -> str:
    rows = [{"id": f"rows:{n + 1}", "prompt": f"problem {n}", "pass_rate": n / 10} for n in range(number)]
    return rates(tmp_path, rows)


def test_training_problems_can_be_chosen_by_measured_pass_rate(tmp_path: Path) -> None:
    task = jsonl(numbered(tmp_path), pass_rates=measured(tmp_path), min_pass_rate=0.2, max_pass_rate=0.4)
    assert problems(task) == ["problem 2", "problem 3", "problem 4"]


def test_held_out_problems_are_not_chosen_by_pass_rate(tmp_path: Path) -> None:
    path, bounds = numbered(tmp_path), {"pass_rates": measured(tmp_path), "min_pass_rate": 0.2}
    whole = JsonlTask(JsonlOptions(path=path, eval_fraction=0.3)).evaluation()
    assert JsonlTask(JsonlOptions(path=path, eval_fraction=0.3, **bounds)).evaluation() == whole


def test_a_problem_without_a_rate_is_an_error_unless_the_spec_says(tmp_path: Path) -> None:
    path, half = numbered(tmp_path), measured(tmp_path, 5)
    with pytest.raises(DataError, match=r"5 of 10 training problems have no pass rate .*\(rows:6, rows:7, rows:8 and 2 more\)"):
        jsonl(path, pass_rates=half, min_pass_rate=0.3).train()
    assert len(jsonl(path, pass_rates=half, min_pass_rate=0.3, unmeasured="drop").train()) == 2
    assert len(jsonl(path, pass_rates=half, min_pass_rate=0.3, unmeasured="keep").train()) == 7


def test_rates_of_other_problems_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    other = rates(tmp_path, [{"id": f"rows:{n + 1}", "prompt": "another", "pass_rate": 0.5} for n in range(10)])
    with pytest.raises(DataError, match="pass rates of other problems under the same ids"):
        jsonl(numbered(tmp_path), pass_rates=other, min_pass_rate=0.1).train()


@pytest.mark.parametrize(
    "row", [{"id": "a"}, {"id": "a", "pass_rate": 1.5}, {"id": "a", "pass_rate": True}, [1], {"id": "rows:1", "pass_rate": 0.1}]
)
def test_a_bad_row_of_rates_is_named_by_its_line(tmp_path: Path, row: Any) -> None:
    path = rates(tmp_path, [{"id": "rows:1", "pass_rate": 0.5}, row])
    with pytest.raises(DataError, match=r"rates\.jsonl: line 2 cannot be used"):
        jsonl(numbered(tmp_path), pass_rates=path, min_pass_rate=0.1).train()


def test_bounds_that_leave_nothing_or_have_no_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no training problem has a pass rate from 0\.95 to 1"):
        jsonl(numbered(tmp_path), pass_rates=measured(tmp_path), min_pass_rate=0.95).train()
    with pytest.raises(DataError, match="No such file"):
        jsonl(numbered(tmp_path), pass_rates="nowhere.jsonl", min_pass_rate=0.5).train()
    assert "pass_rates" in JsonlOptions(path="x", pass_rates="y").inert()
    assert "min_pass_rate" in JsonlOptions(path="x", min_pass_rate=0.5).inert()
    with pytest.raises(ValidationError, match="is above max_pass_rate"):
        JsonlOptions(path="x", pass_rates="y", min_pass_rate=0.5, max_pass_rate=0.4)


# ----------------------------------------------------------------------------------------------------- order and mixtures


def some(label: str, number: int) -> list[Example]:
    return [Example(f"{label}{n}", f"{label}{n}", "1") for n in range(number)]


def mixed(**parts: tuple[float, int]) -> Mixed:
    return Mixed(Share(label, share, some(label, number)) for label, (share, number) in parts.items())


def stream(examples: Sequence[Example], seed: int = 0) -> PromptStream:
    return PromptStream(examples, lambda example: (1,), seed)


def ids(drawn: PromptStream, number: int) -> list[str]:
    return [prompt.example.id for prompt in drawn.draw(number)]


sources = st.sampled_from(
    [some("a", 7), InOrder(some("a", 7)), mixed(a=(0.7, 5), b=(0.2, 30), c=(0.1, 1)), mixed(a=(0.5, 3), b=(0.5, 4))]
)


@settings(deadline=None)
@given(sources, st.integers(0, 60), st.integers(0, 40))
def test_a_stream_resumed_anywhere_goes_on_as_if_never_stopped(examples: Sequence[Example], before: int, after: int) -> None:
    whole = ids(stream(examples), before + after)
    first = stream(examples)
    ids(first, before)
    second = stream(examples)
    ids(second, after)  # it has been elsewhere
    second.load_state_dict(first.state_dict())
    assert ids(second, after) == whole[before:]


def test_every_stretch_of_a_mixture_holds_its_shares_as_nearly_as_can_be() -> None:
    drawn = Counter[str]()
    for position, name in enumerate(ids(stream(mixed(a=(0.5, 3), b=(0.3, 100), c=(0.2, 7))), 200), start=1):
        drawn[name[0]] += 1
        assert all(abs(drawn[label] - share * position) <= 1.0 for label, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)))


def test_each_part_of_a_mixture_is_gone_through_before_it_begins_again() -> None:
    names = ids(stream(mixed(a=(0.5, 6), b=(0.5, 4))), 24)
    assert len({name for name in names[:12] if name[0] == "a"}) == 6
    assert len({name for name in names[:8] if name[0] == "b"}) == 4
    assert names[:12] != names[12:]
    assert ids(stream(mixed(a=(0.5, 6), b=(0.5, 4)), seed=1), 24) != names


def test_rows_in_their_order_are_drawn_so_pass_after_pass(tmp_path: Path) -> None:
    task = jsonl(numbered(tmp_path, 3), order="rows")
    assert [p.text for p in stream(task.train()).draw(5)] == [f"problem {n}" for n in (0, 1, 2, 0, 1)]


def test_a_mixture_in_a_mixture_is_its_parts_with_shares_of_the_share() -> None:
    inner = Mixed([Share("x", 0.25, some("x", 2)), Share("y", 0.75, InOrder(some("y", 2)))])
    outer = Mixed([Share("inner", 0.4, inner), Share("z", 0.6, some("z", 2))])
    assert [(part.label, part.share) for part in outer.parts] == [
        ("inner/x", pytest.approx(0.1)),
        ("inner/y", pytest.approx(0.3)),
        ("z", 0.6),
    ]
    kept_half = kept(outer, lambda examples: examples[:1])
    assert isinstance(kept_half, Mixed) and len(kept_half) == 3
    assert isinstance(kept_half.parts[1].examples, InOrder)


def test_as_a_sequence_a_mixture_holds_everything_once_evenly_spread() -> None:
    names = [example.id for example in mixed(a=(0.9, 8), b=(0.1, 4))]
    assert len(names) == len(set(names)) == 12
    assert Counter(name[0] for name in names[:6]) == {"a": 4, "b": 2}


def mixture(tmp_path: Path) -> dict[str, Any]:
    rows = numbered(tmp_path, 40)
    return {"sums": {"name": "arithmetic", "weight": 3, "eval_problems": 5}, "jsonl": {"path": rows, "eval_fraction": 0.2}}


def test_a_mixture_marks_each_problem_with_its_part(tmp_path: Path) -> None:
    task = MixtureTask(MixtureOptions(parts=mixture(tmp_path)))
    train, held = task.train(), task.evaluation()
    assert isinstance(train, Mixed) and [(p.label, p.share) for p in train.parts] == [("sums", 0.75), ("jsonl", 0.25)]
    found = Counter(example.columns["mixture"] for example in held)
    assert found["sums"] == 5 and found["jsonl"] > 0
    assert "sums (75%): sums of 3 to 4" in task.describe()


BASE = {"model": {"name": "m"}, "objective": {"name": "popo"}}


def test_parts_of_a_mixture_are_checked_as_parts_of_a_spec_are(tmp_path: Path) -> None:
    parts = mixture(tmp_path)
    source = from_mapping({**BASE, "task": {"name": "mixture", "parts": parts}})
    apply_assignments(source, ["task.parts.sums.eval_problems=7"])
    written = resolve(source, catalogue()).as_dict()["task"]
    assert written["parts"]["sums"]["eval_problems"] == 7 and written["parts"]["sums"]["held_out"] == 0.25
    assert written["parts"]["jsonl"]["name"] == "jsonl" and written["parts"]["jsonl"]["weight"] == 1.0
    again = resolve(from_mapping({**BASE, "task": written}), catalogue()).as_dict()["task"]
    assert again == written


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("task.parts.sums.eval_problms=7", "task.parts.sums.eval_problms: unknown key; did you mean 'eval_problems'"),
        ("task.parts.other.path=x", "task.parts.other: no task is named 'other'"),
        ("task.parts.sums.weight=0", "weight 0 is not a number above 0"),
        ("task.parts.jsonl.eval_path=x", "task.parts.jsonl.eval_fraction: has no effect"),
        ("task.parts={}", "needs at least one part"),
    ],
)
def test_a_mistake_in_a_part_says_where(tmp_path: Path, assignment: str, message: str) -> None:
    source = from_mapping({**BASE, "task": {"name": "mixture", "parts": mixture(tmp_path)}})
    with pytest.raises(SpecError) as caught:
        apply_assignments(source, [assignment])
        resolve(source, catalogue())
    assert message in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- few shot

SHOTS = [Shot(prompt="1+1", completion=" 2"), Shot(prompt="2+2", completion=" 4")]


def test_worked_examples_stand_before_the_problem_in_the_same_frame() -> None:
    options = PromptOptions(template="Q: {prompt}\nA:", few_shot=SHOTS)
    example = Example("x", "3+3", "6")
    assert render(example, options, chat=False) == "Q: 1+1\nA: 2\n\nQ: 2+2\nA: 4\n\nQ: 3+3\nA:"


def test_worked_examples_are_turns_of_a_chat_after_the_system_message() -> None:
    options = PromptOptions(system="Be brief.", few_shot=SHOTS[:1])
    expected = [("system", "Be brief."), ("user", "1+1"), ("assistant", " 2"), ("user", "3+3")]
    for prompt in ("3+3", [{"role": "user", "content": "3+3"}]):
        messages = render(Example("x", prompt, "6"), options, chat=True)
        assert [(m["role"], m["content"]) for m in messages if isinstance(m, dict)] == expected


def test_a_template_with_columns_that_worked_examples_lack_is_an_error() -> None:
    options = PromptOptions(template="{hint} {prompt}", few_shot=SHOTS)
    with pytest.raises(SpecError, match=r"{hint} names no column of 'prompt.few_shot'"):
        render(Example("x", "3+3", "6", {"hint": "add"}), options, chat=False)
    assert "few_shot_separator" in PromptOptions().inert()
