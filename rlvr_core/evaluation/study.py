"""An evaluation outside training: load, draw batch by batch, write each down, go on where it was killed.

A batch that was not written whole is drawn again whole: a resumed evaluation decodes the very same batches and ends with the same figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr_core import folder
from rlvr_core.checks import check_golds, with_usable_golds
from rlvr_core.clock import Clock
from rlvr_core.contracts import Task
from rlvr_core.errors import SpecError
from rlvr_core.evaluation.evaluate import Draws, counts_votes, draw_problems
from rlvr_core.evaluation.files import (
    PROBLEMS,
    RESULT,
    append_problems,
    fingerprint_model,
    fingerprint_prompts,
    open_folder,
    read_problems,
    rewrite_problems,
)
from rlvr_core.evaluation.problems import Problem, figures
from rlvr_core.events import Event, Notice
from rlvr_core.plugins import Catalogue
from rlvr_core.policy.handle import FixedPolicy
from rlvr_core.policy.loading import end_token_ids, load_model, load_tokenizer
from rlvr_core.policy.root import Numerics, make_quiet, moved
from rlvr_core.records import Example
from rlvr_core.reward.scoring import Scoring, start_scoring
from rlvr_core.rollout.collect import Ranks, Roller, WeightedReward
from rlvr_core.rollout.prompts import Prompt
from rlvr_core.setup import autocast_for, evaluation_draws, model_source
from rlvr_core.spec.evaluation import ResolvedEvaluation
from rlvr_core.tasks.prompts import encode, fitting

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """Everything an evaluation uses."""

    roller: Roller
    prompts: Sequence[Prompt]
    draws: Draws
    settings: Mapping[str, Any]
    batch: int
    """Problems drawn together."""
    scoring: Scoring


def run_study(resolved: ResolvedEvaluation, output: Path, catalogue: Catalogue, overwrite: bool, tell: Tell) -> dict[str, Any]:
    """Evaluate, or go on evaluating, and return what eval.json holds. Raises RlvrError (one line: what, where, the way out)."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
    main = accelerator.is_main_process
    study = build(resolved, accelerator, tell if main else _say_nothing)
    try:
        return _run(study, resolved, output, catalogue, overwrite, accelerator, tell)
    finally:
        study.scoring.close()


def _run(
    study: Study,
    resolved: ResolvedEvaluation,
    output: Path,
    catalogue: Catalogue,
    overwrite: bool,
    accelerator: Accelerator,
    tell: Tell,
) -> dict[str, Any]:
    main = accelerator.is_main_process
    if main:
        open_folder(output, study.settings, overwrite)
    accelerator.wait_for_everyone()
    done = read_problems(output / PROBLEMS, study.batch, len(study.prompts))
    accelerator.wait_for_everyone()
    if main:
        rewrite_problems(output / PROBLEMS, done)
        if done:
            tell(f"{len(done)} of {len(study.prompts)} problems were there already")
    started = time.perf_counter()
    for batch in _draw(study, len(done)):
        done += batch
        if main:
            append_problems(output / PROBLEMS, batch)
            tell(_progress(done, len(study.prompts), time.perf_counter() - started))
    result = {
        "figures": figures(done, study.draws.ks, counts_votes(study.roller)),
        "settings": study.settings,
        "manifest": folder.environment(catalogue, resolved.spec.seed),
    }
    if main:
        folder.write_json(output / RESULT, result)
    accelerator.wait_for_everyone()
    return result


def build(resolved: ResolvedEvaluation, accelerator: Accelerator, tell: Tell) -> Study:
    """Load the model, read the task, wire up engine and rewards. Its ``scoring`` is to be closed at the end."""
    scoring = start_scoring(resolved.rewards, resolved.spec.scoring)
    try:
        return _build(resolved, accelerator, tell, scoring)
    except BaseException:
        scoring.close()
        raise


def _build(resolved: ResolvedEvaluation, accelerator: Accelerator, tell: Tell, scoring: Scoring) -> Study:
    spec = resolved.spec

    def told(event: Event) -> None:
        if isinstance(event, Notice):
            tell(f"{'warning: ' if event.level == 'warning' else ''}{event.message}")

    task: Task = resolved.task.build()
    source = model_source(spec.model, accelerator, told)
    tokenizer = load_tokenizer(source, spec.model.trust_remote_code)
    for line in scoring.ready():
        tell(f"warning: {line}")
    rewards = [WeightedReward(label, scoring.rewards[label], bound.weight or 0.0) for label, bound in resolved.rewards.items()]
    unusable = spec.scoring.unusable_golds
    prompts = read_prompts(
        task, resolved, tokenizer, lambda found: with_usable_golds(found, rewards, unusable, told, accelerator.num_processes)
    )
    tell(f"task: {task.describe()}")
    check_golds(rewards, [prompt.example for prompt in prompts], told)
    model = load_fixed(source, resolved, accelerator)
    engine = resolved.engine.build()
    numerics = Numerics(spec.evaluation.temperature, 1024, autocast_for(spec.mixed_precision, accelerator))
    engine.start(FixedPolicy(model, tokenizer, numerics))
    for note in engine.notes():
        tell(f"warning: {note}")
    ranks = Ranks(accelerator.process_index, accelerator.num_processes)
    roller = Roller(
        engine,
        rewards,
        lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        ranks,
        Clock(),
        spec.scoring.policies(),
    )
    draws = evaluation_draws(spec.evaluation, spec.rollout, tuple(end_token_ids(model, tokenizer)), spec.seed)
    settings = {
        **{key: value for key, value in resolved.as_dict().items() if key != "output"},
        "weights": fingerprint_model(source, model),
        "problems": fingerprint_prompts(prompts),
    }
    return Study(roller, prompts, draws, settings, max(1, spec.rows_per_save // spec.evaluation.samples), scoring)


def load_fixed(source: str, resolved: ResolvedEvaluation, accelerator: Accelerator) -> PreTrainedModel:
    """The model on its device, without gradients."""
    options = resolved.spec.model
    loaded = load_model(
        source, dtype=options.dtype, attn_implementation=options.attn_implementation, trust_remote_code=options.trust_remote_code
    )
    return make_quiet(moved(loaded, device=accelerator.device))


def read_prompts(
    task: Task,
    resolved: ResolvedEvaluation,
    tokenizer: PreTrainedTokenizerBase,
    usable: Callable[[Sequence[Example]], Sequence[Example]],
) -> list[Prompt]:
    """The problems to evaluate on, those that are ``usable``, encoded. Raises SpecError where there are none."""
    spec = resolved.spec
    examples = task.evaluation() if spec.split == "eval" else task.train()
    if not len(examples):
        other = "train" if spec.split == "eval" else "eval"
        what = "holds no problems out" if spec.split == "eval" else "has no problems to learn on"
        raise SpecError(
            f"task {resolved.task.component.name}: {what}; use --split {other}, or name rows for it in the task's options"
        )
    examples = usable(fitting(examples, tokenizer, spec.prompt))
    number = len(examples) if spec.evaluation.problems is None else min(spec.evaluation.problems, len(examples))
    return [Prompt(example, encode(example, tokenizer, spec.prompt)) for example in (examples[i] for i in range(number))]


def _draw(study: Study, first: int) -> Iterator[list[Problem]]:
    for start in range(first, len(study.prompts), study.batch):
        yield draw_problems(study.roller, study.prompts[start : start + study.batch], start, study.draws)[0]


def _progress(done: Sequence[Problem], wanted: int, seconds: float) -> str:
    right = sum(problem.right / len(problem.samples) for problem in done) / len(done)
    return f"{len(done)}/{wanted} problems  pass@1 {right:.3f} so far  {seconds:.0f} s"


def _say_nothing(_line: str) -> None:
    """Of other ranks than the first."""
