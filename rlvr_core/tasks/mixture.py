"""Task ``mixture``: several tasks as one, each with its share of the training prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from rlvr_core.contracts import Task
from rlvr_core.errors import DataError
from rlvr_core.plugins import catalogue
from rlvr_core.records import Example
from rlvr_core.tasks.options import MixtureOptions
from rlvr_core.tasks.sequences import Mixed, Share, Wrapped, kept

PART = "mixture"
"""Column that says of which part a problem is."""


class MixtureTask(Task):
    """Builds its parts itself; the spec's resolver has checked them."""

    options: MixtureOptions

    def train(self) -> Sequence[Example]:
        """Training problems of every part, with shares. Raises DataError for a part without any."""
        return Mixed(Share(label, share, self._train_of(label)) for label, share in self._shares.items())

    def evaluation(self) -> Sequence[Example]:
        """Held-out problems of every part, each once, the parts spread evenly; weights have no say here."""
        held = {label: task.evaluation() for label, task in self._parts.items()}
        return Mixed(Share(label, 1.0, marked(examples, label)) for label, examples in held.items() if len(examples))

    def describe(self) -> str:
        """Each part with its share."""
        return "; ".join(f"{label} ({self._shares[label]:.0%}): {task.describe()}" for label, task in self._parts.items())

    @property
    def _shares(self) -> dict[str, float]:
        weights = {label: float(part.get("weight", 1.0)) for label, part in self.options.parts.items()}
        return {label: weight / sum(weights.values()) for label, weight in weights.items()}

    @cached_property
    def _parts(self) -> dict[str, Task]:
        built = {}
        for label, part in self.options.parts.items():
            component = catalogue().get("task", part.get("name", label))
            options = {key: value for key, value in part.items() if key not in ("name", "weight")}
            built[label] = component.build(component.options.model_validate(options))
        return built

    def _train_of(self, label: str) -> Sequence[Example]:
        examples = self._parts[label].train()
        if not len(examples):
            raise DataError(f"task.parts.{label}: has no training problems, so no share of them can be drawn; take the part away")
        return marked(examples, label)


def marked(examples: Sequence[Example], label: str) -> Sequence[Example]:
    """The problems with the label of their part before the id (two parts may number theirs alike) and in a column."""
    return kept(examples, lambda some: _Marked(some, label))


class _Marked(Wrapped):
    """Marks problems when they are asked for."""

    def __init__(self, examples: Sequence[Example], label: str) -> None:
        self.examples, self.label = examples, label

    def __len__(self) -> int:
        return len(self.examples)

    def _at(self, index: int) -> Example:
        example = self.examples[index]
        inner = example.columns.get(PART)
        part = self.label if inner is None else f"{self.label}/{inner}"
        return replace(example, id=f"{self.label}/{example.id}", columns={**example.columns, PART: part})
