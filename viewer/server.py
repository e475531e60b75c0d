"""The web page: splats drawn by the browser, photos as frustums, live while training, with panels to look, edit, fly and take along."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.edits import EditStep
from ..recon.errors import HandfulError, ShapeError
from ..recon.field.scene import FieldScene
from ..recon.framing import Framing
from ..recon.gaussians import Gaussians
from ..recon.raster.changed import closer, with_surfels
from ..recon.raster.protocol import Rasterizer
from ..recon.raster.registry import get_rasterizer
from ..recon.sweeps import Sweep
from .edit_panel import EditPanel
from .guard import Guard
from .live_panel import LivePanel
from .look import LookPanel
from .newest import NewestWins
from .page import Keeper
from .path_panel import PathPanel
from .photo_panel import PhotoPanel
from .photos import Photo, fit_fov
from .scan_panel import ScanPanel
from .sending import SplatSender
from .serving import start_server, undisturbed
from .shell import Shell
from .splats import SCENE_DEPTH, ViewFrame, pack_splats
from .standing import camera_of, link_to, move, wait_for_reset
from .status import LiveInfo, live_text
from .take_panel import TakePanel
from .world import World, no_cameras

__all__ = ["SceneServer"]

MIN_INTERVAL = 2.0  # seconds between two live updates; more when one takes long
LIVE_SHARE = 0.05  # of the training's time that live updates may take
STATUS_INTERVAL = 0.5
NEAR_SHARE = 1e-3  # of the scene's depth: nearer than this nothing is drawn
SAME_UP = 1e-5  # 1 - cosine of what counts as the same up: a quarter of a degree
_log = logging.getLogger(__name__)


class SceneServer:
    """A page that shows a scene; every browser that opens it has a camera of its own.

    Example:
        >>> with SceneServer(port=8080) as server:
        ...     server.set_photos(cameras, images, names)
        ...     server.set_gaussians(gaussians)
        ...     server.wait()

    While training, call `update_gaussians` after every step: it returns at once, and a page that is open follows every few seconds.
    All methods may be called from any thread.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        announce: Callable[[str], None] | None = print,
        max_splats: int = 1_000_000,
        title: str = "Handful",
        keeper: Keeper | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts serving.

        Args:
            host: address to listen on; where others can reach it, the link has a token without which nothing is shown.
            port: first port to try; the next free one is taken.
            announce: called with the line that tells the link; None = silent.
            max_splats: send at most so many, the largest and most opaque.
            keeper: keeps edits, camera path and exports; None = they are gone with the page.
            on_stop: called when a visitor ends the training.

        Raises HandfulError when the address or all ports are taken or impossible, BackendUnavailable without viser.
        """
        self._guard = Guard(host)
        self._server: Any = start_server(host, port, title, self._guard)
        self._host, self._max_splats, self._keeper = host, max_splats, keeper
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._worker = NewestWins("handful-viewer")
        self._actions = ThreadPoolExecutor(1, "handful-actions")
        self._drawer: Rasterizer | None = None
        self._surfels = False
        self._world = World()
        self._splats = SplatSender(self._server.scene)
        self._preview: Callable[[Gaussians], Gaussians] | None = None
        self._up: tuple[float, ...] | None = None  # as the browsers have been told
        self._next_update = self._next_status = 0.0
        self._build_page(on_stop)
        self._server.on_client_connect(self._client_came)
        self._server.on_client_disconnect(self._client_left)
        if announce is not None:
            announce(f"Open {self.url} in your browser.")

    # -- what callers use --------------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self._server.get_port()

    @property
    def url(self) -> str:
        """The link to open on this machine; others put its address in place of localhost."""
        host = "localhost" if self._host in ("0.0.0.0", "::", "") else self._host
        link = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        return link if self._guard.token is None else f"{link}/?token={self._guard.token}"

    def browsers(self) -> dict[int, Any]:
        """Those that have the page open, by number."""
        return self._server.get_clients()

    def set_photos(
        self,
        cameras: Cameras,
        images: Float[Tensor, "V H W 3"] | Sequence[Float[Tensor, "H W 3"]],
        names: Sequence[str],
        held_out: Sequence[bool] | None = None,
        left_out: Sequence[str] = (),
        extents: Float[Tensor, "V H W"] | Sequence[Float[Tensor, "H W"] | None] | None = None,
    ) -> None:
        """Shows the photos as frustums; the first one is where a visitor stands at the start. Call again when cameras were refined.

        Args:
            held_out: which of them the scene has not learned from; None = none.
            left_out: photos that found no place, each with the reason.
            extents: 1 where each picture is a photo, 0 in padding and in corners that the lens left out; None = everywhere.
        """
        if not len(cameras) == len(images) == len(names):
            raise ShapeError(f"The viewer needs one image and name per camera; got {len(cameras)} cameras, {len(images)} images, {len(names)} names.")
        held = [False] * len(names) if held_out is None else list(held_out)
        with self._lock:
            self._world.take_cameras(cameras.to("cpu", torch.float32))
            kinds = ["held out" if h else "trained" for h in held]
            parts = [None] * len(names) if extents is None else extents
            self._photos.photos = [Photo.of(*photo) for photo in zip(images, names, kinds, parts, strict=True)]
            self._place()
        self._photos.tell(left_out)
        if self._splats.any:  # the frame they were sent in, and the colours the photos see, may have changed
            self._send_splats()

    def set_gaussians(self, gaussians: Gaussians) -> None:
        """Shows a finished scene; returns when it is on its way to the browsers."""
        self._take(gaussians.clone().to("cpu"))
        self._send_splats()
        self._tell_scene()
        self._edit.refresh()
        self._take_panel.refresh()

    def set_field(self, field: FieldScene | Callable[[], FieldScene]) -> None:
        """The radiance field that the splats were made from, of the world before edits. A function makes it anew for those who look at it; call after every step."""
        self._look.take_field(field)

    def set_scans(self, sweeps: Sequence[Sweep]) -> None:
        """Scans of the scene's world (as it was before edits), shown beside the splats; none = none."""
        self._scan.take(sweeps)

    def set_edits(self, steps: Sequence[EditStep]) -> None:
        """The edits that the scene has already; they are kept as they are. Its camera path is looked for, too."""
        with self._lock:
            self._world.edit(steps)
            self._place()
        self._edit.refresh()
        self._path.load()
        if self._splats.any:
            self._send_splats()

    def update_gaussians(self, gaussians: Gaussians | Callable[[], Gaussians], step: int = 0, info: LiveInfo = LiveInfo()) -> bool:
        """To be called from a training loop after every step; costs nothing most of the time and never waits for a browser.

        Args:
            gaussians: the scene as it is now, or a function that makes a snapshot of it (called only when one is wanted).
            step, info: what to say about the training.

        Returns whether a snapshot was taken.
        """
        now = time.monotonic()
        if self.live.paused:  # whoever looks now should see where it stands
            self._next_update = 0.0
        if now >= self._next_status:
            self._next_status = now + STATUS_INTERVAL
            self._show_live(step, info)
        if now < self._next_update or self._worker.busy or (self._splats.any and not self.browsers()):
            return False
        snapshot = (gaussians() if callable(gaussians) else gaussians).clone().to("cpu")
        taken = time.monotonic()

        def job() -> None:
            first = self._world.gaussians is None
            self._take(snapshot)
            self._send_splats(live=True)
            if first:
                self._take_panel.refresh()
            spent = time.monotonic() - now
            self._next_update = taken + max(MIN_INTERVAL, spent / LIVE_SHARE)

        self._next_update = taken + MIN_INTERVAL
        self._worker.submit(job)
        return True

    def set_background(self, rgb: tuple[float, float, float]) -> None:
        """The colour behind everything, sRGB in [0, 1]; a visitor can choose another."""
        self._look.set_background(rgb)

    def set_surfels(self, surfels: bool) -> None:
        """Whether Handful's own pictures draw flat discs, as the scene was optimised; the browser shows thin ellipsoids."""
        self._surfels = surfels

    def set_status(self, text: str, done: float | None = None) -> None:
        """A line at the top of the page (Markdown), and a progress bar when `done` is a share in [0, 1]."""
        self._shell.tell(text, done)

    def wait(self) -> None:
        """Serves until Ctrl-C or `close`."""
        with contextlib.suppress(KeyboardInterrupt):
            while not self._closed.wait(0.5):
                pass

    def close(self) -> None:
        """Stops serving. Calling it twice does no harm."""
        if self._closed.is_set():
            return
        self._closed.set()
        with undisturbed(), contextlib.redirect_stdout(io.StringIO()):  # viser says goodbye
            self.live.stop_waiting()
            self._path.stop()
            self._edit.close()
            self._look.close()
            self._worker.close()
            self._actions.shutdown(wait=False, cancel_futures=True)
            self._server.stop()

    def __enter__(self) -> SceneServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- what the panels use (page.Page) -----------------------------------------------------------------------------------------

    @property
    def gui(self) -> Any:
        return self._server.gui

    @property
    def scene(self) -> Any:
        return self._server.scene

    @property
    def frame(self) -> ViewFrame:
        return self._world.frame or ViewFrame()

    @property
    def keeper(self) -> Keeper | None:
        return self._keeper

    @property
    def background(self) -> tuple[float, float, float]:
        return self._look.background

    @property
    def photos(self) -> list[Photo]:
        return self._photos.photos

    def shown(self) -> tuple[Gaussians, Cameras] | None:
        with self._lock:
            world = self._world
            return None if world.gaussians is None else (world.gaussians, no_cameras() if world.cameras is None else world.cameras)

    def rasterizer(self) -> Rasterizer:
        if self._drawer is None:
            self._drawer = get_rasterizer("auto", "cpu")
        drawer = with_surfels(self._drawer) if self._surfels else self._drawer
        return closer(drawer, NEAR_SHARE * SCENE_DEPTH / self.frame.scale)

    def closing(self) -> bool:
        return self._closed.is_set()

    def camera_of(self, client: Any) -> Cameras | None:
        return camera_of(client, self.frame)

    def move(self, client: Any, camera: Cameras) -> None:
        if client is not None:
            move(client, camera, self.frame, self._up)

    def resend(self) -> None:
        self._worker.submit(self._send_splats)

    def preview(self, change: Callable[[Gaussians], Gaussians] | None) -> None:
        """The browsers show what `change` makes of the scene, until None; nothing else does."""
        if change is not None or self._preview is not None:
            self._preview = change
            self.resend()

    @property
    def up(self) -> Float[Tensor, "3"]:
        return torch.tensor([0.0, 0.0, 1.0]) if self._world.up is None else self._world.up

    def show_splats(self, visible: bool) -> None:
        self._splats.show(visible and not self._scan.alone)

    def refresh_splats(self) -> None:
        self.show_splats(self._look.by_browser)

    def scene_at_once(self) -> AbstractContextManager[Any]:
        return self._server.atomic()

    def steps(self) -> tuple[EditStep, ...]:
        return self._world.steps

    def edit(self, steps: Sequence[EditStep]) -> None:
        """Keeps and shows the scene with these edits; whoever looks at it moves along with its world, and so does the camera path."""
        if self._keeper is not None:
            self._keeper.save_edits(steps)
        stood = {client: camera for client in self.browsers().values() if (camera := self.camera_of(client)) is not None}
        with self._lock:
            before = self._up
            carry = self._world.edit(steps)
            if carry is not None:
                self._place(stay=True)
            turned = self._up != before
        if carry is not None:
            if turned:
                wait_for_reset([c for c in stood if c.client_id in self.browsers()], self._server.initial_camera.position)
            for client, camera in stood.items():
                self.move(client, carry.apply_to_cameras(camera))
            self._path.moved(carry.apply_to_cameras)
        self._send_splats()
        self._tell_scene()
        self._take_panel.refresh()

    def in_background(self, job: Callable[[], None], client: Any = None) -> None:
        def run() -> None:
            try:
                job()
            except HandfulError as e:
                self.tell(client, "That did not work", str(e), bad=True)
            except Exception:  # one click that fails must not end the page
                _log.exception("the viewer could not do what was asked")
                self.tell(client, "That did not work", "Something unexpected happened; the terminal tells more.", bad=True)

        with contextlib.suppress(RuntimeError):  # the page is closing
            self._actions.submit(run)

    def tell(self, client: Any, title: str, text: str, bad: bool = False) -> None:
        everyone = self.browsers().values() if client is None else (client,)
        for one in everyone:
            one.add_notification(title, text, auto_close_seconds=None if bad else 8.0, color="red" if bad else None)

    # -- the page ----------------------------------------------------------------------------------------------------------------

    def _build_page(self, on_stop: Callable[[], None]) -> None:
        gui = self._server.gui
        self._shell = Shell(gui)
        self.live = LivePanel(gui, on_stop)
        self._photos = PhotoPanel(self)
        self._look = LookPanel(self)
        self._scan = ScanPanel(self)
        self._edit = EditPanel(self)
        self._path = PathPanel(self)
        self._take_panel = TakePanel(self, self._link)
        self._shell.finish((
            ("P", "Show or hide the photos", lambda _: setattr(self._photos.show, "value", not self._photos.show.value)),
            ("N", "Stand at the next photo", self._photos.next),
            ("C", "Show or hide the scan (cloud)", lambda _: self._scan.toggle()),
            ("L", "Show the next layer: picture, depth, ...", lambda _: self._look.next_layer()),
            ("K", "Add a keyframe here", self._path.add_key),
            ("Z", "Undo the last edit", lambda client: self.in_background(lambda: self._edit.undo(client), client)),
        ))  # fmt: skip

    def _link(self, client: Any) -> str | None:
        return link_to(client, self.url, self._guard.token)

    def _show_live(self, step: int, info: LiveInfo) -> None:
        self.set_status(live_text(step, self._count(), info), step / info.steps if info.steps else None)
        self.live.read(step, info.loss, info.psnr)

    def _tell_scene(self) -> None:
        n = len(self.steps())
        edits = f" · {n} edit{'s' if n != 1 else ''}" if n else ""
        self.set_status(f"{self._count():,} splats" + (f" · {len(self.photos)} photos" if self.photos else "") + edits)

    def _count(self) -> int:
        gaussians = self._world.gaussians
        return 0 if gaussians is None else len(gaussians)

    def _take(self, gaussians: Gaussians) -> None:
        with self._lock:
            self._world.take(gaussians)
            if self._world.guessed:
                self._place()

    def _send_splats(self, live: bool = False) -> None:
        with self._lock:
            gaussians, frame, cameras, change = self._world.gaussians, self.frame, self._world.cameras, self._preview
            number = self._splats.begin()
        if gaussians is None or self._closed.is_set():
            return
        if change is not None:
            gaussians = change(gaussians)
        packed = pack_splats(gaussians, frame, cameras, self._max_splats, self._look.splat_size)
        if self._splats.send(number, packed, self._look.by_browser and not self._scan.alone):
            self._look.scene_changed(live)
            self._scan.scene_changed(live)

    # -- where things are --------------------------------------------------------------------------------------------------------

    def _place(self, stay: bool = False) -> None:
        """Puts everything where the world says, and whoever looks at the first photo when the page's units are others than before; `stay`: nobody is moved."""
        world = self._world
        moved = world.place()
        if world.up is not None:
            self._set_up(world.up)
        if world.framing is not None and world.cameras is not None and len(world.cameras):
            self._place_photos(world.framing, world.cameras)
            for client in self.browsers().values() if moved and not stay else ():
                self._photos.stand(client, self.photos[0])
        self._path.redraw()
        self._scan.placed()

    def _place_photos(self, framing: Framing, cameras: Cameras) -> None:
        for photo, camera, depth in zip(self.photos, (cameras[i] for i in range(len(cameras))), framing.depths.tolist(), strict=True):
            photo.stand(camera, depth, self.frame, framing.up)
        first, start = self.photos[0], self._server.initial_camera
        start.position, start.look_at, start.up = first.position, first.look_at, first.up
        start.fov = fit_fov(first, 1.6)
        start.near, start.far = SCENE_DEPTH * 2e-3, SCENE_DEPTH * 1e3
        self._photos.placed()
        self._look.photos_moved()

    def _set_up(self, up: Float[Tensor, "3"]) -> None:
        """Tells the browsers which way is up, when it is another than before: each then goes back to the first photo."""
        new = tuple(up.tolist())
        if self._up is None or float(np.dot(new, self._up)) < 1 - SAME_UP:
            self._up = new
            self._server.scene.set_up_direction(new)

    # -- browsers ----------------------------------------------------------------------------------------------------------------

    def _client_came(self, client: Any) -> None:
        self._next_update = 0.0  # it should not wait for a fresh picture
        self._photos.came(client)
        self._look.came(client)
        client.camera.on_update(lambda _: self._camera_moved(client))
        self._forget_gone()

    def _forget_gone(self) -> None:
        """A browser may leave before it has been welcomed."""
        for client_id in set(self._photos.known()) - set(self.browsers()):
            self._left(client_id)

    def _camera_moved(self, client: Any) -> None:
        self._photos.moved(client.client_id)
        self._look.moved(client)

    def _client_left(self, client: Any) -> None:
        self._left(client.client_id)

    def _left(self, client_id: int) -> None:
        self._photos.left(client_id)
        self._look.left(client_id)
