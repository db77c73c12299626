"""A step's row of numbers. Every name is described in docs/metrics.md; a test holds that."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence

import torch

from rlvr_core.clock import BETWEEN_STEPS, STAGES
from rlvr_core.records import Batch, Credited, Outcome, Rollout
from rlvr_core.reward.outcomes import STATUSES
from rlvr_core.rollout.collect import Collected


def rollout_metrics(collected: Collected) -> dict[str, float]:
    """What was drawn, how it was scored, what was kept. Means of rewards are over the rollouts that count; all else is over those drawn."""
    drawn, scored = collected.drawn, collected.scored
    lengths = [len(r.completion_ids) for r in drawn]
    found = {
        **_reward_metrics(scored),
        "reward/dropped": _mean([bool(r.dropped) for r in drawn]),
        "rollout/completion_length": _mean(lengths),
        "rollout/completion_length_max": float(max(lengths)),
        "rollout/truncated": _mean([r.finish_reason == "length" for r in drawn]),
        "rollout/logprob": sum(sum(r.logprobs) for r in drawn) / max(1, sum(lengths)),
        "select/scored": float(len(drawn)),
        "select/kept": float(len(collected.kept)),
        "select/refills": float(collected.rounds),
    }
    for label in drawn[0].outcomes:
        found |= _label_metrics(label, [r.outcomes[label] for r in drawn])
    return found


def _reward_metrics(scored: Sequence[Rollout]) -> dict[str, float]:
    """Nothing where no rollout counts."""
    if not scored:
        return {}
    rewards = torch.tensor([r.reward for r in scored], dtype=torch.float64)
    groups = {r.key.group: r.group_rewards for r in scored}
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(unbiased=False)),
        "reward/groups_all_same": _mean([len(set(rewards)) == 1 for rewards in groups.values()]),
    }


def _label_metrics(label: str, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """One reward by itself: its mean value, the share of each status, its time."""
    values = [o.value for o in outcomes if o.value is not None]
    found = {f"reward/{label}/mean": _mean(values)} if values else {}
    for status in STATUSES:
        found["/".join(("reward", label, status))] = _mean([o.status == status for o in outcomes])
    found[f"time/reward_ms_{label}"] = _mean([o.ms for o in outcomes])
    return found


def batch_metrics(batch: Batch, credit: Credited) -> dict[str, float]:
    """What the learner was given."""
    kept = batch.mask & batch.chosen[:, None]
    found = {"credit/advantage_abs": float((credit.advantage * credit.weight)[kept].abs().mean())}
    if (credit.importance != 1).any():
        found["correction/importance"] = float(credit.importance[kept].mean())
        found["correction/logprob_gap"] = float((batch.logprobs - batch.sampling_logprobs)[kept].abs().mean())
    return found


def time_metrics(
    seconds: Mapping[str, float], whole: float, scored: Sequence[Rollout], learned: Batch | None
) -> dict[str, float]:
    """Where the step's time went, and how fast it was. ``whole``: the step's own seconds; ``seconds``: by stage."""
    sampled = sum(len(r.completion_ids) for r in scored)
    inside = sum(spent for stage, spent in seconds.items() if stage not in BETWEEN_STEPS)
    found = {f"time/{stage}": seconds.get(stage, 0.0) for stage in STAGES}
    found |= {"time/step": whole, "time/other": max(0.0, whole - inside), "time/tokens_per_second": sampled / whole}
    if seconds.get("rollout"):
        found["time/rollout_tokens_per_second"] = sampled / seconds["rollout"]
    if learned is not None and seconds.get("learn"):
        found["time/learn_tokens_per_second"] = sum(r.tokens for r in learned.rollouts) / seconds["learn"]
    return found | {"memory/peak_mb": peak_memory_mb()}


def peak_memory_mb() -> float:
    """The accelerator's peak allocation where there is one, else this process's resident peak."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit / 2**20


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
