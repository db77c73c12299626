"""What rlvr-replay registers."""

from __future__ import annotations

from rlvr_core import Objective, Options, hookimpl, option
from rlvr_core.hookspecs import Register, RegisterObjective

RLVR_API = 1

REPLAY = Objective(
    sampler={"name": "replay"},
    correction={"name": "truncated", "clip": 2.0},
    credit={"name": "above_mean"},
    loss={"name": "clipped"},
    loss_agg_mode="token-mean",
)


class ReplayOptions(Options):
    """What is kept of earlier steps, and for how long."""

    capacity: int = option(64, "rollouts that the buffer holds at most; the oldest leave", ge=1)
    replayed: int = option(4, "rollouts of earlier steps that are learned from again in each step", ge=1)
    max_age: int = option(8, "steps after which a rollout leaves the buffer", ge=1)
    threshold: float = option(0.0, "rollouts with a reward above this are put by")


class AboveMeanOptions(Options):
    """None."""


@hookimpl
def register_samplers(register: Register) -> None:
    register(
        "replay",
        "rlvr_replay.parts:Replay",
        options=ReplayOptions,
        summary="this step's rollouts, and right ones of earlier steps",
    )


@hookimpl
def register_credits(register: Register) -> None:
    register("above_mean", "rlvr_replay.parts:AboveMean", options=AboveMeanOptions, summary="reward less the mean of its group")


@hookimpl
def register_objectives(register: RegisterObjective) -> None:
    register("replay", REPLAY, summary="a clipped loss on this step's rollouts and a buffer of right ones")
