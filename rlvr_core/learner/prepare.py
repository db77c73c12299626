"""Prepare: what the update needs and no gradient flows through. Computed only where a part declared it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel

from rlvr_core.clock import Clock
from rlvr_core.errors import ContractError
from rlvr_core.learner.dealing import MicroBatches, deal
from rlvr_core.learner.micro import micro_batch
from rlvr_core.objective import Objective
from rlvr_core.policy.forward import Head, Rows, collate, completion_quantities
from rlvr_core.policy.root import Root
from rlvr_core.records import Batch, Group, Rollout


@dataclass(frozen=True)
class Limits:
    """Padded tokens of a micro-batch, and tokens of a completion, at most."""

    tokens_per_microbatch: int
    completion_length: int
    overhead_tokens: int
    """What a micro-batch costs beside its tokens, in tokens."""
    packed: bool = False
    """Rows of a micro-batch are put end to end."""

    def deal(self, lengths: Sequence[int], ranks: int) -> list[MicroBatches]:
        """Micro-batches of rows with these lengths for every rank."""
        return deal(lengths, ranks, self.tokens_per_microbatch, self.overhead_tokens, self.packed)


@dataclass(frozen=True)
class ReferenceModel:
    """A reference's model and its head."""

    model: PreTrainedModel
    head: Head
    moves: bool


def blank_batch(kept: Sequence[Rollout], dropped: Sequence[Rollout], max_completion_length: int) -> Batch:
    """A batch with what rollouts bring along themselves. T is the longest completion."""
    rollouts = (*kept, *dropped)
    width = max(len(r.completion_ids) for r in rollouts)
    mask = torch.zeros(len(rollouts), width, dtype=torch.bool)
    logprobs = torch.zeros(len(rollouts), width, dtype=torch.float64)
    for row, rollout in enumerate(rollouts):
        length = len(rollout.completion_ids)
        mask[row, :length] = True if rollout.action_mask is None else torch.tensor(rollout.action_mask)
        logprobs[row, :length] = torch.tensor(rollout.logprobs, dtype=torch.float64)
    chosen = torch.arange(len(rollouts)) < len(kept)
    rewards = torch.tensor([r.reward for r in rollouts], dtype=torch.float64)
    batch = Batch(
        rollouts,
        chosen,
        mask,
        rewards,
        None,
        logprobs,
        logprobs.where(mask, 0.0),
        (),
        max_completion_length,
    )
    return with_groups(batch)


def with_groups(batch: Batch) -> Batch:
    """Fill in groups: chosen rows, and rewards of all members, those in the batch as shaped."""
    members: dict[tuple[int, int], list[int]] = {}
    for row, rollout in enumerate(batch.rollouts):
        members.setdefault(rollout.key.group, []).append(row)
    shaped = batch.sequence_rewards
    groups = []
    for rows in members.values():
        rewards = torch.tensor(batch.rollouts[rows[0]].group_rewards, dtype=torch.float64)
        for row in rows:
            rewards[batch.rollouts[row].group_index] = shaped[row]
        chosen = [row for row in rows if batch.chosen[row]]
        if chosen:
            groups.append(Group(torch.tensor(chosen), rewards))
    return replace(batch, groups=tuple(groups))


class Preparer:
    """Runs the prepare stage on all ranks; every rank ends with the same batch."""

    def __init__(
        self,
        objective: Objective,
        root: Root,
        references: Mapping[str, ReferenceModel],
        accelerator: Accelerator,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self.objective = objective
        self.root = root
        self.references = references
        self.accelerator = accelerator
        self.limits = limits
        self.clock = clock
        self.learn_references = objective.reference_quantities(objective.learn_needs())
        self.forwards = 0

    def prepare(self, kept: Sequence[Rollout], dropped: Sequence[Rollout], version: int) -> Batch:
        """Log-probs where the sampled ones are not the policy's own, provided quantities, references' log-probs; then shapers."""
        batch = blank_batch(kept, dropped, self.limits.completion_length)
        stale = [not (r.exact and r.policy_version == version) for r in batch.rollouts]
        policy = self.objective.prepare_quantities() | (frozenset({"logprobs"}) if any(stale) else frozenset())
        early = self._early_references()
        if policy or early:
            batch = self._compute(batch, policy, early, torch.tensor(stale))
        batch = replace(batch, logprobs=batch.logprobs.where(batch.mask, 0.0))
        return self._shape(batch) if self.objective.shapers else batch

    def mean_logprob(self, rollouts: Sequence[Rollout]) -> float:
        """Mean log-prob of a token of these rollouts under the policy as it is now, in nats."""
        batch = blank_batch(rollouts, [], self.limits.completion_length)
        stale = torch.ones(len(rollouts), dtype=torch.bool)
        batch = self._compute(batch, frozenset({"logprobs"}), {}, stale)
        return float(batch.logprobs[batch.mask].mean())

    def _early_references(self) -> dict[str, frozenset[str]]:
        """Reference log-probs computed here: those that shapers read, and those of references that do not move and of which the learn
        stage reads nothing else (else they come with that at no forward of their own)."""
        wanted = dict(self.objective.reference_quantities(self.objective.prepare_needs()))
        for label, quantities in self.learn_references.items():
            if quantities == {"logprobs"} and not self.references[label].moves:
                wanted[label] = wanted.get(label, frozenset()) | {"logprobs"}
        return wanted

    @torch.no_grad()
    def _compute(self, batch: Batch, policy: frozenset[str], early: Mapping[str, frozenset[str]], stale: Tensor) -> Batch:
        lengths = [r.tokens for r in batch.rollouts]
        dealt = self.limits.deal(lengths, self.accelerator.num_processes)[self.accelerator.process_index]
        shortest = min(range(len(lengths)), key=lengths.__getitem__)
        results: list[tuple[list[int], dict[str, Tensor]]] = []
        for rows in dealt:
            found = self._forward(batch, rows or [shortest], policy, early)
            if rows:
                results.append((rows, found))
        # Not in the loop: to fetch a number is to wait for the device.
        results = [(rows, {name: values.double().cpu() for name, values in found.items()}) for rows, found in results]
        gathered: dict[str, Tensor] = {}
        with self.clock.timed("idle"):
            everyone = gather_object(results)
        for rows, found in everyone:
            for name, values in found.items():
                if name not in gathered:
                    gathered[name] = torch.zeros(batch.mask.shape, dtype=torch.float64)
                gathered[name][rows, : values.shape[1]] = values
        gathered = {name: values.where(batch.mask, 0.0) for name, values in gathered.items()}
        logprobs = gathered.pop("logprobs", None)
        return replace(
            batch,
            logprobs=batch.logprobs if logprobs is None else torch.where(stale[:, None], logprobs, batch.logprobs),
            provided={name: gathered[name] for name in policy - {"logprobs"}},
            references={label: {q: gathered[f"{label}.{q}"] for q in quantities} for label, quantities in early.items()},
        )

    def _forward(
        self, batch: Batch, rows: Sequence[int], policy: frozenset[str], early: Mapping[str, frozenset[str]]
    ) -> dict[str, Tensor]:
        """One micro-batch of the prepare pass."""
        device = self.accelerator.device
        padded = collate([batch.rollouts[row] for row in rows], device, self.limits.packed)
        found: dict[str, Tensor] = {}
        if policy:
            self.forwards += 1
            found.update(
                {
                    q: v
                    for q, v in self.root(
                        "prepare", padded, micro_batch(batch, rows, padded.width, None, self.root), policy
                    ).items()
                    if q in policy
                }
            )
        for label, quantities in early.items():
            found.update({f"{label}.{q}": v for q, v in self.reference_forward(label, padded, quantities).items()})
        return found

    @torch.no_grad()
    def reference_forward(self, label: str, rows: Rows, quantities: frozenset[str]) -> dict[str, Tensor]:
        """A reference's quantities for padded rows, under the policy's numerics."""
        reference, numerics = self.references[label], self.root.numerics
        self.forwards += 1
        with self.clock.timed("reference"), numerics.context(self.accelerator.device):
            return completion_quantities(reference.model, reference.head, rows, quantities, numerics.temperature, numerics.chunk)

    def _shape(self, batch: Batch) -> Batch:
        """Let every shaper add to the rewards, then settle the groups."""
        rewards, per_token = batch.rewards, torch.zeros(batch.mask.shape, dtype=torch.float64)
        tokenwise = False
        for label, shaper in self.objective.shapers.items():
            added = shaper.shape(batch)
            if added.shape == rewards.shape:
                rewards = rewards + added
            elif added.shape == per_token.shape:
                per_token, tokenwise = per_token + added.where(batch.mask, 0.0), True
            else:
                raise ContractError(
                    f"shaper '{label}' returned shape {tuple(added.shape)}; [B] or [B,T] = {tuple(per_token.shape)} is wanted"
                )
        return with_groups(replace(batch, rewards=rewards, token_rewards=per_token if tokenwise else None))
