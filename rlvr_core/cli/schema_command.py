"""``rlvr schema``."""

from __future__ import annotations

import json

import typer

from rlvr_core.plugins import catalogue
from rlvr_core.spec.schema import json_schema


def schema() -> None:
    """Print the JSON Schema of spec files, with the options of what is installed.

    Save it beside your specs and begin them with: # yaml-language-server: $schema=rlvr.schema.json
    """
    typer.echo(json.dumps(json_schema(catalogue()), indent=2, ensure_ascii=False))
