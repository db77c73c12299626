"""Options of core's own components. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rlvr_core.options import Options, option

KlEstimator = Literal["k1", "k2", "k3"]


class NoOptions(Options):
    """A component without options."""


class CorrectionOptions(Options):
    """Importance weights exp(log pi - log mu) between the policy and the sampler that drew the rollouts."""

    level: Literal["token", "sequence"] = option(
        "token", "one ratio a token, or the product of a sequence's ratios for all its tokens"
    )
    clip: float = option(2.0, "upper bound of the ratio", gt=0.0, symbol="C")
    clip_low: float = option(0.0, "lower bound of the ratio", ge=0.0)


class MaskedOptions(CorrectionOptions):
    """Ratios outside [clip_low, clip] become 0, bounds included in what is kept."""

    clip_low: float = option(0.5, "lower bound of the ratio", ge=0.0)


class KlOptions(Options):
    """KL divergence of the policy from a reference, estimated at the sampled tokens."""

    coef: float = option(description="coefficient; 0 switches it off", ge=0.0, symbol="beta")
    to: str = option("frozen", "label of the reference")
    estimator: KlEstimator = option(
        "k3",
        "with r = log pi_ref - log pi: k1 = -r, k2 = r^2/2, k3 = exp(r) - r - 1 (Schulman 2020, Approximating KL divergence)",
    )
    clamp: float | None = option(
        None, "each token's estimate is bounded at +- this (verl: 10 for k3; OpenRLHF: 10 for all); null: no bound", gt=0.0
    )


class KlLossOptions(KlOptions):
    """KL in the loss, with a gradient of its own."""

    times_ratio: bool = option(
        False,
        "multiply by the ratio of the policy to the one that sampled, gradient included: corrects for its drift (TRL's default)",
    )
    straight_through: bool = option(
        False, "keep the estimate's value but take k2's gradient, which is that of the divergence itself (verl's k1+, k3+)"
    )

    def inert(self) -> Mapping[str, str]:
        return {"straight_through": "k2 has that gradient already"} if self.estimator == "k2" and self.clamp is None else {}


class OverlongOptions(Options):
    """DAPO's soft penalty (Yu et al. 2025, eq. 13): 0 up to limit - buffer tokens, then linear down to -penalty at limit."""

    limit: int | None = option(
        None,
        "completion length in tokens at which the penalty is full; null: rollout.max_completion_length",
        ge=1,
        symbol="L_max",
    )
    buffer: int | None = option(
        None, "tokens before the limit over which it grows; null: a fifth of the limit", ge=1, symbol="L_cache"
    )
    penalty: float = option(1.0, "the full penalty", gt=0.0)


class ClippedOptions(Options):
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7)."""

    epsilon_low: float = option(0.2, "the ratio is clipped below at 1 - epsilon_low", ge=0.0, lt=1.0, symbol="epsilon")
    epsilon_high: float = option(0.2, "and above at 1 + epsilon_high", ge=0.0, symbol="epsilon_high")
    log_ratio_clamp: float | None = option(
        20.0, "log-ratios are clamped to +- this before exp, with gradient 0 beyond (verl, OpenRLHF: 20); null: not (TRL)", gt=0.0
    )
    dual_clip: float | None = option(
        None,
        "for negative advantages the surrogate is bounded below at this times the advantage (Ye et al. 2020); null: no bound",
        gt=1.0,
    )


class EntropyOptions(Options):
    """Entropy bonus: the mean entropy of the next-token distribution is raised."""

    coef: float = option(0.01, "coefficient; 0 switches it off", symbol="beta")
    scope: Literal["chosen", "all"] = option(
        "chosen", "tokens of rollouts that the sampler chose, or of all; all forwards the others too"
    )


class EmaTwinOptions(Options):
    """An exponential moving average of the policy."""

    decay: float = option(
        0.995,
        "weight of the OLD parameters: twin <- decay * twin + (1 - decay) * policy; 1 freezes it",
        ge=0.0,
        le=1.0,
        symbol="tau",
    )


class TransformersEngineOptions(Options):
    """Decoding in this process with the policy's own weights."""

    max_cache_tokens: int = option(
        262144,
        "tokens of prompts and completions that the key-value cache holds at most, padding included; a longer row goes alone",
        ge=1,
    )
    max_rows: int = option(512, "rows decoded together at most: their logits exist together", ge=1)
    graphs: bool | None = option(
        None,
        "keep keys and values in pages and replay each step of decoding as one CUDA graph; null: on CUDA, where the model allows it",
    )
    compile: bool = option(
        False, "compile the layers that graphs replay (torch.compile): fewer, larger kernels; the first rollouts take longer"
    )
    shrink: float = option(
        0.03,
        "finished rows leave the key-value cache once they are this part of the rows in it; with graphs: once a smaller one will do",
        gt=0.0,
        le=1.0,
    )

    def inert(self) -> Mapping[str, str]:
        if self.graphs:
            return {"shrink": "with graphs, rows leave once a smaller one will do"}
        return {"compile": "graphs is off"} if self.graphs is False else {}


class ProgressOptions(Options):
    """Progress on the terminal: a live bar, or plain lines where there is no terminal."""

    every: int = option(1, "steps between plain lines (the live bar always moves)", ge=1)


class JsonlOptions(Options):
    """Rows and samples in the run's folder."""

    samples: int = option(4, "rollouts of each step written to samples.jsonl", ge=0)
    samples_every: int = option(10, "steps between samples", ge=1)

    def inert(self) -> Mapping[str, str]:
        return {"samples_every": "samples is 0"} if self.samples == 0 else {}


class TrackerOptions(Options):
    """Metrics to an experiment tracker that Accelerate knows."""

    tracker: Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"] = option(
        "tensorboard", "the tracker; its package must be installed"
    )
    project: str = option("rlvr", "project name")
