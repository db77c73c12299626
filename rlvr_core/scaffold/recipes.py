"""What the templates hold, a kind at a time, and how a run uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from rlvr_core.spec.parts import PLACES
from rlvr_core.spec.source import Source, apply_assignments

BASE = "objective.name=grpo"


@dataclass(frozen=True)
class Recipe:
    """One kind's example. ``setting``: an option of it. ``around``: what else the embedded default is told, as after ``--set``."""

    summary: str
    setting: str
    around: tuple[str, ...] = (BASE,)
    brings: tuple[str, ...] = ()
    """Kinds that the package registers under its name besides its own."""
    written: str = ""
    """The kind of the class that the package holds, where it is another: an objective is data and brings a credit."""


RECIPES: Mapping[str, Recipe] = {
    "objective": Recipe(
        "the clipped surrogate on group-centred rewards, held to the policy's start",
        "credit.baseline=median",
        around=(),
        brings=("credit",),
        written="credit",
    ),
    "sampler": Recipe("the best and the worst rollouts of each prompt, at most so many", "per_group=4"),
    "correction": Recipe("the geometric mean of a sequence's importance ratios, between bounds", "outside=drop"),
    "shaper": Recipe("a penalty that grows with the completion's length", "coef=0.5"),
    "credit": Recipe("reward less the mean or the median of its group's", "baseline=median"),
    "loss": Recipe("REINFORCE in which a negative advantage may count less", "negative=0.5"),
    "reference": Recipe(
        "a copy of the policy, taken anew after every so many optimizer steps",
        "every=20",
        around=(BASE, "objective.regularisers.kl.to={name}", "objective.regularisers.kl.coef=0.01"),
    ),
    "regulariser": Recipe("pulls the entropy of every token to a target", "coef=0.05"),
    "task": Recipe(
        "mirrored sums, 7+3+7=",
        "largest=9",
        around=(BASE, "model.name=embedded", "rollout.max_completion_length=48", "learner.learning_rate=2e-4"),
    ),
    "rollout": Recipe("decodes in this process, a whole forward for each token", "max_rows=128"),
    "reward": Recipe("the share of the gold's words that the completion holds", "ignore_case=false"),
    "observer": Recipe("a line of tab-separated metrics for every so many steps", "every=1"),
}
"""Kind -> what its template is."""

_PLACES = {**PLACES, "objective": "objective"}
_FLAGS = {"objective.name": "--objective", "model.name": "--model", "task.name": "--task"}


def assignments(kind: str, name: str) -> list[str]:
    """What a spec says to use the component, as after ``--set``. A label is a name unless another is given."""
    recipe, place = RECIPES[kind], _PLACES[kind]
    named = [] if "{}" in place else [f"{place}.name={name}"]
    return [*(text.format(name=name) for text in recipe.around), *named, f"{place.format(name)}.{recipe.setting}"]


def run_arguments(kind: str, name: str) -> list[str]:
    """What follows ``rlvr run`` to train the embedded default with the component."""
    words = []
    for text in assignments(kind, name):
        path, _, value = text.partition("=")
        words += [_FLAGS[path], value] if path in _FLAGS else ["--set", text]
    return words


def spec_lines(kind: str, name: str) -> list[str]:
    """The same as a spec file says it, a line for each of its sections."""
    source = Source()
    apply_assignments(source, assignments(kind, name))
    flow = {
        key: yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000) for key, value in source.data.items()
    }
    return [f"{key}: {text.strip()}" for key, text in flow.items()]
