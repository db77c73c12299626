"""Checks options and parts of a spec, and collects what is wrong. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError

from rlvr_core.errors import PluginError, SpecError, nearest
from rlvr_core.options import Options
from rlvr_core.plugins import Catalogue
from rlvr_core.spec.explain import explain
from rlvr_core.spec.parts import Part
from rlvr_core.spec.resolved import Bound
from rlvr_core.spec.source import KeyPath, Source

M = TypeVar("M", bound=Options)


class Checker:
    """Collects mistakes, so that a user sees all of them at once."""

    def __init__(self, source: Source, catalogue: Catalogue) -> None:
        self.source = source
        self.catalogue = catalogue
        self.mistakes: dict[KeyPath, str] = {}

    def finish(self) -> None:
        """Raise SpecError with every mistake, where there is any."""
        if self.mistakes:
            raise SpecError(*self.mistakes.values())

    def mistake(self, path: KeyPath, message: str) -> None:
        """Note a mistake. The first at a path is the one to mend."""
        name, where = ".".join(path), self.source.where(path)
        self.mistakes.setdefault(path, f"{where}: {name}: {message}" if name else f"{where}: {message}")

    def check(self, model: type[M], data: Any, path: KeyPath) -> M | None:
        """Validate against a pydantic model; each error becomes a mistake."""
        try:
            checked = model.model_validate(data)
        except ValidationError as error:
            for item in error.errors():
                self.mistake(*explain(item, path, model))
            return None
        self.refuse_inert(checked, path)
        return checked

    def refuse_inert(self, options: Options, path: KeyPath) -> None:
        """An option that the user wrote and that has no effect is a mistake; in sections, too."""
        for key, reason in options.inert().items():
            if self.source.said((*path, key)):
                self.mistake((*path, key), f"has no effect: {reason}; remove it")
        for key in type(options).model_fields:
            child = getattr(options, key)
            if isinstance(child, Options):
                self.refuse_inert(child, (*path, key))

    def part(
        self, kind: str, part: Part | None, path: KeyPath, default_name: str | None = None, *, weighted: bool = False
    ) -> Bound | None:
        """One component with its options. ``weighted``: a weight stands beside them."""
        if not isinstance(part, dict):
            self.mistake(path, f"write a mapping with a name, as {{name: {part if isinstance(part, str) else '...'}}}")
            return None
        options = self.own(part, path, default_name)
        name = options.pop("name", default_name)
        weight = options.pop("weight", 1.0) if weighted else None
        if not isinstance(name, str):
            self.mistake(path, f"needs a name; {nearest('', self.catalogue.names(kind))}")
            return None
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
            self.mistake((*path, "weight"), f"{weight!r} is not a number")
            return None
        try:
            component = self.catalogue.get(kind, name)
        except PluginError as error:
            self.mistake((*path, "name") if "name" in part else path, str(error))
            return None
        checked = self.check(component.options, options, path)
        bound = None if checked is None else Bound(path[-1], path, component, checked, None if weight is None else float(weight))
        return bound if bound is None else self.with_parts(bound)

    def with_parts(self, bound: Bound) -> Bound | None:
        """The parts that a component's own options hold, checked and written out whole."""
        whole: dict[str, Any] = {}
        for key, kind in bound.options.PARTS.items():
            parts = getattr(bound.options, key)
            found = self.labelled(kind, parts, (*bound.path, key), weighted=True)
            if len(found) < len(parts):
                return None
            whole[key] = {label: inner.as_dict() for label, inner in found.items()}
        return replace(bound, options=bound.options.model_copy(update=whole)) if whole else bound

    def own(self, part: Part, path: KeyPath, standing: str | None) -> Part:
        """The part without options that were said of the one that stands there by default, before ``--set`` named another."""
        stale = self.source.renamed.get(path, set()) if standing is not None and part.get("name") != standing else set()
        return {key: value for key, value in part.items() if key not in stale}

    def labelled(self, kind: str, parts: Mapping[str, Part] | None, path: KeyPath, *, weighted: bool = False) -> dict[str, Bound]:
        """Components by label."""
        bounds = {
            label: self.part(kind, part, (*path, label), default_name=label, weighted=weighted)
            for label, part in (parts or {}).items()
        }
        return {label: bound for label, bound in bounds.items() if bound is not None}


def checked_options(model: type[M], source: Source) -> M:
    """A component's options from a source that holds nothing else. Raises SpecError with a line for every mistake."""
    checker = Checker(source, Catalogue())
    options = checker.check(model, source.data, ())
    checker.finish()
    assert options is not None  # no mistakes
    return options
