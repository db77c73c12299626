"""Options that several commands share, and how they become a resolved spec."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from rlvr_core.errors import SpecError
from rlvr_core.plugins import catalogue
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.resolved import Resolved
from rlvr_core.spec.source import Source, parse_assignment, parse_yaml, read_spec

SpecFile = Annotated[Path | None, typer.Argument(help="spec file; without one, the embedded default", show_default=False)]
ObjectiveName = Annotated[str | None, typer.Option("--objective", help="objective, by name", show_default=False)]
ModelName = Annotated[str | None, typer.Option("--model", help="model folder or hub name; goes with a task", show_default=False)]
TaskName = Annotated[str | None, typer.Option("--task", help="task, by name", show_default=False)]
OutputFolder = Annotated[str | None, typer.Option("--output", help="the run's folder", show_default=False)]
Steps = Annotated[int | None, typer.Option("--steps", help="steps of rollout and learning", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", help="every random number follows from it", show_default=False)]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="set any key of the spec; may be given often", show_default=False),
]


def embedded_spec() -> Source:
    """The embedded default: a task and a model made on the spot, and values tuned for them."""
    text = files("rlvr_core").joinpath("specs/embedded.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, "embedded.yaml (built in)")


def resolved_from(
    spec: Path | None,
    objective: str | None,
    model: str | None,
    task: str | None,
    output: str | None,
    steps: int | None,
    seed: int | None,
    assignments: Sequence[str] | None,
) -> Resolved:
    """The spec file, or the embedded default, with the command line laid over it. Raises SpecError."""
    flags = {
        ("objective", "name"): (objective, "--objective"),
        ("model", "name"): (model, "--model"),
        ("task", "name"): (task, "--task"),
        ("output",): (output, "--output"),
        ("steps",): (steps, "--steps"),
        ("seed",): (seed, "--seed"),
    }
    changes = [(path, value, f"{flag} {value}") for path, (value, flag) in flags.items() if value is not None]
    changes += [(*parse_assignment(text), f"--set {text}") for text in assignments or ()]
    _refuse_twice(changes)
    source = read_spec(spec) if spec is not None else _default_source({path for path, _, _ in changes})
    for path, value, origin in changes:
        source.set(path, value, origin)
    return resolve(source, catalogue())


def _refuse_twice(changes: Sequence[tuple[tuple[str, ...], object, str]]) -> None:
    """One key, two values on one command line: no telling which was meant."""
    said: dict[tuple[str, ...], str] = {}
    for path, _, origin in changes:
        if path in said:
            raise SpecError(f"{origin}: {'.'.join(path)} is given twice, first by {said[path]}; leave one out")
        said[path] = origin


def _default_source(changed: set[tuple[str, ...]]) -> Source:
    """The embedded default; nothing at all where the user brings a model and a task."""
    model, task = ("model", "name") in changed, ("task", "name") in changed
    if model and task:
        return Source(name="command line")
    if model:
        raise SpecError(
            "--model needs a task to train on: add --task (with its options, as --set task.path=rows.jsonl), or write both in a spec file; "
            "the embedded default's task and values are tuned for its own small model"
        )
    if task:
        raise SpecError(
            "--task needs a model: add --model, or write both in a spec file; the embedded model knows its own task only"
        )
    return embedded_spec()
