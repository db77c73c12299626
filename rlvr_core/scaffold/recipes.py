"""What the templates hold, a kind at a time, and how a run uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlvr_core.spec.parts import PLACES


@dataclass(frozen=True)
class Recipe:
    """One kind's example. ``setting``: an option of it, as in a spec. ``around``: what else a run is told."""

    summary: str
    setting: str
    around: tuple[str, ...] = ("--objective", "grpo")
    brings: tuple[str, ...] = ()
    """Kinds that the package registers under its name besides its own."""
    written: str = ""
    """The kind of the class that the package holds, where it is another: an objective is data and brings a credit."""


RECIPES: Mapping[str, Recipe] = {
    "objective": Recipe(
        "the clipped surrogate on group-centred rewards, held to the policy's start",
        "objective.credit.baseline=median",
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
        around=(
            "--objective", "grpo", "--set", "objective.regularisers.kl.to={name}", "--set", "objective.regularisers.kl.coef=0.01",
        ),
    ),
    "regulariser": Recipe("pushes up the entropy of tokens that have less than a floor", "coef=0.05"),
    "task": Recipe(
        "mirrored sums, 7+3+7=",
        "largest=9",
        around=(
            "--objective", "grpo", "--model", "embedded",
            "--set", "rollout.max_completion_length=48", "--set", "learner.learning_rate=2e-4",
        ),
    ),
    "rollout": Recipe("decodes in this process, a whole forward for each token", "max_rows=128"),
    "reward": Recipe("the share of the gold's words that the completion holds", "ignore_case=false"),
    "observer": Recipe("a line of tab-separated metrics for every so many steps", "every=1"),
}  # fmt: skip
"""Kind -> what its template is."""


def run_arguments(kind: str, name: str) -> list[str]:
    """What follows ``rlvr run`` to train the embedded default with the component."""
    recipe = RECIPES[kind]
    around = [word.format(name=name) for word in recipe.around]
    if kind == "objective":
        return ["--objective", name, "--set", recipe.setting]
    place = PLACES[kind].format(name)
    named = [] if "{}" in PLACES[kind] else ["--set", f"{place}.name={name}"]  # a label is a name unless another is given
    return [*around, *named, "--set", f"{place}.{recipe.setting}"]
