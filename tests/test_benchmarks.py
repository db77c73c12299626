"""Benchmarks run: each command at its smallest size, and what an accelerator changes in it. Their figures are not looked at here."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICK = sorted(run.parent.name for run in BENCHMARKS.glob("*/run.py") if "arguments_of(" in run.read_text())


def script(name: str) -> ModuleType:
    """A benchmark's run.py as a module, in this process: starting another would take longer than what it does."""
    return module(f"benchmark_{name}", BENCHMARKS / name / "run.py")


def module(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What benchmarks share."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("common")


class Event:
    """A CUDA event on a machine without CUDA."""

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Any) -> float:
        return max(1e-6, 1000 * (end.at - self.at))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that benchmarks take for an accelerator: any but "cpu". What they ask CUDA is answered."""
    bytes_ = count(2**20, 2**20)
    answers = {
        "synchronize": lambda: None, "get_device_name": lambda: "a card", "Event": Event, "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None, "memory_allocated": lambda: 0, "max_memory_allocated": lambda: next(bytes_),
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return "cpu:0"


def test_benchmarks_that_have_a_smallest_size_are_found() -> None:
    assert {"memory", "positive_rate", "rollout_tail", "scaling", "step_time"} <= set(QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_it_runs_and_leaves_the_table_that_it_prints(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    script(name).main(["--quick", "--device", "cpu", "--output", str(tmp_path)])
    table = (tmp_path / "table.md").read_text()
    assert table.strip() == capsys.readouterr().out.strip()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 2 and len({row.count("|") for row in rows}) == 1
    assert (tmp_path / "plot.png").exists() == (name == "positive_rate")


@pytest.mark.parametrize("name", QUICK)
def test_it_runs_on_an_accelerator_and_names_it(
    name: str, card: str, common: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = script(name)
    if hasattr(made, "ceilings"):
        monkeypatch.setattr(made, "ceilings", lambda device: common.ceilings(device, side=16, gib=2**-20, turns=1))
    made.main(["--quick", "--device", card, "--output", str(tmp_path)])
    table = (tmp_path / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 2 and len({row.count("|") for row in rows}) == 1
    assert "a card" in table and ("share of" in table) == hasattr(made, "ceilings")


def test_a_device_is_measured_by_a_product_and_a_copy(common: Any) -> None:
    found = common.ceilings("cpu", side=32, gib=2**-10, turns=2)
    assert found.operations > 0 and found.bytes > 0
    assert "TFLOP/s (float32 matrix product)" in str(found)


def test_work_of_learning_is_what_a_count_of_its_forward_says(common: Any) -> None:
    rows, length = 2, 24
    model = common.random_qwen2("tiny", "cpu", attn_implementation="eager")  # which a counter sees into
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(rows, length, dtype=torch.int64), use_cache=False)
    shape = common.SIZES["tiny"]
    whole = 4 * shape[1] * shape[3] * length**2 * rows  # attention's products, of which a causal half is to be counted
    assert common.learning_work(shape, [(0, length)] * rows) == 3 * (counter.get_total_flops() - whole / 2)
    assert common.learning_work(shape, [(8, 16)]) < common.learning_work(shape, [(0, 24)])  # no head on prompts


def test_bytes_of_decoding_are_weights_each_step_and_each_rows_cache(common: Any) -> None:
    vocabulary, hidden, _, layers, heads, shared = shape = common.SIZES["tiny"]
    weights = sum(p.numel() for name, p in common.random_qwen2("tiny", "cpu").named_parameters() if p.dim() == 2)
    weights -= vocabulary * hidden  # of embeddings a row is read
    token = 2 * layers * hidden * shared // heads
    assert common.decoding_bytes(shape, [(5, 3), (7, 1)]) == 2 * (3 * weights + token * (5 + 6 + 7 + 7))


def test_a_trainer_that_fails_leaves_the_others_rows_and_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = script("step_time")
    row = {
        "name": "a",
        "seconds": [1.0],
        "rollout": [0.5],
        "drawn": [[[2, 3]]],
        "learned": [[[2, 3]]],
        "peak_mb": 1.0,
        "stages": {},
    }
    monkeypatch.setattr(made, "measured", lambda trainer, *_: "no memory" if trainer == "bare_all" else {**row, "name": trainer})
    with pytest.raises(SystemExit, match="1 of 4 runs failed"):
        made.main(["--quick", "--device", "cpu", "--output", str(tmp_path)])
    assert "no memory" in capsys.readouterr().err
    assert "| popo | 1.0 | 0.5 |" in (tmp_path / "table.md").read_text()
    assert set(json.loads((tmp_path / "rows.json").read_text())) == {"grpo", "popo", "bare_positives"}


def fake_benchmarks(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> ModuleType:
    """all.py over other benchmarks than ours."""
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "run.py").write_text(text)
    made = module("all_benchmarks", BENCHMARKS / "all.py")
    monkeypatch.setattr(made, "HERE", folder)
    monkeypatch.setattr(made, "GPU_SECONDS", dict.fromkeys(texts, 1.0))
    monkeypatch.setattr(made, "LEAST", 0)
    return made


def test_all_goes_on_after_one_that_fails_or_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {
        "first": "raise ValueError('broken')",
        "second": "print('begun'); import time; time.sleep(60)",
        "third": "print('whole')",
    }
    made = fake_benchmarks(tmp_path, monkeypatch, **here)
    started = time.monotonic()
    assert made.main(["--output", str(tmp_path / "out"), "--device", "cuda"]) == 1
    assert time.monotonic() - started < 30
    assert "ValueError: broken" in (tmp_path / "out/first/log.txt").read_text()
    assert (tmp_path / "out/second/log.txt").read_text() == "begun\n"
    told = capsys.readouterr().out
    assert "whole" in told and re.search(r"\| first \| \d+ \| failed \(1\)", told)
    assert "cut off after 1 s" in told and re.search(r"\| third \| \d+ \| done \|", told)


def test_all_starts_nothing_without_time_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fake_benchmarks(tmp_path, monkeypatch, first="print('begun')")
    monkeypatch.setattr(made, "LEAST", 15)
    assert made.main(["--output", str(tmp_path / "out"), "--device", "cuda", "--budget", "5"]) == 1
    assert "left out: no time" in capsys.readouterr().out


def test_all_knows_the_benchmarks_and_calls_them_with_what_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = module("all_benchmarks", BENCHMARKS / "all.py")
    assert set(made.GPU_SECONDS) == set(QUICK) and set(made.CPU) < set(QUICK)
    script("scaling").main(made.arguments_for("scaling", "cpu", True, tmp_path))
    assert (tmp_path / "scaling/table.md").exists()
    assert {"--without-trl", "--peers-python"} & set(made.arguments_for("step_time", "cuda", False, tmp_path))


def test_a_clock_that_cannot_see_the_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("scaling").main(["--clock", "cpu", "--device", "cuda"])
    assert "leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(folder.name for folder in BENCHMARKS.iterdir() if (folder / "run.py").exists()))
def test_the_list_of_benchmarks_names_it_and_its_page_has_its_command(name: str) -> None:
    command = re.escape(f".venv/bin/python benchmarks/{name}/run.py")
    assert f"[{name}]({name}/README.md)" in (BENCHMARKS / "README.md").read_text()
    assert re.search(command, (BENCHMARKS / name / "README.md").read_text())
