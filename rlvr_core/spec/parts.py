"""Parts of a spec: a component's name with its options flat beside it, and objectives made of parts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Part = dict[str, Any]
"""``{"name": ..., option: value, ...}``. In a labelled slot ``name`` defaults to the label."""

LossAggMode = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]

SINGLE_SLOTS = {"sampler": "sampler", "correction": "correction", "credit": "credit", "loss": "loss"}
"""Slots of an objective that hold one part: slot -> kind."""
LABELLED_SLOTS = {"shapers": "shaper", "references": "reference", "regularisers": "regulariser"}
"""Slots of an objective that hold parts by label: slot -> kind."""

PLACES = {
    "task": "task",
    "rollout": "rollout.engine",
    "reward": "rewards.{}",
    "observer": "observers.{}",
    **{kind: f"objective.{slot}" for slot, kind in SINGLE_SLOTS.items()},
    **{kind: f"objective.{slot}.{{}}" for slot, kind in LABELLED_SLOTS.items()},
}
"""Where a component of a kind stands in a spec; ``{}`` is its label."""


class Objective(BaseModel):
    """An objective is data: which parts, with which options. A spec may replace each part or change its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: Part = Field({"name": "all"}, description="which rollouts reach the learner")
    correction: Part | None = Field(
        {"name": "truncated"}, description="importance weights for rollouts that are not exactly the current policy's"
    )
    shapers: dict[str, Part] = Field({}, description="changes to rewards before credit, by label")
    credit: Part = Field(description="what each kept sequence or token is worth")
    loss: Part = Field(description="pushes log-probabilities, given credit")
    loss_agg_mode: LossAggMode = Field("token-mean", description="what terms over 'agg' are averaged over")
    references: dict[str, Part] = Field({}, description="policies to hold on to, by label")
    regularisers: dict[str, Part] = Field({}, description="added terms, by label; `to:` names a reference")
    paper: str = Field("", description="where the objective was published")
