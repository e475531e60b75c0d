"""The process one job runs in: `python -m handful.pipelines.bench.worker FOLDER`. Its peak memory is the job's own, and its crash nobody else's.

FOLDER holds job.json; record.json and files/ are written there, or error.txt with one sentence. Progress goes to stdout, a line each. When
the process that started it goes away, its standard input ends, and it goes too: an orphan would slow down whatever is timed next.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from ...recon.errors import HandfulError
from ..config import from_jsonable
from ..events import Event, StageProgress, StepDone, Warned
from .plan import Job

__all__ = ["main"]

EVERY = 1.0  # seconds between two progress lines


def main(argv: list[str] | None = None) -> int:
    folder = Path((sys.argv[1:] if argv is None else argv)[0])
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    logging.getLogger("handful").addHandler(logging.NullHandler())
    task = json.loads((folder / "job.json").read_text())
    job = from_jsonable(Job, task["job"], "job")
    try:
        from .work import perform

        output = perform(job, task["identity"], task["alone"], _Lines())
    except HandfulError as e:
        (folder / "error.txt").write_text(str(e))
        return 2
    except MemoryError:
        (folder / "error.txt").write_text("There is not enough memory for this job; make its photos smaller, or run fewer at a time.")
        return 2
    for name, data in output.files.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "record.json").write_text(json.dumps(output.record, allow_nan=False))
    return 0


class _Lines:
    """Events as lines, now and then."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, event: Event) -> None:
        text = None
        if isinstance(event, StepDone):
            text = f"optimising {event.step}/{event.steps}" + (f", {event.psnr:.1f} dB" if event.psnr is not None else "")
        elif isinstance(event, StageProgress):
            text = event.what
        elif isinstance(event, Warned):
            text = event.text
        if text is not None and time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            print(text, flush=True)


def _leave_with_parent() -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
