"""The scans beside the splats: shown or not, how large, in which colours. No viser import here."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..recon.edits import carry_between
from ..recon.gaussians import Gaussians
from ..recon.sweeps import Sweep
from .page import Page
from .scans import Cloud, Coloring, depth_error, photo_colors, ramp
from .splats import SCENE_DEPTH

__all__ = ["ScanPanel"]

LIVE_INTERVAL = 30.0  # seconds between two measurements of a scene that is being optimised: each draws all photos
PHOTOS, OWN, HEIGHT, INTENSITY, DISTANCE, ERROR = "the photos", "the scanner's own", "height", "intensity", "distance from the scanner", "error of the scene"
SMALLEST, LARGEST = SCENE_DEPTH / 2000, SCENE_DEPTH / 100  # a return's size in viewer units at slider 1; between them as dense as the scan is


class ScanPanel:
    """There is no panel until scans come. Choices are everybody's."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._lock = threading.RLock()
        self._came: Cloud | None = None  # in the world before edits
        self._point = SMALLEST
        self._handle: Any = None
        self._asked = False  # for a painting that has not begun
        self._measured: weakref.ref[Gaussians] | None = None  # what the error was last measured on
        self._when = float("-inf")
        gui = page.gui
        with gui.add_folder("Scan", visible=False) as self._folder:
            self._show = gui.add_checkbox("Show the scan", True)
            self._alone = gui.add_checkbox("Without the splats", False, hint="What the scanner saw, and nothing else.")
            self._size = gui.add_slider("Point size", 0.1, 5.0, 0.1, 1.0)
            self._color = gui.add_dropdown("Colour by", (PHOTOS, HEIGHT, DISTANCE, ERROR), hint="Error: the depth that is drawn, from the nearest photo, against the scan's.")
            self._legend = gui.add_markdown("", visible=False)
        self._show.on_update(lambda _: self._refresh())
        self._alone.on_update(lambda _: page.refresh_splats())
        self._size.on_update(lambda _: self._refresh())
        self._color.on_update(lambda _: self._ask())

    @property
    def alone(self) -> bool:
        """Whether nothing but the scan is wanted."""
        return self._came is not None and bool(self._show.value) and bool(self._alone.value)

    def take(self, sweeps: Sequence[Sweep]) -> None:
        """Shows these scans, in the world of the scene before its edits; none hides the panel."""
        with self._lock:
            self._came = Cloud.of(sweeps) if any(len(s) for s in sweeps) else None
            self._folder.visible = self._came is not None
            if self._came is None:
                self._remove()
            else:
                own = ((OWN,) if self._came.rgb is not None else ()) + ((INTENSITY,) if self._came.intensity is not None else ())
                self._color.options = (PHOTOS, *own, HEIGHT, *((DISTANCE,) if self._came.distance is not None else ()), ERROR)
                self._color.value = OWN if self._came.rgb is not None else PHOTOS
                self._ask()  # with the lock held: what the choices asked for has not begun, and is this
        if self._alone.value:
            self._page.refresh_splats()

    def placed(self) -> None:
        """The page's units, the photos' places or the world are others than before."""
        if self._came is not None:
            self._ask()

    def scene_changed(self, live: bool = False) -> None:
        """Splats were sent; where they are others than before, what is measured on them is old. `live`: and soon they will be others again."""
        if self._came is None or self._color.value != ERROR or (live and time.monotonic() - self._when < LIVE_INTERVAL):
            return
        shown = self._page.shown()
        if shown is not None and (self._measured is None or shown[0] is not self._measured()):
            self._ask()

    def toggle(self) -> None:
        self._show.value = not self._show.value
        self._refresh()

    def _ask(self) -> None:
        """Has it painted, once however often it is asked before that begins: the page has one thread for all that visitors want."""
        with self._lock:
            if self._asked:
                return
            self._asked = True
        self._page.in_background(self._begin)

    def _begin(self) -> None:
        with self._lock:
            self._asked = False
        self._paint()

    def _refresh(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.visible = bool(self._show.value)
                self._handle.point_size = self._size.value * self._point
        if self._alone.value:
            self._page.refresh_splats()

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _paint(self) -> None:
        """Colours it as is wanted, and sends it."""
        came = self._came
        if came is None:
            return
        carry = carry_between((), self._page.steps())
        cloud = came if carry is None else came.carried(carry)
        coloring = self._colored(cloud)
        with self._lock:
            if came is not self._came or self._page.closing():
                return  # others came meanwhile, and are painted next
            points = self._page.frame.apply(cloud.xyz).float().numpy()
            colors = (coloring.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            self._legend.content, self._legend.visible = coloring.legend, bool(coloring.legend)
            self._point = min(max(cloud.spacing() * self._page.frame.scale, SMALLEST), LARGEST)
            if self._handle is not None and len(self._handle.points) == len(points):
                with self._page.scene_at_once():
                    self._handle.points, self._handle.colors = points, colors
                    self._handle.point_size = self._size.value * self._point
                return
            self._remove()
            self._handle = self._page.scene.add_point_cloud(
                "/scan", points, np.ascontiguousarray(colors), point_size=self._size.value * self._point, point_shape="circle", precision="float32",
                point_shading="flat", visible=bool(self._show.value),
            )  # fmt: skip

    def _colored(self, cloud: Cloud) -> Coloring:
        by: dict[str, Callable[[], Coloring]] = {
            PHOTOS: lambda: photo_colors(cloud, self._page.photos),
            HEIGHT: lambda: ramp(cloud.xyz @ self._page.up.to(cloud.xyz)),
            ERROR: lambda: self._error(cloud),
        }
        rgb, intensity, distance = cloud.rgb, cloud.intensity, cloud.distance
        if rgb is not None:
            by[OWN] = lambda: Coloring(rgb)
        if intensity is not None:
            by[INTENSITY] = lambda: ramp(intensity)
        if distance is not None:
            by[DISTANCE] = lambda: ramp(distance)
        return by.get(self._color.value, by[HEIGHT])()

    def _error(self, cloud: Cloud) -> Coloring:
        shown = self._page.shown()
        if shown is None or len(shown[1]) == 0:
            return Coloring(torch.full((len(cloud), 3), 0.35), "there is no scene, or no photo, to compare with yet")
        self._measured = weakref.ref(shown[0])
        coloring = depth_error(cloud, *shown, self._page.rasterizer(), self._page.closing)[1]
        self._when = time.monotonic()
        return coloring
