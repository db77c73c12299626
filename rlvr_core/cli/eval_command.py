"""``rlvr eval``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rlvr_core.cli.options import Assignments, embedded_spec
from rlvr_core.cli.tables import print_table
from rlvr_core.errors import RlvrError, RunFolderError, SpecError
from rlvr_core.plugins import catalogue
from rlvr_core.spec.evaluation import (
    ResolvedEvaluation,
    drop_overruled,
    for_evaluation,
    lay_over,
    refuse_training_keys,
    resolve_evaluation,
)
from rlvr_core.spec.source import KeyPath, Source, parse_assignment, read_spec

EMBEDDED = "embedded"


def evaluate(
    model: Annotated[str, typer.Argument(help="a run's folder, a model folder, a hub name, or `embedded`")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", help="a task's name or a spec file; may be given often; a run's own otherwise", show_default=False
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="completions of each problem", show_default=False)] = None,
    k: Annotated[str | None, typer.Option("--k", help="for pass@k and maj@k, as 1,8,32", show_default=False)] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="sampling temperature; 0 is greedy", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="eval: held-out problems; train: those to learn on", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="every random number follows from it", show_default=False)] = None,
    output: Annotated[str | None, typer.Option("--output", help="the evaluation's folder", show_default=False)] = None,
    assignments: Assignments = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an evaluation that stands in the folder")] = False,
) -> None:
    """Evaluate a model: avg@n, pass@k, maj@k, greedy. Started again, it goes on where it was."""
    flags: list[tuple[KeyPath, Any, str]] = [
        (path, value, f"{flag} {said}")
        for path, value, flag, said in (
            (("evaluation", "samples"), samples, "--samples", samples),
            (("evaluation", "k"), None if k is None else parse_k(k), "--k", k),
            (("evaluation", "temperature"), temperature, "--temperature", temperature),
            (("split",), split, "--split", split),
            (("seed",), seed, "--seed", seed),
        )
        if value is not None
    ]
    changes = [*flags, *((*parse_assignment(text), f"--set {text}") for text in assignments or ())]
    _refuse_what_is_said_twice(changes, output, task)
    refuse_training_keys((path, origin) for path, _, origin in changes)
    tasks: Sequence[str | None] = task or [None]
    asked = [(name, resolved_for(model, name, changes)) for name in tasks]
    results = [
        (label(name, resolved), run_one(model, name, resolved, output, len(asked) > 1, overwrite)) for name, resolved in asked
    ]
    if int(os.environ.get("RANK", "0")) == 0:
        for name, (folder, result) in results:
            show(name, folder, result)


def parse_k(text: str) -> list[int]:
    """``1,8,32`` -> [1, 8, 32]. Raises SpecError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--k {text}: write whole numbers with commas between, as --k 1,8,32") from None


def _refuse_what_is_said_twice(
    changes: Sequence[tuple[KeyPath, Any, str]], output: str | None, tasks: Sequence[str] | None
) -> None:
    said: dict[KeyPath, str] = {}
    for path, _, origin in changes:
        if path in said:
            raise SpecError(f"{origin}: {'.'.join(path)} is given twice, first by {said[path]}; leave one out")
        said[path] = origin
    if ("output",) in said:
        raise SpecError(f"{said[('output',)]}: write it as --output")
    if ("model", "name") in said:
        raise SpecError(f"{said[('model', 'name')]}: the model is the command's first argument")
    if output == "":
        raise SpecError("--output is empty; name a folder")
    doubled = {name for name in tasks or () if (tasks or ()).count(name) > 1}
    if doubled:
        raise SpecError(f"--task {doubled.pop()} is given twice; leave one out")


def resolved_for(model: str, task: str | None, changes: Sequence[tuple[KeyPath, Any, str]]) -> ResolvedEvaluation:
    """The model's own spec, where it has one, with the task and the command line laid over it. Raises RlvrError."""
    source = model_spec(model, has_task=task is not None)
    if task is not None and is_file(task):
        source = lay_over(source, for_evaluation(read_spec(task)))
    elif task is not None:
        source.set(("task", "name"), task, f"--task {task}")
    for path, value, origin in changes:
        source.set(path, value, origin)
    drop_overruled(source)
    evaluation = source.data.setdefault("evaluation", {})
    if isinstance(evaluation, dict) and evaluation.get("temperature") != 0:
        evaluation.setdefault("greedy", True)
    return resolve_evaluation(source, catalogue())


def model_spec(model: str, has_task: bool) -> Source:
    """What is known of a model: a run's own spec, the embedded default's, or the name alone."""
    folder = Path(model).expanduser()
    if model == EMBEDDED:
        return for_evaluation(embedded_spec())
    if (folder / "manifest.json").is_file() and (folder / "spec.yaml").is_file():
        if not (folder / "model").is_dir():
            raise RunFolderError(
                f"{model}: this run holds no model yet; it is written when the run ends (or evaluate what it started from)"
            )
        source = for_evaluation(read_spec(folder / "spec.yaml"))
        source.set(("model", "name"), str(folder / "model"), model)
        source.set(("output",), None, model)
        section = source.data.get("evaluation")
        if isinstance(section, dict) and section.get("greedy") is False:  # said of its schedule, or by no one
            del section["greedy"]
            source.origins.pop(("evaluation", "greedy"), None)
        return source
    if not has_task:
        raise SpecError(
            f"{model}: say on what, with --task NAME or --task SPEC.yaml (a run's folder needs none: its own task is the default)"
        )
    source = Source(name="command line")
    source.set(("model", "name"), model, model)
    return source


def is_file(task: str) -> bool:
    """A spec file, and not the name of a task."""
    return task.endswith((".yaml", ".yml")) or "/" in task or Path(task).is_file()


def label(task: str | None, resolved: ResolvedEvaluation) -> str:
    """What an evaluation is called."""
    return Path(task).stem if task is not None and is_file(task) else resolved.task.component.name


def run_one(
    model: str, task: str | None, resolved: ResolvedEvaluation, output: str | None, several: bool, overwrite: bool
) -> tuple[Path, Mapping[str, Any]]:
    """Evaluate on one task, into its folder."""
    from rlvr_core.evaluation.study import run_study

    name = label(task, resolved)
    default = Path("evals") / f"{Path(model.rstrip('/')).name or EMBEDDED}-{name}"
    folder = default if output is None else Path(output) / name if several else Path(output)
    try:
        return folder, run_study(resolved, folder, catalogue(), overwrite, typer.echo)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on from {folder}", err=True)
        raise
    except NotADirectoryError as error:
        raise RlvrError(f"--output {folder}: {error.filename} is a file, not a folder") from error


def show(name: str, folder: Path, result: Mapping[str, Any]) -> None:
    """The figures as a table."""
    found = result["figures"]
    rows = [
        (figure, f"{value:.4f}", f"[{found[f'{figure}_low']:.4f}, {found[f'{figure}_high']:.4f}]")
        for figure, value in found.items()
        if f"{figure}_low" in found
    ]
    typer.echo(f"\n{name}: {found['n']} problems, {found['samples']} samples of each")
    print_table(("figure", "value", "95 % interval over problems"), rows)
    others = [
        key for key in found if not key.endswith(("_low", "_high")) and f"{key}_low" not in found and key not in ("n", "samples")
    ]
    print_table(("", "mean", ""), [(key, f"{found[key]:.4f}", "") for key in others])
    typer.echo(f"wrote {folder}/eval.json and problems.jsonl")
