"""One update of a subject at work, split in any way, and what was seen of it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from rlvr_core.learner.learner import When
from rlvr_core.loop import assign_credit
from rlvr_core.records import MicroBatch, Rollout, Term
from rlvr_core.testing.bench import Bench
from rlvr_core.testing.host import Subject

WHOLE = 1000
"""A budget in tokens that holds every scenario in one micro-batch."""


class Rank:
    """Stands in for an Accelerator of which this process is one of several; sums over ranks are the caller's."""

    def __init__(self, index: int, number: int) -> None:
        self.process_index, self.num_processes, self.device = index, number, torch.device("cpu")

    def no_sync(self, _: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def reduce(self, values: Tensor, _: str) -> Tensor:
        return values


@dataclass
class Learned:
    """What an update gave. ``gradients``: of the first optimizer step, summed over ranks."""

    kept: list[Any]
    gradients: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def flat(self) -> Tensor:
        """Every gradient end to end."""
        return torch.cat([self.gradients[name].flatten() for name in sorted(self.gradients)] or [torch.zeros(0)])


def learn(
    subject: Subject, rollouts: Sequence[Rollout], *, budget: int = WHOLE, ranks: int = 1, backwards: bool = False, **around: Any
) -> Learned:
    """One update on a new bench: micro-batches of ``budget`` tokens on ``ranks`` ranks, kept rows in order or backwards."""
    found: list[Learned] = []
    for rank in range(ranks):
        bench = subject.bench(max_tokens_per_microbatch=budget, **around)
        found.append(update(bench, rollouts, Rank(rank, ranks) if ranks > 1 else None, backwards))
    first = found[0]
    for other in found[1:]:
        for name, gradient in other.gradients.items():
            first.gradients[name] = first.gradients.get(name, torch.zeros_like(gradient)) + gradient
    first.gradients = {name: gradient / ranks for name, gradient in first.gradients.items()}
    return first


def update(
    bench: Bench, rollouts: Sequence[Rollout], rank: Rank | None = None, backwards: bool = False, step: int = 1
) -> Learned:
    """Select, prepare, credit and learn, as a step does."""
    kept, dropped = bench.select(rollouts)
    if not kept:
        return Learned([], parameters=bench.parameters())
    if backwards:
        kept, dropped = kept[::-1], dropped[::-1]
    batch = bench.preparer.prepare(kept, dropped, bench.learner.version)
    credit, _ = assign_credit(bench.objective, batch, bench.learner.version)
    if rank is not None:
        bench.learner.accelerator = rank  # the four members that the learner uses
    metrics, gradients = bench.learn(batch, credit, len(rollouts), When(0, step))
    return Learned([r.key for r in kept], gradients, metrics, bench.parameters())


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Python's and torch's global generators seeded so; as they were afterwards."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


@dataclass
class Watched:
    """What a loss or regulariser read, gave and logged, call by call."""

    reads: set[str] = field(default_factory=set)
    terms: list[Mapping[str, Term]] = field(default_factory=list)
    logged: list[frozenset[str]] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    pushes: list[tuple[MicroBatch, Tensor]] = field(default_factory=list)


class _Noted(dict[str, Any]):
    """A dict that notes which keys are read."""

    def __init__(self, data: Mapping[str, Any], reads: set[str], prefix: str = "") -> None:
        super().__init__(data)
        self.reads, self.prefix = reads, prefix

    def __getitem__(self, key: str) -> Any:
        self.reads.add(self.prefix + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - through __getitem__, which notes the key


def watch(part: Any) -> Watched:
    """Note what an instance's ``terms`` does from now on."""
    seen, right = Watched(), part.terms

    def terms(batch: MicroBatch) -> Mapping[str, Term]:
        before = snapshot(batch)
        already = set(batch.metrics)
        quantities, references, fixed = batch.quantities, batch.references, batch.fixed
        batch.quantities = _Noted(quantities, seen.reads)
        batch.references = {label: _Noted(q, seen.reads, "reference ") for label, q in references.items()}
        batch.fixed = _Noted(fixed, seen.reads)
        logprobs = quantities.get("logprobs")
        if logprobs is not None and logprobs.requires_grad:
            logprobs.retain_grad()
            seen.pushes.append((batch, logprobs))
        found = dict(right(batch))
        batch.quantities, batch.references, batch.fixed = quantities, references, fixed
        after = snapshot(batch)
        seen.changed |= {name for name, value in before.items() if not torch.equal(value, after[name])}
        seen.terms.append(found)
        seen.logged.append(frozenset(set(batch.metrics) - already))
        return found

    part.terms = terms
    return seen


def snapshot(record: Any, prefix: str = "") -> dict[str, Tensor]:
    """A copy of every tensor in a record, by path."""
    if isinstance(record, Tensor):
        return {prefix: record.detach().clone().nan_to_num()}
    if isinstance(record, Mapping):
        items = [(str(key), value) for key, value in record.items() if key not in ("metrics",)]
    elif hasattr(record, "__dataclass_fields__"):
        items = [
            (f.name, getattr(record, f.name)) for f in fields(record) if f.name not in ("metrics", "rows", "normal", "rollouts")
        ]
    elif isinstance(record, tuple | list):
        items = [(str(number), value) for number, value in enumerate(record)]
    else:
        return {}
    found: dict[str, Tensor] = {}
    for name, value in items:
        found |= snapshot(value, f"{prefix}.{name}" if prefix else name)
    return found
