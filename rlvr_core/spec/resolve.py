"""From a spec as written to one where every part has a component and checked options. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rlvr_core.errors import nearest
from rlvr_core.options import Options
from rlvr_core.plugins import Catalogue
from rlvr_core.spec.checker import Checker
from rlvr_core.spec.model import DEFAULT_OBSERVERS, RolloutSection, ScoringSection, Spec
from rlvr_core.spec.objective import ObjectiveResolver
from rlvr_core.spec.resolved import Bound, Resolved, ResolvedObjective
from rlvr_core.spec.source import KeyPath, Source


def resolve(source: Source, catalogue: Catalogue) -> Resolved:
    """Check a spec against core's model and the installed plugins' own. Raises SpecError with a line for every mistake."""
    return Resolver(source, catalogue).resolve()


def resolve_reward(name: str, changes: Iterable[tuple[KeyPath, Any, str]], catalogue: Catalogue) -> tuple[Bound, ScoringSection]:
    """One reward and the scoring section, outside a run. ``changes``: (path, value, where it was said); a path is the reward's own, or
    starts with ``scoring``. Raises SpecError with a line for every mistake."""
    source = Source({"rewards": {name: {"name": name}}, "scoring": {}}, {}, f"--reward {name}")
    for path, value, origin in changes:
        source.set(path if path[0] == "scoring" else ("rewards", name, *path), value, origin)
    return Resolver(source, catalogue).reward(name)


class Resolver(Checker):
    """Resolves the sections that name components. ``model``: what the whole spec is checked against."""

    def __init__(self, source: Source, catalogue: Catalogue, model: type[Options] = Spec) -> None:
        super().__init__(source, catalogue)
        self.model = model

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

    def objective(self) -> ResolvedObjective | None:
        """The objective."""
        data = self.written("objective")
        return None if data is None else ObjectiveResolver(self).resolve(data)

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
