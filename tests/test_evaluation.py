"""Evaluations: figures, votes, `rlvr eval` on runs and models, killed and resumed, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlvr_core import cli
from rlvr_core.cli.eval_command import parse_k, resolved_for
from rlvr_core.contracts import Reward
from rlvr_core.errors import DataError, RlvrError, RunFolderError, SpecError
from rlvr_core.evaluation.files import PROBLEMS, RESULT, SETTINGS, read_problems
from rlvr_core.evaluation.problems import Problem, Sample, figures, to_problems
from rlvr_core.options import Options
from rlvr_core.policy.loading import save_model
from rlvr_core.records import Example, Outcome, RewardItem, Rollout, RowKey
from rlvr_core.reward.math import MathReward
from rlvr_core.reward.options import MathOptions
from rlvr_core.rollout.collect import WeightedReward
from rlvr_core.running import run
from rlvr_core.tasks.jsonl import JsonlTask
from rlvr_core.tasks.options import JsonlOptions
from rlvr_core.testing import tiny_policy, tiny_tokenizer

REWARD = """
import os, pathlib
calls = 0
def vowels(completions, **_):
    global calls
    calls += 1
    fuse = pathlib.Path(__file__).with_name("fuse")
    if fuse.exists() and calls >= int(fuse.read_text()):
        os.kill(os.getpid(), 9)
    return [float(sum(c in "aeiou" for c in text) > 0) for text in completions]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a reward function, a spec and a finished run."""
    folder = tmp_path_factory.mktemp("place")
    policy = tiny_policy(dtype=torch.float32, vocab_size=257)
    policy.generation_config.eos_token_id = policy.config.eos_token_id = tiny_tokenizer().eos_token_id
    policy.generation_config.pad_token_id = policy.config.pad_token_id = tiny_tokenizer().pad_token_id
    save_model(policy, tiny_tokenizer(), folder / "model")
    (folder / "reward.py").write_text(REWARD)
    spec = {
        "steps": 1,
        "output": str(folder / "run"),
        "model": {"name": str(folder / "model")},
        "task": {"name": "arithmetic", "eval_problems": 12},
        "rewards": {"vowels": {"name": "function", "function": f"{folder}/reward.py:vowels", "in_process": True}},
        "objective": {"name": "popo"},
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_completion_length": 8},
        "learner": {"learning_rate": 1e-2},
        "evaluation": {"samples": 4, "k": [1, 2, 4], "greedy": True, "every": 1},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    run(spec)
    return folder


def evaluate(*arguments: str) -> None:
    """`rlvr eval`, in this process; errors come out as exceptions."""
    cli.app(["eval", *arguments], standalone_mode=False)


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return found


def sample(right: bool, answer: str | None = None, status: str = "ok") -> Sample:
    return Sample("text", 3, "stop", float(right), right, answer, {}, status)


def problem(*samples: Sample, greedy: Sample | None = None, part: str | None = None) -> Problem:
    return Problem("id", part, "prompt", "gold", tuple(samples), greedy)


# --------------------------------------------------------------------------------------------------------------- figures


def test_figures_are_means_over_problems_with_intervals() -> None:
    right, wrong = sample(True, "72"), sample(False, "5")
    found = figures([problem(right, right, wrong, wrong), problem(wrong, wrong, wrong, right)], [1, 2, 4], votes=True)
    assert found["pass@1"] == found["avg@4"] == pytest.approx(3 / 8)
    assert found["pass@2"] == pytest.approx(((1 - 1 / 6) + (1 - 3 / 6)) / 2)
    assert found["pass@4"] == 1.0
    assert found["maj@4"] == pytest.approx((0.5 + 0.0) / 2)  # a tie of two, then one vote against three
    assert found["pass@1_low"] <= found["pass@1"] <= found["pass@1_high"]
    assert "greedy" not in found and (found["n"], found["samples"]) == (2, 4)


def test_without_answers_there_is_no_vote() -> None:
    assert not [name for name in figures([problem(sample(True), sample(False))], [1, 2], votes=False) if name.startswith("maj")]


def test_wrong_answers_that_differ_do_not_vote_together() -> None:
    split = problem(sample(True, "1"), sample(True, "1"), sample(False, "2"), sample(False, "3"), sample(False, "4"))
    united = problem(sample(True, "1"), sample(True, "1"), sample(False, "2"), sample(False, "2"), sample(False, "2"))
    silent = problem(sample(True, "1"), *[sample(False, None, "no_answer")] * 4)
    assert [figures([p], [5], votes=True)["maj@5"] for p in (split, united, silent)] == [1.0, 0.0, 1.0]


def test_k_above_the_samples_is_an_error_that_names_both() -> None:
    with pytest.raises(DataError, match="k is 8, but only 2 samples"):
        figures([problem(sample(True), sample(True))], [8], votes=False)


def test_each_part_of_a_mixture_has_its_own_figure() -> None:
    found = figures([problem(sample(True), part="easy"), problem(sample(False), part="hard")], [1], votes=False)
    assert (found["pass@1/easy"], found["pass@1/hard"], found["pass@1"]) == (1.0, 0.0, 0.5)


def test_a_row_of_problems_jsonl_is_read_back_as_it_was() -> None:
    before = problem(sample(True, "1"), sample(False), greedy=sample(True), part="a")
    row = json.loads(json.dumps(before.as_row()))
    assert Problem.from_row(row) == before
    assert (row["n"], row["right"], row["pass_rate"]) == (2, 1, 0.5)


def test_numbers_written_in_two_ways_are_one_answer() -> None:
    reward = MathReward(MathOptions())
    assert reward.states_answers
    assert reward.answer(r"so \boxed{0.5}") == reward.answer(r"\boxed{\frac{1}{2}}") is not None
    assert reward.answer(r"\boxed{3}") != reward.answer(r"\boxed{4}")
    assert reward.answer("no idea") is None


class Scripted(Reward):
    """Gives what it was told to."""

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        return []


def test_the_first_reward_that_does_not_abstain_decides() -> None:
    rewards = [WeightedReward(label, Scripted(Options()), 1.0) for label in ("first", "second")]
    outcomes = {"first": Outcome(None, "abstain"), "second": Outcome(1.0)}
    rollout = Rollout(RowKey(-1, 0, 0), Example("id", "p", "g"), (1,), (2,), (0.0,), "stop", True, 0, outcomes=outcomes)
    assert to_problems([rollout], [], rewards)[0].right == 1
    assert not rewards[0].reward.states_answers


# ------------------------------------------------------------------------------------------------------------- rlvr eval


def test_training_evaluates_with_the_same_figures(place: Path, tmp_path: Path) -> None:
    """What `rlvr eval` finds for a run's model is what the run found after its last step."""
    evaluate(str(place / "run"), "--output", str(tmp_path / "found"))
    after = json.loads((place / "run" / "summary.json").read_text())["eval"]["after"]
    assert result_of(tmp_path / "found")["figures"] == after
    assert {"pass@4", "greedy", "pass@4_low"} <= set(after) and "maj@4" not in after  # the function has no notion of an answer


def test_results_hold_every_setting_and_a_row_for_each_problem(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    evaluate(str(place / "run"), "--samples", "3", "--k", "1,3", "--temperature", "0.7", "--seed", "5", "--output", str(out))
    settings = result_of(out)["settings"]
    assert settings["evaluation"] == {"problems": None, "samples": 3, "k": [1, 3], "greedy": True, "temperature": 0.7}
    assert settings["seed"] == 5 and settings["rollout"]["max_completion_length"] == 8
    rows = [json.loads(line) for line in (out / PROBLEMS).read_text().splitlines()]
    assert len(rows) == 12 and all(len(row["samples"]) == row["n"] == 3 and row["greedy"] for row in rows)
    assert rows[0]["samples"][0]["outcomes"]["vowels"]["status"] == "ok"


def test_the_first_samples_are_the_same_however_many_are_drawn(place: Path, tmp_path: Path) -> None:
    for number in ("2", "4"):
        evaluate(str(place / "run"), "--samples", number, "--k", "1", "--output", str(tmp_path / number))
    few, many = (read_problems(tmp_path / number / PROBLEMS, 1, 12) for number in ("2", "4"))
    assert [p.samples for p in few] == [p.samples[:2] for p in many]


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_figures(place: Path, tmp_path: Path) -> None:
    arguments = [str(place / "run"), "--set", "rows_per_save=8"]
    evaluate(*arguments, "--output", str(tmp_path / "whole"))
    killed = tmp_path / "killed"
    (place / "fuse").write_text("5")  # calls of the reward: golds are not checked, two in each batch
    try:
        command = [sys.executable, "-m", "rlvr_core", "eval", *arguments, "--output", str(killed)]
        assert subprocess.run(command, capture_output=True, timeout=120).returncode == -9
    finally:
        (place / "fuse").unlink()
    assert 0 < len((killed / PROBLEMS).read_text().splitlines()) < 12 and not (killed / RESULT).exists()
    with (killed / PROBLEMS).open("a") as rows:
        rows.write('{"id": "cut off in the mid')
    evaluate(*arguments, "--output", str(killed))
    assert (killed / PROBLEMS).read_bytes() == (tmp_path / "whole" / PROBLEMS).read_bytes()
    assert result_of(killed)["figures"] == result_of(tmp_path / "whole")["figures"]


def test_a_batch_that_was_written_in_part_is_drawn_again(place: Path, tmp_path: Path) -> None:
    evaluate(str(place / "run"), "--output", str(tmp_path))
    lines = (tmp_path / PROBLEMS).read_text().splitlines(keepends=True)
    (tmp_path / PROBLEMS).write_text("".join(lines[:7]) + lines[7][:30])
    assert len(read_problems(tmp_path / PROBLEMS, 4, 12)) == 4
    assert len(read_problems(tmp_path / PROBLEMS, 7, 12)) == 7


def test_a_finished_evaluation_with_other_settings_is_not_overwritten_unasked(place: Path, tmp_path: Path) -> None:
    arguments = [str(place / "run"), "--output", str(tmp_path / "found")]
    evaluate(*arguments)
    before = (tmp_path / "found" / RESULT).read_bytes()
    with pytest.raises(RunFolderError, match=r"other settings \(seed: 0 there, 1 now\); choose another --output, or --overwrite"):
        evaluate(*arguments, "--seed", "1")
    assert (tmp_path / "found" / RESULT).read_bytes() == before
    evaluate(*arguments, "--seed", "1", "--overwrite")
    assert result_of(tmp_path / "found")["settings"]["seed"] == 1


def test_other_weights_are_other_settings(place: Path, tmp_path: Path) -> None:
    spec = str(place / "spec.yaml")
    evaluate(str(place / "run" / "model"), "--task", spec, "--output", str(tmp_path / "found"))
    settings = json.loads((tmp_path / "found" / SETTINGS).read_text())
    evaluate(str(place / "model"), "--task", spec, "--output", str(tmp_path / "start"))
    assert json.loads((tmp_path / "start" / SETTINGS).read_text())["weights"] != settings["weights"]


def test_a_model_without_a_run_takes_its_task_from_a_spec(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate(str(place / "model"), "--task", str(place / "spec.yaml"))
    assert result_of(tmp_path / "evals" / "model-spec")["figures"]["n"] == 12
    shown = capsys.readouterr().out
    assert "pass@4" in shown and "95 %" in shown and "evals/model-spec/eval.json" in shown


def test_several_tasks_are_evaluated_each_into_its_folder(place: Path, tmp_path: Path) -> None:
    tasks = ["--task", str(place / "spec.yaml"), "--task", "arithmetic"]
    evaluate(str(place / "run"), *tasks, "--set", "evaluation.problems=4", "--output", str(tmp_path))
    assert {path.parent.name for path in tmp_path.glob(f"*/{RESULT}")} == {"spec", "arithmetic"}


def test_greedy_from_the_command_line_overrules_what_the_run_drew(place: Path, tmp_path: Path) -> None:
    evaluate(str(place / "run"), "--temperature", "0", "--output", str(tmp_path / "greedy"))
    evaluate(str(place / "run"), "--output", str(tmp_path / "drawn"))
    greedy, drawn = (result_of(tmp_path / name)["figures"] for name in ("greedy", "drawn"))
    assert greedy["samples"] == 1 and greedy["pass@1"] == drawn["greedy"]


def test_training_problems_can_be_evaluated(place: Path, tmp_path: Path) -> None:
    evaluate(str(place / "run"), "--split", "train", "--set", "evaluation.problems=5", "--output", str(tmp_path))
    assert [p.id for p in read_problems(tmp_path / PROBLEMS, 1, 5)] == [f"arithmetic/train/{n}" for n in range(5)]


def test_measured_pass_rates_choose_what_is_trained_on(place: Path, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"problem": f"{n}+{n}=", "answer": 2 * n}) + "\n" for n in range(8))
    (tmp_path / "rows.jsonl").write_text(rows)
    task = f"task={{name: jsonl, path: {tmp_path}/rows.jsonl, eval_fraction: 0.0}}"
    out = tmp_path / "rates"
    evaluate(str(place / "run"), "--set", task, "--split", "train", "--output", str(out))
    rates = {p.prompt: p.right / 4 for p in read_problems(out / PROBLEMS, 1, 8)}
    assert len(set(rates.values())) > 1
    bounds = JsonlOptions(
        path=f"{tmp_path}/rows.jsonl", eval_fraction=0.0, pass_rates=str(out / PROBLEMS), min_pass_rate=max(rates.values())
    )
    expected = [prompt for prompt, rate in rates.items() if rate == max(rates.values())]
    assert [example.prompt for example in JsonlTask(bounds).train()] == expected


@pytest.mark.parametrize("file", sorted((Path(__file__).parent.parent / "specs" / "eval").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_evaluations_need_only_the_data(file: Path, tmp_path: Path) -> None:
    resolved = resolved_for("some/model", str(file), [(("task", "eval_path"), "mine.jsonl", "--set")])
    assert resolved.task.as_dict()["eval_path"] == "mine.jsonl" and resolved.spec.evaluation.greedy
    rows = tmp_path / "mine.jsonl"
    layouts = {"aime": {"problem": "p", "answer": "70"}, "gsm8k": {"question": "p", "answer": "#### 70"}}
    rows.write_text(json.dumps(layouts[resolved.task.as_dict()["layout"]]) + "\n")
    task = resolved_for("m", str(file), [(("task", "eval_path"), str(rows), "--set")]).task.build()
    assert [example.gold for example in task.evaluation()] == ["70"]


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(place: Path, tmp_path: Path) -> None:
    arguments = ["-m", "rlvr_core", "eval", str(place / "run"), "--output"]
    evaluate(str(place / "run"), "--output", str(tmp_path / "one"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*launcher, *arguments, str(tmp_path / "two")], check=True, env=environment, timeout=300)
    assert result_of(tmp_path / "two")["figures"] == result_of(tmp_path / "one")["figures"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "4", "--k", "8"], "--k 8: evaluation.k: k is 8, but only 4 samples"),
        (["--k", "a"], "--k a: write whole numbers"),
        (["--k", "0"], "--k 0: evaluation.k: write numbers of samples, each at least 1"),
        (["--samples", "2"], "evaluation.k: k is 4, but only 2 samples"),
        (["--temperature", "0", "--samples", "4"], "evaluation.samples: has no effect"),
        (["--split", "test"], "input should be 'eval' or 'train'"),
        (["--set", "steps=3"], "is about training and has no effect on an evaluation"),
        (["--set", "rollout.temperature=1"], "evaluations draw at evaluation.temperature"),
        (["--set", "evaluation.every=2"], "it says how often a run evaluates"),
        (["--set", "evaluation.problems=0"], "leave nothing to evaluate"),
        (["--set", "evaluation.samples=4", "--samples", "4"], "is given twice"),
        (["--set", "model.name=x"], "the command's first argument"),
        (["--task", "nowhere.yaml"], "no such spec file"),
        (["--task", "arithmatic"], "did you mean 'arithmetic'"),
        (["--task", "arithmetic", "--task", "arithmetic"], "is given twice"),
        (["--set", "task.eval_problems=0"], "holds no problems out; use --split train"),
    ],
)
def test_a_mistake_is_one_line_with_a_way_out(place: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(RlvrError) as caught:
        evaluate(str(place / "run"), *arguments, "--output", str(tmp_path / "out"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_evaluated_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="say on what, with --task"):
        evaluate(str(place / "model"))
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    for name in ("manifest.json", "spec.yaml"):
        (unfinished / name).write_text("{}")
    with pytest.raises(RunFolderError, match="holds no model yet"):
        evaluate(str(unfinished))
    (unfinished / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is no evaluation's folder, so it is left alone"):
        evaluate(str(place / "run"), "--output", str(unfinished))
    assert (unfinished / "notes.txt").read_text() == "mine"


def test_k_is_a_list_of_numbers() -> None:
    assert parse_k("1,8,32") == [1, 8, 32]
