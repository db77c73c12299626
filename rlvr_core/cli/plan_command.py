"""``rlvr plan``: everything about a run that can be said without running it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rlvr_core.cli.options import (
    Assignments,
    ModelName,
    ObjectiveName,
    OutputFolder,
    Seed,
    SpecFile,
    Steps,
    TaskName,
    resolved_from,
)
from rlvr_core.cli.tables import print_table
from rlvr_core.errors import RunFolderError
from rlvr_core.spec.resolved import Resolved
from rlvr_core.spec.source import to_yaml

if TYPE_CHECKING:
    from rlvr_core.contracts import Differentiable, Needs
    from rlvr_core.objective import Objective
    from rlvr_core.planning.averages import Averaged
    from rlvr_core.planning.devices import Device
    from rlvr_core.planning.memory import Memory


def plan(
    spec: SpecFile = None,
    objective: ObjectiveName = None,
    model: ModelName = None,
    task: TaskName = None,
    output: OutputFolder = None,
    steps: Steps = None,
    seed: Seed = None,
    assignments: Assignments = None,
) -> None:
    """Say what a run would do and need. Trains nothing, loads no weights, writes nothing.

    Refuses what cannot fit the device, and data that cannot be read; says where the estimate of the rest is likely too much.
    """
    resolved = resolved_from(spec, objective, model, task, output, steps, seed, assignments)
    from rlvr_core.objective import build_objective

    built = build_objective(resolved.objective)
    if int(os.environ.get("RANK", "0")) == 0:
        show_plan(resolved, built)


def show_plan(resolved: Resolved, objective: Objective) -> None:
    """Print every section. Raises CapacityError, or ModelError where the model's config cannot be read, after the rest."""
    from rlvr_core.planning import devices
    from rlvr_core.planning.blueprint import blueprint
    from rlvr_core.planning.memory import memory_of, refuse_too_big
    from rlvr_core.planning.passing import autocast_on

    typer.echo("# resolved spec\n" + to_yaml(resolved.as_dict()))
    _section("rollouts", rollout_lines(resolved))
    device = devices.device()
    _section("ranks", rank_lines(device))
    typer.echo("what needs what")
    print_table(("stage", "part", "component", "needs", "provides"), list(stage_rows(resolved, objective)))
    _section(
        "",
        forward_lines(objective, exact=resolved.spec.model.dtype == "float32" and autocast_on(resolved, device) is None),
    )
    typer.echo("what each term is averaged over (counted over the whole minibatch and all ranks)")
    print_table(("part", "term", "times", "averaged over"), average_rows(resolved, objective))
    typer.echo()
    _section("evaluated and saved", saving_lines(resolved))
    policy = blueprint(resolved.spec.model)
    memory = memory_of(resolved, objective, policy)
    show_memory(memory)
    if resolved.spec.prompt.max_length is None:
        typer.echo("prompt.max_length, where set, takes the place of the assumed length of prompts")
    refuse_too_big(resolved, memory)
    typer.echo()
    _section("task", iter([resolved.task.build().describe()]))


def _section(title: str, lines: Iterator[str]) -> None:
    if title:
        typer.echo(title)
    for line in lines:
        typer.echo(f"  {line}" if title else line)
    typer.echo()


def rollout_lines(resolved: Resolved) -> Iterator[str]:
    """How many completions are drawn, and learned from in how many updates."""
    spec = resolved.spec
    prompts, group, steps = spec.rollout.prompts_per_step, spec.rollout.group_size, spec.steps
    yield f"{prompts} prompts x {group} completions x {steps} steps = {prompts * group * steps} rollouts ({prompts * group} a step)"
    if spec.rollout.max_refills:
        who = "its sampler or rollout.on_empty asks" if spec.rollout.on_empty == "resample" else "its sampler asks"
        yield f"a step may draw more prompts, {spec.rollout.max_refills} times at most, where {who}"
    updates = spec.learner.num_iterations * spec.learner.num_minibatches
    yield f"optimizer steps: {updates} a step at most ({spec.learner.num_iterations} passes x {spec.learner.num_minibatches} minibatches)"


def rank_lines(device: Device) -> Iterator[str]:
    """Processes, and how to have more."""
    import torch

    from rlvr_core.planning.devices import ranks
    from rlvr_core.planning.items import gib

    where = f"on {device.name} with {gib(device.bytes)}"
    yield f"1 process {where}" if ranks() == 1 else f"{ranks()} processes, each {where}"
    if device.kind == "cpu":
        yield f"{torch.get_num_threads()} CPU threads each (OMP_NUM_THREADS sets them)"
    if ranks() == 1:
        yield "for N processes on this machine: torchrun --nproc-per-node N -m rlvr_core run SPEC"


def stage_rows(resolved: Resolved, objective: Objective) -> Iterator[tuple[str, ...]]:
    """A row for each component, in the order of the loop."""
    bound = resolved.objective
    yield "roll out", "rollout.engine", resolved.engine.component.name, "the policy's weights", ""
    for label, reward in resolved.rewards.items():
        yield "score", f"rewards.{label}", reward.component.name, "completions and golds", ""
    yield "select", "sampler", bound.sampler.component.name, "rewards", ""
    if bound.correction is not None:
        yield "prepare", "correction", bound.correction.component.name, "policy logprobs, of inexact rollouts", ""
    for label, shaper in objective.shapers.items():
        yield "prepare", f"shapers.{label}", bound.shapers[label].component.name, needs_words(shaper.needs()), ""
    yield "credit", "credit", bound.credit.component.name, needs_words(objective.credit.needs()), ""
    yield "learn", "loss", bound.loss.component.name, needs_words(objective.loss.needs()), _provides(objective.loss)
    for label, part in objective.regularisers.items():
        name = bound.regularisers[label].component.name
        yield "learn", f"regularisers.{label}", name, needs_words(part.needs()), _provides(part)
    for label, reference in objective.references.items():
        moves = "follows every optimizer step" if reference.moves else "stays as it is"
        yield "follow", f"references.{label}", bound.references[label].component.name, moves, reference_words(objective, label)


def needs_words(needs: Needs) -> str:
    """What a part reads, in words."""
    words = [f"policy {quantity}" for quantity in sorted(needs.policy)]
    words += [f"{needs.to} {quantity}" for quantity in sorted(needs.reference)]
    if needs.scope == "all":
        words.append("rows that the sampler dropped")
    return ", ".join(words) or "rewards and sampled logprobs"


def _provides(part: Differentiable) -> str:
    return ", ".join(sorted(part.provides))


def reference_words(objective: Objective, label: str) -> str:
    """Which quantities a reference is forwarded for, and when."""
    early = objective.reference_quantities(objective.prepare_needs()).get(label, frozenset())
    late = objective.reference_quantities(objective.learn_needs()).get(label, frozenset())
    if not objective.references[label].moves:  # what stays the same is computed once a batch
        early, late = early | (late & {"logprobs"}), late - {"logprobs"}
    stages = (("prepare", early), ("learn", late))
    return "; ".join(f"{', '.join(sorted(found))} in {stage}" for stage, found in stages if found)


def forward_lines(objective: Objective, exact: bool) -> Iterator[str]:
    """What the policy is forwarded for."""
    prepared = sorted(objective.prepare_quantities())
    if prepared:
        yield f"prepare forwards the policy for {', '.join(prepared)}"
    if exact:
        yield "logprobs as sampled are the policy's own (float32, no autocast): an engine that decodes its weights needs no second forward"
    else:
        yield "prepare forwards the policy for logprobs: those sampled in bfloat16 are not exactly the learner's"
    rows = "every rollout drawn" if objective.wants_dropped_rows() else "the rollouts that the sampler keeps"
    yield f"learn forwards {rows}, for {', '.join(sorted(objective.learn_quantities()))}"


def average_rows(resolved: Resolved, objective: Objective) -> list[tuple[str, ...]]:
    """A row for each term of the loss."""
    from rlvr_core.planning.averages import averages

    length = resolved.spec.rollout.max_completion_length
    rows: list[tuple[str, ...]] = []
    for term in averages(objective):
        over = over_words(term, objective.loss_agg_mode, length)
        rows.append(
            (term.part, term.name, f"{term.coef:g}", over)
            if not term.failure
            else (term.part, "?", "?", f"not known before the run ({term.failure})")
        )
    return rows


def over_words(term: Averaged, mode: str, length: int) -> str:
    """A denominator in words."""
    rows = "chosen rollouts" if term.scope == "chosen" else "all rollouts"
    if isinstance(term.over, int | float):
        return f"the constant {term.over:g}"
    agg = {
        "token-mean": f"tokens of {rows}",
        "seq-mean-token-mean": f"the tokens of each rollout, then {rows}",
        "seq-mean-token-sum": f"{rows}; tokens are summed",
        "seq-mean-token-sum-norm": f"{rows} x max_completion_length ({length}); tokens are summed",
    }
    words = {
        "agg": f"{agg[mode]} (loss_agg_mode {mode})",
        "tokens": f"tokens of {rows}",
        "sequences": rows,
        "prompts": "prompts with a chosen rollout",
        "weight": f"credit weights of {rows}",
        "batch": "rollouts drawn, chosen or not",
    }
    return words.get(term.over, f"'{term.over}', a denominator of its own")


def saving_lines(resolved: Resolved) -> Iterator[str]:
    """When and where held-out problems are scored and files are written."""
    spec, output = resolved.spec, resolved.output
    evaluation, checkpoint = spec.evaluation, spec.checkpoint
    if evaluation.problems == 0:
        yield "nothing is evaluated (evaluation.problems is 0)"
    else:
        which = "all held-out problems" if evaluation.problems is None else f"{evaluation.problems} held-out problems at most"
        often = f", every {evaluation.every} steps" if evaluation.every else ""
        drawn = (
            f"{evaluation.samples} completion{'s' if evaluation.samples > 1 else ''} at temperature {evaluation.temperature:g}"
        )
        if evaluation.greedy:
            drawn += " and one at 0"
        yield f"{which} x {drawn}: before step 1{often} and at the end -> {output}/eval"
    yield f"at the start: spec.yaml, manifest.json -> {output}"
    yield f"on the way, to observers: {', '.join(resolved.observers) or 'nobody'}"
    when = f"every {checkpoint.every} steps, the newest {checkpoint.keep} kept," if checkpoint.every else "when interrupted"
    yield f"checkpoint {when} -> {output}/checkpoints"
    yield f"at the end: model, tokenizer, summary.json -> {output}"
    yield from _folder_lines(output)


def _folder_lines(output: str) -> Iterator[str]:
    from rlvr_core import folder

    try:
        folder.check_free(Path(output), overwrite=False)
    except RunFolderError as error:
        yield f"as things stand, refused: {error}"


def show_memory(memory: Memory) -> None:
    """The table, and what it comes to."""
    from rlvr_core.planning.items import gib

    typer.echo("memory of each rank")
    print_table(("what", "size", "while", "how"), [(item.what, gib(item.bytes), item.when, item.how) for item in memory.items])
    learning, rolling = gib(memory.during("learning")), gib(memory.during("rolling out"))
    typer.echo(
        f"in all {learning} while learning, {rolling} while rolling out; {memory.device.name} has {gib(memory.device.bytes)}"
    )
    if memory.unavoidable <= memory.device.bytes < memory.during("learning"):
        typer.echo(
            "likely too much while learning: lower learner.max_tokens_per_microbatch or logprob_chunk_tokens, or checkpoint gradients"
        )
    if memory.unavoidable <= memory.device.bytes < memory.during("rolling out"):
        typer.echo(
            "likely too much while rolling out: lower rollout.engine.max_rows or max_cache_tokens, or rollout.max_completion_length"
        )
