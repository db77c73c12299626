"""Tasks: rows to problems, bad rows named, what is held out; and problems to prompts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlvr_core.errors import DataError, ModelError, SpecError
from rlvr_core.records import Example
from rlvr_core.tasks import hub
from rlvr_core.tasks.hub import HubTask, looks_local
from rlvr_core.tasks.jsonl import JsonlTask
from rlvr_core.tasks.options import HubOptions, JsonlOptions
from rlvr_core.tasks.prompts import PromptOptions, PromptTooLong, Shot, encode, fitting, placeholders, render
from rlvr_core.tasks.rows import content_share, split, to_example

GSM8K = [
    {"id": "gsm8k-0", "problem": "Natalia sold 48 clips, then half as many. How many?", "answer": "72", "solution": "#### 72"},
    {"id": "gsm8k-1", "problem": "Weng earns $12 an hour. She did 50 minutes. How much?", "answer": "10", "solution": "#### 10"},
    {"id": "gsm8k-2", "problem": "How many pages has she read?", "answer": "1,080", "solution": "#### 1,080"},
]


def write_rows(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(file)


def jsonl(path: str, **options: Any) -> JsonlTask:
    return JsonlTask(JsonlOptions(path=path, **({"eval_fraction": 0.0} | options)))


# ----------------------------------------------------------------------------------------------------------------- jsonl


def test_rows_become_examples_with_their_other_columns(tmp_path: Path) -> None:
    task = jsonl(write_rows(tmp_path / "gsm8k.jsonl", GSM8K), id="id")
    assert list(task.train()) == [
        Example(row["id"], row["problem"], row["answer"], {"solution": row["solution"]}) for row in GSM8K
    ]
    assert list(task.evaluation()) == []


def test_columns_are_those_the_spec_names(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "math.jsonl", [{"question": "q", "final": "f", "problem": "p"}])
    assert list(jsonl(path, prompt="question", answer="final").train()) == [Example("math:1", "q", "f", {"problem": "p"})]


def test_a_row_without_an_id_column_is_named_by_file_and_line(tmp_path: Path) -> None:
    rows = ["", GSM8K[0], "   ", GSM8K[1]]
    assert [row.id for row in jsonl(write_rows(tmp_path / "some.jsonl", rows)).train()] == ["some:2", "some:4"]


def test_rows_are_lines_whatever_separators_stand_in_their_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(
        b"\xef\xbb\xbf" + '{"problem": "a\u2028b\u0085c", "answer": "1"}\r\n{"problem": "d", "answer": "2"}'.encode()
    )
    assert [row.prompt for row in jsonl(str(file)).train()] == ["a\u2028b\u0085c", "d"]


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        (72, "72"), (-3, "-3"), (0.5, "0.5"), (72.0, "72"), (1e-05, "0.00001"), (1e22, "10000000000000000000000"),
        (Decimal("0.10"), "0.10"), ("1,080", "1,080"), (" 5 ", " 5 "),
    ],
)  # fmt: skip
def test_numbers_as_answers_become_text_as_people_write_it(value: Any, gold: str) -> None:
    assert to_example({"problem": "p", "answer": value}, JsonlOptions(path="x"), "x:1").gold == gold


def test_the_gold_can_follow_a_mark_in_the_answer(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "raw.jsonl", [{"problem": "p", "answer": "48/2 = 24 #### no\n#### 72"}, {"problem": "q", "answer": "72"}]
    )
    with pytest.raises(DataError, match=r"1 of 2 rows .*: column 'answer' does not hold the mark '####' \(line 2\)"):
        jsonl(path, answer_after="####").train()
    rows = [{"problem": "p", "answer": "48/2 = 24 #### no\n#### 72"}]
    assert jsonl(write_rows(tmp_path / "raw.jsonl", rows), answer_after="####").train()[0].gold == "72"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "not JSON"),
        ('{"problem": "p", "answer": NaN}', "not JSON: NaN"),
        ("[1, 2]", "not an object with columns but a list"),
        ({"problem": "p"}, "no column 'answer', known: problem"),
        ({"problem": "p", "answr": "1"}, "no column 'answer', did you mean 'answr'"),
        ({"problem": "p", "answer": None}, "column 'answer' is null"),
        ({"problem": "p", "answer": True}, "column 'answer' holds True, not text or a number"),
        ({"problem": "p", "answer": ["1"]}, "column 'answer' holds a list, not text or a number"),
        ({"problem": "p", "answer": "  "}, "column 'answer' is empty"),
        ({"problem": "", "answer": "1"}, "column 'problem' is empty"),
        ({"problem": 5, "answer": "1"}, "column 'problem' holds 5, not text or a list of messages"),
        ({"problem": [], "answer": "1"}, "empty list of messages"),
        ({"problem": ["hello"], "answer": "1"}, "not a mapping with a role"),
        ({"problem": [{"role": "user", "content": " "}], "answer": "1"}, "only empty messages"),
        ('{"problem": "\\ud800", "answer": "1"}', "half a surrogate pair"),
        ({"problem": "p", "answer": "1", "id": 1.5}, "column 'id' holds 1.5"),
        ({"problem": "p", "answer": "1", "id": "good"}, "the id 'good' is taken by line 1"),
    ],
)
def test_a_bad_row_is_an_error_with_file_line_and_reason(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"problem": "p", "answer": "1", "id": "good"}
    path = write_rows(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(DataError) as caught:
        jsonl(path, id="id").train()
    message = str(caught.value)
    assert message.startswith(f"{path}: 1 of 2 rows cannot be used: ")
    assert reason in message
    assert "(line 2)" in message
    assert "\n" not in message


def test_many_bad_rows_are_one_error_with_the_first_few_and_counts(tmp_path: Path) -> None:
    rows = [{"problem": "p"}] * 10 + ["{"] + [{"answer": "1"}] + [["x"]] + [{"problem": "", "answer": "1"}]
    with pytest.raises(DataError) as caught:
        jsonl(write_rows(tmp_path / "rows.jsonl", rows)).train()
    message = str(caught.value)
    assert "14 of 14 rows" in message
    assert "(line 1, 2, 3 and 7 more)" in message
    assert "and 2 other reasons" in message


def test_bytes_that_are_no_text_are_a_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes('{"problem": "é", "answer": "1"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 \(line 1\)"):
        jsonl(str(file)).train()


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=r"empty.jsonl: holds no rows"):
        jsonl(str(file)).train()


def test_a_file_that_is_not_there_is_an_error_that_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(f"rows.jsonl: no such file (looked in {tmp_path})")):
        jsonl("rows.jsonl").train()
    with pytest.raises(DataError, match="is a folder"):
        jsonl(str(tmp_path)).train()


def test_relative_paths_start_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "rows.jsonl", GSM8K)
    monkeypatch.chdir(tmp_path)
    assert len(jsonl("rows.jsonl").train()) == 3


# -------------------------------------------------------------------------------------------------------------- held out


def test_a_file_of_its_own_is_the_evaluation(tmp_path: Path) -> None:
    train, held = write_rows(tmp_path / "train.jsonl", GSM8K), write_rows(tmp_path / "test.jsonl", GSM8K[:1])
    task = JsonlTask(JsonlOptions(path=train, eval_path=held))
    assert (len(task.train()), len(task.evaluation())) == (3, 1)
    assert "3 training problems, 1 held out, 1 of them with a problem that is trained on" in task.describe()


def test_limits_cut_from_the_front_after_the_split(tmp_path: Path) -> None:
    rows = [{"problem": f"problem {n}", "answer": n} for n in range(100)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    whole, cut = jsonl(path, eval_fraction=0.3), jsonl(path, eval_fraction=0.3, limit=5, eval_limit=4)
    assert list(cut.train()) == list(whole.train())[:5]
    assert list(cut.evaluation()) == list(whole.evaluation())[:4]


examples = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=60).map(
    lambda prompts: [Example(str(n), prompt, "1") for n, prompt in enumerate(prompts)]
)


@settings(deadline=None)
@given(examples, st.floats(0.0, 0.9))
def test_the_split_parts_rows_by_problem_and_loses_none(rows: list[Example], fraction: float) -> None:
    train, held = split(rows, fraction)
    assert sorted(train + held, key=lambda row: int(row.id)) == rows
    assert not {row.prompt for row in train} & {row.prompt for row in held}
    if fraction > 0 and len({row.prompt for row in rows}) > 1:
        assert held


@settings(deadline=None)
@given(examples, st.floats(0.2, 0.5), st.randoms())
def test_who_is_held_out_depends_on_the_problem_alone(rows: list[Example], fraction: float, random: Any) -> None:
    """Another order moves no problem to the other side, and a larger share holds out more of them, not others."""
    shuffled = random.sample(rows, len(rows))
    assert {row.id for row in split(shuffled, fraction)[1]} == {row.id for row in split(rows, fraction)[1]}
    low = {row.prompt for row in split(rows, fraction)[1]}
    assert low <= {row.prompt for row in split(rows, fraction + 0.3)[1]}


def test_the_share_of_a_problem_is_the_same_on_every_machine() -> None:
    """Recorded once; Python's own hash would differ in every process."""
    shares = [content_share(Example("x", prompt, "1")) for prompt in ("4+7+5=", "Ωμέγα", [{"role": "user", "content": "4+7+5="}])]
    assert shares == pytest.approx([0.774227853284323, 0.9932039077738857, 0.26053240535220823], abs=1e-12)


def test_the_held_out_share_is_about_the_fraction() -> None:
    rows = [Example(str(n), f"problem {n}", "1") for n in range(4000)]
    assert len(split(rows, 0.1)[1]) == pytest.approx(400, abs=80)


def test_the_only_problem_there_is_is_not_held_out_for_want_of_another() -> None:
    rows = [Example("x", "a", "1"), Example("y", "a", "1")]
    assert content_share(rows[0]) > 0.01
    assert split(rows, 0.01) == (rows, [])


def test_holding_out_every_row_is_an_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"problem": "a", "answer": "1"}])
    share = content_share(Example("x", "a", "1"))
    with pytest.raises(DataError, match="every row is held out"):
        jsonl(path, eval_fraction=min(0.999999, share + 1e-6)).train()


def test_options_without_effect_are_named() -> None:
    assert "eval_fraction" in JsonlOptions(path="a", eval_path="b").inert()
    assert "eval_limit" in JsonlOptions(path="a", eval_fraction=0.0).inert()
    assert "eval_fraction" in HubOptions(path="a", eval_split="test").inert()
    without_rates = {"min_pass_rate", "max_pass_rate", "unmeasured"}
    assert set(JsonlOptions(path="a").inert()) == set(HubOptions(path="a").inert()) == without_rates


# ------------------------------------------------------------------------------------------------------------------- hub


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def rows_of(name: str, count: int) -> list[dict[str, Any]]:
    return [{"question": f"{name} {n}?", "answer": float(n), "level": n} for n in range(count)]


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """A data set repository as on the hub: configurations and splits, described by its README."""
    folder = tmp_path / "repository"
    for config in ("main", "hard"):
        write_parquet(folder / config / "train.parquet", rows_of(f"{config} train", 5))
        write_parquet(folder / config / "test.parquet", rows_of(f"{config} test", 2))
    lines = ["---", "configs:"]
    for config in ("main", "hard"):
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [f"  - {{split: {part}, path: {config}/{part}.parquet}}" for part in ("train", "test")]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# Problems"]), encoding="utf-8")
    return str(folder)


def hub_task(path: str, **options: Any) -> HubTask:
    cache = str(Path(path).parent / "cache") if Path(path).is_absolute() else None
    return HubTask(HubOptions(path=path, cache_dir=cache, prompt="question", **options))


def test_a_repository_with_configurations_and_splits_loads(repository: str) -> None:
    task = hub_task(repository, config="hard", eval_split="test")
    assert task.train()[3] == Example("train:3", "hard train 3?", "3", {"level": 3})
    assert [row.prompt for row in task.evaluation()] == ["hard test 0?", "hard test 1?"]
    assert "(hard) train and test: 5 training problems, 2 held out" in task.describe()


def test_a_slice_of_a_split_is_a_split(repository: str) -> None:
    assert len(hub_task(repository, config="main", split="train[:2]", eval_split="test").train()) == 2


def test_a_plain_folder_of_parquet_files_loads(tmp_path: Path) -> None:
    write_parquet(tmp_path / "plain" / "train.parquet", rows_of("train", 20))
    write_parquet(tmp_path / "plain" / "test.parquet", rows_of("test", 3))
    assert len(hub_task(str(tmp_path / "plain"), eval_split="test").evaluation()) == 3
    whole = hub_task(str(tmp_path / "plain"), eval_fraction=0.3)
    assert len(whole.train()) + len(whole.evaluation()) == 20
    assert whole.evaluation()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "mian"}, "no configuration 'mian'; did you mean 'main'? known: hard, main"),
        ({}, "needs a config; known: hard, main"),
        ({"config": "main", "split": "trian"}, "no split 'trian'; did you mean 'train'? known: test, train"),
        ({"config": "main", "split": "valid[:5]"}, "no split 'valid'; known: test, train"),
        ({"config": "main", "split": "train[x]"}, "cannot be loaded: ValueError"),
    ],
)
def test_what_a_repository_does_not_have_is_named_with_what_it_has(
    repository: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        hub_task(repository, **options).train()
    assert message in str(caught.value)
    assert str(caught.value).startswith(repository)
    assert "\n" not in str(caught.value)


def test_a_column_that_no_row_has_is_one_error(repository: str) -> None:
    task = HubTask(
        HubOptions(path=repository, config="main", prompt="quesiton", cache_dir=str(Path(repository).parent / "cache"))
    )
    with pytest.raises(DataError) as caught:
        task.train()
    assert "5 of 5 rows cannot be used: no column 'quesiton', did you mean 'question'?" in str(caught.value)
    assert "(row index 0, 1, 2 and 2 more)" in str(caught.value)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "data/sets/mine"])
def test_a_folder_that_is_not_there_is_an_error(path: str) -> None:
    with pytest.raises(DataError, match="no such folder"):
        hub_task(path).train()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: cannot be loaded"):
        hub_task(str(tmp_path / "empty")).train()


def test_a_hub_name_without_network_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_in_reach", lambda: False)
    with pytest.raises(DataError, match="neither in the cache nor can the hub be reached"):
        HubTask(HubOptions(path="nobody/nothing", cache_dir=str(tmp_path))).train()


def test_a_hub_that_refuses_connections_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "getproxies", dict)
    assert not hub.hub_in_reach()
    monkeypatch.setattr(hub, "getproxies", lambda: {"http": "http://proxy:8080"})
    assert hub.hub_in_reach()


@pytest.mark.parametrize(
    ("name", "local"), [("openai/gsm8k", False), ("gpt2", False), ("a/b/c", True), ("~/x", True), ("./x", True), ("x/", True)]
)
def test_hub_names_have_one_slash_at_most(name: str, local: bool) -> None:
    assert looks_local(name) == local


# --------------------------------------------------------------------------------------------------------------- prompts

CHAT = (
    "{% if not messages %}{{ raise_exception('empty') }}{% endif %}<s>{% for m in messages %}"
    "{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(chat_template: str | None = None, begins_and_ends: bool = False) -> PreTrainedTokenizerFast:
    """One token a character, besides begin <s> (1) and end <e> (2)."""
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "<e>"}
    vocabulary = {"<unk>": 0, "<s>": 1, "<e>": 2} | {chr(code): code for code in range(32, 127)} | {"\n": 10}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if begins_and_ends:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=[("<s>", 1), ("<e>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    fast.chat_template = chat_template
    return fast


def ids(text: str) -> tuple[int, ...]:
    return tuple(ord(c) if ord(c) > 10 else 10 for c in text)


PROBLEM = Example("gsm:1", r"What is {x} in \frac{1}{2}?", "5", {"hint": r"try \boxed{}", "level": 3, "tags": ["a"]})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (None, PROBLEM.prompt),
        ("Q: {prompt}\nA:", f"Q: {PROBLEM.prompt}\nA:"),
        (r"{prompt} Answer in \boxed{}.", rf"{PROBLEM.prompt} Answer in \boxed{{}}."),
        (r"{prompt} {{hint}} {hint} {level}", rf"{PROBLEM.prompt} {{hint}} try \boxed{{}} 3"),
        ("{ prompt }", PROBLEM.prompt),
    ],
)
def test_only_the_template_is_formatted(template: str | None, text: str) -> None:
    assert render(PROBLEM, PromptOptions(template=template), chat=False) == text


@settings(deadline=None)
@given(st.text(min_size=1), st.text())
def test_the_problem_survives_any_braces(prompt: str, hint: str) -> None:
    row = Example("x", prompt, "1", {"hint": hint})
    assert render(row, PromptOptions(template="{hint}|{prompt}|{{}}"), chat=False) == f"{hint}|{prompt}|{{}}"


def test_an_unknown_placeholder_names_the_columns_there_are() -> None:
    with pytest.raises(
        SpecError, match=r"\{hnit\} names no column of 'gsm:1'; did you mean 'hint'\? known: hint, level, prompt, tags"
    ):
        render(PROBLEM, PromptOptions(template="{prompt} {hnit}"), chat=False)
    with pytest.raises(SpecError, match="names no column"):
        render(PROBLEM, PromptOptions(template=r"{prompt} \boxed{answer}"), chat=False)
    with pytest.raises(SpecError, match=r"\{tags\} is list in 'gsm:1'"):
        render(PROBLEM, PromptOptions(template="{prompt} {tags}"), chat=False)


def test_a_template_without_a_place_for_the_problem_is_refused_in_the_spec() -> None:
    with pytest.raises(ValidationError, match="every problem would look the same"):
        PromptOptions(template=r"Solve it. \boxed{} {{prompt}}")
    assert placeholders("{a} {{b}} { c } {} {1}") == ["a", "c"]


def test_text_is_encoded_as_it_is_without_a_chat_template() -> None:
    assert encode(PROBLEM, tokenizer(), PromptOptions()) == ids(str(PROBLEM.prompt))


def test_a_tokenizer_puts_its_begin_token_in_front_and_no_end_token_behind() -> None:
    row = Example("x", "2+2", "4")
    assert encode(row, tokenizer(begins_and_ends=True), PromptOptions()) == (1, *ids("2+2"))
    assert encode(row, tokenizer(begins_and_ends=True), PromptOptions(template="<s>{prompt}")) == (1, *ids("2+2"))


def test_a_chat_template_is_used_where_there_is_one_with_its_generation_prompt_and_one_begin_token() -> None:
    row = Example("x", "2+2", "4")
    expected = (1, *ids("[user]2+2"), 2, *ids("[assistant]"))
    assert encode(row, tokenizer(CHAT, begins_and_ends=True), PromptOptions()) == expected
    assert encode(row, tokenizer(CHAT), PromptOptions(chat="on")) == expected
    assert encode(row, tokenizer(CHAT), PromptOptions(chat="off")) == ids("2+2")


def test_template_and_system_message_go_into_the_chat() -> None:
    options = PromptOptions(template="{prompt}?", system="Sum.")
    expected = (1, *ids("[system]Sum."), 2, *ids("[user]2+2?"), 2, *ids("[assistant]"))
    assert encode(Example("x", "2+2", "4"), tokenizer(CHAT), options) == expected


def test_a_system_text_in_the_template_is_no_message_of_its_own() -> None:
    options = PromptOptions(template="{system} {prompt}", system="Sum.")
    assert encode(Example("x", "2+2", "4"), tokenizer(), options) == ids("Sum. 2+2")
    assert render(Example("x", "2+2", "4"), options, chat=True) == [{"role": "user", "content": "Sum. 2+2"}]


def test_a_list_of_messages_goes_to_the_chat_template_and_an_assistants_start_is_continued() -> None:
    messages = [{"role": "user", "content": "2+2"}]
    assert encode(Example("x", messages, "4"), tokenizer(CHAT), PromptOptions()) == (1, *ids("[user]2+2"), 2, *ids("[assistant]"))
    started = [*messages, {"role": "assistant", "content": "It is"}]
    assert encode(Example("x", started, "4"), tokenizer(CHAT), PromptOptions()) == (
        1,
        *ids("[user]2+2"),
        2,
        *ids("[assistant]It is"),
    )


@pytest.mark.parametrize(
    ("prompt", "template", "options", "error", "message"),
    [
        (
            [{"role": "user", "content": "q"}],
            None,
            {},
            SpecError,
            "needs a chat template, but the tokenizer has no chat template",
        ),
        ([{"role": "user", "content": "q"}], CHAT, {"chat": "off"}, SpecError, "needs a chat template, but prompt.chat is off"),
        ([{"role": "user", "content": "q"}], CHAT, {"template": "{prompt}"}, SpecError, "remove the template"),
        ([{"role": "system", "content": "s"}], CHAT, {"system": "t"}, SpecError, "a system message of their own"),
        ([{"role": "tool", "content": "s"}], CHAT, {}, ModelError, "refuses messages of the roles tool: no such role"),
        ("q", None, {"chat": "on"}, ModelError, "has no chat template"),
        ("q", None, {"system": "s"}, SpecError, "prompt.system has no effect: the tokenizer has no chat template"),
        ("q", CHAT, {"system": "s", "chat": "off"}, SpecError, "prompt.system has no effect: prompt.chat is off"),
    ],
)
def test_what_a_prompt_cannot_be_is_a_clear_error(
    prompt: Any, template: str | None, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        encode(Example("x", prompt, "4"), tokenizer(template), PromptOptions(**options))


def test_a_tokenizer_that_makes_nothing_of_a_prompt_is_refused() -> None:
    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    with pytest.raises(ModelError, match="encodes the prompt of 'x' to no tokens at all"):
        encode(Example("x", "2+2", "4"), PreTrainedTokenizerFast(tokenizer_object=backend), PromptOptions())


def test_long_prompts_stop_the_run_or_are_left_out_as_the_spec_says() -> None:
    rows = [Example(f"row-{n}", "1" * n, "1") for n in range(1, 7)]
    assert fitting(rows, tokenizer(), PromptOptions()) is rows
    assert list(fitting(rows, tokenizer(), PromptOptions(max_length=6))) == rows
    assert list(fitting(rows, tokenizer(), PromptOptions(max_length=4, too_long="drop"))) == rows[:4]
    with pytest.raises(
        DataError, match=r"4 of 6 prompts have more tokens than prompt.max_length \(2\): row-3, row-4, row-5 \.\.\.;"
    ):
        fitting(rows, tokenizer(), PromptOptions(max_length=2))
    with pytest.raises(DataError, match="5 of 5"):
        fitting(rows[1:], tokenizer(), PromptOptions(max_length=1, too_long="drop"))
    with pytest.raises(PromptTooLong, match=r"'row-6' has 6 tokens, more than prompt.max_length \(5\)"):
        encode(rows[5], tokenizer(), PromptOptions(max_length=5, too_long="drop"))


def test_prompt_options_without_effect_are_named() -> None:
    assert set(PromptOptions(chat="off").inert()) == {"system", "too_long", "few_shot_separator"}
    assert set(PromptOptions(chat="off", template="{system} {prompt}", system="s", max_length=5).inert()) == {
        "few_shot_separator"
    }
    assert set(PromptOptions(max_length=5, few_shot=[Shot(prompt="p", completion="c")]).inert()) == set()


def test_options_import_neither_torch_nor_datasets() -> None:
    code = (
        "import sys; import rlvr_core.tasks.options, rlvr_core.tasks.prompts, rlvr_core.reward.options; "
        "assert not {'torch', 'datasets', 'transformers', 'math_verify'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
