"""docs/tasks.md and docs/evaluation.md: every option is there, and the examples are specs that resolve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rlvr_core.options import Options
from rlvr_core.plugins import catalogue
from rlvr_core.spec.evaluation import EvaluationSpec
from rlvr_core.spec.model import EvaluationSection
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.source import from_mapping
from rlvr_core.tasks.options_reasoning_gym import GymRewardOptions, GymSet
from rlvr_core.tasks.prompts import PromptOptions

ROOT = Path(__file__).parent.parent
TASKS, EVALUATION = ((ROOT / "docs" / name).read_text() for name in ("tasks.md", "evaluation.md"))
BLOCKS = [block for page in (TASKS, EVALUATION) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
ROWS = [catalogue().get("task", name).options for name in ("jsonl", "hub", "mixture", "reasoning_gym")]


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_resolve_as_they_stand(block: str) -> None:
    base = {"model": {"name": "m"}, "task": {"name": "arithmetic"}, "objective": {"name": "popo"}}
    resolve(from_mapping({**base, **yaml.safe_load(block)}), catalogue())


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize("options", [*ROWS, GymSet, GymRewardOptions, PromptOptions], ids=lambda o: o.__name__)
def test_every_option_of_a_task_is_described(options: type[Options]) -> None:
    assert [name for name in options.model_fields if f"`{name}`" not in TASKS] == []


def test_every_option_of_an_evaluation_is_described() -> None:
    assert [name for name in EvaluationSection.model_fields if name not in EVALUATION] == []
    sections = {"model", "task", "prompt", "rewards", "rollout", "evaluation", "mixed_precision", "scoring"}
    assert [name for name in EvaluationSpec.model_fields if name not in sections and name not in EVALUATION] == []


def test_every_layout_is_described() -> None:
    from rlvr_core.tasks.options import LAYOUTS

    assert [name for name in LAYOUTS if f"| `{name}` |" not in TASKS] == []
