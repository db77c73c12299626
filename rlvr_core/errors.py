"""Everything rlvr raises on purpose.

    RlvrError
    ├── SpecError             a spec, or a command-line override, is wrong
    ├── PluginError           a plugin could not be used
    │   ├── PluginLoadError       it did not import, or speaks another API version
    │   ├── DuplicateComponent    two distributions claim one (kind, name)
    │   └── UnknownComponent      nothing installed has this (kind, name)
    ├── DataError             a task's rows, or a reward's output, are wrong
    ├── ModelError            a model or tokenizer cannot be loaded or used
    ├── CapacityError         the run cannot fit the device
    ├── DivergenceError       an update is not finite
    ├── RunFolderError        the output folder is in the way, or is not a run
    └── ContractError         a component broke its contract (a plugin author's mistake)

Each message is one line: what is wrong, where, and the way out. The command line prints it and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RlvrError(Exception):
    """Root of every error that rlvr raises on purpose."""


class SpecError(RlvrError):
    """A spec is wrong. Holds one line for each mistake."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


class PluginError(RlvrError):
    """A plugin could not be used."""


class PluginLoadError(PluginError):
    """A plugin did not import, or was written for another API version."""


class DuplicateComponent(PluginError):
    """Two distributions registered the same kind and name."""


class UnknownComponent(PluginError):
    """Nothing installed has this kind and name."""


class DataError(RlvrError):
    """A task's rows, or what a reward returned, are wrong."""


class ModelError(RlvrError):
    """A model or its tokenizer cannot be loaded or used."""


class CapacityError(RlvrError):
    """The run cannot fit the device."""


class DivergenceError(RlvrError):
    """The gradient of an update is not finite; nothing was changed by it."""


class RunFolderError(RlvrError):
    """The output folder is in the way, or holds no run."""


class ContractError(RlvrError):
    """A component broke its contract: a mistake of its author, not of the spec."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The half sentence that helps after an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names) if names else 'none'}"
