"""A camera path made on the page: keyframes in time, a look at it, and a file that `handful render --path` draws. No viser import here."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.camera_path import CameraPath
from ..recon.errors import HandfulError
from ..recon.se3 import quat_from_matrix
from .page import Page
from .plain import plain
from .splats import SCENE_DEPTH

__all__ = ["PathPanel"]

STEP = 2.0  # seconds from one keyframe to the next
COLOR = (90, 200, 120)
PREVIEW_FPS = 20.0
NONE = "-"
BEGIN = "Stand somewhere, add a keyframe, go on: the film flies from one to the next."


class PathPanel:
    """The keyframes belong to the scene, not to a browser: all see them, and they are there when the page is opened again."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._keys: list[tuple[float, Cameras]] = []  # seconds, and the camera (world frame, float64)
        self._drawn: list[Any] = []
        self._playing: threading.Event | None = None  # set to end the preview under way
        self._fps, self._saved = 30.0, False
        self._lock = threading.RLock()
        self._busy = False  # our own changes of the page must not come back as a visitor's
        gui = page.gui
        with gui.add_folder("Camera path", expand_by_default=False):
            self._about = gui.add_markdown(BEGIN)
            add = gui.add_button("Add keyframe here")
            self._which = gui.add_dropdown("Keyframe", (NONE,))
            self._time = gui.add_slider(
                "Reached at, s", 0.0, 10.0, 0.1, 0.0, disabled=True,
                hint="When the film comes by this keyframe: drag it sooner or later, past others too. The film begins at the first.",
            )  # fmt: skip
            self._fov = gui.add_slider("Field of view", 5.0, 120.0, 0.5, 50.0, disabled=True, hint="Of this keyframe, degrees from top to bottom.")
            go, replace_, drop = (gui.add_button(label, disabled=True) for label in ("Go there", "Replace by this view", "Remove"))
            self._of_one = (self._fov, go, replace_, drop)  # what there is to do with a keyframe
            self._speed = gui.add_number("Whole length, s", 0.0, min=0.0, step=0.1, disabled=True, hint="Slower or faster, all of it.")
            self._loop = gui.add_checkbox("Back to the start", False, hint="The film ends where it began.")
            self._at = gui.add_slider("Stand at, s", 0.0, 60.0, 0.05, 0.0, disabled=True, hint="Takes you to where the film is then.")
            self._play = gui.add_button("Preview", disabled=True)
            self._show = gui.add_checkbox("Show the path", True)
            save = gui.add_button("Save the path")
        add.on_click(lambda event: self.add_key(event.client))
        go.on_click(lambda event: self._go(event.client))
        replace_.on_click(lambda event: self._replace(event.client))
        drop.on_click(lambda _: self._remove())
        self._which.on_update(lambda event: self._choose(event.client))
        self._time.on_update(lambda _: self._retime())
        self._fov.on_update(lambda _: self._refov())
        self._speed.on_update(lambda _: self._respeed())
        self._loop.on_update(lambda _: self._refresh())
        self._show.on_update(lambda _: self._draw())
        self._at.on_update(lambda event: self._look(event.client))
        self._play.on_click(lambda event: self._toggle(event.client))
        save.on_click(lambda event: page.in_background(lambda: self.save(event.client), event.client))

    # -- the keyframes -------------------------------------------------------------------------------------------

    def path(self) -> CameraPath | None:
        with self._lock:
            if not self._keys:
                return None
            first = self._keys[0][1]
            cameras = Cameras(torch.cat([c.cam_from_world for _, c in self._keys]), torch.cat([c.K for _, c in self._keys]), first.width, first.height)
            times = torch.tensor([t for t, _ in self._keys], dtype=torch.float64)
            return CameraPath(cameras, times, self._fps, bool(self._loop.value))

    def load(self) -> None:
        """The path saved beside the scene, if there is one, in the place of what was loaded before."""
        try:
            path = None if self._page.keeper is None else self._page.keeper.load_path(self._page.steps())
        except HandfulError as e:
            self._about.content = plain(str(e))
            return
        if path is None and not self._saved:
            return
        with self._lock:
            self._saved, self._keys = path is not None, []
            if path is not None:
                start = float(path.times[0])
                self._fps, self._loop.value = path.fps, path.loop
                self._keys = [(float(t) - start, path.cameras[i]) for i, t in enumerate(path.times)]
        self._refresh(0)

    def add_key(self, client: Any) -> None:
        """Where this browser stands becomes the last keyframe."""
        camera = self._page.camera_of(client)
        if camera is None:
            return
        with self._lock:
            camera = _as_large_as(camera, self._keys[0][1]) if self._keys else _even(camera)
            self._keys.append((self._keys[-1][0] + STEP if self._keys else 0.0, camera))
            self._refresh(len(self._keys) - 1)

    def _index(self) -> int | None:
        """The chosen keyframe, None where it has gone. Events come from many threads: to be asked, as `_busy` is, under the lock."""
        value = self._which.value
        i = None if value == NONE else int(value.split(" ")[0]) - 1
        return None if i is None or i >= len(self._keys) else i

    def _replace(self, client: Any) -> None:
        camera = self._page.camera_of(client)
        with self._lock:
            i = self._index()
            if i is not None and camera is not None:
                self._keys[i] = (self._keys[i][0], _as_large_as(camera, self._keys[0][1]))
                self._refresh(i)

    def _remove(self) -> None:
        with self._lock:
            i = self._index()
            if i is not None:
                del self._keys[i]
                self._keys = [(t - self._keys[0][0], c) for t, c in self._keys]  # the film begins at the first
                self._refresh(min(i, len(self._keys) - 1) if self._keys else None)

    def _retime(self) -> None:
        with self._lock:
            i = self._index()
            if not i or self._busy:  # none, or the first
                return
            key = (float(self._time.value), self._keys[i][1])
            others = [k for j, k in enumerate(self._keys) if j != i]
            if any(abs(t - key[0]) < 0.05 for t, _ in others):
                return  # two keyframes at one time: wait until it is dragged past
            self._keys = sorted([*others, key], key=lambda k: k[0])
            self._refresh(self._keys.index(key), scale=False)  # a slider that is dragged must not change under the hand

    def _refov(self) -> None:
        with self._lock:
            i = self._index()
            if i is None or self._busy:
                return
            time_, camera = self._keys[i]
            K = camera.K.clone()
            K[:, 0, 0] = K[:, 1, 1] = camera.height / 2 / math.tan(math.radians(self._fov.value) / 2)
            self._keys[i] = (time_, replace(camera, K=K))
            self._draw()

    def _respeed(self) -> None:
        with self._lock:
            path = self.path()
            if self._busy or path is None or path.seconds <= 0 or self._speed.value <= 0:
                return
            factor = float(self._speed.value) / path.seconds
            self._keys = [(t * factor, c) for t, c in self._keys]
            self._refresh(self._index())

    # -- the page ------------------------------------------------------------------------------------------------

    def _refresh(self, chosen: int | None = None, scale: bool = True) -> None:
        with self._lock:
            self._busy = True
            try:
                names = tuple(f"{i + 1} at {t:.1f} s" for i, (t, _) in enumerate(self._keys))
                chosen = self._index() if chosen is None else chosen
                self._which.options = names or (NONE,)
                self._which.value = names[min(chosen or 0, len(names) - 1)] if names else NONE
                self._chosen()
                path = self.path()
                still = path is None or path.seconds <= 0
                self._speed.disabled = self._at.disabled = self._play.disabled = still
                self._speed.value = 0.0 if path is None else round(path.seconds, 3)
                self._at.max = max(0.1, self._speed.value)
                if scale:
                    self._scale()
                self._about.content = BEGIN if path is None else _told(path)
            finally:
                self._busy = False
        self._draw()

    def _scale(self) -> None:
        """The slider of a keyframe's time reaches to twice the last one's."""
        self._time.max = max(10.0, float(math.ceil(2 * self._keys[-1][0]))) if self._keys else 10.0

    def _choose(self, client: Any) -> None:
        if client is not None:  # a visitor has
            self._scale()
        self._chosen()

    def _chosen(self) -> None:
        with self._lock:
            i = self._index()
            self._time.disabled = not i
            for control in self._of_one:
                control.disabled = i is None
            if i is None:
                return
            before, self._busy = self._busy, True
            try:
                time_, camera = self._keys[i]
                self._time.value = round(time_, 2)
                self._fov.value = round(math.degrees(2 * math.atan(camera.height / 2 / float(camera.K[0, 1, 1]))), 1)
            finally:
                self._busy = before

    def redraw(self) -> None:
        """The frame of the page has changed."""
        self._draw()

    def _draw(self) -> None:
        """The way as a line, keyframes as small frustums."""
        with self._lock:
            for handle in self._drawn:
                handle.remove()
            self._drawn.clear()
            path, frame = self.path(), self._page.frame
            if path is None or not self._show.value:
                return
            if len(path.cameras) > 1:
                at = torch.linspace(0, path.seconds, 16 * len(path.cameras), dtype=torch.float64)
                points = frame.apply(path.at(at).centers).numpy()
                self._drawn.append(self._page.scene.add_spline_catmull_rom("/path/line", points, thickness=2.0, thickness_units="screen", color=COLOR))
            for i in range(len(path.cameras)):
                camera = path.cameras[i]
                wxyz = quat_from_matrix(camera.cam_from_world[0, :3, :3].T.contiguous()).numpy()
                self._drawn.append(self._page.scene.add_camera_frustum(
                    f"/path/key{i}", fov=2 * math.atan(camera.height / 2 / float(camera.K[0, 1, 1])), aspect=camera.width / camera.height,
                    scale=0.02 * SCENE_DEPTH, color=COLOR, thickness=1.5, thickness_units="screen", wxyz=wxyz,
                    position=frame.apply(camera.centers)[0].numpy(), cast_shadow=False, receive_shadow=False,
                ))  # fmt: skip

    def moved(self, carry: Callable[[Cameras], Cameras]) -> None:
        """The world has moved under the path: `carry` moves a camera along, and a path that was saved is saved anew."""
        self.stop()
        with self._lock:
            self._keys = [(t, carry(c)) for t, c in self._keys]
        self._draw()
        path, keeper = self.path(), self._page.keeper
        if self._saved and path is not None and keeper is not None:
            keeper.save_path(path, self._page.steps())

    # -- looking -------------------------------------------------------------------------------------------------

    def _go(self, client: Any) -> None:
        with self._lock:
            i = self._index()
            camera = None if i is None else self._keys[i][1]
        if camera is not None:
            self._page.move(client, camera)

    def _look(self, client: Any) -> None:
        with self._lock:
            path = None if self._busy else self.path()
        if path is not None and client is not None:
            self._page.move(client, path.at(self._seconds(float(self._at.value), path)))

    def _seconds(self, at: float, path: CameraPath) -> Float[Tensor, "1"]:
        return torch.tensor([min(at, path.seconds)], dtype=torch.float64)

    def _toggle(self, client: Any) -> None:
        path = self.path()
        with self._lock:
            running, self._playing = self._playing, None
            if running is not None:
                running.set()
            if running is not None or path is None or client is None:
                return
            self._playing = ended = threading.Event()
        threading.Thread(target=self._run, args=(client, path, ended), name="handful-preview", daemon=True).start()

    def _run(self, client: Any, path: CameraPath, ended: threading.Event) -> None:
        self._play.label = "Stop"
        try:
            began = time.monotonic()
            while not ended.is_set() and client.client_id in self._page.browsers():
                at = time.monotonic() - began
                if at > path.seconds and not path.closed:
                    break
                at = at % max(path.seconds, 1e-9) if path.closed else at
                self._page.move(client, path.at(self._seconds(at, path)))
                ended.wait(1 / PREVIEW_FPS)
        finally:
            with self._lock:
                if self._playing is ended:
                    self._playing = None
                if self._playing is None:
                    self._play.label = "Preview"

    def stop(self) -> None:
        with self._lock:
            running, self._playing = self._playing, None
        if running is not None:
            running.set()

    def save(self, client: Any) -> None:
        path, keeper = self.path(), self._page.keeper
        if path is None:
            self._page.tell(client, "No keyframes yet", "Stand somewhere and add one first.", bad=True)
        elif keeper is None:
            self._page.tell(client, "Nothing to save it beside", "Open the scene with `handful view FOLDER`.", bad=True)
        else:
            where = keeper.save_path(path, self._page.steps())
            self._saved = True
            self._page.tell(client, "Saved", f"Make the film with `handful render SCENE --path {where} -o film.mp4`.")


def _told(path: CameraPath) -> str:
    n = len(path.cameras)
    return "1 keyframe. Go somewhere else and add the next." if n == 1 else f"{n} keyframes, {path.seconds:.1f} s."


def _even(camera: Cameras) -> Cameras:
    """Of a size that a video can have."""
    return _resized(camera, camera.width // 2 * 2, camera.height // 2 * 2)


def _as_large_as(camera: Cameras, first: Cameras) -> Cameras:
    """All keyframes have one size; the vertical field of view stays."""
    return _resized(camera, first.width, first.height)


def _resized(camera: Cameras, width: int, height: int) -> Cameras:
    width, height = max(2, width), max(2, height)
    focal = float(camera.K[0, 1, 1]) * height / camera.height
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]], dtype=torch.float64)
    return Cameras(camera.cam_from_world.double(), K, width, height)
