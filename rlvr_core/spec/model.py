"""The sections of a spec that core owns. Options of plugins are checked by the plugins' own models.

Defaults are right for a pretrained model; what is tuned for the embedded default stands in its own spec alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator

from rlvr_core.options import Options, option
from rlvr_core.reward.outcomes import STATUSES, Policies, Policy
from rlvr_core.spec.parts import Part
from rlvr_core.tasks.prompts import PromptOptions

Dtype = Literal["float32", "bfloat16"]


class LoadedModel(Options):
    """A model, and how it is loaded."""

    name: str = option(description="a Hugging Face folder or hub name; `embedded` is the small model made on the spot")
    dtype: Dtype = option(
        "float32", "dtype of the weights; the optimizer works on them as they are, so bfloat16 loses small updates"
    )
    attn_implementation: str | None = option(None, "attention implementation, as transformers names them; unset: its choice")
    trust_remote_code: bool = option(False, "run code that the model's repository brings")


class ModelSection(LoadedModel):
    """The policy's starting point."""

    gradient_checkpointing: bool = option(False, "recompute activations in backward: less memory, about a third more time")


class DrawingSection(Options):
    """How a completion is drawn, in training and in evaluations."""

    max_completion_length: int = option(1024, "tokens of a completion at most, the end token included", ge=1)
    min_completion_length: int = option(
        0,
        "tokens before which no end token is drawn and no stop string ends a completion; above 0 log-probs are computed anew for learning, "
        "as the sampled ones are then not the policy's own",
        ge=0,
    )
    stop: list[str] = option([], "strings that end a completion, besides the model's end tokens")
    engine: Part = option({"name": "transformers"}, "rollout engine and its options")


class RolloutSection(DrawingSection):
    """How completions are drawn."""

    prompts_per_step: int = option(16, "prompts drawn in a step", ge=1)
    group_size: int = Field(
        8, ge=1, validation_alias=AliasChoices("group_size", "num_generations"), description="rollouts of each prompt",
        json_schema_extra={"symbol": "G"},
    )  # fmt: skip
    temperature: float = option(1.0, "sampling temperature; log-probs are taken at it throughout", gt=0.0)
    max_refills: int = option(4, "rounds of more prompts that a sampler or `on_empty: resample` may ask for in a step", ge=0)
    on_empty: Literal["skip", "resample", "stop"] = option(
        "skip", "a step without signal (nothing kept, or all credit zero): count it and go on, draw other prompts, or end the run"
    )

    @field_validator("min_completion_length")
    @classmethod
    def _below_the_maximum(cls, value: int, info: ValidationInfo) -> int:
        limit = info.data.get("max_completion_length", value)
        if value > limit:
            raise ValueError(f"{value} is above max_completion_length ({limit})")
        return value


class ScoringSection(Options):
    """What outcomes of rewards come to, and the processes that find them.

    Policies: ``zero`` counts 0; ``skip`` leaves that reward out of the sum; ``drop`` leaves the rollout out, of its group's statistics
    too; ``drop_group`` leaves out all rollouts of its prompt; ``stop`` ends the run. A rollout without any value is dropped.
    """

    on_abstain: Policy = option("skip", "a reward has no opinion on the completion")
    on_no_answer: Policy = option("zero", "the completion states no answer")
    on_unparsed: Policy = option("zero", "the answer is not understood, or refused")
    on_timeout: Policy = option(
        "zero",
        "the completion took longer to judge than `timeout_s`; zero, since dropping would shield whoever writes such completions",
    )
    on_crash: Policy = option("drop", "the process that judged the completion died, or outgrew `memory_mb`")
    on_error: Policy = option("drop", "the reward itself failed (raised); one that fails on every completion ends the run")
    warn_share: float = option(
        0.05, "share of a step's rollouts with timeout, crash or error from which a warning is given", gt=0.0, le=1.0
    )
    unusable_golds: Literal["error", "drop"] = option(
        "error",
        "rows with a gold that their reward cannot judge by (not understood as mathematics, say): end the run, or leave them out",
    )
    workers: int | None = option(
        None, "processes of each rank that score; null: one for each of its CPUs, 8 at most", ge=1, le=256
    )
    timeout_s: float = option(10.0, "seconds that one completion may take; its worker is killed then", gt=0.0)
    memory_mb: int = option(2048, "MiB that a worker may grow to; it is killed then", ge=256)
    recycle_after: int = option(20_000, "completions after which a worker is replaced by a new one", ge=1)

    def policies(self) -> Policies:
        """Status -> policy; ``ok`` needs none."""
        return {status: getattr(self, f"on_{status}") for status in STATUSES if status != "ok"}


class LearnerSection(Options):
    """How the policy is updated."""

    learning_rate: float = option(1e-6, "AdamW's peak rate for the policy", gt=0.0)
    lr_scheduler: Literal["constant", "linear", "cosine"] = option(
        "constant", "the rate's course after the warm-up, by optimizer step"
    )
    warmup_steps: int = option(0, "optimizer steps of linear warm-up", ge=0)
    weight_decay: float = option(0.0, "AdamW's decay, on matrices only", ge=0.0)
    beta1: float = option(0.9, "AdamW's first-moment decay", ge=0.0, lt=1.0)
    beta2: float = option(0.999, "AdamW's second-moment decay", ge=0.0, lt=1.0)
    max_grad_norm: float | None = option(
        1.0, "gradients are scaled down to this norm over all trainable modules; null: never", gt=0.0
    )
    num_iterations: int = option(1, "passes over each batch", ge=1, symbol="mu")
    num_minibatches: int = option(1, "optimizer steps in each pass; minibatches hold whole groups", ge=1)
    max_tokens_per_microbatch: int | None = option(
        None,
        "tokens, padding included, that one forward and backward hold at most; a longer row goes alone; null: 2048 on a CPU, where more "
        "is slower, 16384 on an accelerator",
        ge=1,
    )
    packing: bool | None = option(
        None,
        "put the rows of a micro-batch end to end in place of padding them; null: where the attention implementation has no cost for it "
        "(flash attention)",
    )
    compile: bool = option(False, "compile the layers of policy and references with torch.compile; the first step takes longer")
    fused_optimizer: bool | None = option(None, "AdamW's update in one kernel; null: on CPUs and CUDA, which have one")
    mixed_precision: Literal["auto", "no", "bf16"] = option(
        "auto", "autocast of forwards; auto: bf16 on an accelerator that has it, no on CPU"
    )
    probe_dropped: int = option(
        0,
        "rollouts that the sampler dropped whose log-prob is measured before and after each update: what learning from the others does "
        "to them (POPO's implicit negative gradient); costs forwards; 0: none",
        ge=0,
    )
    logprob_chunk_tokens: int | None = option(
        None,
        "completion tokens whose logits exist at once; null: 1024 on a CPU, 4096 on an accelerator, where each chunk costs a pass over the "
        "gradient of the head",
        ge=1,
    )

    def microbatch_tokens(self, device: str) -> int:
        """``max_tokens_per_microbatch``, or its default for a kind of device."""
        return self.max_tokens_per_microbatch or (2048 if device == "cpu" else 16384)

    def chunk_tokens(self, device: str) -> int:
        """``logprob_chunk_tokens``, or its default for a kind of device."""
        return self.logprob_chunk_tokens or (1024 if device == "cpu" else 4096)


class EvaluationSection(Options):
    """Held-out problems, scored before, during and after."""

    problems: int | None = option(None, "held-out problems used, from the front; null: all; 0: no evaluation", ge=0)
    samples: int = option(1, "completions drawn for each problem", ge=1, symbol="n")
    k: list[int] | None = option(
        None,
        "samples of which one must be right (pass@k), or most must agree on the right answer (maj@k); null: 1 and all samples",
    )
    greedy: bool = option(False, "draw one completion at temperature 0 of each problem too")
    temperature: float = option(1.0, "sampling temperature; 0 is greedy", ge=0.0)
    every: int = option(0, "evaluate after every so many steps too; 0: only before and after", ge=0)

    def inert(self) -> Mapping[str, str]:
        off = {"samples", "k", "greedy", "temperature", "every"} if self.problems == 0 else set()
        reasons = dict.fromkeys(off, "evaluation.problems is 0")
        if self.temperature == 0.0:
            reasons |= {"greedy": "the samples are greedy themselves (temperature 0)"}
            if self.samples > 1:
                reasons["samples"] = "greedy completions of a problem (temperature 0) are all the same"
        return reasons

    @field_validator("k")
    @classmethod
    def _within_samples(cls, k: list[int] | None, info: ValidationInfo) -> list[int] | None:
        """An empty list or a number below 1 asks for nothing; one above ``samples`` cannot be estimated."""
        samples = info.data.get("samples")
        if k is not None and (not k or min(k) < 1):
            raise ValueError("write numbers of samples, each at least 1, as [1, 8]")
        if k is not None and samples is not None and max(k) > samples:
            raise ValueError(
                f"k is {max(k)}, but only {samples} samples are drawn of a problem; raise evaluation.samples or lower k"
            )
        return k

    @property
    def ks(self) -> tuple[int, ...]:
        """The numbers that pass@k and maj@k are reported for."""
        return tuple(sorted({1, self.samples} if self.k is None else set(self.k)))


class CheckpointSection(Options):
    """What is kept to go on from after an interruption."""

    every: int = option(0, "save everything that a resume needs after every so many steps; 0: only when interrupted", ge=0)
    keep: int = option(1, "checkpoints kept, the newest", ge=1)


DEFAULT_OBSERVERS: Mapping[str, Part] = {"progress": {"name": "progress"}, "jsonl": {"name": "jsonl"}}
"""Observers of every run, unless a spec changes them or sets them to null."""


class Spec(Options):
    """A whole run."""

    seed: int = option(0, "every random number of the run follows from it", ge=0)
    steps: int = option(200, "steps of rollout and learning", ge=1)
    output: str | None = option(None, "the run's folder; null: runs/<objective>-<task>-seed<seed>")
    model: ModelSection = option(description="the policy's starting point")
    task: Part = option(description="where problems and golds come from, with its options")
    prompt: PromptOptions = option(PromptOptions(), "how a problem becomes the policy's prompt")
    rewards: dict[str, Part] = option(
        {"math": {"name": "math"}}, "rewards by label, each with its options and a `weight` (1.0); values are summed by weight"
    )
    scoring: ScoringSection = option(ScoringSection(), "what outcomes of rewards come to, and the processes that find them")
    control: Literal["none", "shuffled_rewards"] = option(
        "none",
        "shuffled_rewards: permute rewards over the rollouts of a step, as a control that should not learn; evaluation is untouched",
    )
    rollout: RolloutSection = option(RolloutSection(), "how completions are drawn")
    objective: dict[str, Any] = option(description="the objective's name, and changes to its parts")
    learner: LearnerSection = option(LearnerSection(), "how the policy is updated")
    evaluation: EvaluationSection = option(EvaluationSection(), "held-out problems, scored before, during and after")
    checkpoint: CheckpointSection = option(CheckpointSection(), "what is kept to go on from")
    observers: dict[str, Part | None] = option(
        {},
        "who is told of events, by label, besides `progress` and `jsonl`; these are changed, or taken away with null, by their labels",
    )
