"""From a spec as written to one where every part has a component and checked options. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from rlvr_core.errors import PluginError, SpecError, nearest
from rlvr_core.options import Options
from rlvr_core.plugins import Catalogue, Component
from rlvr_core.spec.explain import explain
from rlvr_core.spec.model import DEFAULT_OBSERVERS, RolloutSection, ScoringSection, Spec
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
        options = self.options.model_dump()
        inert = set(options) - {"coef"} if is_switched_off(self) else self.options.inert()
        weight = {} if self.weight is None else {"weight": self.weight}
        return {"name": self.component.name, **weight, **{key: value for key, value in options.items() if key not in inert}}


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
        data["credit"], data["loss"] = self.credit.as_dict(), self.loss.as_dict()
        data["loss_agg_mode"] = self.loss_agg_mode
        for slot in LABELLED_SLOTS:
            parts: dict[str, Part | None] = {label: bound.as_dict() for label, bound in getattr(self, slot).items()}
            parts |= {label: None for _, removed_from, label in self.removed if removed_from == slot}
            if parts:
                data[slot] = parts
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
        data["observers"] |= {label: None for label in DEFAULT_OBSERVERS if label not in self.observers}
        return data


def resolve(source: Source, catalogue: Catalogue) -> Resolved:
    """Check a spec against core's model and the installed plugins' own. Raises SpecError with a line for every mistake."""
    return Resolver(source, catalogue).resolve()


def checked_options(model: type[M], source: Source) -> M:
    """A component's options from a source that holds nothing else. Raises SpecError with a line for every mistake."""
    resolver = Resolver(source, Catalogue())
    options = resolver.check(model, source.data, ())
    resolver.finish()
    assert options is not None  # no mistakes
    return options


def resolve_reward(name: str, changes: Iterable[tuple[KeyPath, Any, str]], catalogue: Catalogue) -> tuple[Bound, ScoringSection]:
    """One reward and the scoring section, outside a run. ``changes``: (path, value, where it was said); a path is the reward's own, or
    starts with ``scoring``. Raises SpecError with a line for every mistake."""
    source = Source({"rewards": {name: {"name": name}}, "scoring": {}}, {}, f"--reward {name}")
    for path, value, origin in changes:
        source.set(path if path[0] == "scoring" else ("rewards", name, *path), value, origin)
    return Resolver(source, catalogue).reward(name)


class Resolver:
    """Collects mistakes, so that a user sees all of them at once. ``model``: what the whole spec is checked against."""

    def __init__(self, source: Source, catalogue: Catalogue, model: type[Options] = Spec) -> None:
        self.source = source
        self.catalogue = catalogue
        self.model = model
        self.mistakes: dict[KeyPath, str] = {}

    def resolve(self) -> Resolved:
        """Core's sections, then every part, also where a section has mistakes."""
        spec = self.check(Spec, self.source.data, ())
        objective, task, engine = self.objective(), self.task(), self.engine()
        rewards, observers = self.rewards(), self.observers()
        self.finish()
        assert spec and objective and task and engine  # no mistakes, so each is there
        return Resolved(spec, objective, task, engine, rewards, observers)

    def reward(self, name: str) -> tuple[Bound, ScoringSection]:
        """One reward without a run: its weight and what becomes of outcomes have no effect."""
        bound = self.part("reward", self.source.data["rewards"][name], ("rewards", name), weighted=True)
        scoring = self.check(ScoringSection, self.source.data["scoring"], ("scoring",))
        idle = [
            ("rewards", name, "weight"),
            *(("scoring", key) for key in ScoringSection.model_fields if key[:3] in ("on_", "war")),
        ]
        for path in idle:
            if self.source.said(path):
                self.mistake(path, "has no effect outside a run; remove it")
        self.finish()
        assert bound and scoring  # no mistakes, so each is there
        return bound, scoring

    def written(self, key: str) -> Any:
        """A section as the user wrote it, or its default; None where it is no mapping, which is a mistake already noted."""
        data = self.source.data.get(key, self.model.model_fields[key].default)
        return data if isinstance(data, dict) else None

    def finish(self) -> None:
        """Raise SpecError with every mistake, where there is any."""
        if self.mistakes:
            raise SpecError(*self.mistakes.values())

    def rewards(self) -> dict[str, Bound]:
        """The rewards; at least one that counts."""
        rewards = self.labelled("reward", self.written("rewards"), ("rewards",), weighted=True)
        if self.written("rewards") == {}:
            self.mistake(("rewards",), "a run needs at least one reward")
        elif rewards and all(bound.weight == 0 for bound in rewards.values()):
            self.mistake(("rewards",), "every weight is 0, so every reward would be 0; give one another weight")
        return rewards

    def task(self) -> Bound | None:
        """The task."""
        part = self.written("task")
        return None if part is None else self.part("task", part, ("task",))

    def engine(self) -> Bound | None:
        """The rollout engine; core's own unless another is named."""
        rollout, default = self.written("rollout") or {}, RolloutSection().engine
        part, path = rollout.get("engine", default), ("rollout", "engine")
        return self.part("rollout", part, path, default_name=default["name"]) if isinstance(part, dict) else None

    def observers(self) -> dict[str, Bound]:
        """The observers of every run, with the spec's changes and its own."""
        written = self.written("observers") or {}
        for label, part in written.items():
            if part is None and label not in DEFAULT_OBSERVERS:
                self.mistake(("observers", label), f"there is none to take away; {nearest(label, DEFAULT_OBSERVERS)}")
        parts = {label: part for label, part in {**DEFAULT_OBSERVERS, **written}.items() if part is not None}
        return self.labelled("observer", parts, ("observers",))

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

    def objective(self) -> ResolvedObjective | None:
        """The named objective with the spec's changes laid over it."""
        path: KeyPath = ("objective",)
        data = self.written("objective")
        if data is None:
            return None
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
        return None if merged is None else self.bind(data["name"], merged)

    def merge(self, default: Objective, changes: dict[str, Any]) -> Objective | None:
        """Lay the spec's changes over an objective's parts."""
        data, before = default.model_dump(), len(self.mistakes)
        for key, value in changes.items():
            path = ("objective", key)
            if key in LABELLED_SLOTS:
                if value == {} and data[key]:
                    self.mistake(
                        path,
                        f"an empty mapping takes nothing away; to take a part away write null, as {{{next(iter(data[key]))}: null}}",
                    )
                data[key] = self.merge_labelled(data[key], value, path)
            elif key in SINGLE_SLOTS:
                if value is None and key != "correction":
                    self.mistake(path, "cannot be left out")
                data[key] = self.merge_part(data[key], value, path, None)
            elif key in Objective.model_fields and key != "paper":
                data[key] = value
            else:
                self.mistake(path, f"no such part of an objective; {nearest(key, set(Objective.model_fields) - {'paper'})}")
        if len(self.mistakes) > before:
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
                self.mistake(*explain(item, ("objective",), Objective))
            return None

    def merge_labelled(self, default: Mapping[str, Part], changes: Any, path: KeyPath) -> dict[str, Part | None]:
        """Parts by label laid over a default's; null removes one."""
        merged: dict[str, Part | None] = dict(default)
        if not isinstance(changes, dict):
            self.mistake(path, "write a mapping of labels to parts")
            return merged
        for label, part in changes.items():
            if part is None and label not in default:
                self.mistake((*path, label), f"nothing to remove: the objective has no such part; {nearest(label, default)}")
            merged[label] = self.merge_part(default.get(label), part, (*path, label), label)
        return merged

    def merge_part(self, default: Part | None, change: Any, path: KeyPath, label: str | None) -> Part | None:
        """Options laid over a default's; another name resets them."""
        if change is None:
            return None
        if not isinstance(change, dict):
            self.mistake(path, f"write a mapping with a name, as {{name: {change}}}")
            return None
        standing = label if default is None else default.get("name", label)
        own = self.own(change, path, standing)
        name = own.get("name", standing)
        return {**(default or {}), **own, "name": name} if name == standing else {**own, "name": name}

    def bind(self, name: str, merged: Objective) -> ResolvedObjective | None:
        """Look up and check every part, then how they hang together."""
        path: KeyPath = ("objective",)
        before = len(self.mistakes)
        single = {
            slot: self.part(kind, part, (*path, slot))
            for slot, kind in SINGLE_SLOTS.items()
            if (part := getattr(merged, slot)) is not None
        }
        labelled = {slot: self.labelled(kind, getattr(merged, slot), (*path, slot)) for slot, kind in LABELLED_SLOTS.items()}
        if len(self.mistakes) > before:
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
            if key != "coef" and self.source.said((*bound.path, key)) and not self.ablated((*bound.path, key), bound):
                self.mistake((*bound.path, key), f"has no effect: coef is 0, so '{bound.label}' is off; remove it, or raise coef")

    def ablated(self, path: KeyPath, by: Bound) -> bool:
        """Whether a path of the file lost its effect to a coefficient of 0 on the command line: meant so, hence no mistake."""
        return self.source.overrides((*by.path, "coef")) and not self.source.overrides(path)

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
                self.mistake((*bound.path, "to"), f"no reference is labelled '{to}'; {nearest(to, references)}")
            used.add(to)
        for label, bound in references.items():
            ablated = any(to == label and self.ablated(bound.path, by) for to, by in switched_off)
            if label not in used and self.source.said(bound.path) and not ablated:
                self.mistake(bound.path, f"has no effect: no active part has `to: {label}`; point one at it or remove it")
        return {label: bound for label, bound in references.items() if label in used}


def is_switched_off(bound: Bound) -> bool:
    """A regulariser or shaper with coefficient 0 is as good as absent."""
    return bound.component.kind in ("shaper", "regulariser") and getattr(bound.options, "coef", 1.0) == 0
