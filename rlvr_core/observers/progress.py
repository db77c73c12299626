"""What a user watches: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from rlvr_core.contracts import Observer
from rlvr_core.events import Evaluated, Event, Notice, RunFinished, RunStarted, Saved, StepFinished


def step_words(metrics: Mapping[str, Any], evaluated: float | None) -> str:
    """A step's figures in a few words."""
    words = [f"reward {metrics['reward/mean']:.3f}", f"kept {metrics['select/kept']:.0f}/{metrics['select/scored']:.0f}"]
    if evaluated is not None:
        words.append(f"eval {evaluated:.3f}")
    words.append(f"{metrics['time/tokens_per_second']:.0f} tok/s")
    return "  ".join(words)


def headline(figures: Mapping[str, Any]) -> list[str]:
    """The figures of an evaluation that people publish: those with an interval (avg@n is pass@1, so it is left out)."""
    return [name for name in figures if f"{name}_low" in figures and not name.startswith("avg@")]


class Progress(Observer):
    """Shows step, reward, positives, evaluation, speed and time left; a table at the end."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar: Bar | None = None
        self.task = TaskID(0)
        self.evaluated: float | None = None
        self.steps = 0
        self.started = 0.0
        self.first_step = 1

    def observe(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case StepFinished():
                self._step(event)
            case Evaluated():
                self.evaluated = float(event.result["pass@1"])
                self._say(f"eval {event.when}: pass@1 {self.evaluated:.3f} on {event.result['n']} problems")
            case Saved():
                self._say(f"saved {event.path}")
            case Notice():
                self._say(f"{'warning: ' if event.level == 'warning' else ''}{event.message}")
            case RunFinished():
                self._finish(event)

    def _start(self, event: RunStarted) -> None:
        self.steps, self.first_step, self.started = event.steps, event.first_step, time.perf_counter()
        if self.console.is_terminal:
            self.bar = Bar(
                *(TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=24)),
                *(TextColumn("{task.fields[words]}"), TimeRemainingColumn()),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("", total=event.steps, completed=event.first_step - 1, words="")
            self.bar.start()

    def _step(self, event: StepFinished) -> None:
        words = step_words(event.metrics, self.evaluated)
        if self.bar is not None:
            self.bar.update(self.task, completed=event.step, words=words)
        elif event.step % self.options.every == 0 or event.step == self.steps:
            left = (time.perf_counter() - self.started) / (event.step - self.first_step + 1) * (self.steps - event.step)
            self._say(f"step {event.step}/{self.steps}  {words}  {left:.0f} s left")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)
        sys.stdout.flush()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _finish(self, event: RunFinished) -> None:
        self.close()
        summary = event.summary
        evaluation = summary.get("eval") or {}
        if evaluation:
            table = Table("", *evaluation)
            for figure in (*headline(next(iter(evaluation.values()))), "reward", "completion_length", "truncated", "n"):
                cells = [result.get(figure) for result in evaluation.values()]
                table.add_row(figure, *("" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells))
            self.console.print(table)
        self._say(f"{summary['steps']} steps of {summary['objective']} in {summary['wall_s']:.0f} s; {summary['status']}")
        for name, path in summary["written"].items():
            self._say(f"  {name:<14}{path}")
