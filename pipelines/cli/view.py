"""`handful view`: the scene in the browser; and the live page of `handful reconstruct --view`."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..events import Event, Finished, StageProgress, StepDone
from .common import CommonOptions, Console

if TYPE_CHECKING:
    from torch import Tensor

    from ...recon.camera import Cameras
    from ...recon.capture import ImageSource
    from ...recon.field.scene import FieldScene
    from ...recon.gaussians import Gaussians
    from ...recon.sweeps import Sweep
    from ..job import Reconstruction
    from ..protocol import Run
    from ..scene_folder import SceneFolder

__all__ = ["LiveView", "ViewCommand"]


@dataclass(frozen=True, kw_only=True)
class ViewCommand(CommonOptions):
    """Look at a scene in your browser: drag to turn, scroll to come nearer, click a photo to stand where it was taken.

    Prints a link and serves until Ctrl-C. Only this machine can open it unless --host says otherwise.

    Examples:
      handful view out/
      handful view found.spz
      handful view out/ --photos fern/           (photos it has not learned from, in blue)
      handful view out/ --host 0.0.0.0 --port 8099
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote, or a file of splats (.ply .compressed.ply .splat .spz .sog .glb .usdc)."""
    port: int = 8080
    """First port to try; the next free one is taken."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets everyone in your network look."""
    max_splats: int = 1_000_000
    """Send at most so many splats to the browser, the largest and most opaque."""

    photos: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Capture with cameras that the scene was made from: its other photos are shown, too, in blue."""

    def run(self) -> dict[str, Any]:
        from ...data.splats import is_splat_file, read_splats
        from ...recon.errors import ConfigError
        from ...viewer.server import SceneServer

        if self.max_splats < 1:
            raise ConfigError(f"--max-splats must be at least 1, got {self.max_splats}.")
        console = self.console
        if is_splat_file(self.scene):
            gaussians, folder, keeper = read_splats(self.scene), None, None
        else:
            from ..keeper import FolderKeeper
            from ..scene_folder import load_scene

            folder, keeper = load_scene(self.scene), FolderKeeper(self.scene)
            gaussians = folder.gaussians
        if folder is None and self.photos is not None:
            raise ConfigError("--photos needs the scene's folder, not a file of splats, to tell which photos it has learned from.")
        with SceneServer(self.host, self.port, announce=console.say, max_splats=self.max_splats, keeper=keeper) as server:
            if folder is not None:
                server.set_edits(folder.edits())
                cameras, images, names, held_out, extents = photos_of(folder, self.photos)
                server.set_photos(cameras, images, names, held_out, left_out(folder.metrics), extents)
                server.set_background(folder.scene.background)
                server.set_surfels(folder.scene.surfels)
            server.set_gaussians(gaussians)
            if folder is not None:
                server.set_scans(scans_of(folder.path, console))
                field = field_of(folder, console)
                if field is not None:
                    server.set_field(field)
            warn_if_open(self.host, console)
            console.say("Ctrl-C ends it.")
            server.wait()
        return {"gaussians": len(gaussians), "photos": 0 if folder is None else len(folder.names)}


def left_out(metrics: dict[str, Any]) -> list[str]:
    """Photos that found no place, as metrics.json tells them."""
    cameras = metrics.get("cameras")
    unplaced = cameras.get("unplaced", []) if isinstance(cameras, dict) else []
    return [f"{u['name']} ({u.get('reason', '')})" for u in unplaced if isinstance(u, dict) and "name" in u]


def scans_of(folder: Path, console: Console) -> tuple[Sweep, ...]:
    """The scans that a scene's folder keeps; one that cannot be read is told and left out."""
    from ...data.files import natural_key
    from ...data.scans.registry import load_sweeps
    from ...recon.errors import HandfulError

    sweeps: list[Sweep] = []
    for file in sorted((folder / "scans").glob("*.npz"), key=lambda f: natural_key(f.name)):
        try:
            sweeps += load_sweeps(file)
        except HandfulError as e:
            console.warn(f"{str(e).rstrip('.')}; this scan is not shown.")
    return tuple(sweeps)


def field_of(folder: SceneFolder, console: Console) -> FieldScene | None:
    """The field that the splats were made from, if one was; one that cannot be read is told and left out."""
    from ...recon.errors import HandfulError

    if not folder.has_field:
        return None
    try:
        return folder.field()
    except HandfulError as e:
        console.warn(f"{str(e).rstrip('.')}; the page shows the splats alone.")
        return None


def photos_of(folder: SceneFolder, capture: Path | None) -> tuple[Cameras, Sequence[Tensor], tuple[str, ...], list[bool], list[Tensor | None]]:
    """Cameras, images and names of the scene's photos, then of the capture's others; which are the others, and where each picture is a photo. Raises ConfigError for a capture whose
    cameras are not in the scene's world."""
    import torch

    from ...data.protocol import LoadOptions
    from ...data.registry import load_capture
    from ...recon.camera import Cameras
    from ...recon.errors import ConfigError

    cameras, images, names = folder.cameras, list(folder.images()), folder.names
    if capture is None:
        return cameras, images, names, [False] * len(names), folder.extents()
    other = load_capture(capture, LoadOptions(max_side=max(cameras.width, cameras.height)))
    if other.cameras is None:
        raise ConfigError(f"{capture} has no cameras, so its other photos cannot be placed in the scene; leave --photos away.")
    if (other.cameras.width, other.cameras.height) != (cameras.width, cameras.height):
        size = f"{other.cameras.width} x {other.cameras.height}"
        raise ConfigError(f"The photos of {capture} have {size} pixels, those of the scene {cameras.width} x {cameras.height}; give the capture that it was made from.")
    at = {name: i for i, name in enumerate(other.names)}
    common = [name for name in names if name in at]
    apart = [
        float((other.cameras.cam_from_world[at[name]].double() - cameras.cam_from_world[names.index(name)].double()).abs().max()) for name in common
    ]
    reach = float(cameras.centers.std(0).norm()) + 1e-9
    if not common or max(apart) > 0.05 * max(1.0, reach):
        raise ConfigError(f"The cameras of {capture} are not those that the scene was made with; give the capture that it was made from.")
    more = [i for i, name in enumerate(other.names) if name not in names]
    together = Cameras(
        torch.cat([cameras.cam_from_world.float(), other.cameras.cam_from_world[more].float()]), torch.cat([cameras.K.float(), other.cameras.K[more].float()]),
        cameras.width, cameras.height,
    )  # fmt: skip
    added = [other.views[i].image for i in more]
    return (
        together, _Pictures(images, added), (*names, *(other.names[i] for i in more)), [False] * len(names) + [True] * len(more),
        [*folder.extents(), *(image.load_extent() for image in added)],
    )  # fmt: skip


class _Pictures(Sequence["Tensor"]):
    """Some that are there, and others that are read one by one when asked for: a capture may hold hundreds."""

    def __init__(self, there: list[Tensor], files: list[ImageSource]) -> None:
        self._there, self._files = there, files

    def __len__(self) -> int:
        return len(self._there) + len(self._files)

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]
        return self._there[i] if i < len(self._there) else self._files[i - len(self._there)].load()


def warn_if_open(host: str, console: Console) -> None:
    from ...viewer.guard import is_local

    if not is_local(host):
        console.warn(f"the page listens on {host}: everyone who can reach it and has the whole link, with its token, sees this scene.")


class LiveView:
    """The page while a reconstruction works: call `update` after every event. Leaving the block well keeps it open until Ctrl-C."""

    def __init__(self, port: int, console: Console, out: Path, host: str = "127.0.0.1") -> None:
        from ...data.edits_file import EDITS, read_edits
        from ...viewer.server import SceneServer
        from ..keeper import FolderKeeper

        self._edits = out / EDITS
        read_edits(self._edits)  # one that cannot be read is told before the work
        self._keeper = FolderKeeper(out, ready=False)
        self._server = SceneServer(host, port, announce=console.say, keeper=self._keeper)
        self._begun = self._field_begun = False

    def update(self, work: Reconstruction, event: Event) -> None:
        """Shows one event. Costs nothing most of the time; takes a snapshot of the scene every few seconds while a page is open."""
        from ...viewer.status import LiveInfo

        if self._server.live.stopped and not work.stopped:
            work.stop()
        if isinstance(event, StageProgress):
            self._server.set_status(f"**{event.what[:1].upper()}{event.what[1:]}** ...", event.done or None)
        elif isinstance(event, StepDone) and work.run is not None:
            if not self._begun:
                self._begin()
                scene = work.run.shown()
                self._server.set_background(scene.background)
                self._server.set_surfels(scene.surfels)
                self._server.set_photos(scene.cameras, work.run.images, scene.names, left_out=self._left_out(work), extents=self._extents(work))
                if work.init is not None:
                    self._server.set_scans(work.init.capture.sweeps)
            info = LiveInfo(event.steps, event.psnr, event.seconds_left, loss=event.loss)
            run = work.run

            def shown() -> Gaussians:
                began = time.monotonic()
                gaussians = run.shown().gaussians
                run.rest(time.monotonic() - began)  # a field takes a while to be looked at
                return gaussians

            self._server.update_gaussians(shown, event.step, info)
            self._show_field(run, event)
            run.rest(self._server.live.gate(lambda: work.stopped))
        elif isinstance(event, Finished) and work.run is not None:
            if not self._begun:  # nothing was left to do
                self._begin()
            scene = work.splats or work.run.shown()
            self._server.set_background(scene.background)
            # where refinement has brought the cameras
            self._server.set_photos(scene.cameras, work.run.images, scene.names, left_out=self._left_out(work), extents=self._extents(work))
            self._server.live.end()
            self._server.set_gaussians(scene.gaussians)
            self._show_field(work.run, event)

    def _begin(self) -> None:
        """The folder is this scene's from here on, and so are the edits and the path in it: those of one that made room for it have been set aside."""
        from ...data.edits_file import read_edits

        self._begun = self._keeper.ready = True
        self._server.set_edits(read_edits(self._edits))

    def _show_field(self, run: Run, event: Event) -> None:
        """Where the run learns one: as it is at the first step and at the end, and between them when somebody looks at it."""
        from ..nerf.run import FieldRun

        if isinstance(run, FieldRun):
            learns = self._field_begun and not isinstance(event, Finished)
            self._server.set_field(run.snapshot if learns else run.snapshot())
            self._field_begun = True

    def _extents(self, work: Reconstruction) -> Tensor | None:
        return None if work.init is None else work.init.capture.extents()

    def _left_out(self, work: Reconstruction) -> list[str]:
        return [] if work.init is None else [f"{u.name} ({u.reason.rstrip('.')})" for u in work.init.report.unplaced]

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with suppress(ValueError):  # the work is done: Ctrl-C now means what it usually means (not on the main thread: the caller's business)
                signal.signal(signal.SIGINT, signal.default_int_handler)
            self._server.wait()
        self._server.close()
