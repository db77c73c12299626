"""From a spec as written to one where every part has a component and checked options. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from rlvr_core.errors import PluginError, SpecError, nearest
from rlvr_core.options import Options
from rlvr_core.plugins import Catalogue, Component
from rlvr_core.spec.model import Spec
from rlvr_core.spec.parts import LABELLED_SLOTS, SINGLE_SLOTS, Objective, Part
from rlvr_core.spec.source import KeyPath, Source

M = TypeVar("M", bound=Options)


@dataclass(frozen=True)
class Bound:
    """A component chosen for a place in the spec, with its checked options."""

    label: str
    path: KeyPath
    component: Component
    options: Options
    weight: float | None = None

    def build(self) -> Any:
        """A new instance."""
        return self.component.build(self.options)

    def as_dict(self) -> Part:
        """Name and options as a spec has them, without options that have no effect."""
        inert = self.options.inert()
        weight = {} if self.weight is None else {"weight": self.weight}
        return {
            "name": self.component.name,
            **weight,
            **{key: value for key, value in self.options.model_dump().items() if key not in inert},
        }


@dataclass(frozen=True)
class ResolvedObjective:
    """The parts of an objective after a spec's changes."""

    name: str
    sampler: Bound
    correction: Bound | None
    shapers: Mapping[str, Bound]
    credit: Bound
    loss: Bound
    loss_agg_mode: str
    references: Mapping[str, Bound]
    regularisers: Mapping[str, Bound]
    removed: tuple[KeyPath, ...] = ()

    def parts(self) -> Iterator[tuple[str, Bound]]:
        """(kind, part) from sampler to regulariser."""
        yield "sampler", self.sampler
        if self.correction is not None:
            yield "correction", self.correction
        yield from (("shaper", bound) for bound in self.shapers.values())
        yield "credit", self.credit
        yield "loss", self.loss
        yield from (("reference", bound) for bound in self.references.values())
        yield from (("regulariser", bound) for bound in self.regularisers.values())

    def as_dict(self) -> dict[str, Any]:
        """As a spec has it."""
        data: dict[str, Any] = {"name": self.name, "sampler": self.sampler.as_dict()}
        data["correction"] = self.correction.as_dict() if self.correction else None
        data["shapers"] = {label: bound.as_dict() for label, bound in self.shapers.items()}
        data["credit"], data["loss"] = self.credit.as_dict(), self.loss.as_dict()
        data["loss_agg_mode"] = self.loss_agg_mode
        data["references"] = {label: bound.as_dict() for label, bound in self.references.items()}
        data["regularisers"] = {label: bound.as_dict() for label, bound in self.regularisers.items()}
        for slot, label in ((path[1], path[2]) for path in self.removed):
            data[slot][label] = None
        return data


@dataclass(frozen=True)
class Resolved:
    """A spec whose every part is known and checked."""

    spec: Spec
    objective: ResolvedObjective
    task: Bound
    engine: Bound
    rewards: Mapping[str, Bound]
    observers: Mapping[str, Bound]

    @property
    def output(self) -> str:
        """The run's folder."""
        return self.spec.output or f"runs/{self.objective.name}-{self.task.component.name}-seed{self.spec.seed}"

    def bounds(self) -> Iterator[tuple[str, Bound]]:
        """(kind, part) of the whole spec."""
        yield "task", self.task
        yield "rollout", self.engine
        yield from (("reward", bound) for bound in self.rewards.values())
        yield from self.objective.parts()
        yield from (("observer", bound) for bound in self.observers.values())

    def as_dict(self) -> dict[str, Any]:
        """The resolved spec: running it again does the same, also where defaults have changed since."""
        data: dict[str, Any] = {}
        for key in Spec.model_fields:
            value = getattr(self.spec, key)
            inert = value.inert() if isinstance(value, Options) else {}
            data[key] = {k: v for k, v in value.model_dump().items() if k not in inert} if isinstance(value, Options) else value
        data["output"] = self.output
        data["task"] = self.task.as_dict()
        data["rollout"]["engine"] = self.engine.as_dict()
        data["rewards"] = {label: bound.as_dict() for label, bound in self.rewards.items()}
        data["objective"] = self.objective.as_dict()
        data["observers"] = {label: bound.as_dict() for label, bound in self.observers.items()}
        return data


def resolve(source: Source, catalogue: Catalogue) -> Resolved:
    """Check a spec against core's model and the installed plugins' own. Raises SpecError with a line for every mistake."""
    return _Resolver(source, catalogue).resolve()


class _Resolver:
    """Collects mistakes, so that a user sees all of them at once."""

    def __init__(self, source: Source, catalogue: Catalogue) -> None:
        self.source = source
        self.catalogue = catalogue
        self.mistakes: list[str] = []

    def resolve(self) -> Resolved:
        spec = self.check(Spec, self.source.data, ())
        self.stop_on_mistakes()
        assert spec is not None  # stop_on_mistakes raised otherwise
        objective = self.objective(spec.objective)
        task = self.part("task", spec.task, ("task",))
        engine = self.part("rollout", spec.rollout.engine, ("rollout", "engine"))
        rewards = self.labelled("reward", spec.rewards, ("rewards",))
        observers = self.labelled("observer", spec.observers, ("observers",))
        if not spec.rewards:
            self.mistake(("rewards",), "a run needs at least one reward")
        self.stop_on_mistakes()
        assert objective and task and engine  # the same
        return Resolved(spec, objective, task, engine, rewards, observers)

    def stop_on_mistakes(self) -> None:
        if self.mistakes:
            raise SpecError(*self.mistakes)

    def mistake(self, path: KeyPath, message: str) -> None:
        name = ".".join(path)
        where = self.source.where(path)
        self.mistakes.append(f"{where}: {name}: {message}" if name else f"{where}: {message}")

    def check(self, model: type[M], data: Any, path: KeyPath, said: KeyPath | None = None) -> M | None:
        """Validate against a pydantic model; each error becomes a mistake. ``said``: where the user's own keys stand."""
        try:
            checked = model.model_validate(data)
        except ValidationError as error:
            for item in error.errors():
                self.mistake(*_explain(item, path, model))
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

    def part(self, kind: str, part: Part | None, path: KeyPath, default_name: str | None = None) -> Bound | None:
        """One component with its options."""
        if not isinstance(part, dict):
            self.mistake(path, f"write a mapping with a name, as {{name: {part if isinstance(part, str) else '...'}}}")
            return None
        options = dict(part)
        name = options.pop("name", default_name)
        weight = options.pop("weight", 1.0) if kind == "reward" else None
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
        return None if checked is None else Bound(path[-1], path, component, checked, None if weight is None else float(weight))

    def labelled(self, kind: str, parts: Mapping[str, Part | None], path: KeyPath) -> dict[str, Bound]:
        """Components by label; a part set to null is left out."""
        bounds = {
            label: self.part(kind, part, (*path, label), default_name=label) for label, part in parts.items() if part is not None
        }
        return {label: bound for label, bound in bounds.items() if bound is not None}

    def objective(self, data: dict[str, Any]) -> ResolvedObjective | None:
        """The named objective with the spec's changes laid over it."""
        path: KeyPath = ("objective",)
        if not isinstance(data.get("name"), str):
            self.mistake(path, f"needs a name; {nearest('', self.catalogue.names('objective'))}")
            return None
        try:
            default = self.catalogue.get("objective", data["name"]).objective
        except PluginError as error:
            self.mistake((*path, "name"), str(error))
            return None
        assert default is not None  # registered objectives carry one
        merged = self.merge(default, {key: value for key, value in data.items() if key != "name"})
        if merged is None:
            return None
        return self.bind(data["name"], default, merged)

    def merge(self, default: Objective, changes: dict[str, Any]) -> Objective | None:
        """Lay the spec's changes over an objective's parts."""
        data = default.model_dump()
        for key, value in changes.items():
            path = ("objective", key)
            if key in LABELLED_SLOTS:
                if not isinstance(value, dict):
                    self.mistake(path, "write a mapping of labels to parts")
                    continue
                data[key] = dict(data[key])
                for label, part in value.items():
                    data[key][label] = self.merge_part(data[key].get(label), part, (*path, label), label)
            elif key in SINGLE_SLOTS:
                if value is None and key != "correction":
                    self.mistake(path, "cannot be left out")
                    continue
                data[key] = self.merge_part(data[key], value, path, None)
            elif key in Objective.model_fields and key != "paper":
                data[key] = value
            else:
                self.mistake(path, f"no such part of an objective; {nearest(key, set(Objective.model_fields) - {'paper'})}")
        if self.mistakes:
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
                self.mistake(*_explain(item, ("objective",), Objective))
            return None

    def merge_part(self, default: Part | None, change: Any, path: KeyPath, label: str | None) -> Part | None:
        """Options laid over a default's; another name resets them."""
        if change is None:
            return None
        if not isinstance(change, dict):
            self.mistake(path, f"write a mapping with a name, as {{name: {change}}}")
            return None
        standing = None if default is None else default.get("name", label)
        name = change.get("name", standing if standing is not None else label)
        return {**(default or {}), **change, "name": name} if name == standing else {**change, "name": name}

    def bind(self, name: str, default: Objective, merged: Objective) -> ResolvedObjective | None:
        """Look up and check every part, then how they hang together."""
        path: KeyPath = ("objective",)
        single = {
            slot: self.part(kind, part, (*path, slot))
            for slot, kind in SINGLE_SLOTS.items()
            if (part := getattr(merged, slot)) is not None
        }
        labelled = {slot: self.labelled(kind, getattr(merged, slot), (*path, slot)) for slot, kind in LABELLED_SLOTS.items()}
        if self.mistakes:
            return None
        shapers, references = labelled["shapers"], labelled["references"]
        regularisers = {label: bound for label, bound in labelled["regularisers"].items()}
        references = self.used_references(references, {**shapers, **regularisers})
        sampler, credit, loss = single["sampler"], single["credit"], single["loss"]
        assert sampler and credit and loss  # no mistakes, so each is there
        return ResolvedObjective(
            name, sampler, single.get("correction"), shapers, credit, loss, merged.loss_agg_mode, references, regularisers, self.removed
        )

    def used_references(self, references: Mapping[str, Bound], users: Mapping[str, Bound]) -> dict[str, Bound]:
        """References that a part holds on to. An unused one that the user wrote is a mistake; a default one is dropped."""
        used: set[str] = set()
        for bound in users.values():
            to = getattr(bound.options, "to", None)
            if to is None or is_switched_off(bound):
                continue
            if to not in references:
                self.mistake((*bound.path, "to"), f"no reference is labelled '{to}'; {nearest(to, references)}")
            used.add(to)
        for label, bound in references.items():
            if label not in used and self.source.said(bound.path):
                self.mistake(bound.path, f"has no effect: no active part has `to: {label}`; point one at it or remove it")
        return {label: bound for label, bound in references.items() if label in used}


def is_switched_off(bound: Bound) -> bool:
    """A regulariser or shaper with coefficient 0 is as good as absent."""
    return getattr(bound.options, "coef", 1.0) == 0


def _explain(item: Any, path: KeyPath, model: type[Any]) -> tuple[KeyPath, str]:
    """One pydantic error as (path, message with a way out)."""
    loc = tuple(str(part) for part in item["loc"])
    where = (*path, *loc)
    value = item.get("input")
    if item["type"] == "extra_forbidden":
        return where, f"unknown key; {nearest(loc[-1], _keys_at(model, loc[:-1]))}"
    if item["type"] == "missing":
        return where, "is required"
    message = item["msg"][0].lower() + item["msg"][1:]
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
