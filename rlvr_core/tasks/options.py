"""Options of the tasks that read rows. Imports neither torch nor datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, field_validator, model_validator

from rlvr_core.options import Options, option
from rlvr_core.spec.parts import Part
from rlvr_core.tasks.conditions import as_condition

LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "gsm8k": {"prompt": "question", "answer": "answer", "answer_after": "####"},
    "math": {"prompt": "problem", "answer": "solution", "answer_boxed": True},
    "aime": {"prompt": "problem|question|Problem|Question", "answer": "answer|Answer"},
    "deepscaler": {"prompt": "problem", "answer": "answer"},
    "verl": {"prompt": "prompt", "answer": "reward_model.ground_truth"},
}
"""Options that a layout stands for; each may still be given another value."""


class DifficultyOptions(Options):
    """Training problems chosen by how often a model solved them."""

    pass_rates: str | None = option(
        None,
        "problems.jsonl of an `rlvr eval --split train`, or any JSON lines with id and pass_rate: leaves out the training problems "
        "whose measured pass rate is out of bounds; null: none are left out",
        min_length=1,
    )
    min_pass_rate: float = option(
        0.0, "lowest pass rate of a problem to learn on; above 0 leaves out what was never solved", ge=0.0, le=1.0
    )
    max_pass_rate: float = option(1.0, "highest pass rate; below 1 leaves out what was always solved", ge=0.0, le=1.0)
    unmeasured: Literal["error", "drop", "keep"] = option("error", "a training problem that the file does not name")

    def inert(self) -> Mapping[str, str]:
        """Bounds without rates, and rates without bounds."""
        if self.pass_rates is None:
            return dict.fromkeys(("min_pass_rate", "max_pass_rate", "unmeasured"), "there are no pass_rates")
        if self.min_pass_rate == 0.0 and self.max_pass_rate == 1.0 and self.unmeasured != "drop":
            return {"pass_rates": "min_pass_rate is 0 and max_pass_rate is 1, so every problem passes"}
        return {}

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError(f"min_pass_rate ({self.min_pass_rate}) is above max_pass_rate ({self.max_pass_rate})")
        return self


class RowOptions(DifficultyOptions):
    """How a row becomes a problem: which column holds what, which rows are kept, and which are held out."""

    layout: Literal["gsm8k", "math", "aime", "deepscaler", "verl"] | None = option(
        None,
        "columns as a well-known data set has them: " + "; ".join(
            f"{name} ({', '.join(f'{key}: {value}' for key, value in layout.items())})" for name, layout in LAYOUTS.items()
        ) + "; what is written besides goes before",
    )  # fmt: skip
    prompt: str = option(
        "problem",
        "column with the problem: text, or a list of chat messages (mappings with role and content); a|b is the first of them that the "
        "row has, a.b what stands under b in column a",
        min_length=1,
    )
    answer: str = option("answer", "column with the gold answer: text or a number; written as for prompt", min_length=1)
    id: str | None = option(None, "column that names a row; null: the source's name and the row's number")
    answer_after: str | None = option(
        None,
        "the gold is what follows the last such mark in the answer column ('####' in GSM8K's own files); null: all of it",
        min_length=1,
    )
    answer_boxed: bool = option(
        False, r"the gold is what the last \boxed{} of the answer column holds (a worked solution, as in MATH)"
    )
    where: dict[str, Any] = option(
        {},
        "rows to use, of all splits: column -> the value it has, a list of such values, or a mapping with min, max, matches (a regular "
        "expression), is_in or not_in; every column's condition must hold",
    )
    order: Literal["shuffled", "rows"] = option(
        "shuffled", "training problems are drawn in another order each pass, which follows from the seed, or as the rows stand"
    )
    limit: int | None = option(None, "training problems at most, from the front; null: all", ge=1)
    eval_limit: int | None = option(None, "held-out problems at most, from the front; null: all", ge=1)
    eval_fraction: float = option(
        0.1,
        "share of the rows held out for evaluation where no evaluation rows are named, picked by a hash of the problem, "
        "so that it never changes and the same problem is never on both sides; 0: none",
        ge=0.0,
        lt=1.0,
    )

    @model_validator(mode="before")
    @classmethod
    def _lay_out(cls, data: Any) -> Any:
        """A layout's options, under what is written besides."""
        layout = data.get("layout") if isinstance(data, dict) else None
        return {**LAYOUTS[layout], **data} if isinstance(layout, str) and layout in LAYOUTS else data

    @field_validator("where")
    @classmethod
    def _are_conditions(cls, where: dict[str, Any]) -> dict[str, Any]:
        for column, written in where.items():
            try:
                as_condition(written)
            except ValueError as error:
                raise ValueError(f"{column}: {error}") from None
        return where

    def own_eval(self) -> str | None:
        """The option that names evaluation rows of their own, where it is set."""
        return None

    def own_train(self) -> str | None:
        """What names the training rows; None where there are none."""
        return None

    def inert(self) -> Mapping[str, str]:
        """Holding out a share means nothing beside named evaluation rows; a limit means nothing where none are held out."""
        reasons = dict(super().inert())
        if self.answer_boxed and self.answer_after is not None:
            reasons["answer_after"] = "answer_boxed takes the gold from a box"
        named = self.own_eval()
        if named is not None:
            reasons["eval_fraction"] = f"{named} names the evaluation rows"
        elif self.eval_fraction == 0.0:
            reasons["eval_limit"] = "eval_fraction is 0, so nothing is held out"
        if self.own_train() is None:
            reasons |= dict.fromkeys(("limit", "order", "pass_rates"), "there are no training rows")
        return reasons


class JsonlOptions(RowOptions):
    """Rows of a local JSON-lines file: one JSON object a line, UTF-8."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["path"]}, {"required": ["eval_path"]}]})

    path: str | None = option(
        None,
        "file with the training rows; a relative path starts at the current folder; null: none, for evaluations alone",
        min_length=1,
    )
    eval_path: str | None = option(
        None, "file with the evaluation rows; null: a share of the training rows is held out", min_length=1
    )

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if self.path is None and self.eval_path is None:
            raise ValueError("path is required, or eval_path where nothing is trained: name a file with rows")
        return self

    def own_eval(self) -> str | None:
        """``eval_path``, where set."""
        return "eval_path" if self.eval_path is not None else None

    def own_train(self) -> str | None:
        """The file."""
        return self.path


class HubOptions(RowOptions):
    """A data set of the Hugging Face hub, or a local folder laid out like one, through ``datasets.load_dataset``."""

    path: str = option(
        description="hub name, or a folder with data files (parquet, json, csv) and perhaps a README.md that configures them",
        min_length=1,
    )
    config: str | None = option(None, "configuration (subset) of the data set; null: its default")
    split: str | None = option(
        "train",
        "split with the training rows; slices such as train[:1000] work; null: none, for evaluations alone",
        min_length=1,
    )
    eval_split: str | None = option(
        None, "split with the evaluation rows; null: a share of the training rows is held out", min_length=1
    )
    revision: str | None = option(None, "branch, tag or commit of a hub data set; null: its main branch")
    cache_dir: str | None = option(None, "folder for downloaded and converted files; null: the datasets library's own")

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if self.split is None and self.eval_split is None:
            raise ValueError("split and eval_split are both null; name a split with rows")
        return self

    def own_eval(self) -> str | None:
        """``eval_split``, where set."""
        return "eval_split" if self.eval_split is not None else None

    def own_train(self) -> str | None:
        """The split."""
        return self.split


class MixtureOptions(Options):
    """Several tasks as one."""

    PARTS: ClassVar[Mapping[str, str]] = {"parts": "task"}

    parts: dict[str, Part] = option(
        description="tasks by label, each with its options and a `weight` (1.0): its share of the training prompts. Evaluations take every "
        "held-out problem of every part once"
    )

    @field_validator("parts")
    @classmethod
    def _have_weights(cls, parts: dict[str, Part]) -> dict[str, Part]:
        if not parts:
            raise ValueError("a mixture needs at least one part, as {maths: {name: jsonl, path: rows.jsonl}}")
        for label, part in parts.items():
            weight = part.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
                raise ValueError(f"{label}: weight {weight!r} is not a number above 0")
        return parts
