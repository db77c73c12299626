"""Every shipped component passes the kit."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from rlvr_core.components.options import CorrectionOptions
from rlvr_core.contracts import KINDS
from rlvr_core.errors import RlvrError
from rlvr_core.plugins import Catalogue, Component, catalogue
from rlvr_core.records import MicroBatch, Term
from rlvr_core.testing import findings, given, with_components
from rlvr_core.testing.host import PlainLoss

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("reward", "function"): {"function": f"{__file__}:first_digits"},
    ("reward", "format"): {"pattern": "[0-9 ]+"},
    ("reward", "length"): {"max": 8},
    ("task", "mixture"): {
        "parts": {
            "easy": {"name": "arithmetic", "max_operands": 3, "eval_problems": 32},
            "hard": {"name": "arithmetic", "min_operands": 4},
        }
    },
    ("task", "reasoning_gym"): {"datasets": {"chain_sum": {}}, "problems": 50, "eval_problems": 10},
}
"""Options of components that have none by default."""


def first_digits(completions: list[str], gold: list[str], **_: Any) -> list[float]:
    """A reward function."""
    return [float(text.strip()[:2] == answer[:2]) for text, answer in zip(completions, gold, strict=True)]


def options_for(component: Component, folder: Path) -> dict[str, Any]:
    """Options with which a component can be built here."""
    if component.kind == "task" and component.name in ("jsonl", "hub"):
        rows = folder / "rows.jsonl"
        rows.write_text("".join(f'{{"question": "{n} + 1", "answer": "{n + 1}"}}\n' for n in range(20)))
        return {"path": str(rows if component.name == "jsonl" else folder), "prompt": "question", "eval_fraction": 0.2}
    return OPTIONS.get((component.kind, component.name), {})


def installed_here(component: Component) -> bool:
    """Reasoning Gym is an extra."""
    return component.name != "reasoning_gym" or importlib.util.find_spec("reasoning_gym") is not None


@pytest.mark.parametrize("component", [c for c in catalogue() if installed_here(c)], ids=lambda c: f"{c.kind}/{c.name}")
def test_a_shipped_component_passes(component: Component, tmp_path: Path) -> None:
    found = list(findings(component.kind, component.name, options_for(component, tmp_path)))
    assert len(found) >= 4
    assert [f"{f.check}: {f.message}" for f in found if f.outcome == "failed"] == []
    assert sum(f.outcome == "passed" for f in found) >= 4


def test_every_kind_has_a_check_function() -> None:
    import rlvr_core.testing

    assert {f"check_{kind}" for kind in KINDS} == {name for name in rlvr_core.testing.__all__ if name.startswith("check_")}
    assert rlvr_core.testing.__all__ == sorted(rlvr_core.testing.__all__)


def checked(*arguments: str, installed: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Result:
    """``rlvr plugins check`` with these components installed."""
    from rlvr_core.cli import app, plugins_check_command

    monkeypatch.setattr(plugins_check_command, "catalogue", lambda: installed)
    return CliRunner().invoke(app, ["plugins", "check", *arguments])


class Upside(PlainLoss):
    """A loss whose sign is wrong."""

    def terms(self, batch: MicroBatch) -> dict[str, Term]:
        return {name: replace(term, values=-term.values) for name, term in super().terms(batch).items()}


def test_the_command_says_what_failed_and_why_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = with_components(catalogue(), given("loss", "upside", Upside, CorrectionOptions))
    found = checked("upside", "--set", "clip=3.0", installed=installed, monkeypatch=monkeypatch)
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert lines[0] == "loss upside (test 0) with clip=3.0"
    assert "  FAILED  credit decides: descending the loss does not push the log-probs of good tokens up; check its sign" in lines
    assert any(line.startswith("  FAILED  every option is read: option 'clip'") for line in lines)
    assert lines[-1] == "14 passed, 2 failed, 0 not applicable"


def test_the_command_checks_every_kind_that_has_the_name_and_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked("bounded_is", installed=catalogue(), monkeypatch=monkeypatch)
    assert found.exit_code == 0
    assert [line.split(" (")[0] for line in found.stdout.splitlines() if line.startswith(("credit", "loss"))] == [
        "credit bounded_is",
        "loss bounded_is",
    ]


MISTAKES = {
    ("nosuch",): "nothing installed is named 'nosuch'",
    ("kl", "--set", "coef=-1"): "--set coef=-1: coef: input should be greater than or equal to 0",
    ("kl", "--set", "cof=2"): "did you mean 'coef'",
    ("kl", "--set", "estimator=k2", "--set", "straight_through=true"): "has no effect",
    ("bounded_is", "--set", "weights=uniform"): "name one of credit/bounded_is, loss/bounded_is",
    ("popo", "--set", "decay=1"): "an objective has parts and no options",
    ("reward/function",): "--set: function: is required",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_on_the_command_line_is_one_line(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(*arguments, installed=catalogue(), monkeypatch=monkeypatch)
    assert isinstance(found.exception, RlvrError)
    assert MISTAKES[arguments] in str(found.exception) and "\n" not in str(found.exception)
