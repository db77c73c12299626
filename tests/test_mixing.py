"""Parts of different objectives in one spec: losses computed by hand, and every pair of parts taken one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr_core.errors import RlvrError
from rlvr_core.plugins import catalogue
from rlvr_core.records import Rollout
from rlvr_core.testing import scripted_rollouts
from rlvr_core.testing.bench import Bench

REWARDS = [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]
LENGTHS = [[3, 5, 2, 8], [4, 1, 6, 2], [1, 1, 7, 3], [2, 2, 2, 5]]


def rollouts() -> list[Rollout]:
    return scripted_rollouts(REWARDS, LENGTHS)


class Plain:
    """Everything by hand: one row at a time, no padding, no engine."""

    def __init__(self, bench: Bench, scored: list[Rollout]) -> None:
        self.bench, self.scored = bench, scored
        self.policy = bench.learner.root.policy

    def logprobs(self, model: Any, r: Rollout) -> Tensor:
        logits = model(input_ids=torch.tensor([r.prompt_ids + r.completion_ids])).logits[0]
        here = torch.log_softmax(logits, -1)[len(r.prompt_ids) - 1 : -1]
        return here.gather(1, torch.tensor(r.completion_ids)[:, None])[:, 0]

    def pooled(self, model: Any, r: Rollout) -> Tensor:
        hidden = model.model(input_ids=torch.tensor([r.prompt_ids + r.completion_ids])).last_hidden_state[0]
        return hidden[len(r.prompt_ids) :].mean(0)

    def surrogate(self, r: Rollout, advantage: Tensor | float) -> Tensor:
        ratio = (self.logprobs(self.policy, r) - torch.tensor(r.logprobs, dtype=torch.float64)).exp()
        return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)

    def reference(self, label: str) -> Any:
        return self.bench.objective.references[label].model  # type: ignore[attr-defined]

    def cosine(self, r: Rollout) -> Tensor:
        predicted = self.bench.learner.root.parts["similarity"](self.pooled(self.policy, r))
        with torch.no_grad():
            target = self.pooled(self.reference("twin"), r)
        return torch.nn.functional.cosine_similarity(predicted, target, dim=0)

    def relative(self, r: Rollout) -> float:
        group = torch.tensor(r.group_rewards, dtype=torch.float64)
        return float((r.reward - group.mean()) / (group.std() + 1e-4))


def total(values: list[Tensor]) -> Tensor:
    return torch.stack([v.sum() for v in values]).sum()


SIMILARITY = {"to": "twin", "coef": 0.1, "noise": 0.0, "predictor_hidden": 8}
TWIN = {"twin": {"name": "ema_twin"}}


def grpo_with_twin(p: Plain) -> Tensor:
    """Token mean of the surrogate in each sequence, mean of sequences; minus 0.1 times the mean cosine."""
    policy = torch.stack([p.surrogate(r, p.relative(r)).mean() for r in p.scored]).mean()
    return policy - 0.1 * torch.stack([p.cosine(r) for r in p.scored]).mean()


def popo_parts_clipped(p: Plain) -> Tensor:
    """Advantage 1, weights softmaxed over positives, clipped surrogate over all positive tokens."""
    values, tokens = [], 0
    for prompt in range(4):
        positives = [r for r in p.scored if r.key.prompt == prompt and r.reward > 0]
        if positives:
            scores = torch.tensor([sum(r.logprobs) / len(r.logprobs) for r in positives], dtype=torch.float64)
            values += [w * p.surrogate(r, 1.0) for w, r in zip(torch.softmax(scores, 0), positives, strict=True)]
            tokens += sum(len(r.completion_ids) for r in positives)
    return total(values) / tokens


def ppo_with_similarity(p: Plain) -> Tensor:
    """A critic of zeros: every token's advantage is the reward, whitened over tokens; 0.5 (0 - reward)^2 for the critic."""
    advantage = torch.cat([torch.full((len(r.completion_ids),), r.reward, dtype=torch.float64) for r in p.scored])
    white = (advantage - advantage.mean()) * (advantage.var() + 1e-8).rsqrt()
    pieces = white.split([len(r.completion_ids) for r in p.scored])
    policy = total([p.surrogate(r, a) for r, a in zip(p.scored, pieces, strict=True)]) / len(advantage)
    critic = 0.5 * advantage.square().mean()  # the value head starts at 0, so its own gradient is checked in the golden cases
    return policy + 0.1 * critic - 0.1 * torch.stack([p.cosine(r) for r in p.scored]).mean()


def rloo_two_references(p: Plain) -> Tensor:
    """Sum over tokens, mean of sequences; k3 to the twin and k1 to the frozen model, aggregated alike."""
    rows = []
    for r in p.scored:
        others = (sum(r.group_rewards) - r.reward) / 3
        logprobs = p.logprobs(p.policy, r)
        to_twin = p.logprobs(p.reference("twin"), r).detach() - logprobs
        to_frozen = p.logprobs(p.reference("frozen"), r).detach() - logprobs
        rows.append((p.surrogate(r, r.reward - others) + 0.2 * (to_twin.exp() - to_twin - 1) + 0.3 * -to_frozen).sum())
    return torch.stack(rows).mean()


MIXES: dict[str, tuple[dict[str, Any], Callable[[Plain], Tensor]]] = {
    "grpo_with_twin": ({"name": "grpo", "references": TWIN, "regularisers": {"similarity": SIMILARITY}}, grpo_with_twin),
    "popo_parts_clipped": (
        {"name": "popo", "loss": {"name": "clipped"}, "regularisers": {"similarity": None, "entropy": None}},
        popo_parts_clipped,
    ),
    "ppo_with_similarity": ({"name": "ppo", "references": TWIN, "regularisers": {"similarity": SIMILARITY}}, ppo_with_similarity),
    "rloo_two_references": (
        {
            "name": "rloo",
            "references": {**TWIN, "frozen": {"name": "frozen"}},
            "regularisers": {
                "kl_twin": {"name": "kl", "to": "twin", "coef": 0.2},
                "kl_frozen": {"name": "kl", "to": "frozen", "coef": 0.3, "estimator": "k1"},
            },
        },
        rloo_two_references,
    ),
}


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_equals_its_loss_computed_by_hand(name: str) -> None:
    changes, by_hand = MIXES[name]
    bench = Bench.of(changes, max_tokens_per_microbatch=20)
    for reference in bench.objective.references.values():  # away from the policy, so that a divergence is not 0
        with torch.no_grad():
            for number, parameter in enumerate(reference.model.parameters()):  # type: ignore[attr-defined]
                parameter.add_(
                    0.02 * torch.sin(torch.arange(parameter.numel(), dtype=parameter.dtype) + number).view_as(parameter)
                )
    plain = by_hand(Plain(bench, rollouts()))
    plain.backward()
    expected = {n: p.grad.clone() for n, p in bench.learner.root.named_parameters() if p.grad is not None and "value" not in n}
    bench.learner.optimizer.zero_grad()
    metrics, gradients = bench.gradients(rollouts())
    # The model library computes norms in float32, so how rows are padded can change a rounding.
    assert metrics["loss/total"] == pytest.approx(float(plain.detach()), abs=2e-7)
    assert len(expected) > 20
    for parameter, gradient in expected.items():
        torch.testing.assert_close(gradients[parameter], gradient, atol=2e-7, rtol=5e-5, msg=lambda m, n=parameter: f"{n}: {m}")


WITHOUT_CRITIC = "needs 'values', which no active part provides"
"""What the user is told who takes credit gae without the regulariser value."""
WITHOUT_RETURNS = "needs 'returns', which the credit .* does not give"
"""What the user is told who takes the regulariser value with a credit that has no use for a critic."""


def names(kind: str) -> list[str]:
    return catalogue().names(kind)


@pytest.mark.parametrize("loss", names("loss"))
@pytest.mark.parametrize("credit", names("credit"))
@pytest.mark.parametrize("sampler", names("sampler"))
def test_every_sampler_credit_and_loss_take_a_step_together(sampler: str, credit: str, loss: str) -> None:
    parts = {"name": "grpo", "sampler": {"name": sampler}, "credit": {"name": credit}, "loss": {"name": loss}}
    if credit == "gae":
        with pytest.raises(RlvrError, match=WITHOUT_CRITIC):
            Bench.of(parts)
        parts["regularisers"] = {"value": {"name": "value"}}  # type: ignore[assignment]
    metrics, gradients = Bench.of(parts).gradients(rollouts())
    nothing_to_tell = sampler == "positive_only" and credit == "reinforce_pp"  # rewards of 1, whitened: all credit is 0
    assert (metrics["learn/grad_norm"] > 0) != nothing_to_tell
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("objective", names("objective"))
@pytest.mark.parametrize("correction", names("correction"))
def test_every_objective_takes_a_step_with_every_shaper_reference_regulariser_and_correction(
    objective: str, correction: str
) -> None:
    parts = {
        "name": objective,
        "correction": {"name": correction},
        "references": {**TWIN, "frozen": {"name": "frozen"}},
        "shapers": {"kl_reward": {"name": "kl_reward", "coef": 0.1}, "overlong": {"name": "overlong"}},
        "regularisers": {
            "similarity": {**SIMILARITY, "name": "similarity"},
            "entropy": {"name": "entropy", "scope": "all"},
            "kl": {"name": "kl", "coef": 0.1, "to": "twin"},
        },
    }
    if objective == "ppo":
        parts["regularisers"]["value"] = {"name": "value"}  # type: ignore[index]
    else:
        with pytest.raises(RlvrError, match=WITHOUT_RETURNS):
            Bench.of({"name": objective, "regularisers": {"value": {"name": "value"}}})
    metrics, gradients = Bench.of(parts).gradients(scripted_rollouts(REWARDS, LENGTHS, exact=False))
    assert metrics["learn/grad_norm"] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())
