"""One step after another: roll out, score, select, prepare, credit, learn, observe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr_core.clock import Clock
from rlvr_core.events import Event, Notice, StepFinished
from rlvr_core.learner.learner import Learner, When
from rlvr_core.learner.micro import credited
from rlvr_core.learner.prepare import Preparer
from rlvr_core.metrics import batch_metrics, rollout_metrics, time_metrics
from rlvr_core.objective import Objective
from rlvr_core.records import Batch, Credited, Rollout, Sampling, Selection
from rlvr_core.reward.alarm import Alarm
from rlvr_core.rollout.collect import Collected, Roller, collect, shuffled_rewards
from rlvr_core.rollout.prompts import PromptStream
from rlvr_core.spec.model import Spec


@dataclass
class Training:
    """Everything a step uses."""

    spec: Spec
    objective: Objective
    learner: Learner
    preparer: Preparer
    roller: Roller
    prompts: PromptStream
    sampling: Sampling
    clock: Clock
    tell: Callable[[Event], None]
    alarm: Alarm
    first_step: int = 1


class SignalExhausted(Exception):
    """A step brought no signal and the spec says to stop then."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}")
        self.step = step


def train(training: Training, after_step: Callable[[int], bool]) -> int:
    """Steps until the spec's number, or until ``after_step(step)`` says to end. Returns the last step taken."""
    step = training.first_step - 1
    for step in range(training.first_step, training.spec.steps + 1):
        take_step(training, step)
        if after_step(step):
            break
    return step


def take_step(training: Training, step: int) -> None:
    """One step, stage by stage. A step without signal is counted and reported, and moves nothing."""
    spec, clock, learner = training.spec, training.clock, training.learner
    started = clock.now()

    drawn = draw(training, step)
    collected, batch, credit = drawn.collected, drawn.batch, drawn.credit
    metrics: dict[str, Any] = {"step": step, **rollout_metrics(collected), **collected.metrics, **drawn.metrics}
    if batch is not None and credit is not None:
        metrics |= batch_metrics(batch, credit)
        probed = probe(training, collected)
        with clock.timed("learn"):
            metrics |= learner.update(batch, credit, len(collected.scored), When(spec.seed, step))
        metrics |= probed()
    learned = credit is not None
    metrics["learn/skipped"] = float(not learned)
    metrics["learn/learning_rate"] = learner.scheduler.get_last_lr()[0]

    metrics |= time_metrics(clock.take(), clock.now() - started, collected.drawn, batch if learned else None)
    training.tell(StepFinished(step, metrics, shown(collected.drawn)))
    for line in training.alarm.listen(collected.drawn):
        training.tell(Notice(line, "warning"))
    if not learned and spec.rollout.on_empty == "stop":
        raise SignalExhausted(step)
    if not learned and step == 1:
        training.tell(Notice(f"step 1 brought no signal: {no_signal_advice(collected)}", "warning"))


@dataclass(frozen=True)
class Drawn:
    """A step's rollouts, prepared and credited; batch and credit are None where they hold no signal."""

    collected: Collected
    batch: Batch | None
    credit: Credited | None
    metrics: Mapping[str, float]


def draw(training: Training, step: int) -> Drawn:
    """Roll out, select, prepare and credit; under `on_empty: resample` with other prompts until there is a signal."""
    attempts = training.spec.rollout.max_refills if training.spec.rollout.on_empty == "resample" else 0
    first = 0
    for attempt in range(attempts + 1):
        collected = roll_and_select(training, step, first)
        batch, credit, metrics = prepare_and_credit(training, collected)
        if credit is not None or attempt == attempts:
            break
        first += len({r.key.group for r in collected.drawn})
    return Drawn(replace(collected, rounds=collected.rounds + attempt), batch, credit, metrics)


def roll_and_select(training: Training, step: int, first: int) -> Collected:
    """Draw prompts and completions, with as many refills as the sampler asks for and the spec allows. ``first``: prompts drawn before."""
    spec = training.spec

    def roll(number: int, start: int) -> list[Rollout]:
        scored = training.roller.roll(training.prompts.draw(number), step, start, spec.rollout.group_size, training.sampling)
        return shuffled_rewards(scored, spec.seed, step) if spec.control == "shuffled_rewards" else scored

    def select(scored: Sequence[Rollout], round: int) -> Selection:
        with training.clock.timed("select"):
            return training.objective.sampler.select(scored, round)

    return collect(roll, select, spec.rollout.prompts_per_step, spec.rollout.max_refills, first)


def prepare_and_credit(training: Training, collected: Collected) -> tuple[Batch | None, Credited | None, Mapping[str, float]]:
    """Batch and credit, where anything was kept and pushes."""
    if not collected.kept:
        return None, None, {}
    with training.clock.timed("prepare"):
        dropped = dropped_rows(training.objective, collected)
        batch = training.preparer.prepare(collected.kept, dropped, training.learner.version)
        credit, metrics = assign_credit(training.objective, batch, training.learner.version)
    return (batch, credit, metrics) if has_signal(training.objective, credit, batch) else (None, None, metrics)


def probe(training: Training, collected: Collected) -> Callable[[], dict[str, float]]:
    """Measure some dropped rollouts' log-prob now; what is returned measures it again, and gives both."""
    kept = {r.key for r in collected.kept}
    dropped = [r for r in shown(collected.scored) if r.key not in kept][: training.spec.learner.probe_dropped]
    if not dropped:
        return dict
    with training.clock.timed("probe"):
        before = training.preparer.mean_logprob(dropped)

    def again() -> dict[str, float]:
        with training.clock.timed("probe"):
            after = training.preparer.mean_logprob(dropped)
        return {"probe/dropped_logprob_before": before, "probe/dropped_logprob_after": after}

    return again


def dropped_rows(objective: Objective, collected: Collected) -> Sequence[Rollout]:
    """Rollouts that the sampler did not keep, where some part needs them all the same."""
    if not objective.wants_dropped_rows():
        return ()
    kept = {r.key for r in collected.kept}
    return [r for r in collected.scored if r.key not in kept]


def assign_credit(objective: Objective, batch: Batch, version: int) -> tuple[Credited, Mapping[str, float]]:
    """Credit on whole groups, and the correction where a rollout is not exactly the policy's."""
    credit = objective.credit.credit(batch)
    inexact = not all(r.exact and r.policy_version == version for r in batch.rollouts)
    importance = None
    if inexact and objective.correction is not None:
        importance = objective.correction.importance(batch.logprobs, batch.sampling_logprobs, batch.mask)
    return credited(batch, credit, importance), credit.metrics


def has_signal(objective: Objective, credit: Credited, batch: Batch) -> bool:
    """Something pushes: a credit that is not zero, or a regulariser that acts without one."""
    return bool(objective.regularisers) or credit.has_signal(batch)


def shown(scored: Sequence[Rollout]) -> Sequence[Rollout]:
    """A step's rollouts in the order in which a few of them are most telling: one of each group first."""
    return sorted(scored, key=lambda r: (r.key.sample, r.key.prompt))


def no_signal_advice(collected: Collected) -> str:
    """Why a step has no signal, and what to do."""
    if not collected.scored:
        return f"every rollout was dropped, as {collected.dropped[0].dropped}; the scoring section says what each status comes to"
    rewards = {r.reward for r in collected.scored}
    if rewards == {0.0}:
        return "every reward is 0; look at samples.jsonl, then at the prompt, max_completion_length, or an easier task"
    if len(rewards) == 1:
        return "every reward is the same; the task may be too easy, or the reward blind"
    return "no group has rewards that differ; a larger rollout.group_size helps"
