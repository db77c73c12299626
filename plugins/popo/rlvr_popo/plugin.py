"""What rlvr-popo registers."""

from __future__ import annotations

from rlvr_core import Objective, hookimpl
from rlvr_core.hookspecs import Register, RegisterObjective
from rlvr_popo import options as o

RLVR_API = 1

POPO = Objective(
    sampler={"name": "positive_only", "threshold": 0.0},
    credit={"name": "bounded_is", "weights": "softmax"},
    loss={"name": "bounded_is"},
    references={"twin": {"name": "ema_twin", "decay": 0.995}},
    regularisers={
        "similarity": {"name": "similarity", "to": "twin", "coef": 0.1, "predictor_hidden": 1024},
        "entropy": {"name": "entropy", "coef": 0.01},
    },
    paper="POPO: positive-only policy optimisation",
)


@hookimpl
def register_samplers(register: Register) -> None:
    register(
        "positive_only",
        "rlvr_popo.parts:PositiveOnly",
        options=o.PositiveOnlyOptions,
        summary="only rollouts with a reward above a threshold",
    )


@hookimpl
def register_credits(register: Register) -> None:
    register(
        "bounded_is",
        "rlvr_popo.parts:BoundedIsCredit",
        options=o.BoundedIsCreditOptions,
        summary="bounded importance weights over a prompt's positives",
    )


@hookimpl
def register_losses(register: Register) -> None:
    register(
        "bounded_is", "rlvr_popo.parts:BoundedIsLoss", options=o.BoundedIsLossOptions, summary="weighted negative log-likelihood"
    )


@hookimpl
def register_regularisers(register: Register) -> None:
    register(
        "similarity",
        "rlvr_popo.parts:Similarity",
        options=o.SimilarityOptions,
        summary="cosine between predicted features and a reference's",
    )


@hookimpl
def register_objectives(register: RegisterObjective) -> None:
    register("popo", POPO, summary="positive-only policy optimisation")
