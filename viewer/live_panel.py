"""The training on the page: its curves, and pause, one step, stop. No viser import here but for its plot's options."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["LivePanel"]

POINTS = 400  # of a curve; more are thinned
PLOT_INTERVAL = 3.0  # seconds between two drawings of the curves


class LivePanel:
    """Shown while something trains. The training calls `gate` after every step: it returns at once, or when a paused run may go on."""

    def __init__(self, gui: Any, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._go = threading.Event()
        self._go.set()
        self._one = threading.Semaphore(0)  # steps to be let through
        self._lock = threading.Lock()
        self._readings: list[tuple[float, float, float]] = []
        self._next_plot = 0.0
        self.stopped = False
        empty = np.array([0.0, 1.0])
        with gui.add_folder("Training", visible=False) as self._folder:
            self._plots = [self._plot(gui, title, color, empty) for title, color in (("PSNR of the photos, dB", "#eb8c3c"), ("loss", "#5096f0"))]
            self._pause = gui.add_button("Pause", hint="Holds the training; the scene can be looked at meanwhile.")
            self._step = gui.add_button("One step", visible=False)
            self._stop = gui.add_button("Stop and save", hint="Ends the training now; what is there is written as the result.")
        self._pause.on_click(lambda _: self.pause(self._go.is_set()))
        self._step.on_click(lambda _: self._one.release() if self.paused else None)
        self._stop.on_click(lambda _: self.stop())

    @property
    def paused(self) -> bool:
        return not self._go.is_set()

    def pause(self, hold: bool) -> None:
        while self._one.acquire(blocking=False):  # clicks of an earlier pause
            pass
        (self._go.clear if hold else self._go.set)()
        self._pause.label = "Go on" if hold else "Pause"
        self._step.visible = hold

    def stop(self) -> None:
        self.stopped = True
        self._on_stop()
        self.pause(False)

    def stop_waiting(self) -> None:
        """The page closes: nothing is held any more."""
        self._go.set()

    def gate(self, ended: Callable[[], bool] = lambda: False) -> float:
        """Waits while the run is paused and has not `ended` (one step is let through for each click); returns the seconds that took."""
        if self._go.is_set():
            return 0.0
        began = time.monotonic()
        while not self._go.wait(0.05) and not ended():
            if self._one.acquire(blocking=False):
                break
        return time.monotonic() - began

    def read(self, step: int, loss: float | None, psnr: float | None) -> None:
        """One reading; the curves follow every few seconds."""
        with self._lock:
            if loss is not None and psnr is not None and (not self._readings or self._readings[-1][1:] != (psnr, loss)):
                self._readings.append((float(step), psnr, loss))
            self._folder.visible = True
            if time.monotonic() >= self._next_plot and len(self._readings) >= 2:
                self._draw()

    def end(self) -> None:
        """The curves to the end, the buttons gone."""
        with self._lock:
            if len(self._readings) >= 2:
                self._draw()
            for button in (self._pause, self._step, self._stop):
                button.visible = False

    def _draw(self) -> None:
        self._next_plot = time.monotonic() + PLOT_INTERVAL
        rows = np.array(self._readings[:: max(1, len(self._readings) // POINTS)] + self._readings[-1:])
        for i, plot in enumerate(self._plots):
            plot.data = (rows[:, 0], rows[:, i + 1])
            plot.visible = True

    def _plot(self, gui: Any, title: str, color: str, empty: np.ndarray) -> Any:
        series = ({"label": "step"}, {"label": title, "stroke": color, "width": 2})
        return gui.add_uplot((empty, empty), series, title=title, height=130, scales={"x": {"time": False}}, legend={"show": False}, visible=False)
