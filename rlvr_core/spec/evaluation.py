"""The spec of an evaluation outside training: the sections of a run's that it needs, and no others. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlvr_core.errors import SpecError, nearest
from rlvr_core.options import Options, option
from rlvr_core.plugins import Catalogue
from rlvr_core.spec.model import DrawingSection, EvaluationSection, LoadedModel, ScoringSection, Spec
from rlvr_core.spec.parts import Part
from rlvr_core.spec.resolve import Resolver
from rlvr_core.spec.resolved import Bound, without_inert
from rlvr_core.spec.source import KeyPath, Source
from rlvr_core.tasks.prompts import PromptOptions

ROWS_PER_SAVE = 512


class EvaluationSpec(Options):
    """An evaluation of one model on one task."""

    seed: int = option(0, "every random number follows from it", ge=0)
    output: str | None = option(None, "the evaluation's folder; null: evals/<model>-<task>")
    model: LoadedModel = option(description="what is evaluated")
    mixed_precision: Literal["auto", "no", "bf16"] = option(
        "auto", "autocast of forwards; auto: bf16 on an accelerator that has it, no on CPU"
    )
    task: Part = option(description="where problems and golds come from, with its options")
    split: Literal["eval", "train"] = option("eval", "evaluate on the task's held-out problems, or on those to learn on")
    prompt: PromptOptions = option(PromptOptions(), "how a problem becomes the model's prompt")
    rewards: dict[str, Part] = option(
        {"math": {"name": "math"}}, "rewards by label; the first that does not abstain decides what is right"
    )
    scoring: ScoringSection = option(ScoringSection(), "what outcomes of rewards come to, and the processes that find them")
    rollout: DrawingSection = option(DrawingSection(), "how a completion is drawn")
    evaluation: EvaluationSection = option(EvaluationSection(), "what is drawn, and which figures are made of it")
    rows_per_save: int = option(
        ROWS_PER_SAVE, "completions drawn together, then written down; what is lost at most when the evaluation is killed", ge=1
    )


@dataclass(frozen=True)
class ResolvedEvaluation:
    """An evaluation whose every part is known and checked."""

    spec: EvaluationSpec
    task: Bound
    engine: Bound
    rewards: Mapping[str, Bound]

    def as_dict(self) -> dict[str, Any]:
        """Every setting, as a spec has it."""
        data = without_inert(self.spec)
        data["task"] = self.task.as_dict()
        data["rollout"]["engine"] = self.engine.as_dict()
        data["rewards"] = {label: bound.as_dict() for label, bound in self.rewards.items()}
        data["evaluation"]["k"] = list(self.spec.evaluation.ks)
        for section, key in TRAINING_ONLY:
            data[section].pop(key, None)
        return data


def resolve_evaluation(source: Source, catalogue: Catalogue) -> ResolvedEvaluation:
    """Check an evaluation's spec. Raises SpecError with a line for every mistake."""
    section = source.data.get("evaluation")
    if isinstance(section, dict) and section.get("problems", 1) == 0:
        where = source.where(("evaluation", "problems"))
        raise SpecError(
            f"{where}: evaluation.problems: 0 problems leave nothing to evaluate; set evaluation.problems=null for all"
        )
    resolver = Resolver(source, catalogue, EvaluationSpec)
    spec, task, engine, rewards = (
        resolver.check(EvaluationSpec, source.data, ()),
        resolver.task(),
        resolver.engine(),
        resolver.rewards(),
    )
    resolver.finish()
    assert spec and task and engine  # no mistakes, so each is there
    return ResolvedEvaluation(spec, task, engine, rewards)


TRAINING_ONLY: dict[KeyPath, str] = {
    ("evaluation", "every"): "it says how often a run evaluates",
    ("scoring", "warn_share"): "it is about the steps of a run",
}
"""Keys that both specs share and an evaluation has no use for."""


def for_evaluation(source: Source) -> Source:
    """What an evaluation takes from a run's spec; sections and keys about training are left behind."""
    data: dict[str, Any] = {}
    for key, value in source.data.items():
        known = _keys(EvaluationSpec, key)
        if key not in EvaluationSpec.model_fields and key in Spec.model_fields:
            continue
        if known is not None and isinstance(value, dict):
            training = _keys(Spec, key) or []
            value = {k: v for k, v in value.items() if k in known or k not in training}
            value = {k: v for k, v in value.items() if (key, k) not in TRAINING_ONLY}
        data[key] = value
    precision = source.data.get("learner", {})
    origins = dict(source.origins)
    if isinstance(precision, dict) and "mixed_precision" in precision:
        data.setdefault("mixed_precision", precision["mixed_precision"])
        origins[("mixed_precision",)] = origins.get(("learner", "mixed_precision"), source.name)
    return Source(data, {path: origin for path, origin in origins.items() if _has(data, path)}, source.name, dict(source.renamed))


def refuse_training_keys(paths: Iterable[tuple[KeyPath, str]]) -> None:
    """Raise SpecError for what the command line sets and only training reads."""
    for path, origin in paths:
        head = path[0]
        if path[:2] in TRAINING_ONLY:
            raise SpecError(f"{origin}: has no effect here: {TRAINING_ONLY[path[:2]]}; remove it")
        known = _keys(EvaluationSpec, head)
        if head in Spec.model_fields and head not in EvaluationSpec.model_fields:
            raise SpecError(
                f"{origin}: is about training and has no effect on an evaluation; {nearest(head, EvaluationSpec.model_fields)}"
            )
        if known is not None and len(path) > 1 and path[1] not in known and path[1] in (_keys(Spec, head) or []):
            raise SpecError(
                f"{origin}: is about training and has no effect on an evaluation; {head} has {', '.join(known)} here"
                + ("; evaluations draw at evaluation.temperature" if path[:2] == ("rollout", "temperature") else "")
            )


def drop_overruled(source: Source) -> None:
    """Greedy decoding from the command line: what a file says of samples is meant for its own temperature, and goes."""
    section = source.data.get("evaluation")
    if not isinstance(section, dict) or section.get("temperature") != 0 or not source.overrides(("evaluation", "temperature")):
        return
    for key in ("samples", "k", "greedy"):
        if key in section and not source.overrides(("evaluation", key)):
            del section[key]
            source.origins.pop(("evaluation", key), None)


def lay_over(base: Source, task: Source) -> Source:
    """A task's spec laid over a model's: its task, prompt and rewards take the place of the model's, other sections join them."""
    data, origins = dict(base.data), dict(base.origins)
    for key, value in task.data.items():
        if key == "model":
            continue
        joined = key in ("rollout", "evaluation") and isinstance(value, dict) and isinstance(data.get(key), dict)
        if not joined:
            origins = {path: origin for path, origin in origins.items() if path[0] != key}
        data[key] = {**data[key], **value} if joined else value
        origins |= {path: origin for path, origin in task.origins.items() if path[0] == key}
    return Source(data, origins, task.name, dict(base.renamed))


def _keys(model: type[Options], section: str) -> list[str] | None:
    """Keys of a section that core owns; None where it is none."""
    field = model.model_fields.get(section)
    annotation = field.annotation if field is not None else None
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, Options) else None


def _has(data: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True
