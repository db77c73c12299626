"""Options of core's rewards. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import field_validator, model_validator

from rlvr_core.options import Options, option


class MathOptions(Options):
    r"""1 where the completion's final answer equals the gold, as mathematics."""

    require_box: bool = option(
        False, r"only a \boxed{} or \fbox{} states an answer; otherwise '#### x' and 'answer is x' do too where there is no box"
    )


class ExactOptions(Options):
    """1 where the completion, or what a pattern finds in it, is the gold."""

    strip: bool = option(True, "leave out white space around both")
    ignore_case: bool = option(False, "do not tell upper from lower case")
    pattern: str | None = option(
        None,
        "regular expression whose last match in the completion is the answer (its first group, if it has one); null: all of the completion",
        min_length=1,
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        return None if pattern is None else _checked_pattern(pattern)


class FunctionOptions(Options):
    """Any callable with TRL's signature: f(prompts=..., completions=..., **columns) -> list of numbers or None."""

    function: str = option(
        description="where the callable is: 'package.module:name', or 'folder/file.py:name' from the current folder",
        pattern=r".:[^:]+$",
    )
    gold_name: str = option(
        "answer", "keyword under which the golds are passed, besides 'gold'; a column of that name goes before", min_length=1
    )
    messages: bool = option(
        False,
        "pass each prompt and completion as a list of one chat message, as TRL does for conversational data, and not as text",
    )
    timeout_s: float = option(
        60.0,
        "seconds that one call may take: first with all completions of a step; where that fails, once more for each alone, and those that "
        "fail alone have status timeout, crash or error",
        gt=0.0,
    )
    in_process: bool = option(
        False,
        "call it in the training process, not in a worker: for one that keeps state over steps or shares a device; nothing stops it then",
    )

    def inert(self) -> Mapping[str, str]:
        return {"timeout_s": "in_process is true, so nothing can stop it"} if self.in_process else {}


class CodeOptions(Options):
    """1 where the program in the completion passes the row's tests, in a sandbox."""

    tests: str | None = option(
        None,
        "column with the tests (code, or a list of statements); null: `test` or `test_list` where the row has one, else the gold",
    )
    timeout_s: float = option(20.0, "seconds by the clock that a program and its tests may take together", gt=0.0)
    cpu_s: float = option(10.0, "seconds of processor time that each process may use, rounded up", gt=0.0)
    memory_mb: int = option(512, "MiB of address space of each process", ge=64)
    folder_mb: int = option(16, "MiB that a program may write into its folder, and to one file", ge=1)
    processes: int = option(4, "processes and threads that a program may have besides its first", ge=0)


class FormatOptions(Options):
    """1 where the completion has a form, 0 otherwise."""

    pattern: str = option(
        description="regular expression (Python's); a dot does not match a line's end, unless it says (?s)", min_length=1
    )
    match: Literal["full", "search"] = option("full", "full: it must match all of the completion; search: something in it")
    strip: bool = option(True, "leave out white space around the completion")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return _checked_pattern(pattern)


class LengthOptions(Options):
    """1 where the completion's length is within bounds, 0 otherwise; or a slope towards a bound."""

    unit: Literal["characters", "words", "lines"] = option("characters", "what is counted (tokens: see the shaper `overlong`)")
    min: int | None = option(None, "fewest that get 1", ge=0)
    max: int | None = option(None, "most that get 1", ge=0)
    slack: int = option(0, "over so many outside the bounds the value falls to 0 in a straight line; 0: at once", ge=0)

    @model_validator(mode="after")
    def _bounded(self) -> LengthOptions:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both; without them every length would get 1")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from None
    return pattern
