"""Reward ``code``: the completion's program passes the task's tests, in a sandbox."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_core.contracts import Reward
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.options import CodeOptions
from rlvr_core.reward.sandbox.exam import Verdict, adopt_strays, examine

MAX_PROGRAM = 200_000
"""Characters of the longest program that is run."""
MARGIN = 10.0
"""Seconds that an item may take besides its tests, before its worker is killed."""

_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})[ \t]*([^\n`]*)$")
_PYTHON = {"", "py", "python", "python3"}
_LOOKS_LIKE_CODE = re.compile(r"^(?:def|class|import|from|async def|@)\b", re.MULTILINE)


class _Unusable(ValueError):
    """Why a row has no tests to run."""


@dataclass(frozen=True)
class Tests:
    """A row's tests, and what of them is code: ``setup`` is run before them, ``entry_point`` is the function that ``check`` is given."""

    tests: str
    setup: str
    entry_point: str | None


class CodeReward(Reward):
    """1 where every test passes, 0 otherwise; what a program does is never a status of its own."""

    options: CodeOptions
    _memory_folder = False

    def time_limit(self) -> float:
        """The program's own limit, and some for starting and cleaning up."""
        return self.options.timeout_s + MARGIN

    def start(self) -> Sequence[str]:
        """Try the sandbox out, and say what this system does not allow it to hold back."""
        adopt_strays()
        verdict = self._examine("def f(): return 1", "", False, Tests("assert f() == 1", "", None))
        if verdict.verdict != "passed":
            return [f"reward code: the sandbox does not work here, so every program will fail ({verdict.reason})"]
        self._memory_folder = verdict.held["memory_folder"]
        lost = [said for measure, said in LOST.items() if not verdict.held[measure]]
        return [f"reward code: this system does not let the sandbox {'; nor '.join(lost)}"] if lost else []

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order."""
        return [self._score(item) for item in items]

    def _score(self, item: RewardItem) -> Outcome:
        start = time.perf_counter()
        try:
            tests = self._tests(item)
        except _Unusable as why:
            return Outcome(None, "error", str(why))
        found, continued = extract_program(item.completion, item.prompt, tests.entry_point)
        if found is None or len(found) > MAX_PROGRAM:
            why_not = "no fenced block, and no Python" if found is None else f"the program has {len(found)} characters"
            return Outcome(0.0, "no_answer", why_not, (time.perf_counter() - start) * 1e3)
        verdict = self._examine(found, _runnable(item.prompt, tests.entry_point), continued, tests)
        ms = (time.perf_counter() - start) * 1e3
        if verdict.verdict == "broken":
            return Outcome(None, "error", verdict.reason, ms)
        return Outcome(float(verdict.verdict == "passed"), "ok", verdict.reason, ms)

    def _examine(self, source: str, prompt: str, continued: bool, tests: Tests) -> Verdict:
        o = self.options
        limits = {"seconds": o.timeout_s, "cpu_seconds": o.cpu_s, "memory_mb": o.memory_mb}
        limits |= {"folder_mb": o.folder_mb, "processes": o.processes}
        return examine(
            source,
            tests.tests,
            prompt=prompt,
            setup=tests.setup,
            entry_point=tests.entry_point,
            continued=continued,
            limits=limits,
            memory_folder=self._memory_folder,
        )

    def _tests(self, item: RewardItem) -> Tests:
        """The row's tests: a column, or the gold. Raises _Unusable."""
        columns, wanted = item.columns, self.options.tests
        if wanted is not None and wanted not in columns:
            raise _Unusable(f"the row has no column '{wanted}' (rewards option `tests`)")
        name = wanted or next((name for name in ("test", "test_list") if columns.get(name)), None)
        tests = _text(columns[name], name) if name else item.gold
        if not tests.strip():
            raise _Unusable("the row has no tests")
        entry_point = columns.get("entry_point")
        if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
            raise _Unusable("the column entry_point is not the name of a function")
        return Tests(tests, _text(columns.get("test_imports") or "", "test_imports"), entry_point)


LOST = {
    "user": "give up root's identity (nobody cannot read this Python)",
    "namespaces": "take the network away, or hide other processes, which a program may then signal (no user namespaces)",
    "landlock": "keep programs from reading files (no Landlock)",
}
"""What it means that a measure does not hold."""


def extract_program(completion: str, prompt: str, entry_point: str | None) -> tuple[str | None, bool]:
    """(the program, whether the prompt is in it). The last fenced block in Python or without a language; without a block all of the
    completion, where it goes on with a prompt that is code, or looks like code itself. None: there is no program."""
    blocks = list(_blocks(completion))
    begun = entry_point is not None and _defines(prompt, entry_point)
    if not blocks and not (completion.strip() and (begun or _LOOKS_LIKE_CODE.search(completion))):
        return None, False
    program = blocks[-1] if blocks else completion
    if begun and entry_point is not None and not _defines(program, entry_point):
        return prompt + program if program[:1].isspace() or prompt[-1:].isspace() else f"{prompt}\n{program}", True
    return program, False


def _blocks(completion: str) -> Iterator[str]:
    """Contents of the fenced blocks that are closed."""
    fence, language = "", ""
    lines: list[str] = []
    for line in completion.split("\n"):
        match = _FENCE.match(line.rstrip("\r"))
        if fence and match and match[1].startswith(fence) and not match[2].strip():
            if language in _PYTHON:
                yield "\n".join(lines) + "\n"
            fence = ""
        elif fence:
            lines.append(line)
        elif match:
            fence, language, lines = match[1], match[2].strip().lower().partition(" ")[0], []


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\s*\(", code, re.MULTILINE) is not None


def _runnable(prompt: str, entry_point: str | None) -> str:
    """The prompt where it is code that ends in the function to be written, so that it runs; empty where it is none."""
    if entry_point is None or not _defines(prompt, entry_point):
        return ""
    for code in (prompt, prompt.rstrip() + "\n    pass\n"):
        try:
            compile(code, "<prompt>", "exec")
        except (SyntaxError, ValueError):
            continue
        return code
    return ""


def _text(value: Any, name: str) -> str:
    """Code as text: a text, or a list of them, a statement each."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise _Unusable(f"the column {name} holds neither code nor a list of statements")
