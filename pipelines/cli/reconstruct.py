"""`handful reconstruct`: the main job."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..events import Event, Finished, StageProgress, StepDone, Warned
from .common import CommonOptions, Console, duration

if TYPE_CHECKING:
    from ..job import Reconstruction

__all__ = ["Reconstruct"]


@dataclass(frozen=True, kw_only=True)
class Reconstruct(CommonOptions):
    """Photos to a 3D scene.

    Takes 2 to about 30 photos of one still place, taken from different positions: a folder, a video, or a capture with
    cameras (COLMAP, nerfstudio, LLFF, DTU, Blender, Middlebury, Strecha). Stop it with Ctrl-C and the result so far is
    written; run the same command again and it continues.

    Examples:
      handful reconstruct photos/ -o out/
      handful reconstruct photos/ -o out/ --max-seconds 60 --view
      handful reconstruct clip.mp4 -o out/ --max-photos 12
    """

    photos: tyro.conf.Positional[Path]
    """Folder of photos, a video, or a capture with cameras."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the scene; made when it is not there."""
    method: str = "handful"
    """Name of the method; `handful doctor` lists them."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Change settings of the method, as in --set optim.steps=500 seed.budget=100000."""
    splats: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR")] = None
    """Scene folder of these photos whose splats a field (vm, zerorf, ...) also learns from; cameras are taken from there."""
    part: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Part of a capture that comes in several: a scene of nuScenes; train, val or test of a Blender capture."""
    max_photos: Annotated[int | None, tyro.conf.arg(aliases=["--views"], metavar="N")] = None
    """Use at most N photos, evenly spaced."""
    max_side: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Reduce photos to this longer side (default: 640, or 1600 with a GPU)."""
    max_seconds: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """Time limit for the optimisation; the schedule is fitted to it. A field's first look, splats it learns from and its turning into splats come on top."""
    checkpoint_seconds: Annotated[float, tyro.conf.arg(metavar="S")] = 15.0
    """Time between two checkpoints; a killed run continues from the last one."""
    seed: int = 0
    """Seed of every random number."""
    device: str = "auto"
    """cpu, cuda, or auto (a GPU when there is one)."""
    overwrite: bool = False
    """Replace what another job left in the output folder."""
    view: bool = False
    """Open the viewer while it trains."""
    port: int = 8080
    """Port of the viewer."""

    def run(self) -> dict[str, Any]:
        from ..advice import for_another_method
        from ..catalog import any_method_config
        from ..config import override
        from ..job import Reconstruction, ReconstructJob

        config = override(any_method_config(self.method), self.set)
        check_device(self.device)
        job = ReconstructJob(
            self.photos, self.out, self.method, config, self.max_photos, self.max_side, self.seed, self.device,
            self.max_seconds, self.checkpoint_seconds, self.splats, self.part,
        )  # fmt: skip
        work, console = Reconstruction(job, self.overwrite), self.console
        with stop_on_interrupt(work, console), live_viewer(self, console) as show:
            for event in work.events():
                report(event, console)
                show(work, event)
            folder = work.finish()
            m = folder.metrics
            splats = f" ({m['splats_train_psnr']:.1f} as splats)" if "splats_train_psnr" in m else ""
            console.say(
                f"{m['registered']} of {m['photos']} photos, {m['gaussians']:,} splats, {m['train_psnr']:.1f} dB on its own photos{splats}, "
                f"{duration(m['seconds'])}. Scene: {self.out / 'scene.ply'}, picture: {self.out / 'preview.png'}"
            )
            if "beams" in m:
                b = m["beams"]
                console.say(f"Of {b['beams']:,} beams kept back, {b['acc']:.0%} are within 5 % + 0.1 m; median error " + ("-." if b["median_m"] is None else f"{b['median_m']:.2f} m."))
            console.say(f"Look at it: handful view {self.out}")
            advice = None if work.init is None else for_another_method(self.method, work.init.capture, m["cameras"]["method"] == "given")
            if advice is not None:
                console.say(advice)
        keys = ("photos", "registered", "gaussians", "seconds", "reprojection_px", "train_psnr")
        return {k: m[k] for k in keys} | {"focal_px": m["cameras"]["focal_px"], "baseline": m["cameras"]["baseline"], "finished": m["finished"]} | (
            {"beam_acc": m["beams"]["acc"], "beam_median_m": m["beams"]["median_m"]} if "beams" in m else {}
        )


def check_device(name: str) -> None:
    """Raises ConfigError for a device that is not there."""
    import torch

    from ...recon.errors import ConfigError

    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"There is no device {name!r}; choose cpu, cuda or auto.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("This machine has no CUDA device that torch can use; leave --device away to run on the CPU.")


def report(event: Event, console: Console) -> None:
    """One event as a line for people."""
    if isinstance(event, StageProgress):
        console.progress(f"{event.what} ... {event.done:4.0%}" if event.done > 0 else f"{event.what} ...")
    elif isinstance(event, StepDone):
        quality = f", {event.psnr:.1f} dB" if event.psnr is not None else ""
        splats = f", {event.gaussians:,} splats" if event.gaussians else ""  # a field has none
        left = f", {duration(event.seconds_left)} left" if event.step >= 20 else ""  # the first steps are slow
        console.progress(
            f"optimising {event.step}/{event.steps}{quality}{splats}{left}",
            final=event.step == event.steps,
        )
    elif isinstance(event, Warned):
        console.warn(event.text)
    elif isinstance(event, Finished) and event.early:
        console.warn(f"stopped after {event.step} steps; run the same command again to continue, or use the result as it is.")
    elif isinstance(event, Finished) and event.limited:
        console.warn(f"the time limit left room for {event.step} steps; the same command with more --max-seconds, or without, goes on from here.")


@contextmanager
def stop_on_interrupt(work: Reconstruction, console: Console) -> Iterator[None]:
    """The first Ctrl-C ends with a usable result, the second at once."""

    def handler(signum: int, frame: object) -> None:
        if work.stopped or work.run is None:
            raise KeyboardInterrupt
        console.warn("stopping: writing the result so far (Ctrl-C again to leave at once).")
        work.stop()

    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not on the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def live_viewer(options: Reconstruct, console: Console) -> Iterator[Any]:
    """Yields what to call after each event; without --view it does nothing."""
    if not options.view:
        yield lambda work, event: None
        return
    from .view import LiveView

    with LiveView(options.port, console, options.out) as live:
        yield live.update
        console.say("The viewer stays open; Ctrl-C ends it.")
