"""Rows with completions, scored: what ``rlvr score`` reads and writes. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_core.contracts import Reward
from rlvr_core.errors import DataError, nearest
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.judging import judge

WRITTEN = ("value", "status", "reason", "ms")
"""Keys that scoring adds to a row; where a row has them already they are replaced."""
SHOWN = 3
"""Reasons, and line numbers of each, that an error spells out."""


class _BadRow(ValueError):
    """Why a row cannot be scored."""


@dataclass(frozen=True)
class Scored:
    """The rows of a file with their outcomes, in order."""

    rows: Sequence[Mapping[str, Any]]
    outcomes: Sequence[Outcome]

    def text(self) -> str:
        """A line of JSON for each row."""
        return "".join(_line(row, outcome) + "\n" for row, outcome in zip(self.rows, self.outcomes, strict=True))

    def summary(self) -> str:
        """Mean value and how many rows have each status."""
        values = [o.value for o in self.outcomes if o.value is not None]
        mean = f"mean value {sum(values) / len(values):.4f}" if values else "no value"
        counts = ", ".join(f"{status} {n}" for status, n in Counter(o.status for o in self.outcomes).most_common())
        return f"{len(self.rows)} rows scored: {mean}; {counts}"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Every row: an object with ``gold`` (text or a number) and ``completion`` (text). Blank lines are passed over.

    Raises DataError with the numbers of all lines that cannot be used.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file (looked in {Path.cwd()})") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    rows: list[dict[str, Any]] = []
    bad: dict[str, list[int]] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            rows += [_row(line)] if line.strip() else []
        except _BadRow as why:
            bad.setdefault(str(why), []).append(number)
    if bad:
        number = sum(map(len, bad.values()))
        raise DataError(f"{file}: {number} of {number + len(rows)} rows cannot be scored: {_listed(bad)}; correct or remove them")
    if not rows:
        raise DataError(f"{file}: holds no rows")
    return rows


def score_rows(label: str, reward: Reward, rows: Sequence[Mapping[str, Any]]) -> Scored:
    """Score every row. Columns other than gold, completion, prompt and what scoring writes are handed to the reward by name."""
    return Scored(rows, judge(label, reward, [_item(row) for row in rows]))


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise _BadRow("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise _BadRow(f"not JSON ({getattr(error, 'msg', None) or str(error).partition(';')[0]})") from None
    if not isinstance(row, dict):
        raise _BadRow("not a JSON object")
    for key in ("gold", "completion"):
        if key not in row:
            raise _BadRow(f"no '{key}'; {nearest(key, row)}")
    if isinstance(row["gold"], bool) or not isinstance(row["gold"], str | int | float):
        raise _BadRow(f"gold is no text or number but {_kind(row['gold'])}")
    for key in ("completion", "prompt"):
        if not isinstance(row.get(key, ""), str):
            raise _BadRow(f"{key} is no text but {_kind(row[key])}")
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _kind(value: Any) -> str:
    return {"NoneType": "null", "dict": "an object", "list": "a list", "bool": "true or false"}.get(
        type(value).__name__, "a number"
    )


def _item(row: Mapping[str, Any]) -> RewardItem:
    columns = {key: value for key, value in row.items() if key not in ("gold", "completion", "prompt", *WRITTEN)}
    return RewardItem(row.get("prompt", ""), row["completion"], str(row["gold"]), columns)


def _line(row: Mapping[str, Any], outcome: Outcome) -> str:
    found = {"value": outcome.value, "status": outcome.status, "reason": outcome.reason, "ms": round(outcome.ms, 3)}
    whole = {**{key: value for key, value in row.items() if key not in WRITTEN}, **found}
    text = json.dumps(whole, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair is JSON, but no UTF-8
        text = json.dumps(whole)
    return text


def _listed(bad: Mapping[str, Sequence[int]]) -> str:
    said = []
    for why, numbers in list(bad.items())[:SHOWN]:
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        said.append(f"{why} (line {', '.join(map(str, numbers[:SHOWN]))}{more})")
    return "; ".join(said) + (f"; and {len(bad) - SHOWN} more reasons" if len(bad) > SHOWN else "")
