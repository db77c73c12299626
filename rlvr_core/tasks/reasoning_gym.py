"""Task ``reasoning_gym``: problems that Reasoning Gym makes, of any of its data sets, mixed by weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from rlvr_core.contracts import Task
from rlvr_core.errors import DataError
from rlvr_core.randomness import seed_of
from rlvr_core.records import Example
from rlvr_core.tasks.difficulty import by_difficulty
from rlvr_core.tasks.mixture import PART
from rlvr_core.tasks.options_reasoning_gym import GymOptions, GymSet
from rlvr_core.tasks.reasoning_gym_rows import ENTRY, INSTALL, Wanted, make
from rlvr_core.tasks.sequences import InOrder, Mixed, Share

ORACLES = ("example_answer", "example_correct_answer", "possible_answer")
"""Where data sets with many right answers keep one of them."""


class GymTask(Task):
    """Made whole on first use; the same on every call, rank and machine."""

    options: GymOptions

    def train(self) -> Sequence[Example]:
        """Problems to learn on, with each data set's share."""
        total = sum(chosen.weight for chosen in self.options.datasets.values())
        return Mixed(
            Share(label, chosen.weight / total, self._ordered(self._made[label][0]))
            for label, chosen in self.options.datasets.items()
        )

    def evaluation(self) -> Sequence[Example]:
        """Held-out problems, all different, the data sets spread evenly."""
        held = {label: self._made[label][1] for label in self.options.datasets}
        return Mixed(Share(label, 1.0, examples) for label, examples in held.items() if examples)

    def describe(self) -> str:
        """Data sets, and how many problems."""
        names = ", ".join(
            label if chosen.levels is None else f"{label} (levels {', '.join(map(str, chosen.levels))})"
            for label, chosen in self.options.datasets.items()
        )
        return f"Reasoning Gym's {names}: {len(self.train())} training problems, {len(self.evaluation())} held out"

    def _ordered(self, examples: list[Example]) -> Sequence[Example]:
        left = by_difficulty(examples, self.options)
        return InOrder(left) if self.options.order == "rising" else left

    @cached_property
    def _made(self) -> dict[str, tuple[list[Example], list[Example]]]:
        """(training, held out) of each data set, by label; training in the order of its levels."""
        if find_spec("reasoning_gym") is None:
            raise DataError(f"task reasoning_gym needs the package reasoning_gym: {INSTALL}")
        wanted = list(self._wanted())
        found: dict[str, tuple[list[Example], list[Example]]] = {label: ([], []) for label in self.options.datasets}
        for one, made in zip(wanted, make(wanted), strict=True):
            train, held = found[one.label]
            train += [_example(one, made.config, "train", len(train) + n, entry) for n, entry in enumerate(made.train)]
            held += [_example(one, made.config, "eval", len(held) + n, entry) for n, entry in enumerate(made.held)]
        return found

    def _wanted(self) -> Iterator[Wanted]:
        """A request for each level of each data set."""
        o = self.options
        sets = o.datasets
        weights = [chosen.weight for chosen in sets.values()]
        counts = zip(sets.items(), dealt(o.problems, weights), dealt(o.eval_problems, weights), strict=True)
        for (label, chosen), train, held in counts:
            levels: Sequence[int | None] = [None] if chosen.levels is None else sorted(chosen.levels)
            even = [1.0] * len(levels)
            for level, some, few in zip(levels, dealt(train, even), dealt(held, even), strict=True):
                seeds = [_seed(o.seed, split, label, level) for split in ("train", "eval")]
                yield Wanted(label, _name(label, chosen), chosen.options, level, some, few, *seeds)


def _name(label: str, chosen: GymSet) -> str:
    return label if chosen.dataset is None else chosen.dataset


def _seed(seed: int, split: str, label: str, level: int | None) -> int:
    return seed_of("reasoning_gym", seed, split, label, -1 if level is None else level) % 2**31


def dealt(number: int, weights: Sequence[float]) -> list[int]:
    """A whole number in whole parts by weight: rounded down, and what is left goes to the largest remainders (Hamilton's method)."""
    exact = [number * weight / sum(weights) for weight in weights]
    parts = [int(share) for share in exact]
    for which in sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))[: number - sum(parts)]:
        parts[which] += 1
    return parts


def _example(wanted: Wanted, config: Mapping[str, Any], split: str, number: int, entry: Mapping[str, Any]) -> Example:
    columns = {PART: wanted.label, ENTRY: {"dataset": wanted.dataset, "config": dict(config), "entry": dict(entry)}}
    return Example(f"{wanted.label}/{split}/{number}", entry["question"], oracle(entry), columns)


def oracle(entry: Mapping[str, Any]) -> str:
    """The answer that the data set itself gives; empty where it keeps none (many are right, and none was worked out)."""
    import json

    metadata = entry["metadata"]
    answer = entry["answer"] if entry["answer"] is not None else next((metadata[key] for key in ORACLES if metadata.get(key)), "")
    return answer if isinstance(answer, str) else json.dumps(answer)
