"""Which rows a task keeps: conditions on columns. Imports no torch."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from rlvr_core.options import Options, option


class Condition(Options):
    """What a column's value must be like; what is not said is not asked."""

    min: float | None = option(None, "a number of at least this")
    max: float | None = option(None, "a number of at most this")
    matches: str | None = option(None, "text in which this regular expression is found", min_length=1)
    is_in: list[Any] | None = option(None, "one of these values")
    not_in: list[Any] | None = option(None, "none of these values; [null] for rows that have one at all")

    @field_validator("matches")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return pattern

    @model_validator(mode="after")
    def _asks_something(self) -> Condition:
        if not any(getattr(self, key) is not None for key in type(self).model_fields):
            raise ValueError("asks nothing; write min, max, matches, is_in or not_in")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is like that. A bound is for numbers and a pattern for text: no other value passes."""
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        if self.min is not None and (number is None or number < self.min):
            return False
        if self.max is not None and (number is None or number > self.max):
            return False
        if self.matches is not None and (not isinstance(value, str) or re.search(self.matches, value) is None):
            return False
        if self.is_in is not None and not _among(value, self.is_in):
            return False
        return self.not_in is None or not _among(value, self.not_in)


def as_condition(written: Any) -> Condition:
    """A value, or a list of them, is short for ``is_in``; a mapping says more. Raises ValueError saying what is wrong with it."""
    if not isinstance(written, dict):
        return Condition(is_in=written if isinstance(written, list) else [written])
    try:
        return Condition.model_validate(written)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = "unknown key; known: " + ", ".join(Condition.model_fields) if first["type"] == "extra_forbidden" else first["msg"]
        raise ValueError(f"{place}: {said}" if place else said.removeprefix("Value error, ")) from None


def _among(value: Any, values: list[Any]) -> bool:
    """Equal, but true and false are no numbers."""
    return any(isinstance(value, bool) == isinstance(other, bool) and value == other for other in values)
