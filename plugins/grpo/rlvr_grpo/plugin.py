"""What rlvr-grpo registers."""

from __future__ import annotations

from rlvr_core import Objective, hookimpl
from rlvr_core.hookspecs import Register, RegisterObjective
from rlvr_grpo import options as o

RLVR_API = 1

GRPO = Objective(
    credit={"name": "group_relative"},
    loss={"name": "clipped"},
    loss_agg_mode="token-mean",
    paper="Shao et al. 2024, DeepSeekMath (arXiv:2402.03300)",
)


@hookimpl
def register_credits(register: Register) -> None:
    register(
        "group_relative",
        "rlvr_grpo.parts:GroupRelative",
        options=o.GroupRelativeOptions,
        summary="reward relative to its group's",
    )


@hookimpl
def register_objectives(register: RegisterObjective) -> None:
    register("grpo", GRPO, summary="group relative policy optimisation")
