"""What ``evaluate`` computes is what training computes: breaking a component shows in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlvr_core.components.parts import ClippedLoss
from rlvr_core.records import Batch, Credit, MicroBatch, Term
from rlvr_core.testing import scripted_rollouts
from rlvr_core.testing.bench import Bench
from rlvr_core.testing.evaluate import evaluate

REWARDS, LENGTHS = [[1, 0, 1, 1], [0, 1, 0, 0]], [[3, 5, 2, 8], [1, 1, 7, 3]]


def tensors() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    logprobs = -torch.rand(8, 8, generator=draw, dtype=torch.float64)
    mask = torch.tensor([[t < length for t in range(8)] for group in LENGTHS for length in group])
    return {
        "per_token_logps": logprobs,
        "old_per_token_logps": logprobs - 0.3 * torch.rand(8, 8, generator=draw, dtype=torch.float64),
        "completion_mask": mask.long(),
        "rewards": torch.tensor([r for group in REWARDS for r in group], dtype=torch.float64),
    }


def seen(objective: str) -> tuple[float, float]:
    """(loss by evaluate, loss of a training step)."""
    found, _ = evaluate("objective", objective, {}, tensors(), group_size=4)
    metrics, _ = Bench.of({"name": objective}).gradients(scripted_rollouts(REWARDS, LENGTHS))
    return float(found["loss"]), metrics["loss/total"]


def test_a_broken_loss_shows_in_evaluate_and_in_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    before = seen("grpo")
    right = ClippedLoss.terms

    def wrong_sign(self: ClippedLoss, batch: MicroBatch) -> Mapping[str, Term]:
        return {name: replace(term, values=-term.values) for name, term in right(self, batch).items()}

    monkeypatch.setattr(ClippedLoss, "terms", wrong_sign)
    after = seen("grpo")
    assert after == pytest.approx((-before[0], -before[1]))
    assert all(abs(value) > 1e-6 for value in before)


def test_a_broken_credit_shows_in_evaluate_and_in_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvr_grpo.parts import GroupRelative

    before = seen("grpo")
    right = GroupRelative.credit

    def doubled(self: Any, batch: Batch) -> Credit:
        return Credit(2 * right(self, batch).advantage)

    monkeypatch.setattr(GroupRelative, "credit", doubled)
    after = seen("grpo")
    assert after == pytest.approx((2 * before[0], 2 * before[1]))


def test_a_kind_without_arithmetic_is_refused() -> None:
    with pytest.raises(ValueError, match="has no arithmetic"):
        evaluate("observer", "progress", {}, {})
