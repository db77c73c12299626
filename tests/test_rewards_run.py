"""Whole runs whose rewards misbehave: nothing hangs, nothing is silent, what is left is learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from metric_docs import undocumented

from rlvr_core.errors import DataError
from rlvr_core.policy.loading import save_model
from rlvr_core.running import run
from rlvr_core.testing import tiny_policy, tiny_tokenizer

REWARD = """
import os

def fragile(completions, **_):
    for text in completions:
        while text[:1] in "abcdefgh" and text: pass          # about one in thirty hangs
        if text[:1] in "0123456789": os._exit(1)
        if text[:1] in "ABCDEFGH": raise KeyError(text)
    return [None if text[:1] in "XYZ" else float(len(text) % 2) for text in completions]

def broken(completions, **_):
    raise KeyError("no such column")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    save_model(tiny_policy(dtype=torch.float32, vocab_size=257), tiny_tokenizer(), folder / "model")
    (folder / "reward.py").write_text(REWARD)
    return folder


def spec(place: Path, output: Path, function: str, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "steps": 2,
        "output": str(output),
        "model": {"name": str(place / "model")},
        "task": {"name": "arithmetic", "eval_problems": 4},
        "rewards": {"fragile": {"name": "function", "function": f"{place}/reward.py:{function}", "timeout_s": 0.3}},
        "objective": {"name": "grpo"},
        "rollout": {"prompts_per_step": 8, "group_size": 8, "max_completion_length": 6},
        "learner": {"learning_rate": 1e-3},
    }
    return {**data, **changes}


def test_a_run_gets_past_hanging_dying_and_failing_rewards(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(spec(place, tmp_path / "run", "fragile", scoring={"warn_share": 0.01}))
    assert result.summary["status"] == "finished"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert undocumented(sorted({name for row in rows for name in row})) == []
    for status in ("ok", "timeout", "crash", "error", "abstain"):
        assert any(row[f"reward/fragile/{status}"] > 0 for row in rows), status
    lost = ("crash", "error", "abstain")
    assert [row["reward/dropped"] for row in rows] == [
        pytest.approx(sum(row[f"reward/fragile/{s}"] for s in lost)) for row in rows
    ]
    assert "rewards.fragile: crash on" in capsys.readouterr().out.replace("\n", " ")


def test_a_reward_that_always_fails_ends_the_run_before_it_starts(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rewards\.fragile: failed on all 16 completions: KeyError"):
        run(spec(place, tmp_path / "run", "broken"))
    assert not (tmp_path / "run").exists()


def test_a_policy_of_stopping_stops(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rewards\.fragile: \w+ on sample .*scoring\.on_\w+ is stop"):
        run(spec(place, tmp_path / "run", "fragile", scoring={"on_crash": "stop", "on_error": "stop", "on_abstain": "stop"}))
