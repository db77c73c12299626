"""``check_<kind>(name, options)``: the whole kit for one component. Each raises ConformanceError (an AssertionError) with a line for each
failed check, UnknownComponent for a name that nothing installed has, and pydantic's ValidationError for options.

``installed``: a catalogue that holds the component, where it is not an installed package's (see ``given`` and ``with_components``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvr_core.plugins import Catalogue
from rlvr_core.testing import check_options, check_prepare, check_steps, check_terms, check_world
from rlvr_core.testing.kit import require

MODULES = (check_options, check_steps, check_terms, check_prepare, check_world)
"""Where the checks stand; importing them adds them to the kit."""

Options = Mapping[str, Any] | None


def check_task(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Rows whole, the same on every call and rank, nothing held out is trained on."""
    require("task", name, options, installed=installed)


def check_rollout(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """One completion a request, rows independent of their batch, exact log-probs where it claims so."""
    require("rollout", name, options, installed=installed)


def check_reward(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """No completion breaks it, items are scored on their own, golds get full marks."""
    require("reward", name, options, installed=installed)


def check_sampler(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Whole rollouts, each once, alike on every rank; steps with it split and resume exactly."""
    require("sampler", name, options, installed=installed)


def check_correction(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Factors finite, never negative, 1 where policy and sampler agree, blind to padding."""
    require("correction", name, options, installed=installed)


def check_shaper(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Shapes, finiteness, purity, blind to order and padding; steps with it split and resume exactly."""
    require("shaper", name, options, installed=installed)


def check_credit(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Shapes, finiteness, weights, purity, blind to order, padding and dropped rows; steps with it split and resume exactly."""
    require("credit", name, options, installed=installed)


def check_loss(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Independent of the split, decided by credit, finite, gradient only where it belongs, dtype kept, exact resume."""
    require("loss", name, options, installed=installed)


def check_reference(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """A policy of its own without gradient, honest about moving, in float32 at least, restored exactly."""
    require("reference", name, options, installed=installed)


def check_regulariser(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """As a loss, and scaled once by its coefficient."""
    require("regulariser", name, options, installed=installed)


def check_observer(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Lets every event pass, changes none, can be closed at any time."""
    require("observer", name, options, installed=installed)


def check_objective(name: str, options: Options = None, *, installed: Catalogue | None = None) -> None:
    """Independent of the split over several passes, finite in every scenario, exact resume."""
    require("objective", name, options, installed=installed)
