"""A thread that does the newest job it was given and forgets the older ones: how slow work stays out of a fast caller's way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["NewestWins"]

_log = logging.getLogger(__name__)


class NewestWins:
    """`submit` returns at once; of the jobs that wait only the last is done. A job that raises is logged, never fatal."""

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._job: Callable[[], None] | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """A job is under way or waits."""
        with self._condition:
            return self._busy or self._job is not None

    def submit(self, job: Callable[[], None]) -> None:
        with self._condition:
            self._job = job
            self._condition.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing is left to do; False when that took longer than `timeout` seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self._closed or not (self._busy or self._job is not None), timeout)

    def close(self) -> None:
        """Ends after the job under way; what waits is dropped."""
        with self._condition:
            self._closed, self._job = True, None
            self._condition.notify_all()
        self._thread.join(timeout=5)

    def _loop(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._job is not None)
                if self._closed or self._job is None:
                    return
                job, self._job, self._busy = self._job, None, True
            try:
                job()
            except Exception:  # the page may be closing, or a message may not go out: the caller's work must not end for that
                _log.exception("the viewer could not update")
            finally:
                with self._condition:
                    self._busy = False
                    self._condition.notify_all()
