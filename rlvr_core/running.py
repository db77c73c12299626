"""A whole run: check everything, open the folder, evaluate, train, evaluate, save."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr_core.errors import RunFolderError, SpecError
from rlvr_core.plugins import catalogue
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.resolved import Resolved
from rlvr_core.spec.source import Source, apply_assignments, from_mapping, read_spec


@dataclass(frozen=True)
class RunResult:
    """Where a run was written, and its summary.json."""

    output: Path
    summary: Mapping[str, Any]


def load(spec: str | Path | Mapping[str, Any] | Resolved, assignments: Iterable[str] = ()) -> Resolved:
    """A spec file or mapping, checked against what is installed. Raises SpecError before anything else happens."""
    assignments = [assignments] if isinstance(assignments, str) else list(assignments)
    if isinstance(spec, Resolved):
        if assignments:
            raise SpecError(
                f"set={assignments}: a spec that is resolved already takes no changes; give the file or mapping it came from"
            )
        return spec
    source: Source = from_mapping(spec) if isinstance(spec, Mapping) else read_spec(spec)
    apply_assignments(source, assignments)
    return resolve(source, catalogue())


def run(
    spec: str | Path | Mapping[str, Any] | Resolved,
    *,
    set: Iterable[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    profile: bool = False,
) -> RunResult:
    """Run a spec: a file, a mapping or a resolved one, with ``path=value`` assignments laid over.

    ``overwrite`` replaces a run that stands in the output folder; ``resume`` goes on from its newest checkpoint;
    ``profile`` writes a trace of a few steps beside it.
    Raises RlvrError (one line: what, where, the way out).
    """
    resolved = load(spec, set)
    output = Path(resolved.output)
    if resume and not (output / "spec.yaml").is_file():
        raise RunFolderError(f"{output} holds no run to resume")
    from rlvr_core import folder

    if resume:
        folder.check_resumable(output)
    else:
        folder.check_free(output, overwrite)
    from rlvr_core.planning.memory import check_fits

    check_fits(resolved)
    return _Run(resolved, output, resume, profile).run()


@dataclass
class _Run:
    """One run in progress."""

    resolved: Resolved
    output: Path
    resume: bool
    profile: bool = False
    started: float = field(default_factory=time.perf_counter)
    evaluations: dict[str, Any] = field(default_factory=dict)
    stop_requested: bool = False
    written: dict[str, str] = field(default_factory=dict)

    def run(self) -> RunResult:
        import torch
        from accelerate import Accelerator
        from transformers.utils.logging import disable_progress_bar

        from rlvr_core import setup
        from rlvr_core.events import Notice

        disable_progress_bar()  # loading a model must not write over our own progress

        # Only where it is told to use CPUs does Accelerate make ranks of processes on them.
        self.accelerator = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
        self.main = self.accelerator.is_main_process
        self.observers = [bound.build() for bound in self.resolved.observers.values()] if self.main else []
        try:
            self.parts = setup.build(self.resolved, self.accelerator, self.tell)
            self.training = self.parts.training
            self._check()
            self._open()
            with self._interruptible():
                return self._train()
        except KeyboardInterrupt:
            done = (
                "nothing was written"
                if not (self.output / "manifest.json").exists()
                else f"what was written stands in {self.output}"
            )
            self.tell(Notice(f"interrupted; {done}", "warning"))
            raise
        finally:
            self._close()

    def tell(self, event: Any) -> None:
        """Pass an event to every observer, on the main process."""
        for observer in self.observers:
            observer.observe(event)

    def _close(self) -> None:
        import torch.distributed

        if hasattr(self, "parts"):
            self.parts.scoring.close()
        for observer in self.observers:
            observer.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _check(self) -> None:
        """What a run checks of itself, and says."""
        from rlvr_core.checks import check_golds, show_rollouts
        from rlvr_core.events import Notice
        from rlvr_core.policy.loading import round_trips

        task, training = self.parts.task, self.training
        for line in self.parts.scoring.ready():
            self.tell(Notice(line, "warning"))
        self.tell(Notice(f"task: {task.describe()}"))
        check_golds(training.roller.rewards, training.prompts.examples, self.tell)
        position = training.prompts.position
        prompts = training.prompts.draw(min(16, len(training.prompts.examples)))
        training.prompts.position = position
        if round_trips(self.parts.tokenizer, prompts[0].text):
            self.tell(Notice("tokenizer: a prompt survives encoding and decoding"))
        else:
            self.tell(Notice("the tokenizer does not give a prompt back as it was; rewards see decoded text", "warning"))
        show_rollouts(training.roller.roll(prompts, 0, 0, 1, training.sampling), self.tell)
        training.clock.take()
        training.clock.total.clear()

    def _open(self) -> None:
        """Open the folder, or take up an interrupted run."""
        from rlvr_core import folder
        from rlvr_core.checkpoint import state
        from rlvr_core.events import RunStarted

        self.accelerator.wait_for_everyone()
        if self.resume:
            loaded = state.load(self.output, self.accelerator.device)
            state.restore(self.training, loaded)
            if self.main:
                for name in (folder.METRICS, folder.SAMPLES):
                    state.drop_rows_after(self.output / name, loaded["step"])
            before = self.output / "eval" / "before.json"
            if before.is_file():
                self.evaluations["before"] = json.loads(before.read_text(encoding="utf-8"))
        elif self.main:
            folder.create(self.output, self.resolved, catalogue(), folder.command_line())
        self.accelerator.wait_for_everyone()
        self.tell(RunStarted(self.output, self.resolved.spec.steps, self.training.first_step, self.resolved.as_dict()))

    def _train(self) -> RunResult:
        from rlvr_core import folder
        from rlvr_core.loop import SignalExhausted, train
        from rlvr_core.profiling import traced

        status = "finished"
        last = self.training.first_step - 1
        try:
            if not self.resume:
                self.evaluate("before", 0)
            trace = self.output / folder.TRACE if self.profile and self.main else None
            with traced(trace, self.resolved.spec.steps - last) as stepped:
                last = train(self.training, lambda step: self.after_step(step, stepped))
            if self.stop_requested and last < self.resolved.spec.steps:
                status = f"interrupted after step {last}"
        except SignalExhausted as empty:
            last = empty.step
            status = "stopped: a step brought no signal (rollout.on_empty: stop)"
        if status == "finished":
            self.evaluate("after", last)
        elif self.stop_requested:
            self.save_checkpoint(last)
        return self._finish(status, last)

    def after_step(self, step: int, stepped: Callable[[], None]) -> bool:
        """Evaluate and save on schedule. True: every rank agrees to stop here."""
        stepped()
        spec = self.resolved.spec
        final = step == spec.steps
        if spec.evaluation.every and step % spec.evaluation.every == 0 and not final:
            self.evaluate(f"step {step}", step)
        self.stop_requested = self._any_rank(self.stop_requested)
        if spec.checkpoint.every and step % spec.checkpoint.every == 0 and not self.stop_requested:
            self.save_checkpoint(step)
        return self.stop_requested

    def _any_rank(self, flag: bool) -> bool:
        import torch

        if self.accelerator.num_processes == 1:
            return flag
        votes = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum")
        return bool(votes > 0)

    def evaluate(self, when: str, step: int) -> None:
        """Score the held-out problems, where there are any."""
        from rlvr_core import folder
        from rlvr_core.evaluation.evaluate import evaluate
        from rlvr_core.events import Evaluated

        if not self.parts.held_out:
            return
        with self.training.clock.timed("eval"):
            found = evaluate(self.training.roller, self.parts.held_out, self.parts.evaluation)
        if self.main:
            name = when.replace(" ", "-")
            folder.write_rollouts(self.output / "eval" / f"{name}.jsonl", found.rollouts)
            folder.write_json(self.output / "eval" / f"{name}.json", found.figures)
        self.evaluations[when] = found.figures
        self.tell(Evaluated(when, step, found.figures))

    def save_checkpoint(self, step: int) -> None:
        """Everything a resume needs."""
        from rlvr_core.checkpoint import state
        from rlvr_core.events import Saved

        if self.main:
            with self.training.clock.timed("checkpoint"):
                path = state.save(self.output, self.training, step, self.resolved.spec.checkpoint.keep)
            self.written["checkpoint"] = str(path)
            self.tell(Saved(path, step))
        self.accelerator.wait_for_everyone()

    def _finish(self, status: str, last: int) -> RunResult:
        """Model and summary; what every end of a run has in common."""
        from rlvr_core import folder
        from rlvr_core.events import RunFinished
        from rlvr_core.policy.loading import save_model

        spec = self.resolved.spec
        summary: dict[str, Any] = {
            "objective": self.resolved.objective.name,
            "task": self.resolved.task.component.name,
            "model": spec.model.name,
            "seed": spec.seed,
            "steps": last,
            "optimizer_steps": self.training.learner.version,
            "status": status,
            "ranks": self.accelerator.num_processes,
            "wall_s": round(time.perf_counter() - self.started, 3),
            "seconds": self._seconds(),
            "eval": self.evaluations,
        }
        if self.main:
            save_model(self.training.learner.root.policy, self.parts.tokenizer, self.output / folder.MODEL)
            for name in (
                folder.MODEL,
                folder.SUMMARY,
                folder.METRICS,
                folder.SAMPLES,
                folder.TRACE,
                "eval",
                folder.SPEC,
                folder.MANIFEST,
            ):
                if (self.output / name).exists() or name == folder.SUMMARY:
                    self.written[name.split(".")[0]] = str(self.output / name)
            summary["written"] = dict(self.written)
            folder.write_json(self.output / folder.SUMMARY, summary)
        self.accelerator.wait_for_everyone()
        self.tell(RunFinished(self.output, summary))
        return RunResult(self.output, summary)

    def _seconds(self) -> dict[str, float]:
        """Where the run's time went, by stage; ``other``: everything else, loading and writing the model too."""
        clock = self.training.clock
        clock.take()
        spent = {stage: round(seconds, 3) for stage, seconds in sorted(clock.total.items())}
        return {**spent, "other": round(time.perf_counter() - self.started - sum(clock.total.values()), 3)}

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the run after its step; the second ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous: dict[signal.Signals, Any] = {}

        def ask(number: int, _frame: Any) -> None:
            from rlvr_core.events import Notice

            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            self.tell(Notice("stopping after this step, then saving; once more to stop at once"))

        for which in (signal.SIGINT, signal.SIGTERM):
            previous[which] = signal.signal(which, ask)
        try:
            yield
        finally:
            for which, handler in previous.items():
                signal.signal(which, handler)
