"""Every extension point of rlvr, on one page.

A plugin is a module named by an entry point in the group ``rlvr``. It states the API it was written for, ``RLVR_API = 1``,
and implements any of these hooks with ``@rlvr_core.hookimpl``. Each hook is handed ``register`` and calls it once a component:

    register(name, "package.module:Class", options=OptionsModel, summary="one line")

The class is imported on first use, so the plugin module itself imports no torch. What the class must do stands in
``rlvr_core.contracts`` under the same kind. Objectives are data: ``register(name, Objective(...), summary="one line")``.
"""

from __future__ import annotations

from typing import Protocol

import pluggy

from rlvr_core.options import Options
from rlvr_core.spec.parts import Objective

API_VERSION = 1
GROUP = "rlvr"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Register(Protocol):
    """Registers one component of the hook's kind."""

    def __call__(self, name: str, target: str, *, options: type[Options], summary: str) -> None: ...


class RegisterObjective(Protocol):
    """Registers one objective: a named default choice of parts."""

    def __call__(self, name: str, objective: Objective, *, summary: str) -> None: ...


class Hooks:
    """One hook for each kind of component."""

    @hookspec
    def register_tasks(self, register: Register) -> None:
        """Tasks: where problems and their golds come from."""

    @hookspec
    def register_rollouts(self, register: Register) -> None:
        """Rollout engines: prompts to completions, with the log-probs they were sampled with."""

    @hookspec
    def register_rewards(self, register: Register) -> None:
        """Rewards: completion and gold to an outcome."""

    @hookspec
    def register_samplers(self, register: Register) -> None:
        """Samplers: which rollouts reach the learner, and whether to draw more."""

    @hookspec
    def register_corrections(self, register: Register) -> None:
        """Corrections: importance weights for rollouts that are not exactly the current policy's."""

    @hookspec
    def register_shapers(self, register: Register) -> None:
        """Shapers: changes to rewards before credit."""

    @hookspec
    def register_credits(self, register: Register) -> None:
        """Credits: what each kept sequence or token is worth."""

    @hookspec
    def register_losses(self, register: Register) -> None:
        """Losses: push log-probabilities, given credit."""

    @hookspec
    def register_references(self, register: Register) -> None:
        """References: a policy to hold on to."""

    @hookspec
    def register_regularisers(self, register: Register) -> None:
        """Regularisers: a term added to the loss."""

    @hookspec
    def register_observers(self, register: Register) -> None:
        """Observers: are told of events, change nothing."""

    @hookspec
    def register_objectives(self, register: RegisterObjective) -> None:
        """Objectives: named default choices of the parts from sampler to regulariser."""
