"""Runs a plan's jobs: skips what is done, one at a time with all cores (or several at a time, untimed), each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...recon.errors import ConfigError, HandfulError
from ..evaluate import available_lpips
from .isolated import Task, run_task, task_of
from .material import load_material, photo_digests
from .plan import Plan
from .record import JobOutput
from .store import claim_folder, keep, read_done, read_listed, write_list, write_summary
from .work import base_record, origin_now

__all__ = ["Outcome", "Progress", "cores", "run_plan"]

Progress = Callable[[str, bool], None]  # a sentence, and whether it stays (a finished job) or is replaced by the next


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `troubles`: one sentence for each job, or whole place, that could not be done."""

    done: int
    skipped: int
    troubles: tuple[str, ...]


def cores() -> int:
    """Cores this process may use; fewer when OMP_NUM_THREADS says so."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(count, int(asked))) if asked.isdigit() and int(asked) > 0 else count


def run_plan(plan: Plan, out: Path, command: str, say: Progress, at_a_time: int = 1, ray_address: str | None = None) -> Outcome:
    """Does every job of the plan that is not done yet, and writes the report's data.

    Raises ConfigError when nothing of the plan can be done. A job that fails is recorded with its sentence and tried again by the next run.
    """
    if at_a_time < 1:
        raise ConfigError(f"--jobs must be at least 1, got {at_a_time}.")
    bases, jobs, measurable, troubles, origin = [], [], [], [], origin_now()
    for place in plan.places:
        say(f"reading {place.title}", False)
        try:
            material = load_material(place)
            digests = photo_digests(material)
        except HandfulError as e:
            troubles.append(f"{place.title}: {place.plain(str(e))}")
            say(f"Left out: {troubles[-1]}", True)  # now: the others may take hours
            continue
        here = tuple(available_lpips(material.protocol, size=material.capture.views[0].image.size)[0])
        for job in plan.jobs(place):
            jobs.append(job)
            bases.append(base_record(job, material, digests, origin))
            measurable.append(() if ray_address is not None else here)  # what other machines have is not known here
    if not jobs:
        raise ConfigError(troubles[0])
    _refuse_twins(bases)
    with claim_folder(out):
        write_list(out, _listing(plan, command, bases, troubles))
        todo = [i for i, base in enumerate(bases) if read_done(out, base["name"], base["identity"], measurable[i]) is None]
        kept = [i for i in todo if read_done(out, bases[i]["name"], bases[i]["identity"]) is not None]
        if kept:
            say(f"{len(kept)} jobs that are done are done again: a metric they lack ({', '.join(measurable[kept[0]])}) can be measured now.", True)
        skipped = len(jobs) - len(todo)
        if skipped:
            say(f"{skipped} of {len(jobs)} jobs are done already.", True)
        alone, threads = at_a_time == 1 and ray_address is None, max(1, cores() // at_a_time)
        tasks = [task_of(jobs[i], bases[i], alone, threads) for i in todo]
        failed = 0
        for count, output in enumerate(_outputs(tasks, out, at_a_time, ray_address, say), 1):
            if output.record["status"] != "failed" or read_done(out, output.record["name"], output.record["identity"]) is None:
                keep(out, output)
            write_summary(read_listed(out))  # each time: a run that is stopped leaves a summary of what it did
            record = output.record
            if record["status"] == "failed":
                failed += 1
                troubles.append(f"{record['name']}: {record['error']}")
            say(f"[{count + skipped}/{len(jobs)}] {record['name']}: {_result(record)}", True)
        write_summary(read_listed(out))
    return Outcome(len(todo) - failed, skipped, tuple(troubles))


def _refuse_twins(bases: Sequence[dict[str, Any]]) -> None:
    """Tables tell runs apart by protocol, scene, method and seed: two places that read alike there would be pooled as repetitions of one."""
    seen: set[tuple[str, str, str, int]] = set()
    for base in bases:
        protocol, scene = base["protocol"]["id"], base["protocol"]["scene"]
        key = (protocol, scene, base["label"], base["seed"])
        if key in seen:
            raise ConfigError(
                f"The benchmark's file has {scene} with {protocol} twice (two folders of one name, or one at two sizes); "
                "tables could not tell them apart, so put the second into a file of its own."
            )
        seen.add(key)


def _outputs(tasks: Sequence[Task], out: Path, at_a_time: int, ray_address: str | None, say: Progress) -> Iterator[JobOutput]:
    if not tasks:
        return
    if ray_address is not None:
        from .ray_runner import run_on_ray

        yield from run_on_ray(tasks, ray_address, at_a_time, say)
        return
    scratch = out / "running"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed; the folder is ours alone now
    scratch.mkdir()
    try:
        yield from _local(tasks, scratch, at_a_time, say)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _local(tasks: Sequence[Task], scratch: Path, at_a_time: int, say: Progress) -> Iterator[JobOutput]:
    """A thread per job at work waits for its process. What is finished is handed out before the next starts when one runs at a time: keeping it, and
    whatever the caller does with it, must not overlap what is timed."""
    lock, started, stopped = threading.Lock(), [], threading.Event()

    def start(process: subprocess.Popen[str]) -> None:
        started.append(process)
        if stopped.is_set():
            process.kill()

    def work(task: Task) -> JobOutput:
        def line(text: str) -> None:
            with lock:
                say(f"{task['base']['name']}: {text}", False)

        return run_task(task, scratch, line, start)

    if at_a_time == 1:
        yield from map(work, tasks)
        return
    with ThreadPoolExecutor(at_a_time) as pool:
        pending = {pool.submit(work, t) for t in tasks}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:  # Ctrl-C, or a disk that is full: do not wait for hours of work that nobody will keep
            stopped.set()
            for future in pending:
                future.cancel()
            for process in started:
                process.kill()


def _listing(plan: Plan, command: str, bases: Sequence[dict[str, Any]], troubles: Sequence[str]) -> dict[str, Any]:
    return {
        "version": 1,
        "kind": "benchmark",
        "title": plan.file.title or plan.name.rsplit(".", 1)[0],
        "file": plan.name,
        "text": plan.text,
        "notes": list(plan.file.notes),
        "command": command,
        "labels": [m.label for m in plan.methods],
        "left_out": list(troubles),
        "jobs": [{"name": b["name"], "identity": b["identity"]} for b in bases],
    }


def _result(record: dict[str, Any]) -> str:
    if record["status"] == "failed":
        return f"failed: {record['error']}"
    scores, t = record["scores"], record["training"]
    if scores is None:
        return f"{len(record['submission'])} pictures to submit"
    lpips = "" if scores["lpips_vgg"] is None else f", LPIPS {scores['lpips_vgg']:.3f}"
    time = f", {t['seconds']:.0f} s" if t["timed_alone"] else ""
    return f"PSNR {scores['psnr']:.2f}, SSIM {scores['ssim']:.3f}{lpips}{time}, {t['peak_memory_mb']:.0f} MB"
