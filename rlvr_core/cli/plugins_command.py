"""``rlvr plugins`` and ``rlvr plugins show NAME``. Neither imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer

from rlvr_core.cli.tables import print_table, table_lines, terminal_width
from rlvr_core.contracts import KINDS
from rlvr_core.errors import UnknownComponent, nearest
from rlvr_core.plugins import FIRST_PARTY, Catalogue, Component, catalogue, kind_named
from rlvr_core.spec.parts import LABELLED_SLOTS, PLACES, SINGLE_SLOTS, Objective
from rlvr_core.spec.schema import options_schema

plugins_app = typer.Typer(help="What is installed, and every option of it.", rich_markup_mode=None)

_TYPES = {"number": "float", "integer": "int", "boolean": "bool", "string": "str", "object": "mapping", "null": "null"}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}

Option = tuple[str, Mapping[str, Any]]
"""Dotted path and JSON Schema of one option."""


@plugins_app.callback(invoke_without_command=True)
def listing(context: typer.Context) -> None:
    """List every installed component: kind, name, what it does, and the distribution that brought it."""
    if context.invoked_subcommand is not None:
        return
    order = {kind: place for place, kind in enumerate(KINDS)}
    components = sorted(catalogue(), key=lambda c: (order[c.kind], c.name))
    print_table(("kind", "name", "distribution", "version", "summary"), [_listed(component) for component in components])
    typer.echo("\n`rlvr plugins show NAME` prints every option of one; `kind/NAME` where several kinds share a name.")


def _listed(component: Component) -> tuple[str, ...]:
    return component.kind, component.name, component.distribution, component.version, component.summary


@plugins_app.command("show")
def show(name: Annotated[str, typer.Argument(help="a component's name, or kind/name")]) -> None:
    """Show what a component is and each of its options; for an objective, of every part that it is assembled from."""
    installed = catalogue()
    for position, component in enumerate(matching(installed, name)):
        if position:
            typer.echo()
        typer.echo(f"{component.kind} {component.name}: {component.summary} ({component.distribution} {component.version})")
        if component.objective is None:
            _show_component(component)
        else:
            _show_objective(component.objective, installed)


def matching(installed: Catalogue, name: str) -> list[Component]:
    """Components called so in any kind, or in the one before a slash. Raises UnknownComponent."""
    kind, slash, rest = name.partition("/")
    if slash:
        return [installed.get(kind_named(kind).name, rest)]
    found = [component for kind in KINDS for component in installed if component.kind == kind and component.name == name]
    if found:
        return found
    for _, kinds in FIRST_PARTY.values():
        for kind, names in kinds.items():
            if name in names:
                installed.get(kind, name)  # raises, saying which package to install
    raise UnknownComponent(f"nothing installed is named '{name}'; {nearest(name, {component.name for component in installed})}")


def _show_component(component: Component) -> None:
    typer.echo(f"implemented by {component.target}\n")
    options = list(component_options(component, PLACES[component.kind].format(component.name), {}))
    print_options(options)
    if not options:
        typer.echo("no options")


def _show_objective(objective: Objective, installed: Catalogue) -> None:
    if objective.paper:
        typer.echo(f"paper: {objective.paper}")
    parts = list(objective_parts(objective, installed))
    typer.echo("\nassembled from")
    assembled = [(path, part.name, f"{part.distribution} {part.version}", part.summary) for path, part, _ in parts]
    print_table(("part", "component", "distribution", "summary"), assembled)
    typer.echo("\noptions, as after --set")
    print_options(option for path, part, preset in parts for option in component_options(part, path, preset))
    mode = options_schema(Objective)["loss_agg_mode"] | {"default": objective.loss_agg_mode}
    print_options([("objective.loss_agg_mode", mode)])


def objective_parts(objective: Objective, installed: Catalogue) -> Iterator[tuple[str, Component, Mapping[str, Any]]]:
    """(path, component, the objective's own options for it) of every part."""
    for slot, kind in SINGLE_SLOTS.items():
        part = getattr(objective, slot)
        if part is not None:
            yield f"objective.{slot}", installed.get(kind, part["name"]), part
    for slot, kind in LABELLED_SLOTS.items():
        for label, part in getattr(objective, slot).items():
            yield f"objective.{slot}.{label}", installed.get(kind, part.get("name", label)), part


def component_options(component: Component, path: str, preset: Mapping[str, Any]) -> Iterator[Option]:
    """Each option's dotted path and schema; defaults of ``preset`` go before the component's own."""
    if component.kind == "reward":
        yield f"{path}.weight", {"type": "number", "default": 1.0, "description": "what its value counts in the sum"}
    for key, schema in options_schema(component.options).items():
        own = {"default": preset[key]} if key in preset else {}
        yield f"{path}.{key}", schema | own


def print_options(options: Iterable[Option]) -> None:
    """Two lines each: path=default and type, then the description."""
    for path, schema in options:
        default = f"={default_words(schema['default'])}" if "default" in schema else ""
        facts = [type_words(schema), *(["required"] if not default else [])]
        if "symbol" in schema:
            facts.append(f"{schema['symbol']} in the paper")
        typer.echo(f"{path}{default}  ({'; '.join(facts)})")
        for line in table_lines([("  ", schema.get("description", ""))], terminal_width()):
            typer.echo(line)


def default_words(value: Any) -> str:
    """A default as a spec writes it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def type_words(schema: Mapping[str, Any]) -> str:
    """A JSON Schema type in a reader's words, with its bounds."""
    if "anyOf" in schema:
        return " or ".join(type_words(choice) for choice in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " | ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_words(schema.get('items', {}))}"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return f"{_TYPES.get(schema.get('type', ''), 'any')} {', '.join(bounds)}".rstrip()
