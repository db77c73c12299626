"""Options of core's rewards. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import field_validator

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
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return pattern


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
