"""Made-up rollouts that a component must survive."""

from __future__ import annotations

from dataclasses import replace

from rlvr_core.records import Rollout
from rlvr_core.testing.fakes import scripted_rollouts

LENGTHS = [[3, 5, 2, 8], [4, 1, 6, 2], [1, 1, 7, 3], [2, 2, 2, 5]]
MIXED = [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]


def mixed(step: int = 1, exact: bool = True, policy_version: int = 0) -> list[Rollout]:
    """Four groups of ragged rollouts: some right, none, one, all."""
    return scripted_rollouts(MIXED, LENGTHS, step=step, seed=step, exact=exact, policy_version=policy_version)


def _constant(reward: float) -> list[Rollout]:
    return scripted_rollouts([[reward] * 4] * 4, LENGTHS)


def extreme_logprobs(exact: bool = True) -> list[Rollout]:
    """Sampled log-probs of 0 and of -800 nats by turns: ratios to the policy far beyond what exp can hold."""
    odd = [tuple(-800.0 if (row + t) % 2 else 0.0 for t in range(len(r.logprobs))) for row, r in enumerate(mixed())]
    return [replace(r, logprobs=logprobs) for r, logprobs in zip(mixed(exact=exact), odd, strict=True)]


def tool_calls() -> list[Rollout]:
    """Tokens among the completions that the policy did not choose; one rollout with none that it did."""
    rows = [replace(r, action_mask=tuple(t % 3 != 1 for t in range(len(r.completion_ids)))) for r in mixed()]
    return [replace(rows[0], action_mask=(False,) * len(rows[0].completion_ids)), *rows[1:]]


SCENARIOS = {
    "some rewards of each kind": mixed,
    "every reward 1": lambda: _constant(1.0),
    "every reward 0": lambda: _constant(0.0),
    "groups of one rollout": lambda: scripted_rollouts([[1], [0], [1], [1]], [[3], [4], [1], [2]]),
    "one rollout alone": lambda: scripted_rollouts([[1]], [[1]]),
    "rewards of a million and of minus a million": lambda: scripted_rollouts([[1e6, -1e6, 0, 1]] * 4, LENGTHS),
    "sampled log-probs of 0 and -800 nats": extreme_logprobs,
    "the same, sampled by an inexact engine": lambda: extreme_logprobs(exact=False),
    "tokens that the policy did not choose": tool_calls,
}
"""What may happen in a run, by name."""
