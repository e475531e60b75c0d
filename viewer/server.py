"""The web page: splats drawn by the browser, photos as frustums, live while training. The only file that imports viser."""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.errors import BackendUnavailable, HandfulError, ShapeError
from ..recon.framing import Framing, frame_scene
from ..recon.gaussians import Gaussians
from .newest import NewestWins
from .photos import Photo, PhotoLayer, fit_fov
from .splats import SCENE_DEPTH, ViewFrame, pack_splats
from .status import LiveInfo, live_text

__all__ = ["SceneServer"]

MIN_INTERVAL = 2.0  # seconds between two live updates; more when one takes long
LIVE_SHARE = 0.05  # of the training's time that live updates may take
STATUS_INTERVAL = 0.5
PORTS_TRIED = 100


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C once more while the page closes, which takes a moment, changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    ) -> None:
        """Starts serving.

        Args:
            host: address to listen on; anything but this machine's own is reachable by others, and the page has no password.
            port: first port to try; the next free one is taken.
            announce: called with the line that tells the link; None = silent.
            max_splats: send at most so many, the largest and most opaque.

        Raises HandfulError when the address or all ports are taken or impossible, BackendUnavailable without viser.
        """
        viser = _import_viser()
        with contextlib.redirect_stdout(io.StringIO()):  # viser prints a table of its own, and a goodbye when it stops
            self._server: Any = viser.ViserServer(host=host, port=_free_port(host, port), label=title, verbose=False)
        _forbid_sharing(self._server)
        self._host, self._max_splats = host, max_splats
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._worker = NewestWins("handful-viewer")
        self._frame: ViewFrame | None = None
        self._framing: Framing | None = None
        self._framing_is_rough = True
        self._cameras: Cameras | None = None
        self._photos: list[Photo] = []
        self._layers: dict[int, PhotoLayer] = {}
        self._gaussians: Gaussians | None = None
        self._splats: Any = None
        self._next_update = self._next_status = 0.0
        self._build_page()
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
        """The link to open on this machine."""
        host = "localhost" if self._host in ("0.0.0.0", "::", "") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def clients(self) -> int:
        """Browsers that have the page open."""
        return len(self._server.get_clients())

    def set_photos(self, cameras: Cameras, images: Float[Tensor, "V H W 3"] | Sequence[Float[Tensor, "H W 3"]], names: Sequence[str]) -> None:
        """Shows the photos as frustums; the first one is where a visitor stands at the start. Call again when cameras were refined."""
        if not len(cameras) == len(images) == len(names):
            raise ShapeError(f"The viewer needs one image and name per camera; got {len(cameras)} cameras, {len(images)} images, {len(names)} names.")
        with self._lock:
            self._cameras = cameras.to("cpu", torch.float32)
            self._photos = [Photo.of(image, name) for image, name in zip(images, names, strict=True)]
            self._place()
        if self._splats is not None:  # the frame they were sent in, and the colours the photos see, may have changed
            self._send_splats()

    def set_gaussians(self, gaussians: Gaussians) -> None:
        """Shows a finished scene; returns when it is on its way to the browsers."""
        with self._lock:
            self._gaussians = gaussians.clone().to("cpu")
            if self._framing is None or self._framing_is_rough:
                self._place()
        self._send_splats()
        self._status.content = f"{len(gaussians):,} splats" + (f" · {len(self._photos)} photos" if self._photos else "")
        self._progress.visible = False

    def update_gaussians(self, gaussians: Gaussians | Callable[[], Gaussians], step: int = 0, info: LiveInfo = LiveInfo()) -> bool:
        """To be called from a training loop after every step; costs nothing most of the time and never waits for a browser.

        Args:
            gaussians: the scene as it is now, or a function that makes a snapshot of it (called only when one is wanted).
            step, info: what to say about the training.

        Returns whether a snapshot was taken.
        """
        now = time.monotonic()
        if now >= self._next_status:
            self._next_status = now + STATUS_INTERVAL
            self._show_live(step, info)
        if now < self._next_update or self._worker.busy or (self._splats is not None and self.clients == 0):
            return False
        snapshot = (gaussians() if callable(gaussians) else gaussians).clone().to("cpu")
        taken = time.monotonic()

        def job() -> None:
            with self._lock:
                self._gaussians = snapshot
                if self._framing is None or self._framing_is_rough:
                    self._place()
            self._send_splats()
            spent = time.monotonic() - now
            self._next_update = taken + max(MIN_INTERVAL, spent / LIVE_SHARE)

        self._next_update = taken + MIN_INTERVAL
        self._worker.submit(job)
        return True

    def set_background(self, rgb: tuple[float, float, float]) -> None:
        """The colour behind everything, sRGB in [0, 1]; a visitor can choose another."""
        r, g, b = (round(255 * min(max(c, 0.0), 1.0)) for c in rgb)
        self._background.value = (r, g, b)
        self._set_background()

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
        with _undisturbed(), contextlib.redirect_stdout(io.StringIO()):
            self._worker.close()
            self._server.stop()

    def __enter__(self) -> SceneServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- the page ----------------------------------------------------------------------------------------------------------------

    def _build_page(self) -> None:
        gui = self._server.gui
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._status = gui.add_markdown("Waiting for the scene ...")
        self._progress = gui.add_progress_bar(0.0, visible=False)
        with gui.add_folder("Photos"):
            self._show_photos = gui.add_checkbox("Show photos", True, hint="Click a photo in the scene to stand where it was taken.")
            self._frustum_size = gui.add_slider("Photo size", 0.1, 5.0, 0.1, 1.0)
            self._goto = gui.add_dropdown("Stand at", ("-",), hint="Look from where this photo was taken.")
        with gui.add_folder("Look"):
            self._splat_size = gui.add_slider("Splat size", 0.05, 1.5, 0.05, 1.0, hint="Small splats show the points behind the picture.")
            self._background = gui.add_rgb("Background", (0, 0, 0))
        self._show_photos.on_update(lambda _: self._refresh_layers())
        self._frustum_size.on_update(lambda _: self._refresh_layers())
        self._splat_size.on_update(lambda _: self._worker.submit(self._send_splats))
        self._background.on_update(lambda _: self._set_background())
        self._goto.on_update(lambda event: self._go(event.client, self._goto.value))
        self._set_background()

    def _set_background(self) -> None:
        self._server.scene.set_background_image(np.full((2, 2, 3), self._background.value, np.uint8), format="png")

    def _show_live(self, step: int, info: LiveInfo) -> None:
        count = 0 if self._gaussians is None else len(self._gaussians)
        self.set_status(live_text(step, count, info), step / info.steps if info.steps else None)

    def _send_splats(self) -> None:
        with self._lock:
            gaussians, frame, cameras = self._gaussians, self._frame, self._cameras
        if gaussians is None or self._closed.is_set():
            return
        packed = pack_splats(gaussians, frame or ViewFrame(), cameras, self._max_splats, self._splat_size.value)
        with self._lock:
            if self._splats is None or not hasattr(self._splats, "set_gaussians"):
                self._splats = self._server.scene.add_gaussian_splats(
                    "/splats", packed.centers, packed.covariances, packed.rgbs, packed.opacities
                )
            else:
                self._splats.set_gaussians(packed.centers, packed.covariances, packed.rgbs, packed.opacities)

    # -- where things are --------------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Decides the viewer's frame, up and first camera. Without points it is a guess, made again when they come."""
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
            return
        framing = frame_scene(cameras, None if g is None else g.means, None if g is None else g.opacities)
        frame, moved = self._frame, self._frame is None or self._framing_is_rough
        if frame is None or moved:
            self._frame = frame = ViewFrame(SCENE_DEPTH / framing.depth, tuple(framing.focus.tolist()))
        self._framing, self._framing_is_rough = framing, g is None
        self._server.scene.set_up_direction(tuple(framing.up.tolist()))
        for photo, camera, depth in zip(self._photos, (cameras[i] for i in range(len(cameras))), framing.depths.tolist(), strict=True):
            photo.stand(camera, depth, frame, framing.up)
        first, start = self._photos[0], self._server.initial_camera
        start.position, start.look_at, start.up = first.position, first.look_at, first.up
        start.fov = fit_fov(first, 1.6)
        start.near, start.far = SCENE_DEPTH * 2e-3, SCENE_DEPTH * 1e3
        self._goto.options = tuple(p.name for p in self._photos)
        for client in self._server.get_clients().values():
            self._give_photos(client)
            if moved:
                self._stand(client, first)

    # -- browsers ----------------------------------------------------------------------------------------------------------------

    def _client_came(self, client: Any) -> None:
        self._next_update = 0.0  # it should not wait for a fresh picture
        with self._lock:
            self._give_photos(client)
            if self._photos:
                client.camera.fov = fit_fov(self._photos[0], client.camera.aspect)
        client.camera.on_update(lambda _: self._refresh_layer(client.client_id))

    def _client_left(self, client: Any) -> None:
        with self._lock:
            self._layers.pop(client.client_id, None)

    def _give_photos(self, client: Any) -> None:
        """Frustums belong to each browser by itself: the photo one stands at must not stand in one's own view only."""
        old = self._layers.pop(client.client_id, None)
        if old is not None:
            old.remove()
        layer = PhotoLayer(client, self._photos, self._spacing(), self._stand)
        self._layers[client.client_id] = layer
        layer.refresh(self._show_photos.value, self._frustum_size.value)

    def _spacing(self) -> float:
        """Length of a frustum in viewer units: a third of the way to the next photo, within reason."""
        if self._cameras is None or self._frame is None:
            return 1.0
        d = self._cameras.distances * self._frame.scale
        d.fill_diagonal_(float("inf"))
        near = float(d.min(1).values.median()) if len(d) > 1 else SCENE_DEPTH
        return min(max(near / 3, 0.03 * SCENE_DEPTH), 0.08 * SCENE_DEPTH)

    def _refresh_layers(self) -> None:
        for client_id in list(self._layers):
            self._refresh_layer(client_id)

    def _refresh_layer(self, client_id: int) -> None:
        with self._lock:
            layer = self._layers.get(client_id)
            if layer is not None:
                layer.refresh(self._show_photos.value, self._frustum_size.value)

    def _go(self, client: Any, name: str) -> None:
        with self._lock:
            photo = next((p for p in self._photos if p.name == name), None)
        if photo is not None and client is not None:
            self._stand(client, photo)

    def _stand(self, client: Any, photo: Photo) -> None:
        """Moves one browser's camera to where a photo was taken."""
        with client.atomic():
            client.camera.up_direction = photo.up
            client.camera.position = photo.position
            client.camera.look_at = photo.look_at
            client.camera.fov = fit_fov(photo, client.camera.aspect)


def _import_viser() -> Any:
    try:
        import viser
    except ImportError as e:
        raise BackendUnavailable(f"The viewer needs viser, which cannot be imported ({e}); run `pip install viser`.") from e
    return viser


def _forbid_sharing(server: Any) -> None:
    """viser opens a public tunnel for any page that asks, whether or not the button is shown; here a scene leaves the machine by --host alone."""
    from viser import _messages

    for name in ("ShareUrlRequest", "ShareUrlDisconnect"):
        message = getattr(_messages, name, None)
        if message in server._websock_server._incoming_handlers:
            server._websock_server.unregister_handler(message)


def _free_port(host: str, port: int) -> int:
    """The first free port from `port` on. Found out here because viser would wait for ever on an impossible address."""
    if not 0 <= port <= 65535:
        raise HandfulError(f"There is no port {port}; choose one from 1024 to 65535 with --port.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as e:
        raise HandfulError(f"The viewer cannot listen on {host!r} ({e.strerror or e}); use 127.0.0.1, or 0.0.0.0 for all networks.") from e
    reason = "all are taken"
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate, *address[2:]))
                probe.listen(1)
                return candidate
            except OSError as e:
                reason = e.strerror or str(e)
                if e.errno == errno.EADDRNOTAVAIL:
                    raise HandfulError(f"This machine does not have the address {host}; use 127.0.0.1, or 0.0.0.0 for all networks.") from e
    raise HandfulError(f"No free port from {port} to {min(port + PORTS_TRIED, 65536) - 1} on {host} ({reason}); choose another with --port.")
