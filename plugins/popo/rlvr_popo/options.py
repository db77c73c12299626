"""Options of POPO's parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rlvr_core.options import Options, option


class PositiveOnlyOptions(Options):
    """S+(x) = {y : reward > threshold}; nothing else is learned from."""

    threshold: float = option(0.0, "a rollout is positive where its reward is above this", symbol="tau_r")


class BoundedIsCreditOptions(Options):
    """w(y|x): weights over the positives of a prompt, each in (0, 1], summing to 1."""

    weights: Literal["softmax", "sequence_softmax", "uniform"] = option(
        "softmax",
        "softmax: of the mean token log-prob (the authors' code); sequence_softmax: of the summed log-prob (the formula as printed, "
        "pi(y|x)/Z+); uniform: 1/|S+|",
        symbol="w",
    )
    temperature: float = option(1.0, "the scores are divided by this before the softmax", gt=0.0)
    length_normalize: bool = option(False, "divide each weight by its completion's length, then make them sum to 1 again")

    def inert(self) -> Mapping[str, str]:
        return {"temperature": "uniform weights have no scores"} if self.weights == "uniform" else {}


class BoundedIsLossOptions(Options):
    """Weighted negative log-likelihood of the positives."""

    over: Literal["tokens", "prompts"] = option(
        "tokens",
        "tokens: divided by all positive tokens of the minibatch (the authors' code), so a prompt with more positives pulls less each; "
        "prompts: by the prompts with a positive (the expectation as printed)",
    )


class SimilarityOptions(Options):
    """Cosine between the policy's features, through a predictor, and the twin's."""

    coef: float = option(0.1, "coefficient; 0 switches it off", symbol="alpha")
    to: str = option("twin", "label of the reference whose features are predicted")
    predictor_hidden: int = option(1024, "width of the predictor's hidden layers", ge=1)
    predictor_layers: int = option(2, "linear layers of the predictor", ge=1, symbol="h")
    noise: float = option(0.02, "standard deviation of the noise on the twin's features, in training", ge=0.0, symbol="epsilon")
    monitor_kl: bool = option(True, "log KL(policy, reference) too: the reference is forwarded anyway, this adds its head")

    def inert(self) -> Mapping[str, str]:
        return {"predictor_hidden": "a predictor of one layer has no hidden layer"} if self.predictor_layers == 1 else {}
