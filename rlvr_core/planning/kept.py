"""What training keeps, counted exactly: weights, moments, gradients, references."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from rlvr_core.contracts import Differentiable, Reference
from rlvr_core.objective import Objective
from rlvr_core.planning.devices import ranks
from rlvr_core.planning.items import Item, count, name_of, size_of, tensors_of
from rlvr_core.setup import build_modules
from rlvr_core.spec.resolved import Resolved


def kept(resolved: Resolved, objective: Objective, policy: PreTrainedModel) -> Iterator[Item]:
    """Weights, moments, gradients, references."""
    trained = list(policy.parameters())
    number = sum(p.numel() for p in {id(p): p for p in trained}.values())
    yield Item(
        "weights", size_of(tensors_of(policy)), "always", f"{count(number)} parameters in {name_of(policy.dtype)}", kept=True
    )
    for label, part in objective.differentiables.items():
        module = _module(label, part, policy, resolved.spec.seed)
        if module is not None:
            yield Item(f"modules of {label}", size_of(tensors_of(module)), "always", "trained beside the policy", kept=True)
            trained += module.parameters()
    yield Item("optimizer", 2 * size_of(trained), "always", "AdamW: two moments of every trained parameter", kept=True)
    for label, reference in objective.references.items():
        yield _reference(label, reference, policy)
    copies, buffers = (1, "") if ranks() == 1 else (2, ", and buffers to exchange them")
    yield Item("gradients", copies * size_of(trained), "learning", f"of every trained parameter{buffers}", kept=True)


def _module(label: str, part: Differentiable, policy: PreTrainedModel, seed: int) -> nn.Module | None:
    """A part's own module, without numbers; None where it has none, or will not be built so."""
    try:
        with torch.device("meta"):
            return build_modules({label: part}, policy, seed).get(label)
    except Exception:  # foreign code may need real tensors; the run itself will have them
        return None


def _reference(label: str, reference: Reference, policy: PreTrainedModel) -> Item:
    """What a reference does not share with the policy."""
    what = f"reference {label}"
    try:
        model = reference.build(policy)
    except Exception as error:  # the same
        return Item(what, 0, "always", f"not counted: it cannot be built without numbers ({type(error).__name__})")
    shared = {id(tensor) for tensor in tensors_of(policy)}
    own = size_of(tensor for tensor in tensors_of(model) if id(tensor) not in shared)
    return Item(what, own, "always", f"a model in {name_of(model.dtype)}", kept=True)
