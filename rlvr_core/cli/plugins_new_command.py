"""``rlvr plugins new``. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlvr_core.cli.tables import table_lines
from rlvr_core.contracts import KINDS
from rlvr_core.plugins import catalogue
from rlvr_core.scaffold import new_package


def new(
    name: Annotated[str, typer.Argument(help="the component's name: lowercase words joined by '_' or '-'")],
    kind: Annotated[str, typer.Option("--kind", help=f"what to write: {', '.join(KINDS)}", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", help="the folder to write; rlvr-NAME here unless given", show_default=False)
    ] = None,
) -> None:
    """Write a package that brings one component: a working example of its kind, with tests, to install and change."""
    package = new_package(name, kind, catalogue())
    folder = output or Path(package.distribution)
    package.write(folder)
    typer.echo(f"wrote {folder}, a package with the {kind} '{package.name}':")
    for path in package.files:
        typer.echo(f"  {path}")
    typer.echo("\nnext:")
    for line in table_lines([(f"  {what}", command) for what, command in package.commands(folder).items()], None):
        typer.echo(line)  # never wrapped: it is there to be copied
