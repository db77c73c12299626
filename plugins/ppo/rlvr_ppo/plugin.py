"""What rlvr-ppo registers."""

from __future__ import annotations

from rlvr_core import Objective, hookimpl
from rlvr_core.hookspecs import Register, RegisterObjective
from rlvr_ppo import options as o

RLVR_API = 1

PPO = Objective(
    credit={"name": "gae"},
    loss={"name": "clipped"},
    regularisers={"value": {"name": "value"}},
    paper="Schulman et al. 2017, Proximal policy optimization algorithms (arXiv:1707.06347)",
)


@hookimpl
def register_credits(register: Register) -> None:
    register("gae", "rlvr_ppo.parts:Gae", options=o.GaeOptions, summary="generalised advantage estimation from a critic's values")


@hookimpl
def register_regularisers(register: Register) -> None:
    register(
        "value",
        "rlvr_ppo.parts:Value",
        options=o.ValueOptions,
        summary="a critic (value head) and its clipped loss; provides `values`",
    )


@hookimpl
def register_objectives(register: RegisterObjective) -> None:
    register("ppo", PPO, summary="proximal policy optimisation with a critic")
