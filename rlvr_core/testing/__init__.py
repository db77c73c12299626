"""For plugin authors and for our own tests: small models, made-up rollouts, fakes."""

from __future__ import annotations

from rlvr_core.testing.fakes import StaleEngine, scripted_rollouts, tiny_policy, tiny_tokenizer

__all__ = ["StaleEngine", "scripted_rollouts", "tiny_policy", "tiny_tokenizer"]
