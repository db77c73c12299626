"""The command line. One file a command; nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from rlvr_core.cli.eval_command import evaluate
from rlvr_core.cli.plan_command import plan
from rlvr_core.cli.plugins_check_command import check
from rlvr_core.cli.plugins_command import plugins_app
from rlvr_core.cli.plugins_new_command import new
from rlvr_core.cli.report_command import report
from rlvr_core.cli.run_command import run
from rlvr_core.cli.schema_command import schema
from rlvr_core.cli.score_command import score
from rlvr_core.errors import RlvrError

app = typer.Typer(
    help="Reinforcement learning with verifiable rewards, in which the algorithm is not part of the engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run)
app.command("plan")(plan)
app.command("eval")(evaluate)
app.command("score")(score)
app.command("schema")(schema)
app.command("report")(report)
plugins_app.command("check")(check)
plugins_app.command("new")(new)
app.add_typer(plugins_app, name="plugins")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rlvr {version('rlvr')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Reinforcement learning with verifiable rewards, in which the algorithm is not part of the engine."""


def share_cores() -> None:
    """Let idle OpenMP threads spin for a moment only, unless the user said otherwise. Read when torch is loaded, so not later.

    Beside another busy process, threads that spin as long as they do by default slow each other down sixfold and more on few cores;
    threads that never spin decode a third slower where nothing else runs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def main() -> None:
    """Entry point: every mistake of the user is a line on stderr and exit code 2."""
    share_cores()
    try:
        app()
    except RlvrError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            for line in str(error).splitlines():
                typer.echo(f"rlvr: {line}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that went away: the system's own words say it best
        typer.echo(f"rlvr: {error.filename or ''}: {error.strerror or error}; what was written before is kept", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("rlvr: stopped at once; what was written so far is kept", err=True)
        sys.exit(130)
