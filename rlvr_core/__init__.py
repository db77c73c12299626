"""rlvr: reinforcement learning with verifiable rewards, in which the algorithm is not part of the engine."""

from __future__ import annotations

from typing import Any

from rlvr_core.errors import RlvrError
from rlvr_core.hookspecs import API_VERSION, hookimpl
from rlvr_core.options import Options, option
from rlvr_core.spec.parts import Objective

__all__ = ["API_VERSION", "Objective", "Options", "RlvrError", "hookimpl", "option", "run"]


def run(spec: Any, **overrides: Any) -> Any:
    """Run a spec, as ``rlvr run`` does; see ``rlvr_core.running.run``."""
    from rlvr_core.running import run as _run

    return _run(spec, **overrides)
