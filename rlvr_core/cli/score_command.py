"""``rlvr score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlvr_core.cli.options import Assignments
from rlvr_core.errors import DataError
from rlvr_core.plugins import catalogue
from rlvr_core.spec.resolve import resolve_reward
from rlvr_core.spec.source import parse_assignment


def score(
    file: Annotated[Path, typer.Argument(help="JSON-lines file whose rows have `gold` and `completion`", show_default=False)],
    reward: Annotated[str, typer.Option("--reward", help="reward, by name (`rlvr plugins` lists them)")] = "math",
    assignments: Assignments = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="file to write; without one, standard output", show_default=False)
    ] = None,
) -> None:
    """Score a file's completions as a run would, and write the rows with value, status, reason and ms.

    --set KEY=VALUE sets an option of the reward, --set scoring.KEY=VALUE one of the workers (timeout_s, memory_mb, workers).
    """
    from rlvr_core.reward.score_file import read_rows, score_rows
    from rlvr_core.reward.scoring import start_scoring

    bound, options = resolve_reward(
        reward, [(*parse_assignment(text), f"--set {text}") for text in assignments or ()], catalogue()
    )
    if output is not None and not output.parent.is_dir():
        raise DataError(f"--output {output}: there is no folder {output.parent}")
    if output is not None and output.is_dir():
        raise DataError(f"--output {output}: is a folder; name a file")
    rows = read_rows(file)
    scoring = start_scoring({reward: bound}, options)
    try:
        for line in scoring.ready():
            typer.echo(f"rlvr: {line}", err=True)
        scored = score_rows(reward, scoring.rewards[reward], rows)
    finally:
        scoring.close()
    if output is None:
        typer.echo(scored.text().encode(), nl=False)
    else:
        from rlvr_core.folder import write_text

        write_text(output, scored.text())
    typer.echo(scored.summary(), err=True)
