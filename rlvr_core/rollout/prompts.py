"""The order in which a run draws prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_core.randomness import permutation
from rlvr_core.records import Example


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
    """Training problems in an order that follows from the seed: shuffled anew each pass, resumed exactly by its position."""

    def __init__(self, examples: Sequence[Example], encode: Callable[[Example], tuple[int, ...]], seed: int) -> None:
        self.examples = examples
        self.encode = encode
        self.seed = seed
        self.position = 0
        self._epoch = -1
        self._order: list[int] = []

    def draw(self, number: int) -> list[Prompt]:
        """The next prompts."""
        return [Prompt(example, self.encode(example)) for example in (self._next() for _ in range(number))]

    def _next(self) -> Example:
        epoch, index = divmod(self.position, len(self.examples))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, permutation(len(self.examples), "prompts", self.seed, epoch)
        self.position += 1
        return self.examples[self._order[index]]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.position = int(state["position"])
