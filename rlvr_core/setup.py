"""From a resolved spec to everything that training uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from rlvr_core.checks import with_usable_golds
from rlvr_core.clock import Clock
from rlvr_core.contracts import Differentiable, ModelDims, Task
from rlvr_core.errors import ModelError, SpecError
from rlvr_core.evaluation.evaluate import Draws
from rlvr_core.events import Event, Notice
from rlvr_core.learner.dealing import overhead_tokens
from rlvr_core.learner.learner import Learner
from rlvr_core.learner.prepare import Limits, Preparer, ReferenceModel
from rlvr_core.loop import Training
from rlvr_core.objective import Objective, build_objective
from rlvr_core.policy.blocks import CompiledBlocks
from rlvr_core.policy.forward import Head, keeps_rows_apart
from rlvr_core.policy.handle import LocalPolicy
from rlvr_core.policy.loading import end_token_ids, load_model, load_tokenizer
from rlvr_core.policy.root import Numerics, Root, moved
from rlvr_core.randomness import seed_of
from rlvr_core.records import Example, Sampling
from rlvr_core.reward.alarm import Alarm
from rlvr_core.reward.scoring import Scoring, start_scoring
from rlvr_core.rollout.collect import Ranks, Roller, WeightedReward
from rlvr_core.rollout.prompts import Prompt, PromptStream
from rlvr_core.spec.model import DrawingSection, EvaluationSection, LearnerSection, LoadedModel, ModelSection
from rlvr_core.spec.resolved import Resolved
from rlvr_core.tasks.prompts import encode, fitting

EMBEDDED = "embedded"


@dataclass
class Setup:
    """A training and what surrounds it."""

    training: Training
    tokenizer: PreTrainedTokenizerBase
    held_out: list[Prompt]
    evaluation: Draws
    task: Task
    source: str
    """Where the model was loaded from."""
    scoring: Scoring


def build(resolved: Resolved, accelerator: Accelerator, tell: Callable[[Event], None]) -> Setup:
    """Load the model, put the objective together, wire up rollout, reward and learner. Its ``scoring`` is to be closed at the end."""
    scoring = start_scoring(resolved.rewards, resolved.spec.scoring)
    try:
        return _build(resolved, accelerator, tell, scoring)
    except BaseException:
        scoring.close()
        raise


def _build(resolved: Resolved, accelerator: Accelerator, tell: Callable[[Event], None], scoring: Scoring) -> Setup:
    spec = resolved.spec
    task: Task = resolved.task.build()
    source = model_source(spec.model, accelerator, tell)
    tokenizer = load_tokenizer(source, spec.model.trust_remote_code)
    examples, held_out = (
        fitting(split, tokenizer, spec.prompt) if len(split) else split for split in (task.train(), task.evaluation())
    )
    if not len(examples):
        raise SpecError("task: has no training problems")
    rewards = [WeightedReward(label, scoring.rewards[label], bound.weight or 0.0) for label, bound in resolved.rewards.items()]
    examples, held_out = (
        with_usable_golds(split, rewards, spec.scoring.unusable_golds, tell, accelerator.num_processes)
        for split in (examples, held_out)
    )
    policy = load_policy(source, spec.model, accelerator)
    clock = Clock()
    objective = build_objective(resolved.objective)
    learner, preparer = build_learner(resolved, objective, policy, accelerator, clock)

    engine = resolved.engine.build()
    engine.start(LocalPolicy(learner, tokenizer))
    for note in engine.notes():
        tell(Notice(note, "warning"))
    ranks = Ranks(accelerator.process_index, accelerator.num_processes)
    roller = Roller(
        engine,
        rewards,
        lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        ranks,
        clock,
        spec.scoring.policies(),
    )

    def encoded(example: Example) -> tuple[int, ...]:
        return encode(example, tokenizer, spec.prompt)

    ends = tuple(end_token_ids(policy, tokenizer))
    rollout = spec.rollout
    sampling = Sampling(
        rollout.temperature, rollout.max_completion_length, ends, tuple(rollout.stop), spec.seed, rollout.min_completion_length
    )
    draws = evaluation_draws(spec.evaluation, rollout, ends, spec.seed)
    training = Training(
        spec,
        objective,
        learner,
        preparer,
        roller,
        PromptStream(examples, encoded, spec.seed),
        sampling,
        clock,
        tell,
        Alarm(spec.scoring.warn_share),
    )
    number = len(held_out) if spec.evaluation.problems is None else min(spec.evaluation.problems, len(held_out))
    prompts = [Prompt(held_out[i], encoded(held_out[i])) for i in range(number)]
    return Setup(training, tokenizer, prompts, draws, task, source, scoring)


def evaluation_draws(options: EvaluationSection, drawing: DrawingSection, ends: tuple[int, ...], seed: int) -> Draws:
    """What an evaluation draws, in training and outside."""
    sampling = Sampling(
        options.temperature,
        drawing.max_completion_length,
        ends,
        tuple(drawing.stop),
        seed_of("evaluation", seed),
        drawing.min_completion_length,
    )
    return Draws(options.samples, sampling, options.ks, options.greedy)


def model_source(options: LoadedModel, accelerator: Accelerator, tell: Callable[[Event], None]) -> str:
    """Folder or hub name to load. The embedded model is made once, by one process."""
    if options.name != EMBEDDED:
        return options.name
    from rlvr_core.embedded import embedded_model

    with accelerator.main_process_first():
        folder: Path = embedded_model(tell=tell if accelerator.is_main_process else None)
    return str(folder)


def load_policy(source: str, options: ModelSection, accelerator: Accelerator) -> PreTrainedModel:
    """The policy on its device: trainable, dropout off."""
    loaded = load_model(
        source, dtype=options.dtype, attn_implementation=options.attn_implementation, trust_remote_code=options.trust_remote_code
    )
    policy = moved(loaded, device=accelerator.device)
    make_trainable(policy, options.gradient_checkpointing)
    return policy


def make_trainable(policy: PreTrainedModel, gradient_checkpointing: bool) -> None:
    """Gradients on, evaluation mode (the learner switches to training mode where activations are to be recomputed)."""
    policy.eval()
    policy.requires_grad_(True)
    if gradient_checkpointing:
        policy.activation_checkpointing_enable()


def build_learner(
    resolved: Resolved, objective: Objective, policy: PreTrainedModel, accelerator: Accelerator, clock: Clock | None = None
) -> tuple[Learner, Preparer]:
    """Root module, references, optimizer, schedule."""
    spec = resolved.spec
    chunk = spec.learner.chunk_tokens(accelerator.device.type)
    numerics = Numerics(spec.rollout.temperature, chunk, autocast_dtype(spec.learner, accelerator))
    references = {
        label: ReferenceModel(model := reference.build(policy), Head(model), reference.moves, blocks_of(model, spec.learner))
        for label, reference in objective.references.items()
    }
    modules = build_modules(objective.differentiables, policy, spec.seed)
    root = Root(policy, objective.differentiables, modules, numerics, blocks_of(policy, spec.learner))
    optimizer = build_optimizer(spec.learner, root, objective.differentiables)
    steps = spec.steps * spec.learner.num_iterations * spec.learner.num_minibatches
    scheduler = get_scheduler(spec.learner.lr_scheduler, optimizer, spec.learner.warmup_steps, steps)
    limits = Limits(
        spec.learner.microbatch_tokens(accelerator.device.type),
        spec.rollout.max_completion_length,
        overhead_tokens(accelerator.device.type),
        packing_for(policy, spec.learner.packing),
    )
    preparer = Preparer(objective, root, references, accelerator, limits, clock or Clock())
    learner = Learner(spec.learner, objective, root, preparer, accelerator, optimizer, scheduler)
    return learner, preparer


def blocks_of(model: PreTrainedModel, options: LearnerSection) -> CompiledBlocks | None:
    """The model's layers compiled, where that was asked for."""
    return CompiledBlocks(model) if options.compile else None


def packing_for(policy: PreTrainedModel, wanted: bool | None) -> bool:
    """Whether rows are put end to end. Raises ModelError where that was asked for and rows would see each other."""
    if wanted is None:
        return str(policy.config._attn_implementation).startswith("flash") and keeps_rows_apart(policy)
    if wanted and not keeps_rows_apart(policy):
        raise ModelError(
            f"learner.packing: rows put end to end see each other in this model ({type(policy).__name__}, attention "
            f"'{policy.config._attn_implementation}'); leave it out, or set model.attn_implementation to another"
        )
    return wanted


def autocast_dtype(options: LearnerSection, accelerator: Accelerator) -> torch.dtype | None:
    """The dtype that the learner's forwards are computed in, where it is not the weights' own."""
    return autocast_for(options.mixed_precision, accelerator)


def autocast_for(mixed_precision: str, accelerator: Accelerator) -> torch.dtype | None:
    """bf16 where it was asked for, or where the device has it and nothing was said."""
    if mixed_precision == "bf16":
        return torch.bfloat16
    capable = accelerator.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if mixed_precision == "auto" and capable else None


def build_modules(parts: Mapping[str, Differentiable], policy: PreTrainedModel, seed: int) -> dict[str, nn.Module]:
    """Components' own modules, each initialised under a seed of its own, on the policy's device, float32 at least."""
    config = policy.config.get_text_config(decoder=True)
    dims = ModelDims(config.hidden_size, config.vocab_size)
    dtype = torch.promote_types(policy.dtype, torch.float32)
    modules: dict[str, nn.Module] = {}
    for label, part in parts.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("module", label, seed))
            module = part.build(policy, dims)
        if module is not None:
            modules[label] = module.to(policy.device, dtype)
    return modules


def build_optimizer(options: LearnerSection, root: Root, parts: Mapping[str, Differentiable]) -> torch.optim.Optimizer:
    """AdamW; decay on matrices only; parts with a learning rate of their own get it."""
    groups: list[dict[str, Any]] = []
    for module, rate in ((root.policy, None), *((root.parts[label], parts[label].learning_rate()) for label in root.parts)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        for decay in (True, False):
            chosen = [p for p in parameters if (p.dim() >= 2) == decay]
            if chosen:
                decay_rate = options.weight_decay if decay else 0.0
                groups.append({"params": chosen, "lr": rate or options.learning_rate, "weight_decay": decay_rate})
    if not groups:
        raise ModelError("nothing of the model is trainable")
    fused = options.fused_optimizer
    if fused is None:
        fused = root.policy.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.beta1, options.beta2), fused=fused)
