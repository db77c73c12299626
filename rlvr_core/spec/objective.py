"""An objective of a spec: a plugin's, with the spec's changes laid over it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from rlvr_core.errors import PluginError, nearest
from rlvr_core.spec.checker import Checker
from rlvr_core.spec.explain import explain
from rlvr_core.spec.parts import LABELLED_SLOTS, SINGLE_SLOTS, Objective, Part
from rlvr_core.spec.resolved import Bound, ResolvedObjective, is_switched_off
from rlvr_core.spec.source import KeyPath


class ObjectiveResolver:
    """Lays changes over an objective's parts, then checks them and how they hang together. Mistakes go to ``checker``."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.removed: tuple[KeyPath, ...] = ()

    def resolve(self, data: dict[str, Any]) -> ResolvedObjective | None:
        """The named objective with the changes in ``data`` laid over it; None: there are mistakes."""
        path: KeyPath = ("objective",)
        if not isinstance(data.get("name"), str):
            self.checker.mistake(path, f"needs a name; {nearest('', self.checker.catalogue.names('objective'))}")
            return None
        try:
            default = self.checker.catalogue.get("objective", data["name"]).objective
        except PluginError as error:
            self.checker.mistake((*path, "name"), str(error))
            return None
        assert default is not None  # registered objectives carry one
        merged = self.merge(default, {key: value for key, value in data.items() if key != "name"})
        return None if merged is None else self.bind(data["name"], merged)

    def merge(self, default: Objective, changes: dict[str, Any]) -> Objective | None:
        """Lay the spec's changes over an objective's parts."""
        data, before = default.model_dump(), len(self.checker.mistakes)
        for key, value in changes.items():
            path = ("objective", key)
            if key in LABELLED_SLOTS:
                if value == {} and data[key]:
                    self.checker.mistake(
                        path,
                        f"an empty mapping takes nothing away; to take a part away write null, as {{{next(iter(data[key]))}: null}}",
                    )
                data[key] = self.merge_labelled(data[key], value, path)
            elif key in SINGLE_SLOTS:
                if value is None and key != "correction":
                    self.checker.mistake(path, "cannot be left out")
                data[key] = self.merge_part(data[key], value, path, None)
            elif key in Objective.model_fields and key != "paper":
                data[key] = value
            else:
                self.checker.mistake(
                    path, f"no such part of an objective; {nearest(key, set(Objective.model_fields) - {'paper'})}"
                )
        if len(self.checker.mistakes) > before:
            return None
        self.removed = tuple(
            ("objective", slot, label) for slot in LABELLED_SLOTS for label, part in data[slot].items() if part is None
        )
        for slot in LABELLED_SLOTS:
            data[slot] = {label: part for label, part in data[slot].items() if part is not None}
        try:
            return Objective.model_validate(data)
        except ValidationError as error:
            for item in error.errors():
                self.checker.mistake(*explain(item, ("objective",), Objective))
            return None

    def merge_labelled(self, default: Mapping[str, Part], changes: Any, path: KeyPath) -> dict[str, Part | None]:
        """Parts by label laid over a default's; null removes one."""
        merged: dict[str, Part | None] = dict(default)
        if not isinstance(changes, dict):
            self.checker.mistake(path, "write a mapping of labels to parts")
            return merged
        for label, part in changes.items():
            if part is None and label not in default:
                self.checker.mistake(
                    (*path, label), f"nothing to remove: the objective has no such part; {nearest(label, default)}"
                )
            merged[label] = self.merge_part(default.get(label), part, (*path, label), label)
        return merged

    def merge_part(self, default: Part | None, change: Any, path: KeyPath, label: str | None) -> Part | None:
        """Options laid over a default's; another name resets them."""
        if change is None:
            return None
        if not isinstance(change, dict):
            self.checker.mistake(path, f"write a mapping with a name, as {{name: {change}}}")
            return None
        standing = label if default is None else default.get("name", label)
        own = self.checker.own(change, path, standing)
        name = own.get("name", standing)
        return {**(default or {}), **own, "name": name} if name == standing else {**own, "name": name}

    def bind(self, name: str, merged: Objective) -> ResolvedObjective | None:
        """Look up and check every part, then how they hang together."""
        path: KeyPath = ("objective",)
        before = len(self.checker.mistakes)
        single = {
            slot: self.checker.part(kind, part, (*path, slot))
            for slot, kind in SINGLE_SLOTS.items()
            if (part := getattr(merged, slot)) is not None
        }
        labelled = {
            slot: self.checker.labelled(kind, getattr(merged, slot), (*path, slot)) for slot, kind in LABELLED_SLOTS.items()
        }
        if len(self.checker.mistakes) > before:
            return None
        shapers, regularisers = labelled["shapers"], labelled["regularisers"]
        for bound in (*shapers.values(), *regularisers.values()):
            self.refuse_options_of_nothing(bound)
        references = self.used_references(labelled["references"], [*shapers.values(), *regularisers.values()])
        sampler, credit, loss = single["sampler"], single["credit"], single["loss"]
        assert sampler and credit and loss  # no mistakes, so each is there
        correction, mode = single.get("correction"), merged.loss_agg_mode
        return ResolvedObjective(name, sampler, correction, shapers, credit, loss, mode, references, regularisers, self.removed)

    def refuse_options_of_nothing(self, bound: Bound) -> None:
        """A part that its coefficient switches off has no other options, but those of a file that the command line ablates."""
        for key in type(bound.options).model_fields if is_switched_off(bound) else ():
            if key != "coef" and self.checker.source.said((*bound.path, key)) and not self.ablated((*bound.path, key), bound):
                self.checker.mistake(
                    (*bound.path, key), f"has no effect: coef is 0, so '{bound.label}' is off; remove it, or raise coef"
                )

    def ablated(self, path: KeyPath, by: Bound) -> bool:
        """Whether a path of the file lost its effect to a coefficient of 0 on the command line: meant so, hence no mistake."""
        return self.checker.source.overrides((*by.path, "coef")) and not self.checker.source.overrides(path)

    def used_references(self, references: Mapping[str, Bound], users: Iterable[Bound]) -> dict[str, Bound]:
        """References that a part holds on to. An unused one that the user wrote is a mistake; a default one is dropped."""
        used: set[str] = set()
        switched_off: list[tuple[str, Bound]] = []
        for bound in users:
            to = getattr(bound.options, "to", None)
            if to is not None and is_switched_off(bound):
                switched_off.append((to, bound))
            if to is None or is_switched_off(bound):
                continue
            if to not in references:
                self.checker.mistake((*bound.path, "to"), f"no reference is labelled '{to}'; {nearest(to, references)}")
            used.add(to)
        for label, bound in references.items():
            ablated = any(to == label and self.ablated(bound.path, by) for to, by in switched_off)
            if label not in used and self.checker.source.said(bound.path) and not ablated:
                self.checker.mistake(bound.path, f"has no effect: no active part has `to: {label}`; point one at it or remove it")
        return {label: bound for label, bound in references.items() if label in used}
