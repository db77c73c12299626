"""``rlvr plugins check NAME``: the conformance kit on an installed component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from rlvr_core.cli.plugins_command import matching
from rlvr_core.cli.tables import table_lines, terminal_width
from rlvr_core.errors import SpecError
from rlvr_core.plugins import Catalogue, Component, catalogue
from rlvr_core.spec.checker import checked_options
from rlvr_core.spec.source import Source, parse_assignment

FAILED = 1
"""Exit status where a check failed; 2 is for mistakes on the command line."""

_MARKS = {"passed": "ok", "failed": "FAILED", "not applicable": "-"}


def check(
    name: Annotated[str, typer.Argument(help="a component's name, or kind/name")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="set an option of it; may be given often", show_default=False),
    ] = None,
) -> None:
    """Check that a component holds to its kind's contract: invariance, no signal, extremes, gradients, options, resume, dtype."""
    installed = catalogue()
    components = matching(installed, name)
    if assignments and len(components) > 1:
        raise SpecError(
            f"--set: several kinds have a '{name}'; name one of {', '.join(f'{c.kind}/{c.name}' for c in components)}"
        )
    source = _options(components[0], assignments or ())
    outcomes: Counter[str] = Counter()
    for component in components:
        outcomes += _check(component, source, installed)
    typer.echo(f"{outcomes['passed']} passed, {outcomes['failed']} failed, {outcomes['not applicable']} not applicable")
    if outcomes["failed"]:
        raise typer.Exit(FAILED)


def _options(component: Component, assignments: Sequence[str]) -> Source:
    """The options of the command line. Raises SpecError where they are another component's."""
    source = Source(name="--set")
    for text in assignments:
        path, value = parse_assignment(text)
        source.set(path, value, f"--set {text}")
    if component.objective is not None and source.data:
        raise SpecError("--set: an objective has parts and no options; check a part with options of its own, as kind/name")
    return source


def _check(component: Component, source: Source, installed: Catalogue) -> Counter[str]:
    """Print a line for each check as it ends; how many had which outcome."""
    from rlvr_core.testing import findings
    from rlvr_core.testing.host import subject_of

    options: dict[str, Any] = {}
    if component.objective is None:
        options = dict(subject_of(component.kind, component.name, source.data, installed).options)
        source.data.update(options)
        checked_options(component.options, source)
    said = f" with {', '.join(f'{key}={value}' for key, value in options.items())}" if options else ""
    typer.echo(f"{component.kind} {component.name} ({component.distribution} {component.version}){said}")
    outcomes: Counter[str] = Counter()
    for found in findings(component.kind, component.name, options, installed=installed):
        outcomes[found.outcome] += 1
        words = found.check + (f": {found.message}" if found.message else "")
        for line in table_lines([("  " + _MARKS[found.outcome], words)], terminal_width()):
            typer.echo(line)
    return outcomes
