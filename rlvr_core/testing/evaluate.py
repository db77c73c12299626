"""One door to the arithmetic: a registered component on given tensors, through the code that training runs.

    outputs, gradients = evaluate("loss", "clipped", {"epsilon_high": 0.28}, {"per_token_logps": ..., "advantages": ...})

Tensor names, axes as in ``rlvr_core.records``:

    per_token_logps, old_per_token_logps (default: per_token_logps, detached), sampling_per_token_logps,
    ref_per_token_logps (of every reference)                                         [B,T]
    completion_mask [B,T]; entropies, values, old_values, returns, is_weights        [B,T]
    advantages [B] or [B,T]; weights [B]; rewards [B] or token_level_rewards [B,T]; positive_mask [B]
    group_index [B] (default: ``group_size`` rows each, in order)
    online_features (the predictor's output), target_features, feature_noise         [B,D]

Outputs are named ``loss`` and one for each term, ``weights``, ``advantages``, ``returns``, ``is_weights``, ``rewards`` ...; gradients
are those of ``loss`` by input name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlvr_core.contracts import Differentiable
from rlvr_core.learner.micro import credited
from rlvr_core.learner.prepare import blank_batch, with_groups
from rlvr_core.learner.terms import Denominators, all_terms, count, own_denominators, reduce
from rlvr_core.objective import Objective, build_objective
from rlvr_core.plugins import catalogue
from rlvr_core.policy.scores import Linear, score_tokens
from rlvr_core.records import Batch, Credit, Credited, Example, MicroBatch, Rollout, RowKey
from rlvr_core.testing.bench import resolved_for

Tensors = Mapping[str, Tensor]
Result = tuple[dict[str, Tensor], dict[str, Tensor]]

DIFFERENTIABLE = ("per_token_logps", "entropies", "values", "online_features")
"""Inputs that gradients are taken of."""


@dataclass(frozen=True)
class Settings:
    """What surrounds a component. ``counts`` stand in for counted denominators (a batch that is part of a larger one)."""

    group_size: int | None = None
    loss_agg_mode: str = "token-mean"
    max_completion_length: int | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    training: bool = True


def evaluate(kind: str, name: str, options: Mapping[str, Any], tensors: Tensors, **settings: Any) -> Result:
    """Run one component, or an objective's whole loss (kind ``objective``; options: changes to its parts).

    ``settings``: fields of ``Settings``. Raises UnknownComponent, pydantic's ValidationError for options, KeyError for a tensor
    that the component needs and that was not given, ValueError for a kind without arithmetic.
    """
    around = Settings(**settings)
    if kind == "objective":
        return _objective(name, options, tensors, around)
    if kind == "policy" and name == "logprobs":
        return _logprobs(options, tensors)
    runners: dict[str, Callable[[Any, Tensors, Settings], Result]] = {
        "credit": _credit, "loss": _differentiable, "regulariser": _differentiable, "correction": _correction,
        "shaper": _shaper, "reference": _reference, "sampler": _sampler,
    }  # fmt: skip
    if kind not in runners:
        raise ValueError(f"a {kind} has no arithmetic to evaluate; kinds: {', '.join(sorted([*runners, 'objective', 'policy']))}")
    found = catalogue().get(kind, name)
    return runners[kind](found.build(found.options.model_validate(dict(options))), tensors, around)


def batch_of(tensors: Tensors, around: Settings) -> Batch:
    """The batch that a step would have prepared from these tensors."""
    mask = _mask(tensors)
    size, width = mask.shape
    groups = _groups(tensors, size, around)
    per_token = tensors.get("token_level_rewards")
    positive = tensors.get("positive_mask")
    rewards = tensors.get("rewards", torch.zeros(size) if positive is None else positive.double()).double()
    whole = rewards + (0.0 if per_token is None else per_token.double().where(mask, 0.0).sum(-1))
    rollouts = [_rollout(row, groups, whole, rewards, mask, width) for row in range(size)]
    chosen = torch.ones(size, dtype=torch.bool) if positive is None else positive.bool()
    logprobs = _logps(tensors, mask).double()
    batch = blank_batch(rollouts, [], around.max_completion_length or width)
    shaped = None if per_token is None else per_token.double().where(mask, 0.0)
    reference = {"logprobs": tensors["ref_per_token_logps"].double()} if "ref_per_token_logps" in tensors else {}
    return with_groups(
        replace(
            batch,
            chosen=chosen,
            mask=mask,
            logprobs=logprobs,
            sampling_logprobs=tensors.get("sampling_per_token_logps", logprobs).double(),
            token_rewards=shaped,
            provided={"values": tensors["values"].detach().double()} if "values" in tensors else {},
            references=_EveryReference(reference),
        )
    )


class _EveryReference(dict[str, Any]):
    """One reference's quantities, whatever its label."""

    def __init__(self, quantities: dict[str, Tensor]) -> None:
        super().__init__()
        self.quantities = quantities

    def __missing__(self, label: str) -> dict[str, Tensor]:
        return self.quantities


def _mask(tensors: Tensors) -> Tensor:
    if "completion_mask" in tensors:
        return tensors["completion_mask"].bool()
    like = next((t for t in tensors.values() if t.dim() == 2), next(iter(tensors.values()))[:, None])
    return torch.ones(like.shape, dtype=torch.bool)


def _logps(tensors: Tensors, mask: Tensor) -> Tensor:
    """Log-probs of the policy about to be updated."""
    given = tensors.get("old_per_token_logps", tensors.get("per_token_logps"))
    return torch.zeros(mask.shape, dtype=torch.float64) if given is None else given.detach()


def _groups(tensors: Tensors, size: int, around: Settings) -> list[int]:
    if "group_index" in tensors:
        return [int(g) for g in tensors["group_index"]]
    return [row // (around.group_size or size) for row in range(size)]


def _rollout(row: int, groups: list[int], whole: Tensor, rewards: Tensor, mask: Tensor, width: int) -> Rollout:
    members = [other for other in range(len(groups)) if groups[other] == groups[row]]
    length = int(mask[row].nonzero().max()) + 1 if mask[row].any() else 0
    return Rollout(
        key=RowKey(0, groups[row], members.index(row)),
        example=Example(str(groups[row]), "", ""),
        prompt_ids=(0,),
        completion_ids=(0,) * (width if row == 0 else length),
        logprobs=(0.0,) * (width if row == 0 else length),
        finish_reason="stop",
        exact=True,
        policy_version=0,
        reward=float(rewards[row]),
        group_rewards=tuple(float(whole[other]) for other in members),
    )


def _credit(component: Any, tensors: Tensors, around: Settings) -> Result:
    batch = batch_of(tensors, around)
    credit: Credit = component.credit(batch)
    outputs = {"advantages": credit.advantage}
    if credit.weight is not None:
        outputs["weights"] = credit.weight
    if credit.returns is not None:
        outputs["returns"] = credit.returns
    return outputs, {}


def _correction(component: Any, tensors: Tensors, around: Settings) -> Result:
    mask = _mask(tensors)
    return {"is_weights": component.importance(tensors["old_per_token_logps"], tensors["sampling_per_token_logps"], mask)}, {}


def _shaper(component: Any, tensors: Tensors, around: Settings) -> Result:
    return {"rewards": component.shape(batch_of(tensors, around))}, {}


def _sampler(component: Any, tensors: Tensors, around: Settings) -> Result:
    batch = batch_of(tensors, around)
    kept = {r.key for r in component.select(batch.rollouts, 0).kept}
    return {"kept": torch.tensor([r.key in kept for r in batch.rollouts])}, {}


def _differentiable(component: Differentiable, tensors: Tensors, around: Settings) -> Result:
    if "x" in tensors:
        return _module(component, tensors)
    label = "loss" if "coef" not in type(component.options).model_fields else "regulariser"
    return _loss({label: component}, batch_of(tensors, around), None, tensors, around)


def _module(component: Differentiable, tensors: Tensors) -> Result:
    """A component's own module on ``x`` [B,D], with the given weights; the gradients are those of sum(output * cotangent)."""
    weights = {k: v for k, v in tensors.items() if k not in ("x", "cotangent")}
    like = getattr(component, "module_like", None)
    if like is None:
        raise ValueError(
            f"{type(component).__name__} has no module_like(weights) that makes its module with the sizes of given weights"
        )
    module: nn.Module = like(weights).to(tensors["x"].dtype)
    module.load_state_dict(weights)
    x = tensors["x"].clone().requires_grad_()
    output = module(x)
    (output * tensors["cotangent"]).sum().backward()
    assert x.grad is not None  # backward just ran
    return {"output": output.detach()}, {"x": x.grad, **{k: p.grad for k, p in module.named_parameters() if p.grad is not None}}


def _objective(name: str, changes: Mapping[str, Any], tensors: Tensors, around: Settings) -> Result:
    resolved = resolved_for({"name": name, **changes})
    objective = build_objective(resolved.objective)
    return _loss(
        objective.differentiables,
        batch_of(tensors, around),
        objective,
        tensors,
        replace(around, loss_agg_mode=objective.loss_agg_mode),
    )


def _given_credit(batch: Batch, objective: Objective | None, tensors: Tensors) -> tuple[Batch, Credited]:
    """Credit as given in the tensors, or as the objective's own credit gives it. Rows of weight 0 were not chosen."""
    if objective is not None and "weights" not in tensors and "advantages" not in tensors:
        credit = objective.credit.credit(batch)
    else:
        weight = tensors["weights"].double() if "weights" in tensors else None
        credit = Credit(tensors.get("advantages", torch.ones(len(batch.mask))).double(), weight, tensors.get("returns"))
        if weight is not None:
            batch = replace(batch, chosen=weight > 0)
    importance = tensors["is_weights"].double().expand(batch.mask.shape) if "is_weights" in tensors else None
    return batch, credited(batch, credit, importance)


def _loss(
    parts: Mapping[str, Differentiable], batch: Batch, objective: Objective | None, tensors: Tensors, around: Settings
) -> Result:
    """Terms of the parts, reduced as the learner does it."""
    batch, credit = _given_credit(batch, objective, tensors)
    leaves = {name: tensors[name].clone().requires_grad_() for name in DIFFERENTIABLE if name in tensors}
    micro = _micro(batch, credit, leaves, tensors, around)
    for part in parts.values():
        if "online_features" in tensors and hasattr(part, "predictor_of"):
            part.predictor_of(nn.Identity())
    size = len(batch.mask)
    own = own_denominators(parts, batch, credit)
    prompts = len({r.key.group for r, chosen in zip(batch.rollouts, batch.chosen, strict=True) if chosen})
    counts = count(batch.mask, batch.chosen, credit.row_weight, torch.arange(size), prompts, float(size), own)
    counts |= {(over, scope): value for over, value in around.counts.items() for scope in ("chosen", "all")}
    denominators = Denominators(counts, around.loss_agg_mode, batch.max_completion_length)
    there = torch.ones(size, dtype=torch.bool)
    outputs: dict[str, Tensor] = {}
    total = torch.zeros((), dtype=torch.float64)
    for name, term in all_terms(parts, micro).items():
        value = reduce(name, term, micro, there, denominators)
        outputs[name] = (value / term.coef if term.coef else value).detach()
        total = total + value
    if total.requires_grad:
        total.backward()
    gradients = {name: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for name, leaf in leaves.items()}
    return {"loss": total.detach(), **outputs}, gradients


def _micro(batch: Batch, credit: Credited, leaves: Mapping[str, Tensor], tensors: Tensors, around: Settings) -> MicroBatch:
    """The whole batch as one micro-batch, its quantities as given."""
    width = batch.mask.shape[1]
    named = {"per_token_logps": "logprobs", "entropies": "entropy", "values": "values"}
    quantities = {named[name]: leaf for name, leaf in leaves.items() if name in named}
    reference = {"logprobs": tensors["ref_per_token_logps"]} if "ref_per_token_logps" in tensors else {}
    if "online_features" in leaves:
        quantities["hidden"] = leaves["online_features"][:, None].expand(-1, width, -1)
        reference["hidden"] = tensors["target_features"][:, None].expand(-1, width, -1)
    fixed = {name: tensors[name] for name in ("returns", "old_values") if name in tensors}
    noise = tensors.get("feature_noise") if around.training else None
    return MicroBatch(
        chosen=batch.chosen,
        mask=batch.mask,
        advantage=credit.advantage,
        weight=credit.weight,
        row_weight=credit.row_weight,
        old_logprobs=batch.logprobs,
        sampling_logprobs=batch.sampling_logprobs,
        importance=credit.importance,
        temperature=1.0,
        quantities=quantities,
        references=_EveryReference(reference),
        fixed=fixed,
        normal=None if noise is None else lambda name, size, std: noise * std,
    )


class _Bag(nn.Module):
    """A model that is nothing but its parameters."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        self.names = {name: f"p{i}" for i, name in enumerate(tensors)}
        for name, value in tensors.items():
            self.register_parameter(self.names[name], nn.Parameter(value.clone()))
        self.dtype = next(iter(tensors.values())).dtype

    def named(self) -> dict[str, Tensor]:
        return {name: getattr(self, attribute).detach().clone() for name, attribute in self.names.items()}


def _reference(component: Any, tensors: Tensors, around: Settings) -> Result:
    """``online0.*`` is copied; after each ``onlineN.*`` the reference follows, and is given out as ``targetN.*``."""
    steps: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        head, _, name = key.partition(".")
        steps.setdefault(int(head.removeprefix("online")), {})[name] = value
    reference = component.build(_Bag(steps[0]))
    outputs: dict[str, Tensor] = {}
    for step in sorted(steps)[1:]:
        component.follow(_Bag(steps[step]))
        outputs |= {f"target{step}.{name}": value for name, value in reference.named().items()}
    return outputs, {}


def _logprobs(options: Mapping[str, Any], tensors: Tensors) -> Result:
    """Log-prob and entropy from ``hidden`` [N,D], ``lm_head_weight`` [V,D] and ``ids`` [N].

    The gradients are those of sum(coef_logp * logprob + coef_entropy * entropy).
    """
    hidden, weight = tensors["hidden"].clone().requires_grad_(), tensors["lm_head_weight"].clone().requires_grad_()
    scores = score_tokens(
        hidden, tensors["ids"], Linear(weight), options.get("temperature", 1.0), options.get("chunk", 1024), True
    )
    objective = (tensors["coef_logp"] * scores.logprobs + tensors["coef_entropy"] * scores.entropy).sum()
    objective.backward()
    assert hidden.grad is not None and weight.grad is not None  # backward just ran
    outputs = {"logprob": scores.logprobs.detach(), "entropy": scores.entropy.detach(), "objective": objective.detach()}
    return outputs, {"hidden": hidden.grad, "lm_head_weight": weight.grad}
