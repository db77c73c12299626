"""A spec where every part has a component and checked options. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlvr_core.options import Options
from rlvr_core.plugins import Component
from rlvr_core.spec.model import DEFAULT_OBSERVERS, Spec
from rlvr_core.spec.parts import LABELLED_SLOTS, Part
from rlvr_core.spec.source import KeyPath


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
        data = without_inert(self.spec)
        data["output"] = self.output
        data["task"] = self.task.as_dict()
        data["rollout"]["engine"] = self.engine.as_dict()
        data["rewards"] = {label: bound.as_dict() for label, bound in self.rewards.items()}
        data["objective"] = self.objective.as_dict()
        data["observers"] = {label: bound.as_dict() for label, bound in self.observers.items()}
        data["observers"] |= {label: None for label in DEFAULT_OBSERVERS if label not in self.observers}
        return data


def is_switched_off(bound: Bound) -> bool:
    """A regulariser or shaper with coefficient 0 is as good as absent."""
    return bound.component.kind in ("shaper", "regulariser") and getattr(bound.options, "coef", 1.0) == 0


def without_inert(spec: Options) -> dict[str, Any]:
    """A spec's keys, its sections without options that have no effect."""
    data: dict[str, Any] = {}
    for key in type(spec).model_fields:
        value = getattr(spec, key)
        if isinstance(value, Options):
            inert = value.inert()
            value = {name: option for name, option in value.model_dump().items() if name not in inert}
        data[key] = value
    return data
