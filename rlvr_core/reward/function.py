"""Reward ``function``: any callable with TRL's signature, from an installed module or a file."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from rlvr_core.contracts import Reward
from rlvr_core.errors import DataError, SpecError, nearest
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.options import FunctionOptions


class FunctionReward(Reward):
    """Calls the function once for all items, with lists: ``prompts``, ``completions``, ``gold`` and every column of the rows.

    Keywords that the function does not take are left out. A column that only some rows have is None for the others.
    """

    options: FunctionOptions
    whole_batch = True

    def __init__(self, options: FunctionOptions) -> None:
        super().__init__(options)
        self._name = f"reward function '{options.function}'"

    def in_process(self) -> bool:
        """As its options say."""
        return self.options.in_process

    def time_limit(self) -> float:
        """Of one call, with all completions or with one."""
        return self.options.timeout_s

    def start(self) -> Sequence[str]:
        """Load it. Raises SpecError."""
        assert self._function is not None
        return ()

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return load_function(self.options.function)

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order; None is an abstention. Raises DataError where the function gives another number of values, or
        one that is no finite number; and what the function raises."""
        if not items:
            return []
        start = time.perf_counter()
        values = self._call(self._keywords(items))
        ms = (time.perf_counter() - start) * 1e3 / len(items)
        if len(values) != len(items):
            raise DataError(f"{self._name} gave {len(values)} values for {len(items)} completions; it must give one for each")
        return [self._outcome(value, index, ms) for index, value in enumerate(values)]

    def _keywords(self, items: Sequence[RewardItem]) -> dict[str, list[Any]]:
        """Everything there is, less what the function does not take. Raises DataError for what it requires and is not there."""
        columns = dict.fromkeys(name for item in items for name in item.columns)
        golds = [item.gold for item in items]
        there: dict[str, list[Any]] = {"gold": golds, self.options.gold_name: golds}
        there |= {name: [item.columns.get(name) for item in items] for name in columns}
        there["prompts"] = [self._said("user", item.prompt) for item in items]
        there["completions"] = [self._said("assistant", item.completion) for item in items]
        taken, required = _parameters(self._function)
        for name in required - there.keys():
            raise DataError(f"{self._name} requires '{name}', which is no column of the task; {nearest(name, there)}")
        return there if taken is None else {name: values for name, values in there.items() if name in taken}

    def _said(self, role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if self.options.messages else text

    def _call(self, keywords: dict[str, list[Any]]) -> list[Any]:
        result = self._function(**keywords)
        if inspect.iscoroutine(result):
            result = _finished(result)
        result = result.tolist() if hasattr(result, "tolist") else result
        if not isinstance(result, list | tuple):
            raise DataError(f"{self._name} gave a {type(result).__name__}, not a list with one value for each completion")
        return list(result)

    def _outcome(self, value: Any, index: int, ms: float) -> Outcome:
        if value is None:
            return Outcome(None, "abstain", ms=ms)
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{self._name} gave {value!r} for completion {index}, which is no finite number (None abstains)")
        return Outcome(number, ms=ms)


def load_function(where: str) -> Callable[..., Any]:
    """The callable at 'package.module:name' or 'file.py:name'. Raises SpecError saying what is not there."""
    place, _, name = where.rpartition(":")
    try:
        module = _load_file(place) if place.endswith(".py") else importlib.import_module(place)
    except SpecError:
        raise
    except Exception as error:  # any failure of foreign code has this one meaning
        raise SpecError(
            f"reward function '{where}': {place} does not import: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    function = getattr(module, name, None)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise SpecError(f"reward function '{where}': {place} has no '{name}'; {nearest(name, known)}")
    if not callable(function):
        raise SpecError(f"reward function '{where}': '{name}' is a {type(function).__name__}, not a callable")
    return function  # type: ignore[no-any-return]  # callable() is all there is to know


def _load_file(file: str) -> ModuleType:
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise SpecError(f"reward function: no file {file} (looked in {Path.cwd()})")
    name = f"rlvr_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up there
    spec.loader.exec_module(module)
    return module


def _parameters(function: Callable[..., Any]) -> tuple[set[str] | None, set[str]]:
    """(keywords the function takes, None where it takes any; those it requires)."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if takes_any else {p.name for p in named}, {p.name for p in named if p.default is p.empty}


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A coroutine's result, also where this thread already runs an event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
