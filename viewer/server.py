"""The web page: splats drawn by the browser, photos as frustums, live while training, with panels to look, edit, fly and take along."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.edits import EditStep, apply_edits, carry_between, up_after
from ..recon.errors import HandfulError, ShapeError
from ..recon.framing import Framing, frame_scene
from ..recon.gaussians import Gaussians
from ..recon.raster.closer import CloserRasterizer
from ..recon.raster.protocol import Rasterizer
from ..recon.raster.registry import get_rasterizer
from .edit_panel import EditPanel
from .guard import Guard
from .help import HELP
from .live_panel import LivePanel
from .look import LookPanel
from .newest import NewestWins
from .page import Keeper
from .painter import window_camera
from .path_panel import PathPanel
from .photo_panel import PhotoPanel
from .photos import Photo, fit_fov
from .serving import start_server, undisturbed
from .splats import SCENE_DEPTH, ViewFrame, pack_splats
from .status import LiveInfo, live_text
from .take_panel import TakePanel

__all__ = ["SceneServer"]

MIN_INTERVAL = 2.0  # seconds between two live updates; more when one takes long
LIVE_SHARE = 0.05  # of the training's time that live updates may take
STATUS_INTERVAL = 0.5
RESET_SECONDS = 1.5
NEAR_SHARE = 1e-3  # of the scene's depth: nearer than this nothing is drawn
SAME_UP = 1e-5  # 1 - cosine of what counts as the same up: a quarter of a degree
# viser opens its sheet for narrow screens at three fifths of the height, unfolded, and offers no way to fold it: a third leaves the scene to be seen
NARROW = (
    "<style>@media (max-width: 36em) "
    "{ .mantine-Paper-root:has(.handful-narrow) { max-height: min(60%, max(33%, 12em)) !important; } }</style><span class='handful-narrow'></span>"
)
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
        self._frame: ViewFrame | None = None
        self._framing: Framing | None = None
        self._framing_is_rough = True
        self._base: tuple[Gaussians | None, Cameras | None] = (None, None)  # as they came
        self._gaussians: Gaussians | None = None  # with the edits
        self._cameras: Cameras | None = None
        self._steps: tuple[EditStep, ...] = ()
        self._splats: Any = None
        self._preview: Callable[[Gaussians], Gaussians] | None = None
        self._sending = self._sent = 0  # of the packs of splats: the last that was begun, and that went out
        self._up: tuple[float, ...] | None = None
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
    ) -> None:
        """Shows the photos as frustums; the first one is where a visitor stands at the start. Call again when cameras were refined.

        Args:
            held_out: which of them the scene has not learned from; None = none.
            left_out: photos that found no place, each with the reason.
        """
        if not len(cameras) == len(images) == len(names):
            raise ShapeError(f"The viewer needs one image and name per camera; got {len(cameras)} cameras, {len(images)} images, {len(names)} names.")
        held = [False] * len(names) if held_out is None else list(held_out)
        with self._lock:
            self._base = (self._base[0], cameras.to("cpu", torch.float32))
            self._photos.photos = [Photo.of(image, name, "held out" if h else "trained") for image, name, h in zip(images, names, held, strict=True)]
            self._apply_edits()
            self._place()
        self._photos.tell(left_out)
        if self._splats is not None:  # the frame they were sent in, and the colours the photos see, may have changed
            self._send_splats()

    def set_gaussians(self, gaussians: Gaussians) -> None:
        """Shows a finished scene; returns when it is on its way to the browsers."""
        self._take(gaussians.clone().to("cpu"))
        self._send_splats()
        self._tell_scene()
        self._progress.visible = False
        self._edit.refresh()
        self._take_panel.refresh()

    def set_edits(self, steps: Sequence[EditStep]) -> None:
        """The edits that the scene has already; they are kept as they are."""
        with self._lock:
            self._steps = tuple(steps)
            self._apply_edits()
            self._place()
        self._edit.refresh()

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
        if now < self._next_update or self._worker.busy or (self._splats is not None and not self.browsers()):
            return False
        snapshot = (gaussians() if callable(gaussians) else gaussians).clone().to("cpu")
        taken = time.monotonic()

        def job() -> None:
            first = self._gaussians is None
            self._take(snapshot)
            self._send_splats()
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

    def set_status(self, text: str, done: float | None = None) -> None:
        """A line at the top of the page (Markdown), and a progress bar when `done` is a share in [0, 1]."""
        self._status.content = text
        self._progress.visible = done is not None
        if done is not None:
            self._progress.value = 100.0 * min(max(done, 0.0), 1.0)

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
        return self._frame or ViewFrame()

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
            if self._gaussians is None:
                return None
            return self._gaussians, self._cameras if self._cameras is not None else _no_cameras()

    def rasterizer(self) -> Rasterizer:
        if self._drawer is None:
            self._drawer = get_rasterizer("auto", "cpu")
        return CloserRasterizer(self._drawer, NEAR_SHARE * SCENE_DEPTH / self.frame.scale)

    def camera_of(self, client: Any) -> Cameras | None:
        try:
            c = client.camera
            return window_camera(c.wxyz, c.position, c.fov, c.image_width, c.image_height, self.frame) if c.image_height > 1 else None
        except (AttributeError, AssertionError):  # no browser, or one that has not said anything yet
            return None

    def move(self, client: Any, camera: Cameras) -> None:
        if client is None:
            return
        camera, frame = camera.to("cpu", torch.float64), self.frame
        R = camera.cam_from_world[0, :3, :3]
        position = frame.apply(camera.centers)[0]
        scene_up = -R[1] if self._up is None else torch.tensor(self._up, dtype=torch.float64)
        up = scene_up - (scene_up @ R[0]) * R[0]  # the same picture, and who turns from here turns about the scene's up
        with client.atomic():
            client.camera.up_direction = (up if float(up @ -R[1]) > 0.05 else -R[1]).numpy()
            client.camera.position = position.numpy()
            client.camera.look_at = (position + R[2] * SCENE_DEPTH).numpy()
            client.camera.fov = 2 * float(torch.atan(camera.height / 2 / camera.K[0, 1, 1]))

    def resend(self) -> None:
        self._worker.submit(self._send_splats)

    def preview(self, change: Callable[[Gaussians], Gaussians] | None) -> None:
        """The browsers show what `change` makes of the scene, until None; nothing else does."""
        if change is not None or self._preview is not None:
            self._preview = change
            self.resend()

    def show_splats(self, visible: bool) -> None:
        if self._splats is not None:
            self._splats.visible = visible

    def steps(self) -> tuple[EditStep, ...]:
        return self._steps

    def edit(self, steps: Sequence[EditStep]) -> None:
        """Keeps and shows the scene with these edits; whoever looks at it moves along with its world, and so does the camera path."""
        if self._keeper is not None:
            self._keeper.save_edits(steps)
        stood = {client: camera for client in self.browsers().values() if (camera := self.camera_of(client)) is not None}
        with self._lock:
            carry, turned = carry_between(self._steps, steps), False
            self._steps = tuple(steps)
            self._apply_edits()
            if carry is not None:
                self._frame, before = None, self._up
                self._place(stay=True)
                turned = self._up != before
        if carry is not None:
            if turned:
                self._wait_for_reset(stood)
            for client, camera in stood.items():
                self.move(client, carry.apply_to_cameras(camera))
            self._path.moved(carry.apply_to_cameras)
        self._send_splats()
        self._tell_scene()
        self._take_panel.refresh()

    def _wait_for_reset(self, stood: dict[Any, Cameras]) -> None:
        """A browser that is told another up goes back to the first photo, some frames later; only then can it be put where it was."""
        end = time.monotonic() + RESET_SECONDS
        first = self._server.initial_camera.position
        while time.monotonic() < end and any(np.linalg.norm(c.camera.position - first) > 1e-3 * SCENE_DEPTH for c in stood if c.client_id in self.browsers()):
            time.sleep(0.05)

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
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        gui.add_html(NARROW)
        self._status = gui.add_markdown("Waiting for the scene ...")
        self._progress = gui.add_progress_bar(0.0, visible=False)
        self.live = LivePanel(gui, on_stop)
        self._photos = PhotoPanel(self)
        self._look = LookPanel(self)
        self._edit = EditPanel(self)
        self._path = PathPanel(self)
        self._take_panel = TakePanel(self, self._link)
        self._build_help(gui)

    def _build_help(self, gui: Any) -> None:
        dark = gui.add_checkbox("Dark page", True)
        dark.on_update(lambda _: gui.configure_theme(dark_mode=dark.value, show_logo=False, show_share_button=False))
        gui.add_button("Help").on_click(lambda event: self._help(event.client))
        keys: tuple[tuple[str, str, Callable[[Any], None]], ...] = (
            ("H", "Help", self._help),
            ("P", "Show or hide the photos", lambda _: setattr(self._photos.show, "value", not self._photos.show.value)),
            ("N", "Stand at the next photo", self._photos.next),
            ("L", "Show the next layer: picture, depth, ...", lambda _: self._look.next_layer()),
            ("K", "Add a keyframe here", lambda client: self._path.add_key(client)),
            ("Z", "Undo the last edit", lambda client: self.in_background(lambda: self._edit.undo(client), client)),
        )
        for key, label, action in keys:
            gui.add_command(label, hotkey=key).on_trigger(lambda event, action=action: action(event.client))

    def _help(self, client: Any) -> None:
        if client is not None:
            with client.gui.add_modal("What can be done here") as modal:
                client.gui.add_markdown(HELP)
                client.gui.add_button("Close").on_click(lambda _: modal.close())

    def _link(self, client: Any) -> str | None:
        """To this view; viser reads it when the page is opened."""
        try:
            c = client.camera
            view = {"Position": c.position, "LookAt": c.look_at, "Up": c.up_direction}
            values = {f"initialCamera{name}": ",".join(f"{v:.5g}" for v in vector) for name, vector in view.items()}
            values["initialCameraFov"] = f"{c.fov:.4g}"
        except AssertionError:
            return None
        if self._guard.token is not None:
            values["token"] = self._guard.token
        return f"{self.url.split('/?')[0]}/?{urlencode(values, safe=',')}"

    def _show_live(self, step: int, info: LiveInfo) -> None:
        count = 0 if self._gaussians is None else len(self._gaussians)
        self.set_status(live_text(step, count, info), step / info.steps if info.steps else None)
        self.live.read(step, info.loss, info.psnr)

    def _tell_scene(self) -> None:
        count = 0 if self._gaussians is None else len(self._gaussians)
        edits = f" · {len(self._steps)} edit{'s' if len(self._steps) != 1 else ''}" if self._steps else ""
        self._status.content = f"{count:,} splats" + (f" · {len(self.photos)} photos" if self.photos else "") + edits

    def _take(self, gaussians: Gaussians) -> None:
        with self._lock:
            self._base = (gaussians, self._base[1])
            self._apply_edits()
            if self._framing is None or self._framing_is_rough:
                self._place()

    def _apply_edits(self) -> None:
        gaussians, cameras = self._base
        left, moved = apply_edits(_no_gaussians() if gaussians is None else gaussians, _no_cameras() if cameras is None else cameras, self._steps)
        self._gaussians = None if gaussians is None else left
        self._cameras = None if cameras is None else moved

    def _send_splats(self) -> None:
        with self._lock:
            gaussians, frame, cameras, change = self._gaussians, self.frame, self._cameras, self._preview
            self._sending += 1
            number = self._sending
        if gaussians is None or self._closed.is_set():
            return
        if change is not None:
            gaussians = change(gaussians)
        packed = pack_splats(gaussians, frame, cameras, self._max_splats, self._look.splat_size)
        with self._lock:
            if number < self._sent:
                return  # a newer one was quicker
            self._sent = number
            if self._splats is None or not hasattr(self._splats, "set_gaussians"):
                self._splats = self._server.scene.add_gaussian_splats(
                    "/splats", packed.centers, packed.covariances, packed.rgbs, packed.opacities, visible=self._look.by_browser
                )
            else:
                self._splats.set_gaussians(packed.centers, packed.covariances, packed.rgbs, packed.opacities)
        self._look.scene_changed()

    # -- where things are --------------------------------------------------------------------------------------------------------

    def _place(self, stay: bool = False) -> None:
        """Decides the viewer's frame, up and first camera. Without points it is a guess, made again when they come. `stay`: nobody is moved."""
        g = self._gaussians
        cameras = self._cameras
        if cameras is None or len(cameras) == 0:
            if g is None or len(g) == 0:
                return
            placed = g.means[torch.isfinite(g.means).all(-1)]
            if not len(placed):
                return
            center = placed.median(0).values
            extent = float((g.means - center).norm(dim=-1).nan_to_num(posinf=0).median()) or 1.0
            self._framing_is_rough = True
            self._frame = ViewFrame(SCENE_DEPTH / (3 * extent), tuple(center.tolist()))
            up = up_after(self._steps)
            if up is not None:
                self._set_up(up)
            self._path.redraw()
            return
        framing = frame_scene(cameras, None if g is None else g.means, None if g is None else g.opacities, up_after(self._steps))
        frame, moved = self._frame, self._frame is None or self._framing_is_rough
        if frame is None or moved:
            self._frame = frame = ViewFrame(SCENE_DEPTH / framing.depth, tuple(framing.focus.tolist()))
        self._framing, self._framing_is_rough = framing, g is None
        self._set_up(framing.up)
        for photo, camera, depth in zip(self.photos, (cameras[i] for i in range(len(cameras))), framing.depths.tolist(), strict=True):
            photo.stand(camera, depth, frame, framing.up)
        first, start = self.photos[0], self._server.initial_camera
        start.position, start.look_at, start.up = first.position, first.look_at, first.up
        start.fov = fit_fov(first, 1.6)
        start.near, start.far = SCENE_DEPTH * 2e-3, SCENE_DEPTH * 1e3
        self._photos.placed()
        self._look.photos_moved()
        self._path.redraw()
        for client in self.browsers().values() if moved and not stay else ():
            self._photos.stand(client, first)

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


def _no_gaussians() -> Gaussians:
    return Gaussians(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 1, 3))


def _no_cameras() -> Cameras:
    return Cameras(torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), 1, 1)
