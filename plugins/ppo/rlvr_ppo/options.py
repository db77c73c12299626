"""Options of PPO's parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rlvr_core.options import Options, option


class GaeOptions(Options):
    """Generalised advantage estimation over action tokens."""

    gamma: float = option(1.0, "discount from one action token to the next", ge=0.0, le=1.0, symbol="gamma")
    lam: float = option(1.0, "bias against variance: 0 one step, 1 Monte Carlo", ge=0.0, le=1.0, symbol="lambda")
    interior: Literal["skip", "count"] = option(
        "skip",
        "tokens between actions that the policy did not choose: passed over (verl), or steps with reward and value 0 (OpenRLHF)",
    )
    whiten: bool = option(True, "scale advantages to mean 0 and variance 1 over all action tokens of the batch")


class ValueOptions(Options):
    """The critic and its loss."""

    critic: Literal["head", "model"] = option(
        "head",
        "head: a value head on the policy's final hidden states; model: that head on a copy of the policy, trained on its own",
    )
    coef: float = option(0.1, "coefficient of the value loss", gt=0.0, symbol="c_1")
    clip: float | None = option(
        0.2, "a prediction further than this from the batch's old one stops being pulled; null: never", gt=0.0
    )
    learning_rate: float | None = option(1e-3, "rate of the value head; null: the policy's", gt=0.0)
    detach: bool = option(False, "keep the value loss out of the policy's own weights")

    def inert(self) -> Mapping[str, str]:
        return {"detach": "a critic of its own never touches the policy's weights"} if self.critic == "model" else {}
