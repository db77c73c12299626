r"""Where a completion states its answer; and golds stated the same way, to check them before a run.

The last complete ``\boxed{}`` or ``\fbox{}``, by brace matching. Only where there is no box at all: what follows the last ``####``,
or else the last "answer is x" or "Answer: x". Everything here is linear in the completion's length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ANSWER = 2_000
"""Characters of the longest answer that is looked at."""

_TOKENS = re.compile(r"(?P<box>\\{1,4}(?:boxed|fbox)\s{0,9}\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
_MARK = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_STATEMENT = re.compile(r"\banswer\b\*{0,2}\s{0,9}(?:is\b|:)[\s:*]{0,9}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.?](?=\s|$)")


@dataclass(frozen=True)
class Extraction:
    """The answer as it stands in the completion, or why there is none."""

    answer: str | None
    reason: str = ""


def extract(completion: str, require_box: bool = False) -> Extraction:
    """The completion's final answer."""
    content, opened = find_box(completion)
    if opened:
        return _checked(content, r"the \boxed{} is never closed", r"the \boxed{} is empty")
    if require_box:
        return Extraction(None, r"no \boxed{}")
    marks = _MARK.findall(completion)
    if marks:
        return _checked(marks[-1], "", "nothing follows the ####")
    statements = [match.end() for match in _STATEMENT.finditer(completion)]
    if statements:
        return _checked(_first_sentence(completion[statements[-1] :]), "", "no answer follows 'answer is'")
    return Extraction(None, r"no \boxed{}, no #### and no 'answer is'")


def find_box(text: str) -> tuple[str | None, bool]:
    """(content of the complete box that closes last, whether any box was opened). A box inside a box belongs to the outer one."""
    stack: list[int | None] = []
    span, opened = None, False
    for token in _TOKENS.finditer(text):
        if token["box"]:
            stack.append(token.end())
            opened = True
        elif token["open"]:
            stack.append(None)
        elif token["close"] and stack:
            start = stack.pop()
            if start is not None:
                span = slice(start, token.start())
    return (None if span is None else text[span]), opened


def boxed(gold: str) -> str:
    """A gold as a completion would state it."""
    return f"\\boxed{{{gold}}}"


def _first_sentence(text: str) -> str:
    line = text.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return (line if end is None else line[: end.start()]).strip().strip("*").strip()


def _checked(answer: str | None, missing: str, empty: str) -> Extraction:
    if answer is None:
        return Extraction(None, missing)
    if not answer.strip():
        return Extraction(None, empty)
    if len(answer) > MAX_ANSWER:
        return Extraction(None, f"the answer has {len(answer)} characters, more than {MAX_ANSWER}")
    return Extraction(answer.strip())
