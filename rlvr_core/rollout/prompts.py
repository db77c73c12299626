"""The order in which a run draws prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_core.randomness import permutation
from rlvr_core.records import Example
from rlvr_core.tasks.sequences import InOrder, Mixed


@dataclass(frozen=True)
class Prompt:
    """An example with its prompt's tokens."""

    example: Example
    ids: tuple[int, ...]

    @property
    def text(self) -> str:
        """The problem as the task wrote it; the last message's of a chat."""
        return prompt_text(self.example)


def prompt_text(example: Example) -> str:
    """The problem as the task wrote it; the last message's of a chat."""
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]


class PromptStream:
    """Training problems in an order that follows from the seed and the position alone, so it is resumed exactly by its position."""

    def __init__(self, examples: Sequence[Example], encode: Callable[[Example], tuple[int, ...]], seed: int) -> None:
        self.examples = examples
        self.encode = encode
        self.position = 0
        self._drawing: _Deck | _Turns = (
            _Turns(examples, seed) if isinstance(examples, Mixed) else _Deck(examples, "prompts", seed)
        )

    def draw(self, number: int) -> list[Prompt]:
        """The next prompts."""
        return [Prompt(example, self.encode(example)) for example in (self._next() for _ in range(number))]

    def _next(self) -> Example:
        example = self._drawing.at(self.position)
        self.position += 1
        return example

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.position = int(state["position"])


class _Deck:
    """One source, pass after pass: shuffled anew each time, or as it stands where its order is meant."""

    def __init__(self, examples: Sequence[Example], *name: int | str) -> None:
        self.examples, self.name = examples, name
        self._epoch = -1
        self._order: Sequence[int] = range(len(examples))

    def at(self, position: int) -> Example:
        """The problem at a place of the endless sequence of passes."""
        epoch, index = divmod(position, len(self.examples))
        if epoch != self._epoch and not isinstance(self.examples, InOrder):
            self._order = permutation(len(self.examples), *self.name, epoch)
        self._epoch = epoch
        return self.examples[self._order[index]]


class _Turns:
    """A mixture: the next prompt is of the part that is furthest behind its share, so no stretch is far off."""

    def __init__(self, examples: Mixed, seed: int) -> None:
        self._parts = [(part.share, _Deck(part.examples, "prompts", seed, part.label)) for part in examples.parts]
        self._position = 0
        self._drawn = [0] * len(self._parts)

    def at(self, position: int) -> Example:
        """The problem at a place; going back counts from the start."""
        if position < self._position:
            self._position, self._drawn = 0, [0] * len(self._parts)
        while self._position < position:
            self._drawn[self._turn()] += 1
            self._position += 1
        turn = self._turn()
        return self._parts[turn][1].at(self._drawn[turn])

    def _turn(self) -> int:
        owed = [share * (self._position + 1) - drawn for (share, _), drawn in zip(self._parts, self._drawn, strict=True)]
        return owed.index(max(owed))
