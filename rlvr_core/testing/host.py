"""Where a component stands while the kit looks at it: an objective around it in which whatever it needs is there.

The parts around it are the kit's own, so that the kit works on a bare core and a finding is the subject's alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr_core.components.options import KlLossOptions, NoOptions
from rlvr_core.contracts import Correction, CreditAssigner, Loss, ModelDims, Needs, Reference, Regulariser
from rlvr_core.options import Options
from rlvr_core.plugins import Catalogue, Component
from rlvr_core.policy.forward import POLICY_QUANTITIES
from rlvr_core.policy.root import make_quiet
from rlvr_core.records import Batch, Credit, MicroBatch, Term
from rlvr_core.spec.parts import LABELLED_SLOTS, SINGLE_SLOTS, Objective
from rlvr_core.testing.bench import Bench

LABEL = "subject"
"""The subject's label where its slot holds parts by label."""


@dataclass(frozen=True)
class Given(Component):
    """A component from a class at hand, which no distribution registers."""

    cls: type[Any] | None = None

    def load(self) -> type[Any]:
        assert self.cls is not None  # made by ``given``
        return self.cls


def given(kind: str, name: str, cls: type[Any], options: type[Options] = NoOptions) -> Given:
    """Register a class under a kind and a name, for this process alone; add it to a catalogue with ``with_components``."""
    return Given(
        kind, name, f"{cls.__module__}:{cls.__qualname__}", options, (cls.__doc__ or name).splitlines()[0], "test", "0", cls=cls
    )


def with_components(installed: Catalogue, *components: Component) -> Catalogue:
    """A catalogue with these as well."""
    return Catalogue({**installed.components, **{(c.kind, c.name): c for c in components}})


class CentredCredit(CreditAssigner):
    """Reward less its group's mean; the reward as each token's return."""

    gives = frozenset({"returns"})

    def credit(self, batch: Batch) -> Credit:
        advantage = torch.zeros_like(batch.sequence_rewards)
        for group in batch.groups:
            advantage[group.rows] = batch.sequence_rewards[group.rows] - group.rewards.mean()
        return Credit(advantage, returns=batch.rewards[:, None].expand(batch.mask.shape))


class WeightlessCredit(CentredCredit):
    """The same at weight 0, so that nothing may be pushed."""

    def credit(self, batch: Batch) -> Credit:
        found = super().credit(batch)
        return replace(found, weight=torch.zeros_like(found.advantage))


class PlainLoss(Loss):
    """REINFORCE: -A log pi per token."""

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"kit_policy": Term(-batch.advantage * batch["logprobs"] * batch.weight * batch.importance)}


class SilentLoss(Loss):
    """Pushes nothing, so that every gradient is the subject's."""

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"kit_policy": Term(0.0 * batch["logprobs"])}


class ZeroCorrection(Correction):
    """Masks every token."""

    def importance(self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros_like(logprobs)


class ShiftedReference(Reference):
    """The policy a little off, so that no divergence from it is 0."""

    scale = 0.02

    def build(self, policy: PreTrainedModel) -> PreTrainedModel:
        model = make_quiet(copy.deepcopy(policy))
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) + number).view_as(parameter)
                parameter.add_(self.scale * wave.to(parameter.dtype))
        return model


class FarReference(ShiftedReference):
    """A policy hundreds of nats away."""

    scale = 20.0


class Provider(Regulariser):
    """Provides [B,T] quantities that the subject reads and no part of its own provides (a critic's ``values``)."""

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"states"}) | self.provides)

    def build(self, policy: PreTrainedModel, dims: ModelDims) -> nn.Module:
        self.head = nn.Linear(dims.hidden_size, 1)
        return self.head

    def provide(self, name: str, batch: MicroBatch) -> Tensor:
        found: Tensor = self.head(batch["states"].to(self.head.weight.dtype)).squeeze(-1)
        return found

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {f"kit_{name}": Term(batch[name].square(), coef=1e-3) for name in sorted(self.provides)}


KIT = (
    given("credit", "kit_centred", CentredCredit),
    given("credit", "kit_weightless", WeightlessCredit),
    given("loss", "kit_plain", PlainLoss),
    given("loss", "kit_silent", SilentLoss),
    given("correction", "kit_zero", ZeroCorrection),
    given("reference", "kit_shifted", ShiftedReference),
    given("reference", "kit_far", FarReference),
    Component("objective", "kit", "", NoOptions, "the kit's own", "test", "0",
              Objective(credit={"name": "kit_centred"}, loss={"name": "kit_plain"})),
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A component under test, with its options as a spec would write them."""

    component: Component
    options: Mapping[str, Any]
    installed: Catalogue

    @property
    def kind(self) -> str:
        return self.component.kind

    def build(self) -> Any:
        """A new instance."""
        return self.component.build(self.component.options.model_validate(dict(self.options)))

    def with_options(self, **changes: Any) -> Subject:
        """The same with other options."""
        return replace(self, options={**self.options, **changes})

    def bench(self, *, dtype: torch.dtype = torch.float64, reference: str = "kit_shifted", parts: Mapping[str, Any] | None = None,
              **learner: Any) -> Bench:  # fmt: skip
        """The subject at work on a tiny policy. ``parts``: changes to the objective around it; ``learner``: options of that section."""
        if self.component.objective is not None:
            return Bench.of({"name": self.component.name, **(parts or {})}, dtype=dtype, installed=self.installed, **learner)
        around, installed = self._around(reference)
        for slot, part in (parts or {}).items():
            around[slot] = {**around.get(slot, {}), **part} if slot in LABELLED_SLOTS else part
        return Bench.of(around, dtype=dtype, installed=installed, **learner)

    def parts(self, bench: Bench) -> dict[str, Any]:
        """The live instances that are the subject: all parts with terms of an objective, else the one."""
        objective = bench.objective
        if self.component.objective is not None:
            return dict(objective.differentiables)
        if self.kind in SINGLE_SLOTS:
            return {self.kind: getattr(objective, self.kind)}
        return {LABEL: getattr(objective, _SLOTS[self.kind])[LABEL]}

    def _around(self, reference: str) -> tuple[dict[str, Any], Catalogue]:
        """An objective around the subject, and a catalogue that holds its parts."""
        part = {"name": self.component.name, **self.options}
        around: dict[str, Any] = {"name": "kit"}
        around[_SLOTS[self.kind]] = part if self.kind in SINGLE_SLOTS else {LABEL: part}
        if self.kind == "regulariser":
            around["loss"] = {"name": "kit_silent"}
        if self.kind == "reference":
            around["regularisers"] = {"kl": {"name": "kit_kl", "coef": 0.1, "to": LABEL}}
        needs = self.build().needs() if hasattr(self.component.load(), "needs") else Needs()
        if needs.to is not None and needs.reference:
            around.setdefault("references", {})[needs.to] = {"name": reference}
        missing = self._missing(needs)
        if not missing:
            return around, self.installed
        provider = type("Provider", (Provider,), {"provides": missing, "__doc__": Provider.__doc__})
        around.setdefault("regularisers", {})["provider"] = {"name": "kit_provider"}
        return around, with_components(self.installed, given("regulariser", "kit_provider", provider))

    def _missing(self, needs: Needs) -> frozenset[str]:
        """Quantities that neither the policy nor the subject provides."""
        wanted = needs.policy | {name.removeprefix("old_") for name in needs.fixed if name.startswith("old_")}
        return frozenset(wanted - POLICY_QUANTITIES - getattr(self.component.load(), "provides", frozenset()))


_SLOTS = {kind: slot for slot, kind in (SINGLE_SLOTS | LABELLED_SLOTS).items()}


def subject_of(kind: str, name: str, options: Mapping[str, Any] | None, installed: Catalogue) -> Subject:
    """A subject; ``coef`` and ``to`` get a value where they must have one and none was given."""
    from rlvr_core.components.parts import Kl

    component = installed.get(kind, name)
    chosen = dict(options or {})
    for key, value in (("coef", 0.1), ("to", "frozen")):
        field = component.options.model_fields.get(key)
        if field is not None and key not in chosen and (field.is_required() or (key == "coef" and not field.default)):
            chosen[key] = value
    return Subject(component, chosen, with_components(installed, *KIT, given("regulariser", "kit_kl", Kl, KlLossOptions)))
