"""One job in a fresh process, on whichever machine this is called: the same for the local runner and for Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import from_jsonable, to_jsonable
from .plan import Job, Place
from .record import JobOutput, failed_record

__all__ = ["Task", "run_task", "task_of"]

Task = dict[str, Any]  # plain JSON, so that it can go to another machine


def task_of(job: Job, base: dict[str, Any], alone: bool, threads: int) -> Task:
    """`base`: the job's record as far as it is known (work.base_record)."""
    return {"job": to_jsonable(job), "identity": base["identity"], "alone": alone, "threads": threads, "base": base}


def run_task(
    task: Task,
    scratch: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    on_start: Callable[[subprocess.Popen[str]], None] | None = None,
) -> JobOutput:
    """Runs the worker process and collects what it left. A job that fails, in whatever way, gives a failed record.

    Args:
        scratch: folder for its files, which go again; None = the system's own.
        on_line: gets each line of progress.
        on_start: gets the process, to kill it from elsewhere.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="job-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(task))
        threads = str(task["threads"])
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        module = f"{__package__}.worker"
        with open(folder / "errors.txt", "wb") as errors:
            process = subprocess.Popen([sys.executable, "-m", module, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env, text=True)
        try:
            if on_start is not None:
                on_start(process)
            assert process.stdout is not None
            for line in process.stdout:
                if on_line is not None:
                    on_line(line.rstrip())
            code = process.wait()
        finally:  # an interrupted driver leaves nobody behind
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        if code == 0:
            return _collect(folder)
        why = from_jsonable(Place, task["job"]["place"], "place").plain(_why(folder, code))
        return JobOutput(failed_record(task["base"], why))


def _collect(folder: Path) -> JobOutput:
    files = {p.relative_to(folder / "files").as_posix(): p.read_bytes() for p in sorted((folder / "files").rglob("*")) if p.is_file()}
    return JobOutput(json.loads((folder / "record.json").read_text()), files)


def _why(folder: Path, code: int) -> str:
    said = folder / "error.txt"
    if said.is_file():
        return said.read_text()
    if code == -9:
        return "The job's process was killed, perhaps because memory ran out; make its photos smaller, or run fewer jobs at a time."
    lines = [line for line in (folder / "errors.txt").read_text(errors="replace").splitlines() if line.strip()]
    return f"The job's process ended with code {code}" + (f": {lines[-1].strip()[:300]}" if lines else "") + "."
