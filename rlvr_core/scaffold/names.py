"""Names that a new package may have."""

from __future__ import annotations

import keyword
import re
import sys

from rlvr_core.errors import DuplicateComponent, SpecError
from rlvr_core.plugins import FIRST_PARTY, Catalogue
from rlvr_core.spec.source import parse_assignment

LONGEST = 32


def component_name(name: str) -> str:
    """The component's name as a spec writes it, with underscores. Raises SpecError with the reason where a name will not do."""
    wrong = _what_is_wrong(name)
    if wrong:
        raise SpecError(f"NAME {name!r}: {wrong}")
    return name.replace("-", "_")


def _what_is_wrong(name: str) -> str:
    """Half a sentence with the way out; empty for a good name."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*", name):
        return "write lowercase letters and digits, in words joined by a single '_' or '-'; begin with a letter, as in my_loss"
    if len(name) > LONGEST:
        return f"has {len(name)} characters; {LONGEST} at most"
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        return f"is a keyword of Python; choose another, as my_{module}"
    if parse_assignment(f"name={module}")[1] != module:
        return f"is no text to YAML, so no spec could name it; choose another, as my_{module}"
    if module == "rlvr" or module.startswith("rlvr_"):
        rest = module.removeprefix("rlvr").removeprefix("_")
        return f"the distribution is called rlvr-NAME anyway; {f'write {rest}' if rest else 'choose another name'}"
    if module in sys.stdlib_module_names:
        return f"is a module of Python's standard library; choose another, as my_{module}"
    if module == "core" or f"rlvr-{module}" in FIRST_PARTY:
        return f"the package rlvr_{module} is rlvr's own; choose another, as my_{module}"
    return ""


def refuse_installed(installed: Catalogue, kinds: tuple[str, ...], name: str, distribution: str) -> None:
    """Raise DuplicateComponent where what would be written could not be installed beside what is."""
    for component in installed:
        there = f"{component.kind} '{component.name}' of {component.distribution} {component.version}"
        if component.kind in kinds and component.name == name:
            raise DuplicateComponent(
                f"NAME '{name}': there is {there} already; choose another name, or: pip uninstall {component.distribution}"
            )
        if re.sub(r"[-_.]+", "-", component.distribution).lower() == distribution:
            raise DuplicateComponent(
                f"NAME '{name}': {distribution} is installed already and brings the {there}; choose another name, or add to that package"
            )
