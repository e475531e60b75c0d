"""`handful view`: the scene in the browser; and the live page of `handful reconstruct --view`."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import tyro

from ..events import Event, Finished, StageProgress, StepDone
from .common import CommonOptions, Console

if TYPE_CHECKING:
    from ..job import Reconstruction

__all__ = ["LiveView", "ViewCommand"]


@dataclass(frozen=True, kw_only=True)
class ViewCommand(CommonOptions):
    """Look at a scene in your browser: drag to turn, scroll to come nearer, click a photo to stand where it was taken.

    Prints a link and serves until Ctrl-C. Only this machine can open it unless --host says otherwise.

    Examples:
      handful view out/
      handful view out/scene.ply
      handful view out/ --host 0.0.0.0 --port 8099
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote, or a .ply with splats."""
    port: int = 8080
    """First port to try; the next free one is taken."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets everyone in your network look."""
    max_splats: int = 1_000_000
    """Send at most so many splats to the browser, the largest and most opaque."""

    def run(self) -> dict[str, Any]:
        from ...recon.errors import ConfigError
        from ...viewer.server import SceneServer

        if self.max_splats < 1:
            raise ConfigError(f"--max-splats must be at least 1, got {self.max_splats}.")
        console = self.console
        if self.scene.suffix.lower() == ".ply":
            from ...data.ply import read_gaussians

            gaussians, photos, background = read_gaussians(self.scene), None, (0.0, 0.0, 0.0)
        else:
            from ..scene_folder import load_scene

            folder = load_scene(self.scene)
            gaussians, photos, background = folder.gaussians, (folder.cameras, folder.images(), folder.names), folder.scene.background
        with SceneServer(self.host, self.port, announce=console.say, max_splats=self.max_splats) as server:
            if photos is not None:
                server.set_photos(*photos)
            server.set_background(background)
            server.set_gaussians(gaussians)
            warn_if_open(self.host, console)
            console.say("Ctrl-C ends it.")
            server.wait()
        return {"gaussians": len(gaussians), "photos": 0 if photos is None else len(photos[2])}


def warn_if_open(host: str, console: Console) -> None:
    if host not in ("127.0.0.1", "localhost", "::1"):
        console.warn(f"the page has no password: everyone who can reach {host} can see this scene.")


class LiveView:
    """The page while a reconstruction works: call `update` after every event. Leaving the block well keeps it open until Ctrl-C."""

    def __init__(self, port: int, console: Console, host: str = "127.0.0.1") -> None:
        from ...viewer.server import SceneServer

        self._server = SceneServer(host, port, announce=console.say)
        self._begun = False

    def update(self, work: Reconstruction, event: Event) -> None:
        """Shows one event. Costs nothing most of the time; takes a snapshot of the scene every few seconds while a page is open."""
        from ...viewer.status import LiveInfo

        if isinstance(event, StageProgress):
            self._server.set_status(f"**{event.what[:1].upper()}{event.what[1:]}** ...", event.done or None)
        elif isinstance(event, StepDone) and work.run is not None:
            if not self._begun:
                self._begun = True
                scene = work.run.snapshot()
                self._server.set_background(scene.background)
                self._server.set_photos(scene.cameras, work.run.images, scene.names)
            info = LiveInfo(event.steps, event.psnr, event.seconds_left)
            run = work.run
            self._server.update_gaussians(lambda: run.snapshot().gaussians, event.step, info)
        elif isinstance(event, Finished) and work.run is not None:
            scene = work.run.snapshot()
            self._server.set_background(scene.background)
            self._server.set_photos(scene.cameras, work.run.images, scene.names)  # where refinement has brought the cameras
            self._server.set_gaussians(scene.gaussians)

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with suppress(ValueError):  # the work is done: Ctrl-C now means what it usually means (not on the main thread: the caller's business)
                signal.signal(signal.SIGINT, signal.default_int_handler)
            self._server.wait()
        self._server.close()
