"""Makes Reasoning Gym's problems, in a process of its own.

Some of its data sets iterate over sets of text, so what they make depends on PYTHONHASHSEED, which differs from process to process: two
ranks would see different problems. The process that runs ``main`` is started with a fixed one: requests go in as JSON, problems come
out as a pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rlvr_core.errors import DataError, nearest

ENTRY = "reasoning_gym"
"""Column with what the reward needs: the data set's name, its configuration, and the entry as it made it."""
INSTALL = "pip install 'rlvr[logic]'"
ATTEMPTS = 20
"""Problems made for each that is wanted, before a data set counts as exhausted."""


@dataclass(frozen=True)
class Wanted:
    """Problems of one data set at one level: ``held`` different ones, then ``train`` others."""

    label: str
    dataset: str
    options: Mapping[str, Any]
    level: int | None
    train: int
    held: int
    train_seed: int
    held_seed: int


@dataclass(frozen=True)
class Made:
    """Entries of Reasoning Gym, and the configuration that made them, as far as it is not the default."""

    config: Mapping[str, Any]
    train: Sequence[Mapping[str, Any]]
    held: Sequence[Mapping[str, Any]]


def make(wanted: Sequence[Wanted]) -> list[Made]:
    """The problems, in the order of the requests.

    Raises DataError in one line: not installed, no such data set, option or level, too few problems.
    """
    command = [sys.executable, "-c", f"from {__name__} import main; main()"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    request = json.dumps([vars(one) for one in wanted])
    done = subprocess.run(command, input=request.encode(), capture_output=True, env=environment, check=False)  # noqa: S603 - our own module
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(f"task reasoning_gym: {said[-1] if said else f'its process ended with {done.returncode}'}")
    found: list[Made] = pickle.loads(done.stdout)  # noqa: S301 - written by our own process
    return found


def make_here(wanted: Wanted) -> Made:
    """One data set's problems, in this process. Raises DataError."""
    try:
        return _made(wanted, configuration(wanted))
    except DataError:
        raise
    except Exception as error:  # any failure of foreign code has this one meaning
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"datasets.{wanted.label}: '{wanted.dataset}' refuses its options: {said}") from error


def _made(wanted: Wanted, config: Mapping[str, Any]) -> Made:
    held: dict[str, Mapping[str, Any]] = {}
    for entry in _entries(wanted, config, wanted.held_seed, wanted.held):
        if len(held) == wanted.held:
            break
        held.setdefault(entry["question"], entry)
    train: list[Mapping[str, Any]] = []
    for entry in _entries(wanted, config, wanted.train_seed, wanted.train):
        if len(train) == wanted.train:
            break
        if entry["question"] not in held:
            train.append(entry)
    if len(held) < wanted.held or len(train) < wanted.train:
        raise DataError(
            f"datasets.{wanted.label}: '{wanted.dataset}' makes too few different problems for {wanted.held} to be held out; "
            "lower eval_problems, or widen its options"
        )
    return Made({key: value for key, value in config.items() if key not in ("seed", "size")}, train, list(held.values()))


def _entries(wanted: Wanted, config: Mapping[str, Any], seed: int, number: int) -> Iterator[Mapping[str, Any]]:
    import reasoning_gym

    size = number * ATTEMPTS
    if size:
        made = reasoning_gym.create_dataset(wanted.dataset, **{**config, "seed": seed, "size": size})
        yield from (made[index] for index in range(size))


def configuration(wanted: Wanted) -> dict[str, Any]:
    """What the data set is made with: the options, and the level's values. Raises DataError."""
    from reasoning_gym.factory import CURRICULA, DATASETS

    where = f"datasets.{wanted.label}"
    names = set(DATASETS) - {"composite"}
    if wanted.dataset not in names:
        raise DataError(f"{where}: Reasoning Gym has no data set '{wanted.dataset}'; {nearest(wanted.dataset, names)}")
    known = {field.name for field in fields(DATASETS[wanted.dataset][1])} - {"seed", "size"}
    for key in wanted.options:
        if key not in known:
            raise DataError(f"{where}.options.{key}: '{wanted.dataset}' has no such option; {nearest(key, known)}")
    given = dict(wanted.options)
    if wanted.level is not None:
        if wanted.dataset not in CURRICULA:
            raise DataError(f"{where}.levels: '{wanted.dataset}' has no curriculum; set its options instead")
        given = {**given, **_level(wanted, CURRICULA[wanted.dataset]())}
    return given


def _level(wanted: Wanted, curriculum: Any) -> dict[str, Any]:
    """What a level sets: every attribute at that level, or at its highest where it has fewer."""
    where = f"datasets.{wanted.label}"
    assert wanted.level is not None  # asked for levels
    highest = max((len(attribute.levels) for attribute in curriculum.attributes.values()), default=1) - 1
    if wanted.level > highest:
        raise DataError(f"{where}.levels: '{wanted.dataset}' has levels 0 to {highest}, not {wanted.level}")
    names = {
        field
        for attribute in curriculum.attributes.values()
        for key in ("field_name", "lower_field_name", "upper_field_name")
        if (field := getattr(attribute, key, None)) is not None
    }
    both = sorted(names & set(wanted.options))
    if both:
        raise DataError(f"{where}.options.{both[0]}: is set by the levels of the curriculum too; leave one out")
    curriculum.set_global_level(wanted.level)
    config = curriculum.generate_configuration(dict(wanted.options))
    return {name: getattr(config, name) for name in names}


def main() -> None:
    """Read requests, write pickles; a mistake is one line on stderr and exit code 2."""
    requests = [Wanted(**one) for one in json.load(sys.stdin)]
    output = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):  # generators may print
        try:
            import reasoning_gym  # noqa: F401 - asked whether it is there
        except ImportError:
            sys.exit(f"needs the package reasoning_gym: {INSTALL}")
        try:
            found = [make_here(request) for request in requests]
        except DataError as error:
            sys.exit(str(error))
    pickle.dump(found, output)
