"""Checks of every part of an objective, and of objectives: a step with the part in it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rlvr_core.checkpoint.state import learner_state, read, restore_learner
from rlvr_core.errors import DivergenceError
from rlvr_core.options import Options
from rlvr_core.plugins import Component
from rlvr_core.records import Rollout
from rlvr_core.spec.parts import LABELLED_SLOTS, SINGLE_SLOTS
from rlvr_core.testing.fakes import scripted_rollouts
from rlvr_core.testing.host import Subject, with_components
from rlvr_core.testing.kit import Failed, NotApplicable, check_for, expect, one_of
from rlvr_core.testing.learning import WHOLE, Learned, global_seed, learn, update
from rlvr_core.testing.scenarios import SCENARIOS, mixed

PARTS = (*SINGLE_SLOTS.values(), *LABELLED_SLOTS.values(), "objective")

SPLITS: tuple[dict[str, Any], ...] = (
    {"budget": 1}, {"budget": 30, "backwards": True}, {"budget": WHOLE, "ranks": 2}, {"budget": 12, "ranks": 2, "backwards": True},
)  # fmt: skip
"""Eight micro-batches of one row and one of eight, in another order, with other padding, on one rank and on two."""

LIKELY = (
    "likely a mean or a count over the micro-batch (return values undivided and name what they are averaged over in Term.over), "
    "or statistics over rows or padding (mask them)"
)


def _lone_positive() -> list[Rollout]:
    """One right rollout in all: on two ranks, one has none."""
    return scripted_rollouts([[0, 0, 1, 0], [0, 0, 0, 0]], [[3, 5, 2, 8], [4, 1, 6, 2]])


@check_for(*PARTS)
def the_split_of_the_work_changes_nothing(subject: Subject) -> None:
    """The same rollouts in any micro-batches, order, padding, on one rank or two: the same loss and gradients, to 1e-10."""
    makers: tuple[Callable[[], Sequence[Rollout]], ...] = (mixed, lambda: mixed(exact=False), _lone_positive)
    for make in makers:
        whole = learn(subject, make())
        for split in SPLITS:
            _same(whole, learn(subject, make(), **split), _words(split))


def _words(split: dict[str, Any]) -> str:
    order = ", backwards" if split.get("backwards") else ""
    return f"micro-batches of {split['budget']} tokens on {split.get('ranks', 1)} rank(s){order}"


def _same(whole: Learned, split: Learned, how: str) -> None:
    names = whole.gradients.keys() ^ split.gradients.keys()
    expect(not names, f"{how}: some parameters get a gradient only then, or only otherwise: {sorted(names)[:3]}")
    for name, expected in whole.gradients.items():
        gap = (split.gradients[name] - expected).abs().max()
        scale = max(1.0, float(expected.abs().max()))
        expect(bool(gap <= 1e-10 * scale), f"{how}: the gradient of {name} is off by {float(gap):.2g}; {LIKELY}")


@check_for("objective")
def several_passes_do_not_depend_on_the_split(subject: Subject) -> None:
    """Two minibatches and two iterations over a batch end with the same parameters however they are split."""
    passes: dict[str, Any] = {"num_minibatches": 2, "num_iterations": 2, "learning_rate": 1e-2}
    one, other = (learn(subject, mixed(), budget=budget, **passes) for budget in (1, WHOLE))
    for name, expected in one.parameters.items():
        gap = float((other.parameters[name] - expected).abs().max())
        expect(gap <= 1e-7, f"{name} ends {gap:.2g} apart; {LIKELY}")


@check_for(*PARTS)
def it_draws_nothing_from_global_generators(subject: Subject) -> None:
    """What ran before must not matter, nor on which rank: noise comes from batch.normal, keyed by prompt and sample."""
    found, moved = [], False
    for seed in (1, 2):
        with global_seed(seed):
            before = (torch.get_rng_state(), random.getstate())
            found.append(learn(subject, mixed()))
            moved |= not torch.equal(before[0], torch.get_rng_state()) or before[1] != random.getstate()
    expect(
        found[0].kept == found[1].kept,
        "other rollouts are kept after another global seed; draw from rlvr_core.randomness.generator",
    )
    expect(
        torch.equal(found[0].flat(), found[1].flat()),
        "gradients change with the global seed; take noise from batch.normal(name, size, std), or rlvr_core.randomness.generator",
    )
    expect(not moved, "it draws from, or seeds, a global generator, on which others may lean; use rlvr_core.randomness.generator")


@dataclass(frozen=True)
class _Watched(Component):
    """A component whose instances' looks at their options are noted."""

    inner: Component | None = None
    read: set[str] = field(default_factory=set)

    def load(self) -> type[Any]:
        assert self.inner is not None  # made below
        return self.inner.load()

    def build(self, options: Options) -> Any:
        def noted(looked_at: Any, name: str) -> Any:
            self.read.add(name)
            return object.__getattribute__(looked_at, name)

        model = type(options)
        watching: Any = type(model.__name__, (model,), {"__doc__": model.__doc__, "__module__": model.__module__})
        made = watching.model_construct(**vars(options))
        watching.__getattribute__ = noted  # from now on
        return self.load()(made)


@check_for(*(kind for kind in PARTS if kind != "objective"))
def every_option_is_read(subject: Subject) -> None:
    """An option that nothing looks at would be ignored in silence."""
    inner = subject.component
    made = inner.options.model_validate(dict(subject.options))
    if not type(made).model_fields:
        raise NotApplicable("it has no options")
    watched = _Watched(
        inner.kind, inner.name, inner.target, inner.options, inner.summary, inner.distribution, inner.version, inner=inner
    )
    watching = replace(subject, component=watched, installed=with_components(subject.installed, watched))
    for make in SCENARIOS.values():
        learn(watching, make())
    bench = watching.bench()
    for step in (1, 2, 3):
        _step(bench, step)
    unread = set(type(made).model_fields) - watched.read - made.inert().keys()
    expect(
        not unread, f"option {one_of(sorted(unread))} is never read; remove it, or name it in inert() where others make it idle"
    )


@check_for(*PARTS)
def it_survives_what_may_happen(subject: Subject) -> None:
    """No signal, nothing but signal, groups of one, extreme log-ratios: every number stays finite, in float64 and in float32."""
    for name, make in SCENARIOS.items():
        for dtype in (torch.float64, torch.float32):
            _finite(subject, make(), f"{name} ({str(dtype).removeprefix('torch.')})", dtype=dtype)
    _finite(subject, mixed(), "a reference hundreds of nats away", dtype=torch.float32, reference="kit_far")


def _finite(subject: Subject, rollouts: Sequence[Rollout], scenario: str, **around: Any) -> None:
    try:
        learned = learn(subject, rollouts, **around)
    except DivergenceError as error:
        raise Failed(
            f"{scenario}: the gradient is not finite; clamp log-ratios before exp, guard divisions by a spread that may be 0, "
            "and use torch.where on the inputs: 0 x NaN is NaN in backward"
        ) from error
    bad = [name for name, value in learned.metrics.items() if value != value or abs(value) == float("inf")]
    expect(not bad, f"{scenario}: metrics that are not finite: {', '.join(bad)}")


@check_for(*PARTS)
def it_resumes_exactly(subject: Subject) -> None:
    """Two steps in one go, and two with a restart between them, end alike to the last bit."""
    straight, broken_off = (subject.bench(learning_rate=1e-2) for _ in range(2))
    _step(straight, 1)
    _step(broken_off, 1)
    file = io.BytesIO()
    torch.save(learner_state(broken_off.learner), file)
    file.seek(0)
    resumed = subject.bench(learning_rate=1e-2)
    try:
        restore_learner(resumed.learner, read(file, torch.device("cpu")))
    except Exception as error:
        raise Failed(
            f"its state does not come back from a checkpoint: {' '.join(str(error).split())[:200]}; state_dict() may hold tensors, plain "
            "data and Rollout records, and load_state_dict() must take what it gave"
        ) from error
    for step in (2, 3):
        expected, found = _step(straight, step), _step(resumed, step)
        expect(
            expected.kept == found.kept,
            f"step {step} after a restart keeps other rollouts; put what it remembers into state_dict()",
        )
        for name, parameter in expected.parameters.items():
            expect(
                torch.equal(parameter, found.parameters[name]),
                f"{name} differs in step {step} after a restart; put what it remembers across steps into state_dict()",
            )


def _step(bench: Any, step: int) -> Learned:
    return update(bench, mixed(step, policy_version=bench.learner.version), step=step)


@check_for("objective")
def a_step_without_signal_is_seen_as_one(subject: Subject) -> None:
    """Where every reward is 0, either nothing is kept, or all credit is 0, or a regulariser pushes on its own."""
    bench = subject.bench()
    kept, dropped = bench.select(SCENARIOS["every reward 0"]())
    if not kept:
        raise NotApplicable("nothing is kept then")
    from rlvr_core.loop import assign_credit, has_signal

    batch = bench.preparer.prepare(kept, dropped, 0)
    credit, _ = assign_credit(bench.objective, batch, 0)
    pushes = credit.has_signal(batch)
    silent = not has_signal(bench.objective, credit, batch)
    expect(silent or not pushes, "credit is not 0 although no reward tells one rollout from another; see the check of its credit")
