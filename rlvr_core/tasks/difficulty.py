"""Training problems chosen by how often a model solved them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_core.errors import DataError
from rlvr_core.records import Example
from rlvr_core.tasks.options import DifficultyOptions

SHOWN = 3
"""Lines and ids that an error spells out."""


@dataclass(frozen=True)
class Rate:
    """A measured pass rate, and the problem it was measured on, where the file says."""

    value: float
    prompt: Any


def by_difficulty(examples: Sequence[Example], options: DifficultyOptions) -> list[Example]:
    """The problems whose pass rate is within bounds, in their order; all of them without ``pass_rates``.

    Raises DataError: no file, bad rows (by number), rates of other problems, problems without a rate, nothing left.
    """
    if options.pass_rates is None:
        return list(examples)
    rates = read_rates(options.pass_rates)
    _refuse_strangers(examples, rates, options.pass_rates)
    unmeasured = [example.id for example in examples if example.id not in rates]
    if unmeasured and (options.unmeasured == "error" or len(unmeasured) == len(examples)):
        raise DataError(
            f"{options.pass_rates}: {len(unmeasured)} of {len(examples)} training problems have no pass rate there "
            f"({_some(unmeasured)}); measure them (rlvr eval MODEL --split train), or set unmeasured: drop or keep"
        )
    left = [example for example in examples if _passes(rates.get(example.id), options)]
    if not left:
        raise DataError(
            f"{options.pass_rates}: no training problem has a pass rate from {options.min_pass_rate:g} to {options.max_pass_rate:g}; "
            "widen the bounds"
        )
    return left


def read_rates(file: str) -> dict[str, Rate]:
    """Rates by id. Raises DataError naming the file and the lines that cannot be used."""
    path = Path(file).expanduser()
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"pass_rates: {file}: {error.strerror} (looked in {Path.cwd()})") from error
    rates: dict[str, Rate] = {}
    bad = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _rate(line)
        if found is None or found[0] in rates:
            bad.append(str(number))
        else:
            rates[found[0]] = found[1]
    if bad:
        raise DataError(
            f"pass_rates: {file}: line {_some(bad)} cannot be used: a row needs an id of its own and a pass_rate from 0 to 1"
        )
    return rates


def _rate(line: bytes) -> tuple[str, Rate] | None:
    try:
        row = json.loads(line)
        name, value = row["id"], row["pass_rate"]
    except (ValueError, KeyError, TypeError):
        return None
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return (str(name), Rate(float(value), row.get("prompt"))) if fits else None


def _refuse_strangers(examples: Sequence[Example], rates: dict[str, Rate], file: str) -> None:
    """Ids are made of file names and line numbers: the same id may be another problem."""
    others = [e.id for e in examples if e.id in rates and rates[e.id].prompt not in (None, e.prompt)]
    if others:
        raise DataError(
            f"{file}: holds pass rates of other problems under the same ids ({_some(others)}); measure these, or name them with `id`"
        )


def _passes(rate: Rate | None, options: DifficultyOptions) -> bool:
    if rate is None:
        return options.unmeasured == "keep"
    return options.min_pass_rate <= rate.value <= options.max_pass_rate


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
