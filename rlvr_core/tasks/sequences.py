"""Problems that are more than a list: mixed by weight, or in an order that is meant. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from rlvr_core.records import Example


@dataclass(frozen=True)
class Share:
    """One part of a mixture: what is drawn from it, and its share of all draws (they sum to 1)."""

    label: str
    share: float
    examples: Sequence[Example]


class Wrapped(Sequence[Example]):
    """A sequence that stands for another one, or several."""

    def _at(self, index: int) -> Example:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        numbers = range(len(self))[index]
        return self._at(numbers) if isinstance(numbers, int) else [self._at(number) for number in numbers]


class InOrder(Wrapped):
    """Problems that are drawn as they stand, pass after pass, and not shuffled."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def _at(self, index: int) -> Example:
        return self.examples[index]


class Mixed(Wrapped):
    """Parts by weight. As a sequence it holds every problem of every part once, each part spread evenly from the front to the end."""

    def __init__(self, parts: Iterable[Share]) -> None:
        self.parts = tuple(part for given in parts for part in _flattened(given))
        self._places = sorted(
            ((number + 0.5) / len(part.examples), which, number)
            for which, part in enumerate(self.parts)
            for number in range(len(part.examples))
        )

    def __len__(self) -> int:
        return len(self._places)

    def _at(self, index: int) -> Example:
        _, which, number = self._places[index]
        return self.parts[which].examples[number]


def _flattened(part: Share) -> list[Share]:
    """A mixture inside a mixture is its parts, each with its share of the share."""
    if not isinstance(part.examples, Mixed):
        return [part]
    return [Share(f"{part.label}/{inner.label}", part.share * inner.share, inner.examples) for inner in part.examples.parts]


def kept(examples: Sequence[Example], keep: Callable[[Sequence[Example]], Sequence[Example]]) -> Sequence[Example]:
    """What ``keep`` leaves of the problems; order and shares stay as they are."""
    if isinstance(examples, InOrder):
        return InOrder(keep(examples.examples))
    if isinstance(examples, Mixed):
        return Mixed(Share(part.label, part.share, kept(part.examples, keep)) for part in examples.parts)
    return keep(examples)
