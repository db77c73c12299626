"""Whole runs on a tiny random model: what is written, resumed, refused; real processes for ranks and interruptions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from metric_docs import undocumented

from rlvr_core.clock import BETWEEN_STEPS, STAGES
from rlvr_core.errors import RunFolderError, SpecError
from rlvr_core.policy.loading import load_model, load_tokenizer, save_model
from rlvr_core.rollout.transformers_engine import TransformersEngine
from rlvr_core.running import load, run
from rlvr_core.testing import tiny_policy, tiny_tokenizer

REWARD = """
def vowels(completions, **_):
    return [float(sum(c in "aeiou" for c in text) > 0) for text in completions]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and a reward function."""
    folder = tmp_path_factory.mktemp("place")
    policy = tiny_policy(dtype=torch.float32, vocab_size=257)
    policy.generation_config.eos_token_id = policy.config.eos_token_id = tiny_tokenizer().eos_token_id
    policy.generation_config.pad_token_id = policy.config.pad_token_id = tiny_tokenizer().pad_token_id
    save_model(policy, tiny_tokenizer(), folder / "model")
    (folder / "reward.py").write_text(REWARD)
    return folder


def spec(place: Path, output: Path, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "steps": 4,
        "output": str(output),
        "model": {"name": str(place / "model")},
        "task": {"name": "arithmetic", "eval_problems": 12},
        "rewards": {"vowels": {"name": "function", "function": f"{place}/reward.py:vowels"}},
        "objective": {"name": "popo"},
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_completion_length": 8},
        "learner": {"learning_rate": 1e-2},
        "observers": {"jsonl": {"samples_every": 2}},
    }
    return {**data, **changes}


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load_model(str(output / "model"), dtype="float32").parameters()])


def test_what_the_engine_notes_of_the_policy_is_told(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(TransformersEngine, "notes", lambda _: ["this model decodes strangely"])
    run(spec(place, tmp_path / "run", steps=1, evaluation={"problems": 0}))
    captured = capsys.readouterr()
    assert "this model decodes strangely" in captured.out + captured.err


@pytest.mark.parametrize("objective", ["popo", "grpo", "ppo"])
def test_a_run_leaves_everything_a_reader_needs(place: Path, tmp_path: Path, objective: str) -> None:
    out = tmp_path / "run"
    result = run(spec(place, out, objective={"name": objective}, evaluation={"every": 2}))
    assert result.summary["objective"] == objective and result.summary["status"] == "finished"
    assert list(result.summary["eval"]) == ["before", "step 2", "after"]
    assert result.summary["eval"]["before"]["n"] == 12 and 0 <= result.summary["eval"]["after"]["pass@1"] <= 1
    assert json.loads((out / "summary.json").read_text())["eval"] == result.summary["eval"]
    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4]
    assert undocumented(sorted({name for row in rows(out) for name in row})) == []
    assert len((out / "samples.jsonl").read_text().splitlines()) == 3 * 4  # steps 1, 2 and 4
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["plugins"]["rlvr-popo"] and manifest["packages"]["torch"] and manifest["seed"] == 0
    assert all(Path(path).exists() for path in result.summary["written"].values())
    before = len((out / "eval" / "before.jsonl").read_text().splitlines())
    assert before == 12


def test_the_saved_model_gives_the_evaluation_again(place: Path, tmp_path: Path) -> None:
    """Transformers alone loads model and tokenizer, decodes greedily, and reproduces the run's own greedy evaluation."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "run"
    run(spec(place, out, evaluation={"temperature": 0.0}))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out / "model"), AutoTokenizer.from_pretrained(out / "model")
    saved = [json.loads(line) for line in (out / "eval" / "after.jsonl").read_text().splitlines()]
    same = 0
    for row in saved:
        inputs = tokenizer(row["prompt"], return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        same += tokenizer.decode(ids, skip_special_tokens=True) == row["completion"]
    assert same == len(saved) == 12


def test_the_probe_sees_dropped_rollouts_move_and_moves_nothing_itself(place: Path, tmp_path: Path) -> None:
    run(spec(place, tmp_path / "plain"))
    run(spec(place, tmp_path / "probed", learner={"learning_rate": 1e-2, "probe_dropped": 3}))
    assert torch.equal(weights(tmp_path / "plain"), weights(tmp_path / "probed"))
    assert not any("probe/dropped_logprob_before" in row for row in rows(tmp_path / "plain"))
    probed = [row for row in rows(tmp_path / "probed") if "probe/dropped_logprob_before" in row]
    assert probed and all(row["probe/dropped_logprob_before"] < 0 for row in probed)
    assert any(row["probe/dropped_logprob_after"] != row["probe/dropped_logprob_before"] for row in probed)
    assert undocumented(sorted(probed[0])) == []


def test_a_run_is_repeatable_and_another_seed_is_another_run(place: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(spec(place, tmp_path / name, seed=seed))
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_the_resolved_spec_runs_again_to_the_same_weights(place: Path, tmp_path: Path) -> None:
    run(spec(place, tmp_path / "a"))
    resolved = yaml.safe_load((tmp_path / "a" / "spec.yaml").read_text())
    run({**resolved, "output": str(tmp_path / "b")})
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize("objective", ["popo", "ppo"])
def test_a_resumed_run_ends_as_one_that_never_stopped(place: Path, tmp_path: Path, objective: str) -> None:
    learner = {"learning_rate": 1e-2, "lr_scheduler": "linear"}
    parts = {"objective": {"name": objective}, "checkpoint": {"every": 2, "keep": 2}, "learner": learner}
    for name in ("whole", "resumed"):
        run(spec(place, tmp_path / name, **parts))
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-000004")
    run(tmp_path / "resumed" / "spec.yaml", resume=True)
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    timeless = [
        [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows(tmp_path / n)]
        for n in ("whole", "resumed")
    ]
    assert timeless[0] == timeless[1]


def test_a_folder_in_the_way_is_left_alone_unless_told_otherwise(place: Path, tmp_path: Path) -> None:
    run(spec(place, tmp_path / "run", steps=1))
    before = (tmp_path / "run" / "summary.json").stat().st_mtime_ns
    with pytest.raises(RunFolderError, match="--overwrite"):
        run(spec(place, tmp_path / "run", steps=1))
    assert (tmp_path / "run" / "summary.json").stat().st_mtime_ns == before
    run(spec(place, tmp_path / "run", steps=2), overwrite=True)
    assert len(rows(tmp_path / "run")) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="left alone"):
        run(spec(place, tmp_path / "mine"), overwrite=True)


def test_a_mistake_in_the_spec_writes_nothing(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="learning_rat"):
        run(spec(place, tmp_path / "run", learner={"learning_rat": 1.0}))
    assert not (tmp_path / "run").exists()


def test_a_step_without_signal_moves_nothing_and_is_reported(place: Path, tmp_path: Path) -> None:
    (place / "nothing.py").write_text("def nothing(completions, **_):\n    return [0.0] * len(completions)\n")
    rewards = {"nothing": {"name": "function", "function": f"{place}/nothing.py:nothing"}}
    for objective in ("popo", "grpo"):
        result = run(spec(place, tmp_path / objective, rewards=rewards, objective={"name": objective}))
        assert [row["learn/skipped"] for row in rows(tmp_path / objective)] == [1.0] * 4
        assert result.summary["optimizer_steps"] == 0
        assert torch.equal(weights(tmp_path / objective), weights(place))
    stopped = run(spec(place, tmp_path / "stop", rewards=rewards, rollout={"on_empty": "stop", "max_completion_length": 8}))
    assert stopped.summary["steps"] == 1 and "no signal" in stopped.summary["status"]


@pytest.mark.parametrize("objective", ["popo", "grpo"])
def test_a_step_without_signal_is_drawn_again_with_other_prompts_where_the_spec_says_so(
    place: Path, tmp_path: Path, objective: str
) -> None:
    """POPO keeps nothing, GRPO keeps rollouts of which every credit is 0: both are steps without signal."""
    (place / "nothing.py").write_text("def nothing(completions, **_):\n    return [0.0] * len(completions)\n")
    rewards = {"nothing": {"name": "function", "function": f"{place}/nothing.py:nothing"}}
    rollout = {"on_empty": "resample", "max_refills": 3, "max_completion_length": 8, "prompts_per_step": 2, "group_size": 2}
    run(spec(place, tmp_path / "run", rewards=rewards, rollout=rollout, objective={"name": objective}, steps=2))
    assert [(row["select/refills"], row["learn/skipped"]) for row in rows(tmp_path / "run")] == [(3.0, 1.0)] * 2
    sampled = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert {row["prompt_number"] for row in sampled if row["step"] == 1} == {6, 7}  # the fourth draw of two


def test_the_stale_inexact_engine_goes_through_prepare_and_every_objective_survives_it(place: Path, tmp_path: Path) -> None:
    from rlvr_core.plugins import Catalogue, Component, catalogue
    from rlvr_core.spec.resolve import resolve
    from rlvr_core.spec.source import from_mapping
    from rlvr_core.testing.fakes import StaleEngineOptions

    fake = Component("rollout", "stale", "rlvr_core.testing.fakes:StaleEngine", StaleEngineOptions, "a fake", "test", "0")
    installed = Catalogue({**catalogue().components, ("rollout", "stale"): fake})
    for objective in ("popo", "grpo", "ppo"):
        data = spec(place, tmp_path / objective, objective={"name": objective})
        data["rollout"]["engine"] = {"name": "stale"}
        result = run(resolve(from_mapping(data), installed))
        found = rows(tmp_path / objective)
        learned = [row for row in found if not row["learn/skipped"]]
        assert result.summary["optimizer_steps"] == len(learned) >= 2
        assert all(row["correction/logprob_gap"] > 0 and row["learn/grad_norm"] > 0 for row in learned)


GSM8K = [
    {
        "id": f"row-{i}",
        "problem": f"Tom has {i} apples and buys {i + 3}. How many has he?",
        "answer": str(2 * i + 3),
        "solution": "...",
    }
    for i in range(24)
]


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k_hub"])
def test_the_gsm8k_specs_run_end_to_end_on_rows_and_models_of_ones_own(place: Path, tmp_path: Path, name: str) -> None:
    """The shipped specs, with a local model and local data: a JSON-lines file, or a folder laid out like the hub's data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rlvr_core.cli.options import resolved_from

    changes = [
        "rollout.max_completion_length=6",
        "rollout.prompts_per_step=2",
        "rollout.group_size=2",
        "rollout.stop=['!']",
        "steps=2",
    ]
    if name == "gsm8k":
        for part in ("train", "test"):
            (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
        changes += [f"task.path={tmp_path}/train.jsonl", f"task.eval_path={tmp_path}/test.jsonl"]
    else:
        table = {"question": [r["problem"] for r in GSM8K], "answer": [f"{r['solution']} #### {r['answer']}" for r in GSM8K]}
        for part in ("train", "test"):
            (tmp_path / "hub" / "main").mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(table), tmp_path / "hub" / "main" / f"{part}-00000.parquet")
        files = [{"split": part, "path": f"main/{part}-*.parquet"} for part in ("train", "test")]
        card = yaml.safe_dump({"configs": [{"config_name": "main", "data_files": files}]})
        (tmp_path / "hub" / "README.md").write_text(f"---\n{card}---\n")
        changes += [f"task.path={tmp_path}/hub", f"task.cache_dir={tmp_path}/cache"]
    spec_file = Path(__file__).parent.parent / "specs" / f"{name}.yaml"
    result = run(resolved_from(spec_file, None, str(place / "model"), None, str(tmp_path / "run"), None, None, changes))
    assert result.summary["status"] == "finished" and result.summary["eval"]["after"]["n"] == 24
    sample = json.loads((tmp_path / "run" / "eval" / "after.jsonl").read_text().splitlines()[0])
    assert sample["gold"] == "3" and "apples" in sample["prompt"]
    assert weights(tmp_path / "run").isfinite().all()


def launch(place: Path, output: Path, ranks: int, port: int, **changes: Any) -> None:
    file = output.parent / f"{output.name}.yaml"
    file.write_text(yaml.safe_dump(spec(place, output, **changes)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
    done = subprocess.run([*command, "-m", "rlvr_core", "run", str(file)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_ranks_take_the_same_steps_as_one(place: Path, tmp_path: Path) -> None:
    launch(place, tmp_path / "one", 1, 29611, steps=2)
    launch(place, tmp_path / "two", 2, 29612, steps=2)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for ranks, name in ((1, "one"), (2, "two")):
        assert json.loads((tmp_path / name / "summary.json").read_text())["ranks"] == ranks
    assert [row["step"] for row in two] == [1, 2]  # one rank writes
    for key in ("reward/mean", "select/kept", "rollout/completion_length", "loss/total", "learn/grad_norm"):
        assert two[0][key] == pytest.approx(one[0][key], rel=1e-4), key
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=2e-4, rtol=1e-3)


def start_run(file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rlvr_core", "run", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_cleanly_says_what_was_kept_and_can_be_resumed(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text(
        yaml.safe_dump(spec(place, tmp_path / "run", steps=100_000, observers={"jsonl": {}, "progress": {"every": 1000}}))
    )
    process = start_run(file)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "checkpoint" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    last = summary["steps"]
    assert summary["status"] == f"interrupted after step {last}" and len(rows(tmp_path / "run")) == last
    assert load_tokenizer(str(tmp_path / "run" / "model"))
    data = yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())
    result = run({**data, "steps": last + 2}, resume=True)
    assert result.summary["status"] == "finished" and len(rows(tmp_path / "run")) == last + 2


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rlvr_core", *arguments], capture_output=True, text=True, timeout=120)


def test_mistakes_on_the_command_line_are_one_line_and_exit_code_2(place: Path, tmp_path: Path) -> None:
    run(spec(place, tmp_path / "done", steps=1))
    (tmp_path / "file").write_text("")
    mistakes = {
        ("run", "--resume", str(tmp_path / "done")): "nothing to resume",
        ("run", "--resume", str(tmp_path / "nowhere")): "no such folder",
        ("run", "--steps", "3", "--set", "steps=4"): "given twice",
        ("run", "--model", "m", "--task", "arithmetic"): "--objective",
        ("run", "--output", str(tmp_path / "file" / "x")): "not a folder one can write to",
        ("run", "--objective", "grpo", "--set", "objective.credit.name=gae"): "objective.regularisers.value.name=value",
        ("report", str(tmp_path / "done"), "--output", str(tmp_path)): "ends in .png",
        ("report", str(tmp_path / "file")): "no run's folder",
        (
            "plan",
            "--model",
            str(place / "model"),
            "--task",
            "jsonl",
            "--objective",
            "grpo",
            "--set",
            "task.path=gone.jsonl",
        ): "gone.jsonl",
    }
    for arguments, said in mistakes.items():
        done = cli(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1, (arguments, done.stderr)


def test_an_interruption_before_the_first_step_says_that_nothing_was_written(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    (place / "slow.py").write_text(
        "import time\ndef slow(completions, **_):\n    time.sleep(60)\n    return [0.0] * len(completions)\n"
    )
    rewards = {"slow": {"name": "function", "function": f"{place}/slow.py:slow"}}
    file.write_text(yaml.safe_dump(spec(place, tmp_path / "run", rewards=rewards)))
    process = start_run(file)
    assert process.stdout is not None
    while "tokenizer:" not in (line := process.stdout.readline()):
        assert line, "the run ended by itself"
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "nothing was written" in output and not (tmp_path / "run").exists()


def test_changes_from_a_notebook_are_taken_or_refused_never_dropped(place: Path, tmp_path: Path) -> None:
    result = run(spec(place, tmp_path / "run"), set="steps=1")
    assert result.summary["steps"] == 1
    with pytest.raises(SpecError, match="takes no changes"):
        run(load(spec(place, tmp_path / "other")), set=["steps=1"])


def test_a_profile_of_the_first_steps_opens_as_a_trace_with_every_stage(place: Path, tmp_path: Path) -> None:
    run(spec(place, tmp_path / "run", steps=3), profile=True)
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert {"rlvr/rollout", "rlvr/reward", "rlvr/select", "rlvr/learn", "rlvr/reference"} <= {
        event.get("name") for event in events
    }


def test_a_steps_seconds_add_up_and_evaluations_are_counted_beside_it(place: Path, tmp_path: Path) -> None:
    result = run(spec(place, tmp_path / "run", evaluation={"every": 2}, checkpoint={"every": 2}))
    for row in rows(tmp_path / "run"):
        inside = sum(row[f"time/{stage}"] for stage in STAGES if stage not in BETWEEN_STEPS)
        assert inside + row["time/other"] == pytest.approx(row["time/step"])
        assert (row["time/eval"] > 0) == (row["step"] in (1, 3)) and (row["time/checkpoint"] > 0) == (row["step"] == 3)
    spent = result.summary["seconds"]
    assert set(spent) >= {"rollout", "reward", "select", "learn", "reference", "eval", "checkpoint", "other"}
    assert sum(spent.values()) == pytest.approx(result.summary["wall_s"], abs=0.5)
