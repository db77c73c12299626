"""Benchmarks run: each command at its smallest size. Their figures are not looked at here."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICK = sorted(run.parent.name for run in BENCHMARKS.glob("*/run.py") if "arguments_of(" in run.read_text())


def script(name: str) -> ModuleType:
    """A benchmark's run.py as a module, in this process: starting another would take longer than what it does."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / name / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_benchmarks_that_have_a_smallest_size_are_found() -> None:
    assert {"memory", "positive_rate", "rollout_tail", "scaling"} <= set(QUICK)


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


def test_a_clock_that_cannot_see_the_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("scaling").main(["--clock", "cpu", "--device", "cuda"])
    assert "leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(folder.name for folder in BENCHMARKS.iterdir() if (folder / "run.py").exists()))
def test_the_list_of_benchmarks_names_it_and_its_page_has_its_command(name: str) -> None:
    command = re.escape(f".venv/bin/python benchmarks/{name}/run.py")
    assert f"[{name}]({name}/README.md)" in (BENCHMARKS / "README.md").read_text()
    assert re.search(command, (BENCHMARKS / name / "README.md").read_text())
