"""Options of the task and the reward `reasoning_gym`. Imports neither torch nor reasoning_gym."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from rlvr_core.options import Options, option
from rlvr_core.tasks.options import DifficultyOptions


class GymSet(Options):
    """One data set of Reasoning Gym."""

    dataset: str | None = option(
        None, "the data set's name there, as leg_counting; null: the label it stands under", min_length=1
    )
    weight: float = option(1.0, "its share of the problems, among those of the others", gt=0.0)
    options: dict[str, Any] = option({}, "options of the data set itself, as its configuration names them")
    levels: list[int] | None = option(
        None,
        "difficulty: levels of the data set's curriculum, from 0, each with an equal part of its problems; null: as its options say",
        min_length=1,
    )

    @field_validator("options")
    @classmethod
    def _leaves_seed_and_size(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, instead in (("seed", "task.seed"), ("size", "task.problems and task.eval_problems")):
            if key in options:
                raise ValueError(f"{key} is set by {instead}")
        return options

    @field_validator("levels")
    @classmethod
    def _are_levels(cls, levels: list[int] | None) -> list[int] | None:
        if levels is not None and (min(levels) < 0 or len(set(levels)) < len(levels)):
            raise ValueError("write each level once, from 0, as [0, 1, 2]")
        return levels


class GymOptions(DifficultyOptions):
    """Problems that Reasoning Gym makes, with the checks that belong to them (reward `reasoning_gym`)."""

    datasets: dict[str, GymSet] = option(
        description="data sets by label, as {leg_counting: {}, bf: {weight: 2.0, options: {difficulty: 1}}}"
    )
    problems: int = option(5_000, "training problems, of all data sets together", ge=1)
    eval_problems: int = option(
        256, "held-out problems, of all data sets together; none of them is ever trained on; 0: none", ge=0
    )
    seed: int = option(0, "the problems follow from it, alike on every rank and machine", ge=0)
    order: Literal["shuffled", "rising"] = option(
        "shuffled", "draw training problems of all levels mixed, or level after level, the easy ones first (`levels`)"
    )

    @field_validator("datasets")
    @classmethod
    def _has_some(cls, datasets: dict[str, GymSet]) -> dict[str, GymSet]:
        if not datasets:
            raise ValueError("name at least one data set, as {leg_counting: {}}")
        return datasets

    @model_validator(mode="after")
    def _enough_for_each(self) -> Self:
        if self.problems < len(self.datasets):
            raise ValueError(f"problems ({self.problems}) is less than the number of datasets ({len(self.datasets)})")
        return self

    def inert(self) -> Mapping[str, str]:
        """An order of levels where there are none."""
        reasons = dict(super().inert())
        if not any(len(chosen.levels or ()) > 1 for chosen in self.datasets.values()):
            reasons["order"] = "no data set has several levels"
        return reasons


class GymRewardOptions(Options):
    """Reasoning Gym's own score of an answer, from 0 to 1; for rows of the task `reasoning_gym`, others it abstains from."""

    answer: Literal["auto", "tag", "boxed", "all"] = option(
        "auto",
        r"where a completion states its answer: in the last <answer></answer>, in the last \boxed{}, the completion as a whole, or "
        "(auto) in the tag, or without one in the box",
    )
    partial: bool = option(True, "give the scores between 0 and 1 that some data sets have; false: 0 for all but full marks")
