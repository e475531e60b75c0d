"""The main job: photos -> cameras -> depth -> Gaussians -> scene folder. Resumable at every stage."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import torch

from ..data.protocol import LoadOptions
from ..data.registry import load_capture
from ..recon.capture import Capture
from ..recon.errors import CaptureError, ConfigError
from ..recon.metrics import psnr
from ..recon.outline import outlined
from ..recon.scene import Scene, SplatScene
from .catalog import AnyConfig, AnyRun, AnyScene, all_settings, any_method_config, check_any, said_of, start_run
from .checkpoint import load_checkpoint, save_checkpoint
from .config import to_jsonable
from .events import Event, Finished, StageProgress, Warned
from .init.protocol import InitState
from .init.registry import get_initializer
from .measure import measure, require_priors
from .methods.config import SplatConfig
from .nerf.config import FieldConfig, first_splats
from .nerf.convert import splats_of_field
from .nerf.from_splats import after_splats, placed_as, splats_digest, with_splats
from .nerf.run import FieldRun
from .out_folder import START, STATE, claim_out, fingerprint_of, make_room, take_back
from .protocol import Start
from .scan.digest import measured_digest
from .scan.join import joined
from .scan.report import beam_report
from .scene_folder import SceneFolder, load_scene, write_scene_folder
from .start_file import load_start, save_start
from .version import version_of

__all__ = ["ReconstructJob", "reconstruct", "torch_device", "train_capture"]

T = TypeVar("T")
LEAST_SEEN = 0.002  # share of a photo that its mask must leave
DEFAULT_MAX_SIDE = {"cpu": 640, "cuda": 1600}  # photos are reduced to this longer side unless the user says otherwise


@dataclass(frozen=True)
class ReconstructJob:
    """What to do, in full: two equal jobs give the same scene.

    Attributes:
        photos: folder of photos, a video, or a capture with cameras.
        out: scene folder to write.
        method, config: name of the method and its settings.
        max_photos: use at most so many photos, evenly spaced; max_side: reduce photos to this longer side (None = by device).
        seed: of every random number; device: "cpu", "cuda" or "auto".
        split: part of a capture that comes in parts, see LoadOptions; None = all of it.
        splats: scene folder of these photos that a field starts from, beside them; it stays as it is.
        max_seconds: limit on the optimisation; checkpoint_seconds: time between two checkpoints; neither is part of the job's identity.
    """

    photos: Path
    out: Path
    method: str = "handful"
    config: AnyConfig | None = None
    max_photos: int | None = None
    max_side: int | None = None
    seed: int = 0
    device: str = "auto"
    max_seconds: float | None = None
    checkpoint_seconds: float = 15.0
    splats: Path | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a number that makes no sense, before any work is done."""

        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise ConfigError(f"{name} must be {rule}, got {getattr(self, name)}.")

        need(self.max_photos is None or self.max_photos >= 2, "max_photos", "at least 2 (a scene needs two photos)")
        need(self.max_side is None or self.max_side >= 16, "max_side", "at least 16 pixels")
        need(self.max_seconds is None or (math.isfinite(self.max_seconds) and self.max_seconds > 0), "max_seconds", "more than 0")
        need(self.checkpoint_seconds >= 0, "checkpoint_seconds", "0 or more")
        need(0 <= self.seed < 2**31, "seed", "from 0 to 2147483647")
        check_any(self.settings)
        if self.splats is not None and not isinstance(self.settings, FieldConfig):
            raise ConfigError(f"Only a radiance field starts from splats, and {self.method} makes splats itself; choose a method such as vm or zerorf.")
        if self.splats is not None and isinstance(self.settings, FieldConfig) and self.settings.splats is not None:
            raise ConfigError(f"The splats are given ({self.splats}), so none are made first; leave out the setting splats={self.settings.splats}.")
        if self.splats is not None and self.splats.resolve() == self.out.resolve():
            raise ConfigError(f"{self.out} is the scene to start from, which stays as it is; choose another folder with -o.")

    @property
    def settings(self) -> AnyConfig:
        return self.config or any_method_config(self.method)

    def fingerprint(self, capture: Capture, splats: SceneFolder | None = None) -> str:
        """sha256 over the settings, the seed, every photo's pixels and camera, and the splats that it starts from."""
        h = hashlib.sha256(json.dumps(all_settings(self.settings), sort_keys=True).encode())
        h.update(f"{self.method} {self.seed}".encode())
        for view in capture.views:
            h.update(f"{view.name} {view.image.digest()}".encode())
        h.update(measured_digest(capture).encode())
        if splats is not None:
            h.update(splats_digest(splats).encode())
        if capture.cameras is not None:
            h.update(capture.cameras.cam_from_world.double().numpy().tobytes() + capture.cameras.K.double().numpy().tobytes())
        return h.hexdigest()


def torch_device(name: str) -> torch.device:
    """"auto" is a GPU where torch has one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


class Reconstruction:
    """One job at work: iterate `events()`, then call `finish()`. `run` is there once the stages before it are done."""

    def __init__(self, job: ReconstructJob, overwrite: bool = False) -> None:
        self.job = job
        self.run: AnyRun | None = None
        self.splats: SplatScene | None = None  # of a field, once it has learned
        self.init: InitState | None = None
        self.stopped = False
        self.warnings: list[str] = []
        self.began = time.monotonic()
        self.overwrite = overwrite
        self.device = torch_device(job.device)
        self._lock: IO[str] | None = None  # on the output folder, from its claim to the end
        self._by: str | None = None  # version of the program that began it

    @property
    def state_path(self) -> Path:
        return self.job.out / STATE

    @property
    def start_path(self) -> Path:
        return self.job.out / START

    def events(self) -> Iterator[Event]:
        """Loads, places, measures depth, optimises; saves a checkpoint every few seconds. Ends with Finished."""
        yield StageProgress("reading photos", 0.0)
        capture = self._load()
        for text in capture.warnings:
            self.warnings.append(text)
            yield Warned(text)
        splats = None if self.job.splats is None else load_scene(self.job.splats, device=self.device)
        if splats is not None:
            capture = placed_as(capture, splats)
        self.fingerprint = self.job.fingerprint(capture, splats)
        new = not self.job.out.exists()
        self._lock = claim_out(self.job.out, self.job.photos, self.fingerprint, self.overwrite)
        start = self._resume_start(capture)
        if start is None:
            try:
                start = yield from self._start(capture, splats)
                make_room(self.job.out)
                hurried = self.stopped and isinstance(self.job.settings, FieldConfig) and self.job.settings.splats is not None
                if not hurried:  # splats cut short are no start to go on from
                    save_start(self.start_path, start, self.fingerprint)
            except BaseException:  # Ctrl-C too
                take_back(self._lock, self.job.out, new)
                raise
        self.init = start.init
        for text in start.notes + said_of(self.job.settings, start):
            self.warnings.append(text)
            yield Warned(text)
        for text in start.init.report.warnings(capture.warnings):
            yield Warned(text)
        yield StageProgress("seeding", 0.0)
        self.run = start_run(self.job.settings, start, self.job.max_seconds)
        if self.state_path.exists():
            tensors, meta = load_checkpoint(self.state_path)
            if meta.get("fingerprint") == self.fingerprint:  # else another job was killed while it was being replaced
                self.run.restore(tensors, meta["run"])
                self._by = meta.get("by")
                now = version_of("handful")
                if None not in (self._by, now) and self._by != now:
                    text = f"This scene was begun by Handful {self._by}, this is {now}; to have all of it made by this version, choose another folder with -o."
                    self.warnings.append(text)
                    yield Warned(text)
                yield StageProgress(f"continuing after step {self.run.step}", self.run.step / max(1, self.run.steps))
        if self.stopped:
            self.run.stop()
        saved = time.monotonic()
        ended: Finished | None = None
        for event in self.run.events():
            if isinstance(event, Finished):
                ended = event
                break
            yield event
            if time.monotonic() - saved >= self.job.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self._save()
        if isinstance(self.run, FieldRun):
            field = self.run.snapshot()
            capture, seed = start.init.capture, self.job.seed
            self.splats = yield from _with_progress(lambda tell: splats_of_field(field, capture, seed, tell, lambda: self.stopped))
        assert ended is not None, "a run's events end with Finished"
        yield ended

    def stop(self) -> None:
        """Ends the optimisation after the current step with a usable result."""
        self.stopped = True
        if self.run is not None:
            self.run.stop()

    def finish(self) -> SceneFolder:
        """Writes the scene folder (each file beside, then renamed) and returns it."""
        assert self.run is not None and self.init is not None, "finish follows events()"
        scene = self.splats or self.run.shown()
        report = self.init.report
        metrics = {
            "photos": report.photos, "registered": report.registered, "gaussians": len(scene.gaussians),
            "seconds": round(time.monotonic() - self.began, 2), "reprojection_px": report.reprojection_px,
            "train_psnr": train_psnr(self.run.snapshot(), self.init.capture), "steps": self.run.step, "finished": self.run.step >= self.run.planned,
            "cameras": to_jsonable(report), "method": self.job.method, "seed": self.job.seed,
            "optimisation_seconds": round(self.run.elapsed, 2), "warnings": self.warnings,
        }  # fmt: skip
        beams = beam_report(scene, self.init.capture)
        if beams is not None:
            metrics["beams"] = beams
        field = None
        if isinstance(self.run, FieldRun):
            field = self.run.snapshot()
            metrics |= {"parameters": self.run.parameters, "splats_train_psnr": train_psnr(scene, self.init.capture)}
        folder = write_scene_folder(self.job.out, scene, self.init, self.job.settings, metrics, field)
        self.close()
        return folder

    def close(self) -> None:
        """Lets go of the output folder, whatever has become of the run; `finish` does so itself. Ends what still goes on."""
        self.stopped = True
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- stages --------------------------------------------------------------------------------------------------

    def _load(self) -> Capture:
        side = self.job.max_side or DEFAULT_MAX_SIDE[self.device.type if self.device.type in DEFAULT_MAX_SIDE else "cpu"]
        capture = outlined(load_capture(self.job.photos, LoadOptions(max_side=side, max_photos=self.job.max_photos, split=self.job.split))).kept()
        if len(capture) < 2:
            why = f" ({capture.unplaced[0].name} is left out: {capture.unplaced[0].reason.rstrip('.')})" if capture.unplaced else ""
            raise CaptureError(
                f"{self.job.photos} holds {len(capture)} usable photo{'s' if len(capture) != 1 else ''}{why}; a scene needs at least 2 photos "
                "of the same place taken from different positions."
            )
        for view in capture.views:
            mask = view.image.load_mask()
            if mask is not None and mask.mean() < LEAST_SEEN:
                raise CaptureError(
                    f"The mask, transparency or lens distortion of {view.name} in {self.job.photos} leaves nothing of the photo; masks are "
                    "white where pixels count."
                )
        return capture

    def _resume_start(self, capture: Capture) -> Start | None:
        if not self.start_path.exists() or fingerprint_of(self.start_path) != self.fingerprint:
            return None
        return replace(load_start(self.start_path, capture), seed=self.job.seed, device=self.device)

    def _start(self, capture: Capture, splats: SceneFolder | None) -> Generator[Event, None, Start]:
        config = self.job.settings
        _require_priors(config, capture)
        initializer = get_initializer("auto", config.init, capture, self.device, _wants_points(config, capture))
        found = yield from _with_progress(lambda progress: initializer.run(capture, self.job.seed, progress))
        given = capture.cameras is not None
        init, said = yield from _with_progress(lambda progress: joined(found, given, progress, config.scan))
        yield StageProgress("measuring depth", 0.0)
        start = measure(init, config, not given, self.job.seed, self.device)
        start = replace(start, notes=(*said, *start.notes))
        if not isinstance(config, FieldConfig):
            return start
        if splats is not None:
            yield StageProgress("taking pictures of the splats", 0.0)
            return with_splats(start, splats.scene, config)
        if config.splats is None:
            return start
        return (yield from _with_progress(lambda tell: after_splats(start, init, config, progress=tell, hurry=lambda: self.stopped)))

    def _save(self) -> None:
        assert self.run is not None
        if not self.start_path.exists():  # what was learned from a start that is not kept cannot go on either
            return
        tensors, meta = self.run.state()
        save_checkpoint(self.state_path, tensors, {"fingerprint": self.fingerprint, "run": meta, "by": self._by or version_of("handful")})


def _wants_points(config: AnyConfig, capture: Capture) -> bool:
    """A field in a box around an object asks for none; splats are seeded by them."""
    return not isinstance(config, FieldConfig) or config.splats is not None or config.wants_depth(capture.white_background or capture.is_cut_out())


def reconstruct(
    photos: str | Path, out: str | Path | None = None, on_event: Callable[[Event], None] | None = None, overwrite: bool = False, **options: Any
) -> SplatScene:
    """Photos to scene in one call; `options` are the fields of ReconstructJob.

    Without `out` nothing is kept on disk; with `overwrite` another job's scene there may be replaced. Raises CaptureError when the photos cannot be used.

    Example:
        >>> scene = reconstruct("photos/", max_seconds=60)
        >>> image = scene.render(scene.cameras).color[0]
    """
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        job = ReconstructJob(Path(photos), Path(out) if out is not None else Path(scratch) / "out", **options)
        work = Reconstruction(job, overwrite)
        try:
            for event in work.events():
                if on_event:
                    on_event(event)
            if out is not None:
                work.finish()
        finally:
            work.close()
        assert work.run is not None
        return work.splats or work.run.shown()


@overload
def train_capture(
    capture: Capture, config: SplatConfig, seed: int = 0, device: torch.device | None = None, on_event: Callable[[Event], None] | None = None
) -> tuple[SplatScene, Start]: ...


@overload
def train_capture(
    capture: Capture, config: AnyConfig, seed: int = 0, device: torch.device | None = None, on_event: Callable[[Event], None] | None = None
) -> tuple[AnyScene, Start]: ...


def train_capture(
    capture: Capture, config: AnyConfig, seed: int = 0, device: torch.device | None = None, on_event: Callable[[Event], None] | None = None
) -> tuple[AnyScene, Start]:
    """Cameras (when missing), depth, seed and optimisation in memory: what the evaluator calls, and times, so nothing comes from a cache."""
    check_any(config)
    _require_priors(config, capture)
    capture = outlined(capture).kept()
    init = get_initializer("auto", config.init, capture, device, _wants_points(config, capture)).run(capture, seed, None)
    init, said = joined(init, capture.cameras is not None, wanted=config.scan)
    start = measure(init, config, capture.cameras is None, seed, device or torch.device("cpu"), anew=True)
    start = replace(start, notes=(*said, *start.notes, *said_of(config, start)))
    if isinstance(config, FieldConfig) and config.splats is not None:
        start = after_splats(start, init, config, anew=True)
    run = start_run(config, start)
    for event in run.events():
        if on_event:
            on_event(event)
    return run.snapshot(), start


def _require_priors(config: AnyConfig, capture: Capture) -> None:
    """Of the method, and of that of the splats it starts from."""
    require_priors(config, capture)
    first = first_splats(config) if isinstance(config, FieldConfig) else None
    if first is not None:
        require_priors(first, capture)


def train_psnr(scene: Scene, capture: Capture) -> float:
    """Mean PSNR of the photos it was made from: how well it fits, not how good it is."""
    images, masks = capture.images(), capture.masks()
    renders = (scene.render(scene.cameras[i]).color.cpu().clamp(0, 1) for i in range(len(images)))
    values = [psnr(r, images[i : i + 1], None if masks is None else masks[i : i + 1]).clamp(max=100).item() for i, r in enumerate(renders)]
    return sum(values) / len(values)


def _with_progress(work: Callable[[Callable[[str, float], None]], T]) -> Generator[Event, None, T]:
    """Runs `work` on a thread and yields the progress it reports: an initialiser calls back, a run is iterated."""
    import queue
    import threading

    reports: queue.Queue[StageProgress | None] = queue.Queue()
    box: dict[str, Any] = {}

    def target() -> None:
        try:
            box["result"] = work(lambda what, done: reports.put(StageProgress(what, done)))
        except BaseException as e:  # handed to the caller below
            box["error"] = e
        finally:
            reports.put(None)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    while (event := reports.get()) is not None:
        yield event
    thread.join()
    if "error" in box:
        raise box["error"]
    return box["result"]
