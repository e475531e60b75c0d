"""One job, in this process: trains, scores, draws. Nothing is written here: what comes out is plain data."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ...data.image_io import encode_jpeg, encode_png
from ...recon.colormap import colorize_depth
from ...recon.errors import CaptureError
from ...recon.field.scene import FieldScene
from ...recon.scene import SplatScene
from ..blame import error_shares, regions, training_depths
from ..config import to_jsonable
from ..evaluate import EvalReport, evaluate_scene, held_out
from ..events import Event, StepDone
from ..protocols import spaced
from ..report import error_map
from ..results import METRICS, commit, machine, versions
from ..trial import Trial, torch_device, train_trial
from .material import Material, identity, job_name, load_material, photo_digests
from .plan import Job
from .record import JobOutput

__all__ = ["base_record", "origin_now", "perform"]

CURVE_POINTS = 200


def origin_now() -> dict[str, Any]:
    """Where this is computed: code, machine, versions."""
    return {"commit": commit(), "machine": machine(), "versions": versions()}


def base_record(job: Job, material: Material, digests: dict[str, str], origin: dict[str, Any]) -> dict[str, Any]:
    """What is known of a job before it is done."""
    p, digest = job.place, identity(job, material, digests)
    return {
        "version": 1,
        "kind": "benchmark job",
        "name": job_name(job, material, digest),
        "identity": digest,
        "label": job.method.label,
        "method": job.method.method,
        "settings": to_jsonable(job.method.settings),
        "place": {k: v for k, v in to_jsonable(p).items() if k != "path"},  # where somebody keeps their data is not part of a result
        "seed": job.seed,
        "device": job.device,
        "protocol": to_jsonable(material.protocol),
        "photos": digests,
        **origin,
    }


def perform(job: Job, expected: str, alone: bool, on_event: Callable[[Event], None] | None = None) -> JobOutput:
    """Does the job.

    Args:
        expected: its identity when it was planned. Raises CaptureError when photos or protocol have changed since.
        alone: nothing else of this benchmark runs meanwhile.
    """
    material = load_material(job.place)
    record = base_record(job, material, photo_digests(material), origin_now())
    if record["identity"] != expected:
        raise CaptureError(f"The photos or settings of {record['name']} are not those it was planned with; run the command again.")
    watch = _Watch(on_event)
    device = torch_device(job.device)
    trial = train_trial(material.capture, material.protocol, job.method.settings, job.seed, device, watch.see, watch.stop)
    training = {
        "seconds": round(trial.seconds, 3),
        "timed_alone": alone,
        "other_cores": watch.other_cores,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": watch.peak_memory_mb,
        "peak_gpu_mb": watch.peak_gpu_mb,
        "gaussians": len(trial.scene.gaussians) if isinstance(trial.scene, SplatScene) else 0,
        "parameters": trial.scene.field.parameters if isinstance(trial.scene, FieldScene) else 0,
        "curve": watch.curve(),
    }
    files: dict[str, bytes] = {}
    report, drawn = _score(trial, material)
    return JobOutput(
        {
            **record,
            "status": "done",
            "error": None,
            "scores": None if report is None else {m: report.mean(m) for m in METRICS},
            "views": [] if report is None else to_jsonable(report.views),
            "training": training,
            "pictures": _pictures(record["name"], report, drawn, job.pictures, files),
            "submission": _submission(record, trial, material, files),
            "notes": list(trial.notes) + list(report.notes if report is not None else ("The data set keeps its test photos to itself: nothing is scored here.",)),
            "blame": _blame(trial, material, report, drawn),
        },
        files,
    )


def _score(trial: Trial, material: Material) -> tuple[EvalReport | None, list[tuple[Tensor, Tensor]]]:
    """Scores, and depth and opacity of each test view. None where there are no photos to score against."""
    test = material.protocol.test
    if material.hidden is not None and not set(test) <= set(material.capture.names):
        return None, []
    drawn: list[tuple[Tensor, Tensor]] = []

    def render(cameras: Any) -> Tensor:
        out = trial.scene.render(cameras)  # views come in the protocol's order, one at a time
        drawn.append((out.depth[0].cpu(), out.alpha[0].cpu()))
        return out.color

    return evaluate_scene(render, material.capture, material.protocol, trial.cameras), drawn


def _blame(trial: Trial, material: Material, report: EvalReport | None, drawn: list[tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    if report is None or report.pictures is None:
        return []
    cameras = trial.cameras if trial.cameras is not None else held_out(material.capture, material.protocol).cameras
    assert cameras is not None, "held_out demands cameras"
    training, shown, pictures = trial.scene.cameras.to("cpu"), training_depths(trial.scene), report.pictures
    depth = [replace(d, valid=d.valid.cpu()) for d in trial.depth]
    out = []
    for i, (z, _) in enumerate(drawn):
        parts = regions(cameras[i].to("cpu", torch.float32), z, training, shown, depth)
        mask = None if pictures.masks is None else pictures.masks[i].cpu()
        out.append({"view": report.views[i].name, **error_shares(parts, pictures.renders[i].cpu(), pictures.truths[i].cpu(), mask)})
    return out


def _pictures(name: str, report: EvalReport | None, drawn: list[tuple[Tensor, Tensor]], most: int, files: dict[str, bytes]) -> list[dict[str, str]]:
    """Adds pictures to `files` and lists them: the worst view, and others evenly spaced. Truths are named by their content, so that all methods and seeds
    share one file."""
    if report is None or report.pictures is None or not most:
        return []
    worst = min(range(len(drawn)), key=lambda i: report.views[i].psnr)
    out = []
    for i in sorted({worst, *(spaced(len(drawn), min(most - 1, len(drawn))) if most > 1 else ())}):
        depth = colorize_depth(drawn[i][0], alpha=drawn[i][1])
        view, render, truth = report.views[i].name, report.pictures.renders[i].cpu(), report.pictures.truths[i].cpu()
        stem = re.sub(r"[^A-Za-z0-9]+", "-", str(PurePosixPath(view).with_suffix(""))).strip("-") or "view"
        photo = encode_png(truth)
        made = {
            "render": (f"pictures/{name}/{i:03d}-{stem}.png", encode_png(render)),
            "truth": (f"pictures/truth/{stem}-{hashlib.sha256(photo).hexdigest()[:12]}.png", photo),
            "error": (f"pictures/{name}/{i:03d}-{stem}-error.jpg", encode_jpeg(error_map(render, truth))),
            "depth": (f"pictures/{name}/{i:03d}-{stem}-depth.jpg", encode_jpeg(depth)),
        }
        files.update(dict(made.values()))
        out.append({"view": view, **{kind: path for kind, (path, _) in made.items()}})
    return out


def _submission(record: dict[str, Any], trial: Trial, material: Material, files: dict[str, bytes]) -> list[str]:
    """Renders every test view for those who hold the truth, named as they want it; the folder is what has to be zipped. It is one for all scenes, and
    another when settings change: pictures of two settings must not mix."""
    if not material.submit or material.hidden is None:
        return []
    label = re.sub(r"[^A-Za-z0-9.]+", "-", record["label"]).strip("-") or "method"
    settings = hashlib.sha256(json.dumps([record["method"], record["settings"], record["device"]], sort_keys=True).encode()).hexdigest()
    root = f"submission/{material.protocol.id}-{label}-seed{record['seed']}-{settings[:8]}"
    paths = []
    for i, name in enumerate(material.submit):
        files[f"{root}/{name}"] = encode_png(trial.scene.render(material.hidden[i]).color[0].cpu().nan_to_num(0.0))
        paths.append(f"{root}/{name}")
    return paths


# -- watching the training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clock:
    wall: float
    own: float  # seconds of processor time of this process
    machine: float | None  # of all processes together

    @staticmethod
    def read() -> _Clock:
        own = time.process_time()
        try:
            ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
            busy = (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting; guests are counted in user
        except (OSError, ValueError, IndexError):
            busy = None
        return _Clock(time.monotonic(), own, busy)


class _Watch:
    """Learning curve, peak memory, and how busy the machine was with other things while training ran."""

    def __init__(self, on_event: Callable[[Event], None] | None) -> None:
        self.on_event = on_event
        self.points: list[tuple[int, float, float]] = []
        self.began = _Clock.read()
        self.other_cores: float | None = None
        self.peak_memory_mb = 0.0
        self.peak_gpu_mb: float | None = None

    def see(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.loss is not None and event.psnr is not None:
            if not self.points or (event.loss, event.psnr) != self.points[-1][1:]:
                self.points.append((event.step, event.loss, event.psnr))
        if self.on_event is not None:
            self.on_event(event)

    def stop(self) -> None:
        end = _Clock.read()
        self.peak_memory_mb = _peak_memory_mb()
        if torch.cuda.is_initialized():  # a run on the CPU does not wake it
            self.peak_gpu_mb = round(torch.cuda.max_memory_allocated() / 1e6, 1)
        if end.machine is not None and self.began.machine is not None:
            others = (end.machine - self.began.machine) - (end.own - self.began.own)
            self.other_cores = round(max(0.0, others) / max(end.wall - self.began.wall, 1e-3), 2)

    def curve(self) -> list[list[float]]:
        """At most CURVE_POINTS of the readings that are finite, the last among them."""
        finite = [[float(s), loss, fit] for s, loss, fit in self.points if abs(loss) < 1e9 and abs(fit) < 1e9]
        step = max(1, -(-len(finite) // CURVE_POINTS))
        return [[s, round(loss, 6), round(fit, 4)] for s, loss, fit in finite[::-1][::step][::-1]]


def _peak_memory_mb() -> float:
    """Largest resident size of this process. Linux's ru_maxrss starts with that of the parent which forked it, so /proc is asked first."""
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6, 1)  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
