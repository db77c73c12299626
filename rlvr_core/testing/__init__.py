"""For plugin authors and for our own tests: the conformance kit, small models, made-up rollouts, fakes."""

from __future__ import annotations

from rlvr_core.testing.checks import (
    check_correction,
    check_credit,
    check_loss,
    check_objective,
    check_observer,
    check_reference,
    check_regulariser,
    check_reward,
    check_rollout,
    check_sampler,
    check_shaper,
    check_task,
)
from rlvr_core.testing.evaluate import evaluate
from rlvr_core.testing.fakes import StaleEngine, scripted_rollouts, tiny_policy, tiny_tokenizer
from rlvr_core.testing.host import given, with_components
from rlvr_core.testing.kit import ConformanceError, findings

__all__ = [
    "ConformanceError",
    "StaleEngine",
    "check_correction",
    "check_credit",
    "check_loss",
    "check_objective",
    "check_observer",
    "check_reference",
    "check_regulariser",
    "check_reward",
    "check_rollout",
    "check_sampler",
    "check_shaper",
    "check_task",
    "evaluate",
    "findings",
    "given",
    "scripted_rollouts",
    "tiny_policy",
    "tiny_tokenizer",
    "with_components",
]
