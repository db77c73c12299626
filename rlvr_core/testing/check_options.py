"""Checks of every kind: options, and what a class is made with."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr_core.contracts import KINDS
from rlvr_core.options import Options
from rlvr_core.testing.host import Subject
from rlvr_core.testing.kit import NotApplicable, check_for, expect, one_of

_WITH_OPTIONS = [kind for kind in KINDS if kind != "objective"]


@check_for(*KINDS)
def it_is_documented(subject: Subject) -> None:
    """Users read the summary in lists, the docstring of the class for what it does, and each option's description."""
    component = subject.component
    expect(bool(component.summary.strip()) and "\n" not in component.summary, "the summary given to register() must be one line")
    if component.objective is not None:
        return
    own = component.load().__dict__.get("__doc__")
    expect(bool(own and own.strip()), f"{component.load().__name__} has no docstring; say what it computes, and from what source")
    bare = [path for path, description in _described(component.options) if not description.strip()]
    expect(not bare, f'options without a description: {one_of(bare)}; give one with option(default, "...")')


def _described(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str]]:
    """(path, description) of every option, those of nested models too."""
    rows = []
    for name, info in model.model_fields.items():
        rows.append((prefix + name, info.description or ""))
        if inspect.isclass(info.annotation) and issubclass(info.annotation, BaseModel):
            rows += _described(info.annotation, f"{prefix}{name}.")
    return rows


@check_for(*_WITH_OPTIONS)
def its_options_are_strict(subject: Subject) -> None:
    """A misspelt option, or a value of another type, is refused and not passed over."""
    model, given = subject.component.options, dict(subject.options)
    _refuses(model, {**given, "no_such_option_": 1}, "takes an option it does not have; keep extra='forbid' of rlvr_core.Options")
    for name, info in model.model_fields.items():
        if info.annotation in (int, float, bool):
            message = f"takes the text '1' for option '{name}'; keep strict=True of rlvr_core.Options"
            _refuses(model, {**given, name: "1"}, message)
    made = model.model_validate(given)
    for name in model.model_fields:
        try:
            setattr(made, name, getattr(made, name))
        except ValidationError:
            continue
        expect(False, f"option '{name}' can be changed after validation; keep frozen=True of rlvr_core.Options")


def _refuses(model: type[Options], data: dict[str, Any], otherwise: str) -> None:
    try:
        model.model_validate(data)
    except ValidationError:
        return
    expect(False, otherwise)


@check_for(*_WITH_OPTIONS)
def its_options_name_what_has_no_effect(subject: Subject) -> None:
    """``inert()`` names options of the model only, each with its reason."""
    made = subject.component.options.model_validate(dict(subject.options))
    for name, reason in made.inert().items():
        expect(name in type(made).model_fields, f"inert() names '{name}', which is no option")
        expect(bool(reason.strip()), f"inert() gives no reason for '{name}'; the user reads it")


@check_for(*_WITH_OPTIONS)
def its_options_load_without_torch(subject: Subject) -> None:
    """Listing plugins and checking specs must not wait for torch."""
    module = subject.component.options.__module__
    if module == "__main__" or not _found(module):
        raise NotApplicable(f"the module of the options, {module}, cannot be imported anew")
    expect(
        not _imports_torch(module),
        f"importing {module}, where the options are, imports torch; keep options and hooks in modules of their own",
    )


def _found(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None


@functools.cache
def _imports_torch(module: str) -> bool:
    source = f"import sys, importlib; importlib.import_module({module!r}); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=120)  # noqa: S603 - our own interpreter
    expect(
        done.returncode in (0, 1) and not done.stderr,
        f"{module} does not import by itself: {done.stderr.strip().splitlines()[-1:]}",
    )
    return done.returncode == 1


@check_for(*(kind for kind in _WITH_OPTIONS if kind != "reference"))
def its_state_is_its_own(subject: Subject) -> None:
    """Two instances made alike are alike: nothing is kept in the class or the module."""
    one, other = subject.build().state_dict(), subject.build().state_dict()
    expect(isinstance(one, dict) and all(isinstance(key, str) for key in one), "state_dict() must give a dict with text keys")
    expect(one.keys() == other.keys(), "two new instances have different state; is it kept in the class, as a mutable default?")
