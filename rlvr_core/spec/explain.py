"""What pydantic found wrong, in a user's words."""

from __future__ import annotations

from typing import Any

from rlvr_core.errors import nearest
from rlvr_core.spec.source import KeyPath

REQUIRED = {
    "model": "name a folder or a hub name, with --model or as model: {name: ...}",
    "task": "name one, with --task or as task: {name: ...} (`rlvr plugins` lists them)",
    "objective": "name one, with --objective or as objective: {name: ...} (`rlvr plugins` lists them)",
}
"""What to write for a section that has no default."""


def explain(item: Any, path: KeyPath, model: type[Any]) -> tuple[KeyPath, str]:
    """One pydantic error as (path, message with a way out)."""
    loc = tuple(str(part) for part in item["loc"])
    where = (*path, *loc)
    value = item.get("input")
    if item["type"] == "extra_forbidden":
        return where, f"unknown key; {_belongs(model, loc) or nearest(loc[-1], _keys_at(model, loc[:-1]))}"
    if item["type"] == "missing":
        return where, f"is required; {REQUIRED[loc[-1]]}" if len(where) == 1 and loc[-1] in REQUIRED else "is required"
    if item["type"] in ("dict_type", "model_type"):
        return where, f"write a mapping, as {{name: {value}}}" if isinstance(value, str) else "write a mapping of keys to values"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return where, f"{message}, not {value!r}" if not isinstance(value, dict | list) else message


def _keys_at(model: type[Any], loc: tuple[str, ...]) -> list[str]:
    """Keys that a model, or one of its sections, knows."""
    for key in loc:
        field = model.model_fields.get(key)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and hasattr(annotation, "model_fields")):
            return []
        model = annotation
    return list(model.model_fields)


def _belongs(model: type[Any], loc: tuple[str, ...]) -> str:
    """Where a key that was written at the top of a spec belongs; empty where it is of no section either."""
    homes = [key for key in model.model_fields if loc[-1] in _keys_at(model, (key,))] if len(loc) == 1 else []
    return f"it belongs into {homes[0]}, as {homes[0]}.{loc[-1]}" if homes else ""
