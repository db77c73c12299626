"""An evaluation outside training: load, draw batch by batch, write each down, go on where it was killed.

    settings.json     every setting, written first: what is there already belongs to these settings or is refused
    problems.jsonl    a row a problem, written batch by batch
    eval.json         figures and settings, written last

A batch that was not written whole is drawn again whole: a resumed evaluation decodes the very same batches and ends with the same figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr_core import folder
from rlvr_core.checks import check_golds
from rlvr_core.contracts import Task
from rlvr_core.errors import RunFolderError, SpecError
from rlvr_core.evaluation.evaluate import Draws, counts_votes, draw_problems
from rlvr_core.evaluation.problems import Problem, figures
from rlvr_core.events import Event, Notice
from rlvr_core.plugins import Catalogue
from rlvr_core.policy.handle import FixedPolicy
from rlvr_core.policy.loading import end_token_ids, load_model, load_tokenizer
from rlvr_core.policy.root import Numerics, make_quiet, moved
from rlvr_core.rollout.collect import Clock, Ranks, Roller, WeightedReward
from rlvr_core.rollout.prompts import Prompt
from rlvr_core.setup import autocast_for, evaluation_draws, model_source
from rlvr_core.spec.evaluation import ResolvedEvaluation
from rlvr_core.tasks.prompts import encode, fitting

SETTINGS, PROBLEMS, RESULT = "settings.json", "problems.jsonl", "eval.json"
_BLOCK = 2**16
_BLOCKS = 64

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


def run_study(resolved: ResolvedEvaluation, output: Path, catalogue: Catalogue, overwrite: bool, tell: Tell) -> dict[str, Any]:
    """Evaluate, or go on evaluating, and return what eval.json holds. Raises RlvrError (one line: what, where, the way out)."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
    main = accelerator.is_main_process
    study = build(resolved, accelerator, tell if main else _say_nothing)
    if main:
        _open(output, study.settings, overwrite)
    accelerator.wait_for_everyone()
    done = read_problems(output / PROBLEMS, study.batch, len(study.prompts))
    accelerator.wait_for_everyone()
    if main:
        _rewrite(output / PROBLEMS, done)
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
    """Load the model, read the task, wire up engine and rewards."""
    spec = resolved.spec

    def told(event: Event) -> None:
        if isinstance(event, Notice):
            tell(f"{'warning: ' if event.level == 'warning' else ''}{event.message}")

    task: Task = resolved.task.build()
    source = model_source(spec.model, accelerator, told)
    tokenizer = load_tokenizer(source, spec.model.trust_remote_code)
    prompts = read_prompts(task, resolved, tokenizer)
    rewards = [WeightedReward(label, bound.build(), bound.weight or 0.0) for label, bound in resolved.rewards.items()]
    tell(f"task: {task.describe()}")
    check_golds(rewards, [prompt.example for prompt in prompts], told)
    model = load_fixed(source, resolved, accelerator)
    engine = resolved.engine.build()
    numerics = Numerics(spec.evaluation.temperature, 1024, autocast_for(spec.mixed_precision, accelerator))
    engine.start(FixedPolicy(model, tokenizer, numerics))
    ranks = Ranks(accelerator.process_index, accelerator.num_processes)
    roller = Roller(engine, rewards, lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)), ranks, Clock())
    draws = evaluation_draws(spec.evaluation, spec.rollout, tuple(end_token_ids(model, tokenizer)), spec.seed)
    settings = {
        **{key: value for key, value in resolved.as_dict().items() if key != "output"},
        "weights": fingerprint_model(source, model),
        "problems": fingerprint_prompts(prompts),
    }
    return Study(roller, prompts, draws, settings, max(1, spec.rows_per_save // spec.evaluation.samples))


def load_fixed(source: str, resolved: ResolvedEvaluation, accelerator: Accelerator) -> PreTrainedModel:
    """The model on its device, without gradients."""
    options = resolved.spec.model
    loaded = load_model(
        source, dtype=options.dtype, attn_implementation=options.attn_implementation, trust_remote_code=options.trust_remote_code
    )
    return make_quiet(moved(loaded, device=accelerator.device))


def read_prompts(task: Task, resolved: ResolvedEvaluation, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The problems to evaluate on, encoded. Raises SpecError where there are none."""
    spec = resolved.spec
    examples = task.evaluation() if spec.split == "eval" else task.train()
    if not len(examples):
        other = "train" if spec.split == "eval" else "eval"
        what = "holds no problems out" if spec.split == "eval" else "has no problems to learn on"
        raise SpecError(
            f"task {resolved.task.component.name}: {what}; use --split {other}, or name rows for it in the task's options"
        )
    examples = fitting(examples, tokenizer, spec.prompt)
    number = len(examples) if spec.evaluation.problems is None else min(spec.evaluation.problems, len(examples))
    return [Prompt(example, encode(example, tokenizer, spec.prompt)) for example in (examples[i] for i in range(number))]


def _draw(study: Study, first: int) -> Iterator[list[Problem]]:
    for start in range(first, len(study.prompts), study.batch):
        yield draw_problems(study.roller, study.prompts[start : start + study.batch], start, study.draws)[0]


def _open(output: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder, or take up the evaluation that stands there if it has the same settings."""
    if (output / SETTINGS).is_file() and not overwrite:
        before = json.loads((output / SETTINGS).read_text(encoding="utf-8"))
        changed = differences(before, json.loads(json.dumps(settings, default=str)))
        if changed:
            raise RunFolderError(
                f"{output} holds an evaluation with other settings ({changed}); choose another --output, or --overwrite it"
            )
        return
    if output.exists() and not (output / SETTINGS).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise RunFolderError(f"{output} exists and is no evaluation's folder, so it is left alone; choose another with --output")
    output.mkdir(parents=True, exist_ok=True)
    for name in (RESULT, PROBLEMS):
        (output / name).unlink(missing_ok=True)
    folder.write_json(output / SETTINGS, settings)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first few settings that differ, in words; empty where none does."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    said = [f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} now" for key in keys[:3]]
    return "; ".join(said) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _flat(data: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        here = f"{path}.{key}" if path else key
        found |= _flat(value, here) if isinstance(value, dict) and value else {here: value}
    return found


def read_problems(file: Path, batch: int, wanted: int) -> list[Problem]:
    """The problems of every batch that was written whole."""
    if not file.is_file():
        return []
    found: list[Problem] = []
    for line in file.read_bytes().split(b"\n")[:-1]:  # what follows the last newline was cut off
        try:
            found.append(Problem.from_row(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            break
    return found if len(found) >= wanted else found[: len(found) // batch * batch]


def _rewrite(file: Path, problems: Sequence[Problem]) -> None:
    """Leave these rows alone in the file."""
    folder.write_text(file, "".join(_line(problem) for problem in problems))


def append_problems(file: Path, problems: Sequence[Problem]) -> None:
    """A line each, on the disk when this returns."""
    with file.open("a", encoding="utf-8") as rows:
        rows.write("".join(_line(problem) for problem in problems))
        rows.flush()
        os.fsync(rows.fileno())


def _line(problem: Problem) -> str:
    return json.dumps(problem.as_row(), ensure_ascii=False, default=str) + "\n"


def fingerprint_prompts(prompts: Sequence[Prompt]) -> str:
    """Number of problems, and a hash of what the model reads and what it is compared with."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.example.id, prompt.ids, prompt.example.gold)).encode("utf-8", "backslashreplace"))
    return f"{len(prompts)}, sha256 {digest.hexdigest()[:16]}"


def fingerprint_model(source: str, model: PreTrainedModel) -> str:
    """Of a folder: a hash over blocks of its weights, spread evenly (training moves them all). Of a hub name: the commit."""
    if not Path(source).expanduser().is_dir():
        return f"commit {getattr(model.config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for file in sorted(Path(source).expanduser().glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as data:
            for block in range(_BLOCKS):
                data.seek(block * max(0, size - _BLOCK) // max(1, _BLOCKS - 1))
                digest.update(data.read(_BLOCK))
    return f"sha256 of blocks {digest.hexdigest()[:16]}"


def _progress(done: Sequence[Problem], wanted: int, seconds: float) -> str:
    right = sum(problem.right / len(problem.samples) for problem in done) / len(done)
    return f"{len(done)}/{wanted} problems  pass@1 {right:.3f} so far  {seconds:.0f} s"


def _say_nothing(_line: str) -> None:
    """Of other ranks than the first."""
