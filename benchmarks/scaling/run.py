"""What a step costs against group size, completion length, model size, and number of rollouts: nothing may grow faster than its work.

    .venv/bin/python benchmarks/scaling/run.py

Whole steps of GRPO, by the very loop of training: a random Qwen2 decodes every completion to the full length (no end token), a made-up
reward is 1 for three of ten, everything is learned from. Each axis varies one thing. Work is counted in floating-point operations: 2 for
each weight of a matrix and token forward, 6 in learning (8 in the head, which is recomputed), and attention's products over what each token
sees. The last axis has next to no model, so what is seen there is the bookkeeping. An exponent is the slope of log seconds over log work
(of "rest", which is all of a step but rollout and learning: over log rollouts): 1 grows as the work does, more grows faster. Cells are
seconds and, in brackets, work, both as multiples of the axis's first row.

On a GPU: 0.5 B (0.1 B to 1.5 B), 8 prompts x 16 x 128 tokens; points go one after the other, as their models would not fit together, and
one that would need more than --most-s seconds a step, had the one before grown as its work, is left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import CLOCKS, SIZES, Table, arguments_of, line, matrices, random_qwen2, release

from rlvr_core.clock import Clock
from rlvr_core.contracts import Reward
from rlvr_core.events import Event, StepFinished
from rlvr_core.loop import Training, take_step
from rlvr_core.objective import build_objective
from rlvr_core.plugins import catalogue
from rlvr_core.policy.handle import LocalPolicy
from rlvr_core.records import Example, Outcome, RewardItem, Sampling
from rlvr_core.reward.alarm import Alarm
from rlvr_core.rollout.collect import Ranks, Roller, WeightedReward
from rlvr_core.rollout.prompts import PromptStream
from rlvr_core.setup import build_learner
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.source import from_mapping

PROMPT = 24
VARIED = {"group size": "group", "completion length": "length", "model": "model"}
STAGES = ("rollout", "learn", "rest")


@dataclass(frozen=True)
class Point:
    """One step's size."""

    model: str
    prompts: int
    group: int
    length: int

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group

    def work(self) -> dict[str, float]:
        """Floating-point operations of each stage; for the rest, rollouts."""
        (body, head), (_, hidden, _, layers, _, _) = matrices(SIZES[self.model]), SIZES[self.model]
        seen = sum(range(PROMPT, PROMPT + self.length))  # columns that a completion's tokens attend to
        attention = 4 * hidden * layers
        whole = PROMPT + self.length
        rollout = self.rollouts * (2 * self.length * (body + head) + attention * seen) + self.prompts * 2 * PROMPT * body
        learn = self.rollouts * (6 * whole * body + 8 * self.length * head + 3 * attention * whole * whole / 2)
        return {"rollout": float(rollout), "learn": float(learn), "rest": float(self.rollouts)}


class ThreeOfTen(Reward):
    """1 for the first three of every ten completions."""

    def score(self, items: Sequence[RewardItem]) -> Sequence[Outcome]:
        return [Outcome(float(number % 10 < 3)) for number in range(len(items))]


def training_at(point: Point, device: str, clock: str, seconds: dict[str, float]) -> Training:
    """A training of this size; each step leaves its seconds by stage in ``seconds``."""
    spec = {
        "steps": 1000,
        "model": {"name": "none"},
        "task": {"name": "arithmetic"},
        "objective": {"name": "grpo"},
        "rollout": {"prompts_per_step": point.prompts, "group_size": point.group, "max_completion_length": point.length},
        "learner": {"max_tokens_per_microbatch": 8192 if device != "cpu" else 2048},
    }
    resolved = resolve(from_mapping(spec, "benchmark"), catalogue())
    policy, stages = random_qwen2(point.model, device), Clock(CLOCKS[clock])
    objective = build_objective(resolved.objective)
    learner, preparer = build_learner(resolved, objective, policy, Accelerator(cpu=device == "cpu"), stages)
    engine = resolved.engine.build()
    engine.start(LocalPolicy(learner, None))  # type: ignore[arg-type]  # without stop strings no tokenizer is asked
    roller = Roller(engine, [WeightedReward("made_up", ThreeOfTen(None), 1.0)], lambda _: "", Ranks(0, 1), stages)
    size = policy.config.vocab_size

    def encode(example: Example) -> tuple[int, ...]:
        draw = torch.Generator().manual_seed(int(example.id))
        return tuple(torch.randint(2, size, (PROMPT,), generator=draw).tolist())

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished):
            seconds.update(by_stage(event.metrics))

    return Training(
        resolved.spec, objective, learner, preparer, roller,
        PromptStream([Example(str(number), "", "") for number in range(4096)], encode, seed=0),
        Sampling(1.0, point.length, (), (), seed=0), stages, tell, Alarm(0.05),
    )  # fmt: skip


def by_stage(metrics: Mapping[str, object]) -> dict[str, float]:
    """Seconds of rollout, of learning, and of everything else in the step."""
    whole, rollout, learn = (float(str(metrics[f"time/{stage}"])) for stage in ("step", "rollout", "learn"))
    return {"rollout": rollout, "learn": learn, "rest": whole - rollout - learn}


def measure(points: Sequence[Point], rounds: int, clock: str, device: str) -> list[dict[str, float]]:
    """Median seconds by stage of a step at each point; points take turns."""
    seconds: list[dict[str, float]] = [{} for _ in points]
    trainings = [training_at(point, device, clock, spent) for point, spent in zip(points, seconds, strict=True)]
    found: list[list[dict[str, float]]] = [[] for _ in points]
    for turn in range(rounds + 1):
        for training, spent, rows in zip(trainings, seconds, found, strict=True):
            take_step(training, turn + 1)
            if turn:  # the first makes the optimizer's state
                rows.append(dict(spent))
    return [{stage: statistics.median(row[stage] for row in rows) for stage in STAGES} for rows in found]


def measure_in_turn(points: Sequence[Point], rounds: int, device: str, most_s: float) -> list[dict[str, float]]:
    """The same point by point, each alone on the device; ends before one that is expected to take longer than ``most_s`` a step."""
    found: list[dict[str, float]] = []
    for number, point in enumerate(points):
        if number and expected_s(point, points[number - 1], found[-1]) > most_s:
            break
        release(device)
        found += measure([point], rounds, "wall", device)
        print(f"{point}: {', '.join(f'{stage} {s:.2f} s' for stage, s in found[-1].items())}", file=sys.stderr, flush=True)
    return found


def expected_s(point: Point, before: Point, seconds: Mapping[str, float]) -> float:
    """Seconds of a step, should each stage grow as its work."""
    return sum(spent * point.work()[stage] / before.work()[stage] for stage, spent in seconds.items())


def exponent(work: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log work."""
    return line([math.log(w) for w in work], [math.log(s) for s in seconds])[1]


def of_attention(points: Sequence[Point], seconds: Sequence[float]) -> str:
    """Whether rollout seconds a token are a line over the columns that a token attends to on average, and the sloping part's share."""
    columns = [PROMPT + (point.length - 1) / 2 for point in points]
    per_token = [spent / (point.rollouts * point.length) for point, spent in zip(points, seconds, strict=True)]
    intercept, slope = line(columns, per_token)
    off = max(abs(t - intercept - slope * c) / t for t, c in zip(per_token, columns, strict=True))
    share = slope * columns[-1] / per_token[-1]
    return f"rollout seconds a token over columns attended are a line (furthest point {off:.0%} off), attention {share:.0%} of the longest"


def value_of(axis: str, point: Point) -> str:
    """What an axis varies."""
    return str(getattr(point, VARIED.get(axis, "rollouts")))


def of_axis(axis: str, points: Sequence[Point], seconds: Sequence[Mapping[str, float]]) -> list[str]:
    """Exponents of an axis whose points were measured, and what its attention costs."""
    if len(points) < 2:
        return []
    work = [point.work() for point in points]
    growing = [s for s in STAGES if work[-1][s] > work[0][s]]
    slopes = (f"{s} {exponent([w[s] for w in work], [spent[s] for spent in seconds]):.2f}" for s in growing)
    notes = [f"{axis}: {', '.join(slopes)}"]
    if axis == "completion length" and len(points) > 2:
        notes.append(of_attention(points, [spent["rollout"] for spent in seconds]))
    return notes


def axes_for(device: str, quick: bool) -> dict[str, list[Point]]:
    """What is varied: name -> points, smallest first."""
    tiny = {"rollouts, next to no model": [Point("tiny", prompts, 8, 16) for prompts in (8, 32, 128, 512)]}
    if quick:
        least = Point("tiny", 2, 2, 4)
        return {"group size": [least, replace(least, group=4)], "completion length": [least, replace(least, length=8)]}
    if device != "cpu":
        least = Point("0.5B", 8, 16, 128)
        models, groups, lengths = ("0.1B", "0.5B", "1.5B"), (16, 32, 64), (128, 512, 1024)
    else:
        least = Point("2M", 4, 8, 32)
        models, groups, lengths = ("0.5M", "2M", "8M", "30M"), (4, 8, 16, 32, 64), (32, 64, 128, 256, 512)
    return {
        "group size": [replace(least, group=group) for group in groups],
        "completion length": [replace(least, length=length) for length in lengths],
        "model": [replace(least, model=model) for model in models],
        **tiny,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each point, and each axis's exponents."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--axis", help="only axes whose name holds this")
    parser.add_argument("--most-s", type=float, default=15.0, help="on a GPU: a step expected to take longer is left out")
    found = arguments_of(__doc__, parser, argv)
    table = Table(["axis", "point", "rollout (its work)", "learn (its work)", "rest (rollouts)", "rest of step"], found.output)
    notes = []
    for axis, points in axes_for(found.device, found.quick).items():
        if found.axis and found.axis not in axis:
            continue
        rounds = 1 if found.quick else found.rounds
        if found.device == "cpu":
            seconds = measure(points, rounds, found.clock, found.device)
        else:
            seconds = measure_in_turn(points, rounds, found.device, found.most_s)
        work = [point.work() for point in points]
        for point, counted, spent in zip(points, work, seconds, strict=False):
            cells = [f"{spent[s] / seconds[0][s]:.1f} ({counted[s] / work[0][s]:.1f})" for s in STAGES]
            table.row(axis, value_of(axis, point), *cells, f"{spent['rest'] / sum(spent.values()):.1%}")
        for point in points[len(seconds) :]:
            table.row(axis, value_of(axis, point), *["not run"] * 4)
        notes += of_axis(axis, points[: len(seconds)], seconds)
    if found.device != "cpu":
        notes.append(f"one {torch.cuda.get_device_name()}")
    table.note(f"Exponents of seconds over work. {'; '.join(notes)}.")


if __name__ == "__main__":
    main()
