"""Core's own components, registered through the same hooks as anyone's. Imports no torch."""

from __future__ import annotations

from rlvr_core.components import options as o
from rlvr_core.hookspecs import Register, hookimpl
from rlvr_core.reward.options import CodeOptions, ExactOptions, FormatOptions, FunctionOptions, LengthOptions, MathOptions
from rlvr_core.tasks.options import HubOptions, JsonlOptions, MixtureOptions
from rlvr_core.tasks.options_arithmetic import ArithmeticOptions
from rlvr_core.tasks.options_reasoning_gym import GymOptions, GymRewardOptions

RLVR_API = 1

_PARTS = "rlvr_core.components.parts"


@hookimpl
def register_tasks(register: Register) -> None:
    register(
        "arithmetic",
        "rlvr_core.tasks.arithmetic:ArithmeticTask",
        options=ArithmeticOptions,
        summary="chains of one-digit sums, made on the spot",
    )
    register("jsonl", "rlvr_core.tasks.jsonl:JsonlTask", options=JsonlOptions, summary="rows of a local JSON-lines file")
    register(
        "hub", "rlvr_core.tasks.hub:HubTask", options=HubOptions, summary="a data set on the hub or in a folder, through datasets"
    )
    register(
        "mixture",
        "rlvr_core.tasks.mixture:MixtureTask",
        options=MixtureOptions,
        summary="several tasks as one, each with a weight",
    )
    register(
        "reasoning_gym",
        "rlvr_core.tasks.reasoning_gym:GymTask",
        options=GymOptions,
        summary="problems made by Reasoning Gym, of any of its data sets (needs rlvr[logic])",
    )


@hookimpl
def register_rollouts(register: Register) -> None:
    register(
        "transformers",
        "rlvr_core.rollout.transformers_engine:TransformersEngine",
        options=o.TransformersEngineOptions,
        summary="decodes in this process with the policy's own weights",
    )


@hookimpl
def register_rewards(register: Register) -> None:
    register(
        "math",
        "rlvr_core.reward.math:MathReward",
        options=MathOptions,
        summary="1 where the final answer equals the gold, as mathematics",
    )
    register(
        "exact", "rlvr_core.reward.exact:ExactReward", options=ExactOptions, summary="1 where the completion is the gold, as text"
    )
    register(
        "function",
        "rlvr_core.reward.function:FunctionReward",
        options=FunctionOptions,
        summary="any callable with TRL's signature",
    )
    register(
        "code",
        "rlvr_core.reward.code:CodeReward",
        options=CodeOptions,
        summary="1 where the program in the completion passes the row's tests, in a sandbox",
    )
    register(
        "format",
        "rlvr_core.reward.form:FormatReward",
        options=FormatOptions,
        summary="1 where a regular expression matches the completion",
    )
    register(
        "length",
        "rlvr_core.reward.form:LengthReward",
        options=LengthOptions,
        summary="1 where the completion's length is within bounds",
    )
    register(
        "reasoning_gym",
        "rlvr_core.tasks.reasoning_gym_reward:GymReward",
        options=GymRewardOptions,
        summary="the score of the Reasoning Gym data set that made the problem",
    )


@hookimpl
def register_samplers(register: Register) -> None:
    register("all", f"{_PARTS}:AllSampler", options=o.NoOptions, summary="every rollout reaches the learner")


@hookimpl
def register_corrections(register: Register) -> None:
    register(
        "truncated", f"{_PARTS}:TruncatedCorrection", options=o.CorrectionOptions, summary="importance ratios, bounded above"
    )
    register("masked", f"{_PARTS}:MaskedCorrection", options=o.MaskedOptions, summary="importance ratios inside bounds, else 0")


@hookimpl
def register_shapers(register: Register) -> None:
    register("kl_reward", f"{_PARTS}:KlReward", options=o.KlOptions, summary="KL to a reference, taken off each token's reward")
    register(
        "overlong", f"{_PARTS}:Overlong", options=o.OverlongOptions, summary="soft penalty for completions near the length limit"
    )


@hookimpl
def register_losses(register: Register) -> None:
    register("clipped", f"{_PARTS}:ClippedLoss", options=o.ClippedOptions, summary="PPO's clipped surrogate, GRPO's too")


@hookimpl
def register_references(register: Register) -> None:
    register(
        "frozen", "rlvr_core.learner.references:FrozenReference", options=o.NoOptions, summary="the policy before the first step"
    )
    register(
        "ema_twin",
        "rlvr_core.learner.references:EmaTwin",
        options=o.EmaTwinOptions,
        summary="moving average of the policy, in float32",
    )


@hookimpl
def register_regularisers(register: Register) -> None:
    register("kl", f"{_PARTS}:Kl", options=o.KlLossOptions, summary="KL to a reference, in the loss")
    register("entropy", f"{_PARTS}:Entropy", options=o.EntropyOptions, summary="entropy bonus")


@hookimpl
def register_observers(register: Register) -> None:
    module = "rlvr_core.observers"
    register("progress", f"{module}.progress:Progress", options=o.ProgressOptions, summary="progress and tables on the terminal")
    register(
        "jsonl",
        f"{module}.jsonl:JsonlObserver",
        options=o.JsonlOptions,
        summary="metrics.jsonl and samples.jsonl in the run's folder",
    )
    register(
        "tracker",
        f"{module}.tracker:Tracker",
        options=o.TrackerOptions,
        summary="metrics to an experiment tracker, through Accelerate",
    )
