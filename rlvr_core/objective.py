"""An objective put together from its components, and what they need at each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlvr_core.contracts import (
    Component,
    Correction,
    CreditAssigner,
    Differentiable,
    Loss,
    Needs,
    Reference,
    Regulariser,
    Sampler,
    Shaper,
)
from rlvr_core.errors import SpecError
from rlvr_core.plugins import catalogue
from rlvr_core.policy.forward import POLICY_QUANTITIES
from rlvr_core.spec.resolved import ResolvedObjective, is_switched_off


@dataclass(frozen=True)
class Objective:
    """The built parts. Regularisers and shapers that their coefficient switches off are not among them."""

    name: str
    sampler: Sampler
    correction: Correction | None
    shapers: Mapping[str, Shaper]
    credit: CreditAssigner
    loss: Loss
    references: Mapping[str, Reference]
    regularisers: Mapping[str, Regulariser]
    loss_agg_mode: str

    @property
    def differentiables(self) -> dict[str, Differentiable]:
        """Loss and regularisers by label."""
        return {"loss": self.loss, **self.regularisers}

    def components(self) -> Iterator[tuple[str, Component]]:
        """Every part under a name that stays the same across restarts."""
        yield "sampler", self.sampler
        if self.correction is not None:
            yield "correction", self.correction
        yield "credit", self.credit
        yield "loss", self.loss
        for slot, parts in (("shapers", self.shapers), ("references", self.references), ("regularisers", self.regularisers)):
            yield from ((f"{slot}.{label}", part) for label, part in parts.items())

    def learn_needs(self) -> dict[str, Needs]:
        """Needs of the learn stage by part."""
        return {label: part.needs() for label, part in self.differentiables.items()}

    def prepare_needs(self) -> dict[str, Needs]:
        """Needs of the prepare stage by part."""
        return {"credit": self.credit.needs(), **{label: shaper.needs() for label, shaper in self.shapers.items()}}

    def learn_quantities(self) -> frozenset[str]:
        """Quantities of the policy that any term reads."""
        return frozenset(q for needs in self.learn_needs().values() for q in needs.policy)

    def prepare_quantities(self) -> frozenset[str]:
        """Provided quantities that credit or shapers read (log-probs are in every batch)."""
        asked = {q for needs in self.prepare_needs().values() for q in needs.policy} - {"logprobs"}
        kept = {
            name.removeprefix("old_") for needs in self.learn_needs().values() for name in needs.fixed if name.startswith("old_")
        }
        return frozenset(asked | kept)

    def reference_quantities(self, stage_needs: Mapping[str, Needs]) -> dict[str, frozenset[str]]:
        """Reference label -> quantities that the needs of a stage ask of it."""
        wanted: dict[str, frozenset[str]] = {}
        for needs in stage_needs.values():
            if needs.to is not None and needs.reference:
                wanted[needs.to] = wanted.get(needs.to, frozenset()) | needs.reference
        return wanted

    def wants_dropped_rows(self) -> bool:
        """Whether any part reads rows that the sampler dropped."""
        stages = (self.learn_needs(), self.prepare_needs())
        return bool(self.shapers) or any(needs.scope == "all" for stage in stages for needs in stage.values())


def build_objective(resolved: ResolvedObjective) -> Objective:
    """Instances of every part. Raises SpecError where a part needs what no other provides."""

    def active(bounds: Mapping[str, Any]) -> dict[str, Any]:
        return {label: bound.build() for label, bound in bounds.items() if not is_switched_off(bound)}

    objective = Objective(
        resolved.name,
        resolved.sampler.build(),
        resolved.correction.build() if resolved.correction else None,
        active(resolved.shapers),
        resolved.credit.build(),
        resolved.loss.build(),
        active(resolved.references),
        active(resolved.regularisers),
        resolved.loss_agg_mode,
    )
    _check_provided(objective)
    return objective


def _providers(name: str) -> str:
    """Which installed parts would provide a quantity."""
    slots = {"regulariser": "regularisers.{}", "loss": "loss"}
    found = [c for c in catalogue() if c.kind in slots and name in c.load().provides]
    if not found:
        return "no installed part does"
    ways = (f"--set objective.{slots[c.kind].format(c.name)}.name={c.name}" for c in found)
    return f"add one that does: {' or '.join(ways)}"


def _check_provided(objective: Objective) -> None:
    provided: dict[str, str] = {}
    for label, part in objective.differentiables.items():
        for name in part.provides:
            if name in provided:
                raise SpecError(f"objective: both '{provided[name]}' and '{label}' provide '{name}'; remove one")
            provided[name] = label
    for label, needs in objective.learn_needs().items():
        old = {f"old_{name}" for name in provided}
        for name in sorted(needs.fixed - old - objective.credit.gives):
            raise SpecError(
                f"objective.{label}: needs '{name}', which the credit {type(objective.credit).__name__} does not give; "
                "use a credit that does (gae gives returns), or remove it"
            )
    prepare = {label: (needs.policy - {"logprobs"}, frozenset(provided)) for label, needs in objective.prepare_needs().items()}
    learn = {label: (needs.policy, POLICY_QUANTITIES | provided.keys()) for label, needs in objective.learn_needs().items()}
    for label, (wanted, there) in {**learn, **prepare}.items():
        for name in sorted(wanted - there):
            raise SpecError(f"objective.{label}: needs '{name}', which no active part provides; {_providers(name)}")
