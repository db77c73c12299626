"""The update: whole batches in, optimizer steps out, however the work is split."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlvr_core.errors import DivergenceError
from rlvr_core.learner.dealing import padded_tokens, split_groups
from rlvr_core.learner.micro import micro_batch
from rlvr_core.learner.prepare import Preparer
from rlvr_core.learner.terms import Denominators, count, own_denominators, reduce
from rlvr_core.objective import Objective
from rlvr_core.policy.forward import collate
from rlvr_core.policy.root import Root
from rlvr_core.records import Batch, Credited, Term
from rlvr_core.spec.model import LearnerSection


@dataclass(frozen=True)
class When:
    """Where in the run an update stands; noise is keyed by it."""

    seed: int
    step: int


@dataclass
class Tally:
    """Metrics as (sum, count) pairs: means over the whole batch whatever the split. ``sums`` are added up as they are.

    Numbers stay on the device until the end, for to fetch one is to wait for all that the device has still to compute.
    """

    means: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    sums: dict[str, list[Tensor]] = field(default_factory=dict)

    def mean(self, name: str, total: Tensor, count: Tensor) -> None:
        self.means.setdefault(name, []).append((total, count))

    def add(self, name: str, value: Tensor) -> None:
        self.sums.setdefault(name, []).append(value.detach())

    def reduced(self, accelerator: Accelerator, minibatches: int) -> dict[str, float]:
        """Over all ranks; sums are divided by the number of minibatches. Names are the same on each rank: each runs the same components."""
        names = sorted(self.means), sorted(self.sums)
        columns = [[pair[i] for pair in self.means[name]] for name in names[0] for i in (0, 1)]
        columns += [self.sums[name] for name in names[1]]
        if not columns:
            return {}
        dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
        flat = torch.stack([torch.stack(column).to(accelerator.device, dtype).sum() for column in columns])
        total = accelerator.reduce(flat, "sum").tolist()
        means = {name: total[2 * i] / total[2 * i + 1] for i, name in enumerate(names[0]) if total[2 * i + 1] > 0}
        return means | {name: total[2 * len(names[0]) + i] / minibatches for i, name in enumerate(names[1])}


class Learner:
    """Holds the root module, its optimizer and the references' following."""

    def __init__(
        self,
        options: LearnerSection,
        objective: Objective,
        root: Root,
        preparer: Preparer,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.options = options
        self.objective = objective
        self.root = root
        self.preparer = preparer
        self.accelerator = accelerator
        self.wrapped: nn.Module = accelerator.prepare_model(root)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.version = 0
        """Optimizer steps taken."""
        self.forwards = 0
        self.wanted = objective.learn_quantities()

    def update(self, batch: Batch, credit: Credited, drawn: int, when: When) -> dict[str, float]:
        """All passes over one batch. ``drawn``: rollouts drawn for it (P x G). Returns metrics; the last pass's where passes differ."""
        lengths = [r.tokens for r in batch.rollouts]
        minibatches = split_groups(self._row_groups(batch), lengths, self.options.num_minibatches)
        tally = Tally()
        norms: list[float] = []
        limits = self.preparer.limits
        for iteration in range(self.options.num_iterations):
            tally = Tally()
            for rows in minibatches:
                counts = self._count(batch, credit, rows, drawn / len(minibatches))
                sizes = [lengths[row] for row in rows]
                dealt = limits.deal(sizes, self.accelerator.num_processes)
                padding = padded_tokens(dealt, sizes, limits.packed)
                tally.mean("learn/padding_share", *torch.tensor(padding, dtype=torch.float64))
                mine = [[rows[i] for i in batch_rows] for batch_rows in dealt[self.accelerator.process_index]]
                shortest = min(rows, key=lengths.__getitem__)
                self._accumulate(batch, credit, mine, shortest, counts, (when.seed, when.step, iteration), tally)
                norms.append(self._step())
        metrics = tally.reduced(self.accelerator, len(minibatches))
        return metrics | {"learn/grad_norm": sum(norms) / len(norms), "learn/optimizer_steps": float(len(norms))}

    def _row_groups(self, batch: Batch) -> list[list[int]]:
        """Rows that the learn stage forwards, by group: chosen ones, and dropped ones where a term's scope is all."""
        dropped_too = any(needs.scope == "all" for needs in self.objective.learn_needs().values())
        groups: dict[tuple[int, int], list[int]] = {}
        for row, rollout in enumerate(batch.rollouts):
            if dropped_too or batch.chosen[row]:
                groups.setdefault(rollout.key.group, []).append(row)
        return list(groups.values())

    def _count(self, batch: Batch, credit: Credited, rows: Sequence[int], drawn: float) -> Denominators:
        own = own_denominators(self.objective.differentiables, batch, credit)
        groups = {batch.rollouts[row].key.group for row in rows if batch.chosen[row]}
        counts = count(batch.mask, batch.chosen, credit.row_weight, torch.tensor(list(rows)), len(groups), drawn, own)
        return Denominators(counts, self.objective.loss_agg_mode, batch.max_completion_length)

    def _accumulate(
        self,
        batch: Batch,
        credit: Credited,
        micro_batches: Sequence[Sequence[int]],
        shortest: int,
        denominators: Denominators,
        noise: tuple[int, int, int],
        tally: Tally,
    ) -> None:
        """Forward and backward over one minibatch's micro-batches; gradients are exchanged once, with the last."""
        for position, rows in enumerate(micro_batches):
            last = position == len(micro_batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss = self._micro_loss(batch, credit, rows, shortest, denominators, noise, tally)
                # Data-parallel wrappers average gradients over ranks; contributions are to be added.
                (loss * self.accelerator.num_processes).backward()

    def _micro_loss(
        self,
        batch: Batch,
        credit: Credited,
        rows: Sequence[int],
        shortest: int,
        denominators: Denominators,
        noise: tuple[int, int, int],
        tally: Tally,
    ) -> Tensor:
        present = bool(rows)
        rows = rows or [shortest]
        padded = collate([batch.rollouts[row] for row in rows], self.accelerator.device, self.preparer.limits.packed)
        micro = micro_batch(batch, rows, padded.width, credit, self.root, noise)
        if not present:  # a dummy row, so that this rank runs as many forwards as the others
            micro.chosen = torch.zeros_like(micro.chosen)
        for label, quantities in self.preparer.learn_references.items():
            missing = quantities - micro.references.get(label, {}).keys()
            if missing:
                micro.references.setdefault(label, {}).update(self.preparer.reference_forward(label, padded, missing))
        self.forwards += 1
        terms: Mapping[str, Term] = self.wrapped("learn", padded, micro, self.wanted)
        there = torch.full_like(micro.chosen, present)
        loss = torch.zeros((), dtype=torch.promote_types(self.root.policy.dtype, torch.float32), device=self.accelerator.device)
        for name, term in terms.items():
            part = reduce(name, term, micro, there, denominators)
            loss = loss + part
            tally.add("loss/total", part)
            tally.add(f"loss/{name}", part / term.coef if term.coef else part)
        for name, (total, number) in micro.metrics.items():
            tally.mean(name, total, number)
        return loss

    def _step(self) -> float:
        """One optimizer step; references follow. Returns the gradient's norm before clipping."""
        limit = self.options.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self.root.parameters(), float("inf") if limit is None else limit))
        if norm != norm or norm == float("inf"):
            self.optimizer.zero_grad()
            raise DivergenceError(
                "the gradient is not finite; the policy was left as it was before this update. "
                "Lower learner.learning_rate, or look at the last rows of metrics.jsonl for the term that grew"
            )
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.version += 1
        for reference in self.objective.references.values():
            reference.follow(self.root.policy)
        return norm
