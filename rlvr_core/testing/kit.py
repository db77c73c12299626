"""The conformance kit: what any component must hold to, checked on a small policy in seconds.

    from rlvr_core.testing import check_loss
    check_loss("fading", {"power": 2.0})      # raises ConformanceError, an AssertionError, listing what failed

On the command line: ``rlvr plugins check fading --set power=2.0``. A check is a function of a ``Subject``; its name says the property, its
failure the likely mistake. ``findings`` runs those of a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr_core.errors import RlvrError
from rlvr_core.plugins import Catalogue, catalogue
from rlvr_core.testing.host import Subject, subject_of

Check = Callable[[Subject], None]
CHECKS: dict[str, list[Check]] = {}
"""Kind -> its checks, in order."""


class ConformanceError(AssertionError):
    """A component does not hold to its kind's contract. One line for each failed check."""


class Failed(Exception):
    """A check found a mistake; says which."""


class NotApplicable(Exception):
    """A check has nothing to look at in this component; says why."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    outcome: Literal["passed", "failed", "not applicable"]
    message: str = ""


def check_for(*kinds: str) -> Callable[[Check], Check]:
    """Add a function to the checks of some kinds."""

    def add(check: Check) -> Check:
        for kind in kinds:
            CHECKS.setdefault(kind, []).append(check)
        return check

    return add


def findings(
    kind: str, name: str, options: Mapping[str, Any] | None = None, *, installed: Catalogue | None = None
) -> Iterator[Finding]:
    """Run every check of a kind on a component with these options. Raises UnknownComponent, and ValidationError for options."""
    subject = subject_of(kind, name, options, installed or catalogue())
    if subject.component.objective is None:
        subject.component.options.model_validate(dict(subject.options))
    for check in CHECKS[kind]:
        yield run_check(check, subject)


def require(kind: str, name: str, options: Mapping[str, Any] | None = None, *, installed: Catalogue | None = None) -> None:
    """Raise ConformanceError where a check fails."""
    failed = [f for f in findings(kind, name, options, installed=installed) if f.outcome == "failed"]
    if failed:
        raise ConformanceError("\n".join(f"{kind} {name}: {f.check}: {f.message}" for f in failed))


def run_check(check: Check, subject: Subject) -> Finding:
    """Run one check; whatever a component raises is a finding."""
    title = check.__name__.replace("_", " ")
    try:
        check(subject)
    except Failed as failed:
        return Finding(title, "failed", str(failed))
    except NotApplicable as reason:
        return Finding(title, "not applicable", str(reason))
    except RlvrError as error:
        return Finding(title, "failed", str(error))
    except Exception as error:  # a component may fail in any way; each is a finding
        return Finding(title, "failed", f"raised {type(error).__name__}: {' '.join(str(error).split())}{_place(error)}")
    return Finding(title, "passed")


def _place(error: BaseException) -> str:
    """The innermost line of the traceback, as (file, line)."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"


def expect(condition: bool, message: str) -> None:
    """Fail the check unless the condition holds."""
    if not condition:
        raise Failed(message)


def one_of(values: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(f"'{value}'" for value in values)
