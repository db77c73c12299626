"""The base of every plugin's options. Imports no torch: options are checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Options of one component: a pydantic model whose every field has a description.

    Unknown keys are errors, values are strict about type (``"3"`` is not an integer) and frozen after validation.
    """

    PARTS: ClassVar[Mapping[str, str]] = {}
    """Options that hold components of their own, by label: option -> kind. Each is checked as a part of the spec is, `weight` included."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    def inert(self) -> Mapping[str, str]:
        """Options that have no effect under the values of the others: name -> why. Setting one of them is an error."""
        return {}


def option(default: Any = ..., /, description: str = "", *, symbol: str | None = None, **constraints: Any) -> Any:
    """A pydantic ``Field`` with a description and, where a paper has one, its ``symbol``."""
    extra: dict[str, Any] | None = {"symbol": symbol} if symbol else None
    return Field(default, description=description, json_schema_extra=extra, **constraints)
