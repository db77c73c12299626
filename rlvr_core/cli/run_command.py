"""``rlvr run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlvr_core.cli.options import (
    Assignments,
    ModelName,
    ObjectiveName,
    OutputFolder,
    Seed,
    SpecFile,
    Steps,
    TaskName,
    resolved_from,
)
from rlvr_core.errors import RunFolderError, SpecError


def run(
    spec: SpecFile = None,
    objective: ObjectiveName = None,
    model: ModelName = None,
    task: TaskName = None,
    output: OutputFolder = None,
    steps: Steps = None,
    seed: Seed = None,
    assignments: Assignments = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a run that stands in the output folder")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="write trace.json, a trace of a few steps, for Perfetto")] = False,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="go on with an interrupted run, from its folder", show_default=False)
    ] = None,
) -> None:
    """Train. Without a spec, the embedded default: `rlvr run --objective popo`."""
    from rlvr_core.running import run as run_spec

    if resume is None:
        run_spec(
            resolved_from(spec, objective, model, task, output, steps, seed, assignments), overwrite=overwrite, profile=profile
        )
        return
    given = {"a spec": spec, "--objective": objective, "--model": model, "--task": task, "--output": output, "--seed": seed,
             "--set": assignments, "--overwrite": overwrite or None}  # fmt: skip
    for name, value in given.items():
        if value is not None:
            raise SpecError(
                f"--resume goes on with the run's own spec, so {name} has no effect; only --steps may be given with it"
            )
    if not (resume / "spec.yaml").is_file():
        raise RunFolderError(
            f"--resume {resume}: {'holds no run: there is no spec.yaml in it' if resume.is_dir() else 'no such folder'}"
        )
    run_spec(resolved_from(resume / "spec.yaml", None, None, None, str(resume), steps, None, None), resume=True, profile=profile)
