"""Checks of what works on whole batches without gradient: samplers, corrections, shapers, credits, references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlvr_core.records import Batch, Rollout, Selection
from rlvr_core.testing.bench import Bench
from rlvr_core.testing.fakes import tiny_policy
from rlvr_core.testing.host import Subject
from rlvr_core.testing.kit import Failed, NotApplicable, check_for, expect, one_of
from rlvr_core.testing.learning import global_seed, snapshot
from rlvr_core.testing.scenarios import SCENARIOS, mixed

# Samplers


@check_for("sampler")
def it_selects_whole_rollouts_once(subject: Subject) -> None:
    """Kept rollouts are those it was shown, or those it kept from earlier steps, each once; refill counts prompts."""
    for name, make in SCENARIOS.items():
        sampler, scored = subject.build(), make()
        before = list(scored)
        for round in range(3):
            found: Selection = sampler.select(scored, round)
            expect(scored == before, f"{name}: it changes the list of rollouts that it is shown; make a new one")
            keys = [r.key for r in found.kept]
            expect(len(keys) == len(set(keys)), f"{name}: it keeps a rollout twice; weigh it by credit instead")
            made_up = [r.key for r in found.kept if r not in scored]
            expect(not made_up, f"{name}: it keeps rollouts that nobody drew, or changed ones: {made_up[:2]}")
            expect(
                isinstance(found.refill, int) and found.refill >= 0,
                f"{name}: refill {found.refill!r} is no number of prompts",
            )
            odd = [key for key, value in found.metrics.items() if not abs(float(value)) < float("inf")]
            expect(not odd, f"{name}: metrics that are no finite numbers: {one_of(odd)}")


@check_for("sampler")
def every_rank_selects_alike(subject: Subject) -> None:
    """Each rank runs the sampler on the same rollouts and must keep the same ones, whatever it drew before."""
    kept = []
    for seed in (1, 2):
        with global_seed(seed):
            sampler = subject.build()
            kept.append([[r.key for r in sampler.select(mixed(step), 0).kept] for step in (1, 2)])
    expect(
        kept[0] == kept[1],
        "two ranks would keep different rollouts; draw from rlvr_core.randomness.generator, by step and prompt",
    )


# Corrections


def _pair(rows: int = 5, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of policy and sampler, and a mask of ragged rows."""
    draw = torch.Generator().manual_seed(0)
    policy = -2 * torch.rand(rows, width, generator=draw, dtype=torch.float64)
    sampler = policy + torch.randn(rows, width, generator=draw, dtype=torch.float64)
    mask = torch.arange(width)[None] < torch.arange(2, rows + 2)[:, None]
    return policy.where(mask, 0.0), sampler.where(mask, 0.0), mask


@check_for("correction")
def its_factors_are_sound(subject: Subject) -> None:
    """[B,T], never negative, finite for any log-ratio, 1 where policy and sampler agree, in the dtype of the log-probs."""
    policy, sampler, mask = _pair()
    far = torch.full_like(policy, -800.0)
    zero = torch.zeros_like(policy)
    for name, (a, b) in {"a small ratio": (policy, sampler), "exp(800)": (zero, far), "exp(-800)": (far, zero)}.items():
        factors = subject.build().importance(a, b, mask)
        expect(factors.shape == mask.shape, f"it returns shape {tuple(factors.shape)}; [B,T] = {tuple(mask.shape)} is wanted")
        expect(
            bool(factors[mask].isfinite().all()),
            f"{name}: factors that are not finite; bound the ratio, or the log-ratio before exp",
        )
        expect(bool((factors[mask] >= 0).all()), f"{name}: negative factors would turn the push around")
        expect(factors.dtype == a.dtype, f"it returns {factors.dtype} for log-probs in {a.dtype}")
    agreed = subject.build().importance(policy, policy, mask)[mask]
    expect(
        bool(((agreed - 1).abs() <= 1e-12).all()),
        "where policy and sampler agree its factor is not 1, so exact rollouts would be learned from differently",
    )


@check_for("correction")
def it_looks_at_no_padding(subject: Subject) -> None:
    """What stands behind a row's end, and the order of rows, change no factor."""
    policy, sampler, mask = _pair()
    found = subject.build().importance(policy, sampler, mask)
    noisy = [values.where(mask, -3.0 + number) for number, values in enumerate((policy, sampler))]
    other = subject.build().importance(*noisy, mask)
    expect(
        torch.allclose(found[mask], other[mask], atol=1e-12), "padding changes its factors; mask log-ratios before summing them"
    )
    back = subject.build().importance(policy.flip(0), sampler.flip(0), mask.flip(0)).flip(0)
    expect(torch.allclose(found[mask], back[mask], atol=1e-12), "the order of rows changes its factors")


# Shapers and credits: alike in what they are handed


def _prepared(subject: Subject, kept: Sequence[Rollout], dropped: Sequence[Rollout] = (), **around: Any) -> tuple[Bench, Batch]:
    bench = subject.bench(**around)
    preparer = bench.preparer
    if subject.kind == "shaper":  # the batch as the shaper sees it
        preparer._shape = lambda batch: batch  # type: ignore[method-assign]  # so that it is not shaped already
    return bench, preparer.prepare(kept, dropped, 0)


def _outputs(subject: Subject, bench: Bench, batch: Batch) -> dict[str, Tensor]:
    """What the subject gives for a batch, by name."""
    (part,) = subject.parts(bench).values()
    if subject.kind == "shaper":
        return {"shape()": part.shape(batch)}
    credit = part.credit(batch)
    found = {"advantage": credit.advantage, "weight": credit.weight, "returns": credit.returns}
    return {name: values for name, values in found.items() if values is not None}


@check_for("credit", "shaper")
def it_gives_what_it_should(subject: Subject) -> None:
    """[B] or [B,T], finite, without gradient, in float64, whatever the rewards; weights are never negative."""
    for name, make in SCENARIOS.items():
        bench, batch = _prepared(subject, make())
        for output, values in _outputs(subject, bench, batch).items():
            shapes = (batch.chosen.shape, batch.mask.shape)
            expect(
                values.shape in shapes,
                f"{name}: {output} has shape {tuple(values.shape)}; [B] or [B,T] {tuple(shapes[1])} is wanted",
            )
            counts = batch.mask if values.dim() == 2 else batch.chosen
            expect(
                bool(values[counts].isfinite().all()),
                f"{name}: {output} is not finite; guard divisions by what may be 0",
            )
            expect(
                not values.requires_grad, f"{name}: {output} carries a gradient; credit is decided before learning, so detach it"
            )
            expect(values.dtype == torch.float64, f"{name}: {output} is {values.dtype}; keep the batch's float64")
            expect(
                output != "weight" or bool((values[counts] >= 0).all()), f"{name}: negative weights; put the sign into advantage"
            )


@check_for("credit", "shaper")
def it_changes_nothing_in_the_batch(subject: Subject) -> None:
    """The batch is shared by every part, and the same on every rank."""
    bench, batch = _prepared(subject, mixed())
    before = snapshot(batch)
    _outputs(subject, bench, batch)
    after = snapshot(batch)
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    expect(not changed, f"it changes {one_of(changed)} in place; make a copy (.clone()) first")


@check_for("credit", "shaper")
def order_and_padding_change_nothing(subject: Subject) -> None:
    """Rows in another order, or beside a longer one, are worth the same."""
    rows = mixed()
    found = _by_rollout(subject, rows)
    _compare(found, _by_rollout(subject, rows[::-1]), "the order of rows changes {}; go by batch.groups and masks")
    shortest = [r for r in rows if r.key.prompt == 3]  # a whole group of short rows
    if subject.kind == "shaper":
        alone = _by_rollout(subject, shortest)
        _compare(
            {key: values for key, values in found.items() if key in alone}, alone, "padding, or other groups' rows, change {}"
        )


def _by_rollout(subject: Subject, rows: Sequence[Rollout], dropped: Sequence[Rollout] = ()) -> dict[Any, dict[str, Tensor]]:
    """Each kept rollout's own values, without padding."""
    bench, batch = _prepared(subject, rows, dropped)
    outputs = _outputs(subject, bench, batch)
    return {
        r.key: {name: values[row] if values.dim() == 1 else values[row][batch.mask[row]] for name, values in outputs.items()}
        for row, r in enumerate(batch.rollouts[: len(rows)])
    }


def _compare(one: dict[Any, dict[str, Tensor]], other: dict[Any, dict[str, Tensor]], message: str) -> None:
    for key, values in one.items():
        for name, value in values.items():
            expect(torch.allclose(value, other[key][name], atol=1e-9, rtol=1e-9), message.format(name))


@check_for("credit")
def rows_that_were_not_chosen_do_not_count(subject: Subject) -> None:
    """Some parts bring dropped rows into the batch; what kept ones are worth must not depend on that."""
    rows = mixed()
    kept, dropped = rows[::3], [r for i, r in enumerate(rows) if i % 3]
    message = "dropped rows in the batch change {}; use batch.groups, or batch.mask & batch.chosen[:, None]"
    _compare(_by_rollout(subject, kept), _by_rollout(subject, kept, dropped), message)


# References


@check_for("reference")
def it_is_a_policy_of_its_own(subject: Subject) -> None:
    """In evaluation mode, without gradient, sharing nothing that the optimizer moves; building it leaves the policy alone."""
    policy, part = tiny_policy(), subject.build()
    before = {name: p.clone() for name, p in policy.named_parameters()}
    moving = {p.data_ptr() for p in policy.parameters() if p.requires_grad}
    model = part.build(policy)
    expect(not model.training, "its model is in training mode; call .eval()")
    expect(not any(p.requires_grad for p in model.parameters()), "its parameters take gradients; call .requires_grad_(False)")
    expect(
        not moving & {p.data_ptr() for p in model.parameters()},
        "it shares parameters with the policy, so it moves with every optimizer step; copy.deepcopy them",
    )
    expect(all(p.requires_grad for p in policy.parameters()), "building it switches the policy's gradients off; copy first")
    part.follow(policy)
    changed = [name for name, p in policy.named_parameters() if not torch.equal(p, before[name])]
    expect(not changed, f"it changes the policy: {one_of(changed[:2])}")


def _nudge(policy: Any, size: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1 + size)


@check_for("reference")
def it_says_whether_it_moves(subject: Subject) -> None:
    """A reference that says ``moves = False`` is forwarded once a batch, so ``follow`` must not change it."""
    policy, part = tiny_policy(), subject.build()
    model = part.build(policy)
    start = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(64):
        _nudge(policy, 1e-2)
        part.follow(policy)
    moved = any(not torch.equal(p, start[name]) for name, p in model.named_parameters())
    expect(
        part.moves or not moved,
        "follow() changes it, but 'moves' is False, so old log-probs would be used; set moves = True",
    )


@check_for("reference")
def it_moves_alike_in_every_dtype(subject: Subject) -> None:
    """Small steps must not be rounded away: beside a bfloat16 policy a moving average needs float32 weights."""
    if not subject.build().moves:
        raise NotApplicable("it does not move")
    travelled = {}
    for dtype in (torch.float64, torch.bfloat16):
        policy, part = tiny_policy(dtype=dtype), subject.build()
        model = part.build(policy)
        start = torch.cat([p.double().flatten() for p in model.parameters()])
        _nudge(policy, 0.02)
        for _ in range(40):
            part.follow(policy)
        travelled[dtype] = float((torch.cat([p.double().flatten() for p in model.parameters()]) - start).norm())
    near = abs(travelled[torch.bfloat16] - travelled[torch.float64]) <= 0.3 * travelled[torch.float64]
    expect(
        near,
        f"after 40 small steps it moved {travelled[torch.bfloat16]:.3g} beside a bfloat16 policy, {travelled[torch.float64]:.3g} beside "
        "a float64 one; keep its weights in float32 at least, or every step is rounded away",
    )


@check_for("reference")
def its_weights_come_back(subject: Subject) -> None:
    """state_dict() restores the model into one that was built from another policy (the resumed run's start)."""
    policy, part = tiny_policy(), subject.build()
    model = part.build(policy)
    for _ in range(3):
        _nudge(policy, 1e-2)
        part.follow(policy)
    fresh = subject.build()
    again = fresh.build(tiny_policy(seed=1))
    try:
        fresh.load_state_dict(part.state_dict())
    except Exception as error:
        raise Failed(f"load_state_dict() does not take what state_dict() gave: {' '.join(str(error).split())[:200]}") from error
    other = dict(again.named_parameters())
    lost = [name for name, p in model.named_parameters() if not torch.equal(p, other[name])]
    expect(not lost, f"after a restart it would be another model ({one_of(lost[:2])} differ); put its weights into state_dict()")
