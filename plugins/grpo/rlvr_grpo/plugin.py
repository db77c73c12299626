"""What rlvr-grpo registers."""

from __future__ import annotations

from rlvr_core import Objective, hookimpl
from rlvr_core.hookspecs import Register, RegisterObjective
from rlvr_grpo import options as o

RLVR_API = 1

_PARTS = "rlvr_grpo.parts"

GRPO = Objective(
    credit={"name": "group_relative"},
    loss={"name": "clipped"},
    loss_agg_mode="seq-mean-token-mean",
    paper="Shao et al. 2024, DeepSeekMath (arXiv:2402.03300)",
)
DR_GRPO = Objective(
    credit={"name": "group_relative", "scale_rewards": "none"},
    loss={"name": "clipped"},
    loss_agg_mode="seq-mean-token-sum-norm",
    paper="Liu et al. 2025, Understanding R1-Zero-like training (arXiv:2503.20783)",
)
DAPO = Objective(
    sampler={"name": "dynamic"},
    shapers={"overlong": {"name": "overlong"}},
    credit={"name": "group_relative"},
    loss={"name": "clipped", "epsilon_high": 0.28},
    loss_agg_mode="token-mean",
    paper="Yu et al. 2025, DAPO (arXiv:2503.14476)",
)
GSPO = Objective(
    credit={"name": "group_relative"},
    loss={"name": "gspo"},
    loss_agg_mode="seq-mean-token-mean",
    paper="Zheng et al. 2025, Group sequence policy optimization (arXiv:2507.18071)",
)
CISPO = Objective(
    credit={"name": "group_relative"},
    loss={"name": "cispo"},
    loss_agg_mode="token-mean",
    paper="MiniMax 2025, MiniMax-M1 (arXiv:2506.13585)",
)
SAPO = Objective(
    credit={"name": "group_relative"},
    loss={"name": "sapo"},
    loss_agg_mode="seq-mean-token-mean",
    paper="Soft adaptive policy optimization, 2025 (arXiv:2511.20347)",
)
RLOO = Objective(
    credit={"name": "leave_one_out"},
    loss={"name": "clipped"},
    loss_agg_mode="seq-mean-token-sum",
    paper="Ahmadian et al. 2024, Back to basics (arXiv:2402.14740)",
)
REINFORCE_PP = Objective(
    credit={"name": "reinforce_pp"},
    loss={"name": "clipped"},
    loss_agg_mode="token-mean",
    paper="Hu 2025, REINFORCE++ (arXiv:2501.03262)",
)


@hookimpl
def register_samplers(register: Register) -> None:
    register(
        "dynamic",
        f"{_PARTS}:Dynamic",
        options=o.DynamicOptions,
        summary="groups whose rewards differ, and more until they are enough",
    )


@hookimpl
def register_credits(register: Register) -> None:
    register(
        "group_relative", f"{_PARTS}:GroupRelative", options=o.GroupRelativeOptions, summary="reward relative to its group's"
    )
    register(
        "leave_one_out",
        f"{_PARTS}:LeaveOneOut",
        options=o.LeaveOneOutOptions,
        summary="reward less the mean of its group's others",
    )
    register(
        "reinforce_pp", f"{_PARTS}:ReinforcePP", options=o.ReinforcePPOptions, summary="rewards to go, whitened over the batch"
    )


@hookimpl
def register_losses(register: Register) -> None:
    register("gspo", f"{_PARTS}:Gspo", options=o.GspoOptions, summary="clipped surrogate on the ratio of whole sequences")
    register(
        "cispo", f"{_PARTS}:Cispo", options=o.CispoOptions, summary="clips the importance weight, keeps every token's gradient"
    )
    register("sapo", f"{_PARTS}:Sapo", options=o.SapoOptions, summary="a soft gate in place of the clip")


@hookimpl
def register_objectives(register: RegisterObjective) -> None:
    register("grpo", GRPO, summary="group relative policy optimisation")
    register("dr_grpo", DR_GRPO, summary="GRPO without its length and difficulty biases")
    register("dapo", DAPO, summary="clip-higher, token mean, dynamic sampling, overlong penalty")
    register("gspo", GSPO, summary="group sequence policy optimisation")
    register("cispo", CISPO, summary="clipped importance-sampling weights")
    register("sapo", SAPO, summary="soft adaptive policy optimisation")
    register("rloo", RLOO, summary="REINFORCE leave-one-out")
    register("reinforce_pp", REINFORCE_PP, summary="REINFORCE++: no critic, whitened over the batch")
