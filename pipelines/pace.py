"""What every run does the same way: steps as events, a time limit, a stop from elsewhere, and where it stood when it goes on."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from .events import Event, Finished, StepDone

__all__ = ["REPORT_EVERY", "Paced"]

REPORT_EVERY = 20  # steps between two readings of loss and PSNR: reading a tensor waits for the device
# with a time limit: every so many steps are timed and the end refitted, sooner where they took this share of the limit; the first after a (re)start are slower
REFIT_EVERY, REFIT_SHARE, WARM_UP = 20, 0.1, 10


class Paced(ABC):
    """A run of `planned` steps, fewer where `max_seconds` do not allow them."""

    def __init__(self, planned: int, max_seconds: float | None) -> None:
        self.planned, self.max_seconds = planned, max_seconds
        self.step, self.steps, self.elapsed = 0, planned, 0.0
        self._rested = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._readings: list[tuple[float, float]] = []

    @property
    @abstractmethod
    def size(self) -> int:
        """How many Gaussians there are; 0 where it is a field that learns."""

    @abstractmethod
    def _one_step(self) -> None:
        """Works, and counts `step` up."""

    def events(self) -> Iterator[Event]:
        """One per step; the caller may take its time between two of them, and says so by `rest` when it does not count."""
        self._rested = 0.0
        began, first = time.monotonic() - self.elapsed, self.step
        timed, timed_at = self.step, self.elapsed
        while self.step < self.steps and not self._stop.is_set():
            with self._lock:
                self._one_step()
            self.elapsed = time.monotonic() - began - self._rested
            if self.max_seconds is not None:
                count, taken = self.step - timed, self.elapsed - timed_at
                slow_start = self.step == first + 1 and taken < self.max_seconds / 2  # tells nothing of the steps to come
                due = count >= REFIT_EVERY or taken > REFIT_SHARE * self.max_seconds or self.step == self.steps
                if due and not slow_start:
                    self._fit_to_time(taken / count)
                if due or slow_start or self.step == first + WARM_UP:
                    timed, timed_at = self.step, self.elapsed
            loss, fit = self._readings[-1] if self._readings else (None, None)
            yield StepDone(self.step, self.steps, self.size, self.elapsed, loss, fit)
        yield Finished(self.step, self.elapsed, early=self.step < self.steps, limited=self.steps < self.planned)

    def stop(self) -> None:
        self._stop.set()

    def rest(self, seconds: float) -> None:
        """So long nothing was to be done: it counts neither as time taken nor towards a time limit."""
        self._rested += seconds

    @property
    def due_to_report(self) -> bool:
        return self.step % REPORT_EVERY == 0 or self.step == self.steps

    def pace(self) -> dict[str, Any]:
        """Where it stands, for a checkpoint."""
        return {"step": self.step, "steps": self.steps, "elapsed": self.elapsed, "max_seconds": self.max_seconds}

    def restore_pace(self, meta: dict[str, Any]) -> None:
        """Raises KeyError for what `pace` did not say."""
        self.step, self.elapsed = meta["step"], meta["elapsed"]
        # a limit that was raised or lifted lets a run go on that had ended within the old one
        self.steps = meta["steps"] if meta.get("max_seconds") == self.max_seconds else max(self.step, self.planned)

    def _fit_to_time(self, per_step: float) -> None:
        """Turns the time limit into a number of steps, so that the schedule ends where the time ends."""
        assert self.max_seconds is not None
        affordable = self.step + int((self.max_seconds - self.elapsed) / per_step)
        self.steps = max(self.step, min(self.planned, affordable))
