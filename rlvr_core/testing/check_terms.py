"""Checks of losses and regularisers: what they read, give and push."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rlvr_core.contracts import Differentiable
from rlvr_core.policy.forward import POLICY_QUANTITIES
from rlvr_core.records import Rollout
from rlvr_core.testing.host import LABEL, Subject
from rlvr_core.testing.kit import NotApplicable, check_for, expect, one_of
from rlvr_core.testing.learning import Learned, Watched, learn, update, watch
from rlvr_core.testing.scenarios import SCENARIOS, mixed

BOTH = ("loss", "regulariser")


def _watched(subject: Subject, rollouts: Any = None, **around: Any) -> tuple[Learned, Watched, Any]:
    """An update with the subject's terms watched; the bench comes along."""
    bench = subject.bench(**around)
    (part,) = subject.parts(bench).values()
    seen = watch(part)
    return update(bench, mixed() if rollouts is None else rollouts), seen, bench


@check_for(*BOTH)
def it_reads_what_it_declares(subject: Subject) -> None:
    """What needs() names is computed for every row; what it does not name is not there."""
    part: Differentiable = subject.build()
    needs = part.needs()
    _, seen, bench = _watched(subject)
    provided = {name for name in part.provides if bench.objective.prepare_quantities() & {name}}
    used_elsewhere = frozenset({"states"}) if provided or part.provides else frozenset()
    unread = (needs.policy | needs.fixed | {f"reference {q}" for q in needs.reference}) - seen.reads - used_elsewhere
    expect(not unread, f"needs() declares {one_of(sorted(unread))}, which terms() never reads; everyone pays for computing it")


@check_for(*BOTH)
def its_terms_keep_names_and_shapes(subject: Subject) -> None:
    """Every micro-batch gives the same terms and logs the same metrics: ranks add them up by name."""
    bench = subject.bench(max_tokens_per_microbatch=1)
    (part,) = subject.parts(bench).values()
    seen = watch(part)
    update(bench, mixed())
    expect(bool(seen.terms), "terms() was never called; is the part switched off?")
    for what, calls in (("terms", [frozenset(found) for found in seen.terms]), ("metrics", seen.logged)):
        odd = frozenset.union(*calls) - frozenset.intersection(*calls)
        expect(
            not odd,
            f"{what} {one_of(sorted(odd))} come with some micro-batches only; give them always, masked where nothing counts",
        )
    scalars = [name for found in seen.terms for name, term in found.items() if term.values.dim() not in (1, 2)]
    expect(
        not scalars,
        f"term '{''.join(scalars[:1])}' is neither [B] nor [B,T]; return values a row or a token, and let the engine average",
    )


@check_for(*BOTH)
def it_changes_nothing_that_it_is_handed(subject: Subject) -> None:
    """Other parts read the same tensors."""
    _, seen, _ = _watched(subject)
    expect(not seen.changed, f"terms() changes {one_of(sorted(seen.changed))} in place; other parts read the same tensors")


@check_for(*BOTH)
def it_keeps_the_dtype(subject: Subject) -> None:
    """float64 in, float64 out; from a bfloat16 policy, float32 at least."""
    for dtype, least in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        _, seen, _ = _watched(subject, dtype=dtype)
        for name, term in seen.terms[0].items():
            widest = torch.promote_types(term.values.dtype, least)
            expect(
                term.values.dtype == widest,
                f"term '{name}' is {term.values.dtype} for a {dtype} policy; drop .float(), .half() and tensors of a fixed dtype "
                "(torch.promote_types(x.dtype, torch.float32) widens)",
            )


@check_for(*BOTH)
def its_gradient_reaches_what_it_should(subject: Subject) -> None:
    """The policy or its own modules move, all of its own modules' parameters take part, references stay as they are."""
    learned, _, bench = _watched(subject)
    (part,) = subject.parts(bench).values()
    expect(bool(learned.flat().abs().max() > 0), "no parameter gets a gradient; is something detached, or the term constant?")
    prefix = f"parts.{LABEL if subject.kind == 'regulariser' else 'loss'}."
    own = [name for name in learned.parameters if name.startswith(prefix)]
    still = [name for name in own if name not in learned.gradients]
    expect(
        not still,
        f"{one_of(still)} never gets a gradient, for which ranks that exchange them would wait; use it in terms() or do not build it",
    )
    known = {id(module) for module in bench.learner.root.modules()}
    modules = {name: value for name, value in vars(part).items() if isinstance(value, nn.Module) and id(value) not in known}
    lost = [name for name, module in modules.items() if next(module.parameters(), None) is not None]
    expect(not lost, f"the module in self.{''.join(lost[:1])} was not returned by build(), so it is neither trained nor saved")
    for label, reference in bench.preparer.references.items():
        moved = any(p.grad is not None or p.requires_grad for p in reference.model.parameters())
        expect(not moved, f"a gradient flows into the reference '{label}'")


@check_for("loss")
def credit_decides(subject: Subject) -> None:
    """Advantage 0, weight 0 or importance 0 push nothing; a good token's log-prob is pushed up, a bad one's is not."""
    cases: dict[str, tuple[dict[str, Any], list[Rollout]]] = {
        "advantage": ({}, SCENARIOS["every reward 0"]()),
        "weight": ({"credit": {"name": "kit_weightless"}}, mixed()),
        "importance": ({"correction": {"name": "kit_zero"}}, mixed(exact=False)),
    }
    for what, (parts, rollouts) in cases.items():
        pushed = float(learn(subject, rollouts, parts=parts).flat().abs().max())
        expect(
            pushed <= 1e-12,
            f"rollouts of {what} 0 are pushed all the same ({pushed:.2g}); multiply each token's value by batch.{what}",
        )
    _pushes_the_right_way(subject)


def _pushes_the_right_way(subject: Subject) -> None:
    _, seen, _ = _watched(subject)
    grads = [(batch, logprobs.grad) for batch, logprobs in seen.pushes if logprobs.grad is not None]
    if not grads:
        return
    batch, grad = grads[0]
    for sign, words in ((1.0, "good tokens up"), (-1.0, "bad tokens down")):
        rows = batch.mask & (batch.advantage * sign > 0)
        total = float((grad * rows).sum()) * sign
        expect(total <= 1e-12, f"descending the loss does not push the log-probs of {words}; check its sign")


@check_for("regulariser")
def its_coefficient_scales_it_once(subject: Subject) -> None:
    """Twice ``coef`` is twice the gradient; the loss it reports is that without the coefficient."""
    options = subject.component.options.model_validate(dict(subject.options))
    expect("coef" in type(options).model_fields, "its options have no 'coef'; with 0 the user switches a regulariser off")
    coef = options.coef  # type: ignore[attr-defined]
    one, two = (learn(subject.with_options(coef=factor * coef), mixed()) for factor in (1, 2))
    gap = float((two.flat() - 2 * one.flat()).abs().max())
    expect(
        gap <= 1e-9 * max(1.0, float(one.flat().abs().max())),
        "twice the coefficient is not twice the gradient; give it once, as Term(values, coef=self.options.coef), and not in the values too",
    )


@check_for("regulariser")
def what_it_provides_is_there(subject: Subject) -> None:
    """Each quantity in ``provides`` is computed, [B,T], with gradient."""
    part = subject.build()
    if not part.provides:
        raise NotApplicable("it provides nothing")
    clash = part.provides & POLICY_QUANTITIES
    expect(not clash, f"it provides {one_of(sorted(clash))}, which the policy itself provides")
    _, seen, _ = _watched(subject)
    expect(
        bool(part.provides & seen.reads),
        f"it provides {one_of(sorted(part.provides))} and does not train them: its terms() read none",
    )
