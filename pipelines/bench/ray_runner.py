"""The same jobs on several machines, by Ray (extra `ray`). The only file that imports it.

A task is plain JSON and its output comes back as bytes; the driver writes. A machine that goes away loses nothing: its jobs are run again
elsewhere. The captures must lie at the same path on every machine (a shared disk), and Handful be installed there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...recon.errors import BackendUnavailable, ConfigError
from .isolated import Task, run_task
from .record import JobOutput, failed_record

__all__ = ["run_on_ray"]

RETRIES = 5  # machines that may go away under one job before it counts as failed


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as e:
        raise BackendUnavailable(f"Ray is not installed; install it with: pip install 'handful[ray]' ({e}).") from e
    return ray


def _on_a_node(task: Task) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Runs where Ray says. A fresh process again: its peak memory is the job's, and its threads are what the task was given."""
    output = run_task(task)
    return output.record, output.files


def run_on_ray(tasks: Sequence[Task], address: str, per_node: int, say: Callable[[str, bool], None]) -> Iterator[JobOutput]:
    """Yields outputs as they come.

    Args:
        address: of the cluster, "auto" for the one this machine is part of, "local" for a new one of this machine alone, also beside one that runs.
        per_node: jobs at a time on one machine; they share its cores evenly. Times are not comparable and marked so (`timed_alone`).
    """
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        try:
            dashboard = False if address == "local" else None
            ray.init(address=address, include_dashboard=dashboard, configure_logging=False, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as e:
            raise ConfigError(f"No Ray cluster answers at {address!r} ({str(e).splitlines()[0][:150] if str(e) else type(e).__name__}).") from e
    try:
        yield from _submit(ray, tasks, per_node, say)
    finally:
        if mine:
            ray.shutdown()


def _submit(ray: Any, tasks: Sequence[Task], per_node: int, say: Callable[[str, bool], None]) -> Iterator[JobOutput]:
    nodes = [n["Resources"].get("CPU", 0) for n in ray.nodes() if n["Alive"]]
    cpus = max(1, int(min((n for n in nodes if n >= 1), default=1)) // per_node)
    say(f"{len(tasks)} jobs on {len(nodes)} machine{'s' if len(nodes) != 1 else ''}, {cpus} cores for each job.", True)
    # a lost node is retried by Ray; an exception of the job itself is an answer, not a reason to try again
    remote = ray.remote(num_cpus=cpus, max_retries=RETRIES, retry_exceptions=False)(_on_a_node)
    pending = {remote.remote({**t, "threads": cpus}): t for t in tasks}
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
        for ref in done:
            task = pending.pop(ref)
            try:
                record, files = ray.get(ref)
                yield JobOutput(record, files)
            except ray.exceptions.RayError as e:
                first = str(e).strip().splitlines()
                yield JobOutput(failed_record(task["base"], f"Ray could not run it ({type(e).__name__}: {first[0][:200] if first else ''})."))
