"""``rlvr report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs, drawn together")],
    output: Annotated[Path, typer.Option("--output", help="the picture to write (.png, .svg or .pdf)")] = Path("curve.png"),
) -> None:
    """Draw the reward and the evaluations of runs over their steps."""
    from rlvr_core.report.curve import draw

    draw(runs, output)
    typer.echo(f"wrote {output}")
