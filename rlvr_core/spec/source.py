"""Reading specs: YAML with the place of every key, and overrides from the command line laid over it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlvr_core.errors import SpecError
from rlvr_core.spec.parts import LABELLED_SLOTS, SINGLE_SLOTS

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `1e-6` is a number, `on` and `no` are text, a key given twice is an error."""


class _Dumper(yaml.SafeDumper):
    """Quotes what ``_Loader`` would otherwise read as something else than text."""


_Loader.yaml_implicit_resolvers = _Dumper.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":bool", ":int", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SCALARS = {
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (r"^[-+]?[0-9]+$", "-+0123456789"),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
}
for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _float(str(node.value)))


def _float(text: str) -> float:
    """YAML writes ``.inf`` and ``.nan`` where Python has no dot."""
    plain = text.lower()
    return float(plain.replace(".", "") if plain.endswith(("inf", "nan")) else plain)


def to_yaml(data: Any) -> str:
    """Plain data as YAML that ``parse_yaml`` reads back as it was."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


@dataclass
class Source:
    """A spec as written: nested data, and for each path where it was said (``spec.yaml:12``, ``--set``)."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    name: str = "spec"
    renamed: dict[KeyPath, set[str]] = field(default_factory=dict)
    """Parts that got a name after options without one -> what was said before, and so of whatever stands there by default."""

    def where(self, path: KeyPath) -> str:
        """Where a path was said, or the nearest of its parents; the source's name otherwise."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return self.name

    def said(self, path: KeyPath) -> bool:
        """Whether the user wrote this very path."""
        return path in self.origins

    def overrides(self, path: KeyPath) -> bool:
        """Whether this very path was said on the command line, over whatever a file says."""
        return self.origins.get(path, "").startswith("--")

    def set(self, path: KeyPath, value: Any, origin: str) -> None:
        """Lay one value over the data. Giving a part another name drops the options of the part that stood there.

        Raises SpecError where the path goes through something that is not a mapping.
        """
        node = self.data
        for depth, key in enumerate(path[:-1]):
            here = path[: depth + 1]
            self.renamed.get(here, set()).discard(path[depth + 1])
            child = node.get(key)
            if child is None:
                child = node[key] = {}
                self.origins.setdefault(here, origin)
            if not isinstance(child, dict):
                raise SpecError(f"{origin}: {'.'.join(here)} is {child!r}, not a mapping, so it has no key '{path[depth + 1]}'")
            node = child
        if path[-1] == "name" and holds_part(path[:-1]):
            self._rename(node, path[:-1], value)
        self._forget(path)
        node[path[-1]] = value
        self._note(path, value, origin)

    def _rename(self, node: dict[str, Any], path: KeyPath, name: Any) -> None:
        """Drop the options of a part that had another name. Where it had none, note them: the resolver knows more."""
        if "name" not in node:
            self.renamed[path] = set(node)
        elif node["name"] != name:
            node.clear()
            self._forget(path)

    def _forget(self, path: KeyPath) -> None:
        self.renamed.pop(path, None)
        for other in [o for o in self.origins if o[: len(path)] == path and len(o) > len(path)]:
            del self.origins[other]

    def _note(self, path: KeyPath, value: Any, origin: str) -> None:
        self.origins[path] = origin
        if isinstance(value, dict):
            for key, child in value.items():
                self._note((*path, key), child, origin)


def holds_part(path: KeyPath) -> bool:
    """Whether a component, or an objective, stands here. (The model's section has a name too, but is no part.)"""
    match path:
        case ("task",) | ("objective",) | ("rollout", "engine") | ("rewards", _) | ("observers", _) | ("task", _, _):
            return True
        case ("objective", slot):
            return slot in SINGLE_SLOTS
        case ("objective", slot, _):
            return slot in LABELLED_SLOTS
    return False


def parse_yaml(text: str, name: str) -> Source:
    """Parse one YAML document. Raises SpecError with the line of the mistake."""
    origins: dict[KeyPath, str] = {}
    loader = _Loader("")
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return Source({}, {}, name)
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(f"{name}:1: a spec is a mapping of keys to values")
        _walk(node, (), name, origins)
        data = loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{_place(error, name)}: not YAML: {_problem(error)}") from error
    except RecursionError as error:
        raise SpecError(f"{name}: nested too deep, or an alias that holds itself") from error
    finally:
        loader.dispose()
    return Source(data, origins, name)


def _place(error: Exception, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{name}:{mark.line + 1}" if mark else name


def _problem(error: Exception) -> str:
    """What a YAML error says, on one line."""
    return " ".join(str(getattr(error, "problem", None) or error).split())


def _walk(node: yaml.Node, path: KeyPath, name: str, origins: dict[KeyPath, str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise SpecError(f"{name}:{key.start_mark.line + 1}: a key must be a plain word")
        here = (*path, str(key.value))
        if here in origins:
            raise SpecError(f"{name}:{key.start_mark.line + 1}: '{'.'.join(here)}' is given twice; first at {origins[here]}")
        origins[here] = f"{name}:{key.start_mark.line + 1}"
        _walk(value, here, name, origins)


def read_spec(file: str | Path) -> Source:
    """Read a spec file. Raises SpecError where it is missing or no YAML."""
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise SpecError(f"{path} is a folder; a spec is a YAML file (a run's own is {path}/spec.yaml)") from None
    except FileNotFoundError:
        raise SpecError(f"{path}: no such spec file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def from_mapping(data: Mapping[str, Any], name: str = "spec") -> Source:
    """A spec given as nested mappings (from a notebook)."""
    source = Source({}, {}, name)
    for key, value in data.items():
        source.data[str(key)] = plain = _plain(value, (str(key),), name)
        source._note((str(key),), plain, name)
    return source


def _plain(value: Any, path: KeyPath, name: str) -> Any:
    """A copy made of what YAML can hold. Raises SpecError for anything else."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child, (*path, str(key)), name) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child, path, name) for child in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise SpecError(
        f"{name}: {'.'.join(path)} is a {type(value).__name__}; a spec holds text, numbers, booleans, null, lists and mappings"
    )


def parse_assignment(text: str, option: str = "--set") -> tuple[KeyPath, Any]:
    """``a.b.c=value`` -> path and value (YAML). Raises SpecError naming the assignment."""
    path, equals, value = text.partition("=")
    keys = tuple(key.strip() for key in path.split("."))
    if not equals or not all(keys):
        raise SpecError(f"{option} {text}: write it as path.to.key=value")
    try:
        return keys, yaml.load(value, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{option} {text}: the value is not YAML: {_problem(error)}") from error


def apply_assignments(source: Source, assignments: Iterable[str]) -> None:
    """Lay ``--set`` assignments over a source, in order."""
    for text in assignments:
        path, value = parse_assignment(text)
        source.set(path, value, f"--set {text}")
