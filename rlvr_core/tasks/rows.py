"""Rows to examples, shared by every task that reads rows: columns, checks, what is held out."""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any

from rlvr_core.contracts import Task
from rlvr_core.errors import DataError, nearest
from rlvr_core.records import Example
from rlvr_core.reward.extraction import find_box
from rlvr_core.tasks.conditions import as_condition
from rlvr_core.tasks.difficulty import by_difficulty
from rlvr_core.tasks.options import RowOptions
from rlvr_core.tasks.sequences import InOrder

SHOWN = 3
"""Reasons, and row numbers of each, that an error spells out."""


class _BadRow(ValueError):
    """Why a row cannot be used."""


class RowTask(Task):
    """A task over rows that are read and checked whole, once, on first use."""

    options: RowOptions

    @abstractmethod
    def read_train(self) -> list[Example] | None:
        """The training rows, before anything is held out; None where none are named. Raises DataError."""

    @abstractmethod
    def read_eval(self) -> list[Example] | None:
        """Evaluation rows of their own; None: a share of the training rows is held out. Raises DataError."""

    @abstractmethod
    def source(self) -> str:
        """Where the rows come from, for messages."""

    def train(self) -> Sequence[Example]:
        """Problems to learn on."""
        examples = self._splits[0]
        return InOrder(examples) if self.options.order == "rows" else examples

    def evaluation(self) -> Sequence[Example]:
        """Held-out problems, in the order of their rows."""
        return self._splits[1]

    def describe(self) -> str:
        """Where the rows came from, how many, and how many problems stand on both sides."""
        train, held = self._splits
        seen = {_prompt_key(example) for example in train}
        shared = sum(_prompt_key(example) in seen for example in held)
        warning = f", {shared} of them with a problem that is trained on" if shared else ""
        return f"{self.source()}: {len(train)} training problems, {len(held)} held out{warning}"

    @cached_property
    def _splits(self) -> tuple[list[Example], list[Example]]:
        train, held = self.read_train(), self.read_eval()
        if train is None:
            return [], (held or [])[: self.options.eval_limit]
        if held is None:
            train, held = split(train, self.options.eval_fraction)
        if not train:
            raise DataError(f"{self.source()}: every row is held out, none is left to learn from; lower eval_fraction")
        train = by_difficulty(train, self.options)
        return train[: self.options.limit], held[: self.options.eval_limit]


class RowReader:
    """Takes in rows one by one, and raises one error for all that cannot be used.

    ``name``: the source, for messages and ids. ``unit``: what its numbers count (``line``, ``row``).
    """

    def __init__(self, name: str, unit: str, options: RowOptions) -> None:
        self._name, self._unit, self._options = name, unit, options
        self._examples: list[Example] = []
        self._numbers: dict[str, int] = {}
        self._rejected: dict[str, list[int]] = {}
        self._conditions = {column: as_condition(written) for column, written in options.where.items()}
        self._passed_over = 0

    def add(self, number: int, row: Any) -> None:
        """Take in one row, where the conditions keep it."""
        try:
            if not self._keeps(row):
                self._passed_over += 1
                return
            example = to_example(row, self._options, default_id=f"{self._name}:{number}")
            if example.id in self._numbers:
                raise _BadRow(f"the id '{example.id}' is taken by {self._unit} {self._numbers[example.id]}")
        except _BadRow as why:
            self.reject(number, str(why))
            return
        self._numbers[example.id] = number
        self._examples.append(example)

    def _keeps(self, row: Any) -> bool:
        """Whether every condition holds. A row without such a column cannot be used; an empty value is a value."""
        return not isinstance(row, Mapping) or all(
            condition.holds(_value(row, column)) for column, condition in self._conditions.items()
        )

    def reject(self, number: int, why: str) -> None:
        """Note a row that could not even be read."""
        self._rejected.setdefault(why, []).append(number)

    def finish(self, where: str) -> list[Example]:
        """All examples. Raises DataError where there are none, or where any row cannot be used."""
        bad = sum(map(len, self._rejected.values()))
        if bad:
            total = bad + len(self._examples)
            raise DataError(f"{where}: {bad} of {total} rows cannot be used: {self._reasons()}; correct or remove them")
        if not self._examples and self._passed_over:
            raise DataError(f"{where}: none of {self._passed_over} rows meets the conditions in `where`; loosen them")
        if not self._examples:
            raise DataError(f"{where}: holds no rows")
        return self._examples

    def _reasons(self) -> str:
        said = [f"{why} ({self._unit} {_listed(numbers)})" for why, numbers in list(self._rejected.items())[:SHOWN]]
        more = len(self._rejected) - len(said)
        return "; ".join(said) + (f"; and {more} other reasons" if more else "")


def to_example(row: Any, options: RowOptions, default_id: str) -> Example:
    """One row as an Example; other columns go to ``columns`` as they are. Raises ValueError saying what is wrong with the row."""
    if not isinstance(row, Mapping):
        raise _BadRow(f"not an object with columns but {_kind_of(row)}")
    prompt = _prompt(_column(row, options.prompt), options.prompt)
    gold = _gold(_column(row, options.answer), options)
    name = default_id if options.id is None else _id(_column(row, options.id), options.id)
    used = {*options.prompt.split("|"), *options.answer.split("|"), options.id}
    return Example(name, prompt, gold, {key: value for key, value in row.items() if key not in used})


def split(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(training, held out): a problem is held out where the hash of its prompt falls below ``fraction``.

    Stable under adding, removing and reordering rows, with one exception: where that would hold out nothing at all, the problem
    with the lowest hash is held out (not where it is the only one).
    """
    shares = [content_share(example) for example in examples]
    bound = fraction
    if fraction > 0.0 and len(set(shares)) > 1 and min(shares) >= fraction:
        bound = math.nextafter(min(shares), 1.0)
    train = [example for example, share in zip(examples, shares, strict=True) if share >= bound]
    return train, [example for example, share in zip(examples, shares, strict=True) if share < bound]


def content_share(example: Example) -> float:
    """A number in [0, 1) that follows from the prompt's content alone, the same on every machine."""
    digest = hashlib.sha256(_prompt_key(example).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _prompt_key(example: Example) -> str:
    return json.dumps(example.prompt, sort_keys=True, ensure_ascii=True)


def _column(row: Mapping[str, Any], name: str) -> Any:
    """What stands in a column, or in the first of ``a|b`` that the row has."""
    found = _value(row, name)
    if found is None:
        raise _BadRow(f"column '{name}' is null")
    return found


def _value(row: Mapping[str, Any], name: str) -> Any:
    for choice in name.split("|"):
        inner: Any = row
        for key in [choice] if choice in row else choice.split("."):
            if not isinstance(inner, Mapping) or key not in inner:
                break
            inner = inner[key]
        else:
            return inner
    raise _BadRow(f"no column '{name}', {nearest(name, map(str, row))}")


def _prompt(value: Any, column: str) -> str | list[dict[str, str]]:
    if isinstance(value, str):
        return _text(value, column)
    if isinstance(value, list):
        return _messages(value, column)
    raise _BadRow(f"column '{column}' holds {_kind_of(value)}, not text or a list of messages")


def _messages(value: list[Any], column: str) -> list[dict[str, str]]:
    if not value:
        raise _BadRow(f"column '{column}' is an empty list of messages")
    for message in value:
        if not (
            isinstance(message, Mapping) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        ):
            raise _BadRow(f"column '{column}' holds a message that is not a mapping with a role and a content of text")
        _encodable(message["content"], column)
    if not any(message["content"].strip() for message in value):
        raise _BadRow(f"column '{column}' holds only empty messages")
    return [dict(message) for message in value]


def _gold(value: Any, options: RowOptions) -> str:
    text = _text(_number_as_text(value, options.answer), options.answer)
    if options.answer_boxed:
        return _boxed(text, options.answer)
    if options.answer_after is None:
        return text
    _, mark, after = text.rpartition(options.answer_after)
    if not mark:
        raise _BadRow(f"column '{options.answer}' does not hold the mark '{options.answer_after}'")
    if not after.strip():
        raise _BadRow(f"column '{options.answer}' holds nothing after the mark '{options.answer_after}'")
    return after.strip()


def _boxed(text: str, column: str) -> str:
    found, opened = find_box(text)
    if found is None or not found.strip():
        why = "never closed" if opened and found is None else "empty" if opened else ""
        raise _BadRow(f"column '{column}' holds " + (f"a \\boxed{{}} that is {why}" if why else "no \\boxed{}"))
    return found.strip()


def _id(value: Any, column: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _BadRow(f"column '{column}' holds {_kind_of(value)}, not text or an integer")
    return _text(str(value), column)


def _number_as_text(value: Any, column: str) -> str:
    """Numbers as people write them: 72.0 (as a float column of a table holds 72) is ``72``, 1e-5 is ``0.00001``."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return f"{Decimal(repr(value)) if isinstance(value, float) else value:f}".removesuffix(".0")
    raise _BadRow(f"column '{column}' holds {_kind_of(value)}, not text or a number")


def _text(value: str, column: str) -> str:
    if not value.strip():
        raise _BadRow(f"column '{column}' is empty")
    return _encodable(value, column)


def _encodable(value: str, column: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadRow(f"column '{column}' holds half a surrogate pair, which is no text") from None
    return value


def _kind_of(value: Any) -> str:
    return f"{value!r}" if value is None or isinstance(value, bool | int | float) else f"a {type(value).__name__}"


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    more = len(numbers) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
