"""Everything that a run keeps in memory, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from rlvr_core.errors import CapacityError, ModelError
from rlvr_core.objective import Objective, build_objective
from rlvr_core.planning import devices
from rlvr_core.planning.blueprint import blueprint
from rlvr_core.planning.devices import Device
from rlvr_core.planning.items import Item, When, gib
from rlvr_core.planning.kept import kept
from rlvr_core.planning.passing import passing
from rlvr_core.spec.resolved import Resolved


@dataclass(frozen=True)
class Memory:
    """What a run takes on each rank, and what there is."""

    items: tuple[Item, ...]
    device: Device

    def during(self, stage: When) -> int:
        """Bytes alive while learning or rolling out."""
        return sum(item.bytes for item in self.items if item.when in ("always", stage))

    @property
    def unavoidable(self) -> int:
        """Bytes that every update needs, however small its micro-batches."""
        return sum(item.bytes for item in self.items if item.kept)


def memory_of(resolved: Resolved, objective: Objective, policy: PreTrainedModel) -> Memory:
    """Every item, for a policy on the meta device."""
    there = devices.device()
    return Memory((*kept(resolved, objective, policy), *passing(resolved, policy, there)), there)


def check_fits(resolved: Resolved) -> None:
    """Raise CapacityError where not even an empty micro-batch fits. Reads the model's config alone.

    A config that cannot be read is left to the loader, which says why.
    """
    try:
        policy = blueprint(resolved.spec.model)
    except ModelError:
        return
    refuse_too_big(resolved, memory_of(resolved, build_objective(resolved.objective), policy))


def refuse_too_big(resolved: Resolved, memory: Memory) -> None:
    """Raise CapacityError where what training keeps exceeds the device."""
    if memory.unavoidable <= memory.device.bytes:
        return
    needs = ", ".join(f"{item.what} {gib(item.bytes)}" for item in memory.items if item.kept)
    ways = ["name a smaller model (model.name)"]
    if resolved.spec.model.dtype == "float32":
        ways.append("set model.dtype: bfloat16")
    if resolved.objective.references:
        ways.append(f"do without the references ({', '.join(resolved.objective.references)})")
    raise CapacityError(
        f"the run cannot fit: each rank needs {gib(memory.unavoidable)} whatever the batch ({needs}), and {memory.device.name} has "
        f"{gib(memory.device.bytes)}; {', or '.join(ways)}"
    )
