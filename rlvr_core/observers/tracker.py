"""Metrics to an experiment tracker, through Accelerate."""

from __future__ import annotations

from typing import Any

from rlvr_core.contracts import Observer
from rlvr_core.errors import SpecError
from rlvr_core.events import Evaluated, Event, RunFinished, RunStarted, StepFinished


class Tracker(Observer):
    """Forwards numbers to a tracker that Accelerate knows."""

    tracker: Any = None

    def observe(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, StepFinished):
            self.tracker.log({k: v for k, v in event.metrics.items() if isinstance(v, int | float)}, step=event.step)
        elif isinstance(event, Evaluated):
            self.tracker.log({f"eval/{k}": v for k, v in event.result.items()}, step=event.step)
        elif isinstance(event, RunFinished):
            self.tracker.finish()

    def _start(self, event: RunStarted) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[self.options.tracker]
        try:
            arguments = (self.options.project, str(event.output)) if kind.requires_logging_directory else (self.options.project,)
            self.tracker = kind(*arguments)
            if hasattr(self.tracker, "start"):
                self.tracker.start()
        except ImportError as error:
            raise SpecError(
                f"observers: tracker '{self.options.tracker}' needs its package: pip install {self.options.tracker} ({error})"
            ) from error
