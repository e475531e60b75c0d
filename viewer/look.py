"""How the scene is shown: by the browser, or in layers that Handful draws itself, and against its photos. No viser import here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from ..recon.camera import Cameras
from ..recon.field.scene import FieldScene
from ..recon.gaussians import Gaussians
from ..recon.sightings import COLORS, count_sightings, painted_by_sightings
from .layers import Drawing, FieldDrawing, SplatDrawing, finished
from .page import Page
from .painter import Painter, Wish
from .photos import Photo
from .wipe import Wipe, difference

__all__ = ["LookPanel"]

BROWSER = "splats, by the browser"
SIGHTINGS = "seen by how many photos"
LAYERS = {BROWSER: None, "picture": "color", "depth": "depth", "normals": "normal", "opacity": "opacity", SIGHTINGS: "color"}
FIELD_LAYERS = {"field": "color", "field: depth": "depth", "field: normals": "normal", "field: opacity": "opacity"}  # where the scene has one
FIELD_INTERVAL = 5.0  # seconds between two looks at a field that learns: they take time from the training
FINEST = {"full": 1, "half": 2, "quarter": 4}
WITH = ("the photo", "the difference")
_LEGEND = "".join(
    f'<span style="color: rgb({", ".join(str(round(255 * c)) for c in color)})">&#9632;</span> {text} &nbsp;'
    for color, text in zip(COLORS, ("none: invented", "one: its depth is a guess", "two", "three or more"), strict=True)
)


class LookPanel:
    """Choices are everybody's, cameras are each browser's own."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._painter = Painter()
        self._field: FieldScene | None = None
        self._next_field = 0.0  # when one that learns is looked at again
        self._lock = threading.RLock()
        self._wipes: dict[int, Wipe] = {}
        self._painted: tuple[Gaussians, Gaussians] | None = None  # the scene, and the same in the colours of its sightings
        self._counting: Gaussians | None = None  # the scene whose sightings are being counted
        self._differences: dict[str, UInt8[np.ndarray, "h w 3"]] = {}
        gui = page.gui
        with gui.add_folder("Look"):
            self._layer = gui.add_dropdown("Show", tuple(LAYERS), hint="All but the first are drawn by Handful: coarse while you move, in full when you rest.")
            self._finest = gui.add_dropdown("Field's resolution", tuple(FINEST), visible=False, hint="Of the window: less is there sooner. Crops and dropped splats leave the field whole.")
            self._legend = gui.add_markdown(_LEGEND, visible=False)
            self._wipe = gui.add_slider("Compare", 0.0, 1.0, 0.01, 0.0, hint="Stand at a photo, then draw it over the picture from the left.")
            self._with = gui.add_dropdown("Compare with", WITH, hint="Difference: violet = none, green = a tenth, red = a fifth of full scale.")
            self._splat_size = gui.add_slider("Splat size", 0.05, 1.5, 0.05, 1.0, hint="Small splats show the points behind the picture.")
            self._background = gui.add_rgb("Background", (0, 0, 0))
        self._layer.on_update(lambda _: page.in_background(self._layer_changed))
        self._finest.on_update(lambda _: page.in_background(self._draw_all))
        self._wipe.on_update(lambda _: self._refresh_wipes())
        self._with.on_update(lambda _: self._refresh_wipes())
        self._splat_size.on_update(lambda _: page.resend())
        self._background.on_update(lambda _: self._background_changed())
        self._background_changed()

    # -- what the page asks --------------------------------------------------------------------------------------

    @property
    def by_browser(self) -> bool:
        return self._layer.value == BROWSER

    @property
    def of_field(self) -> bool:
        return self._layer.value in FIELD_LAYERS

    @property
    def splat_size(self) -> float:
        return self._splat_size.value

    @property
    def background(self) -> tuple[float, float, float]:
        r, g, b = (c / 255 for c in self._background.value)
        return r, g, b

    def set_background(self, rgb: tuple[float, float, float]) -> None:
        r, g, b = (round(255 * min(max(c, 0.0), 1.0)) for c in rgb)
        self._background.value = (r, g, b)
        self._background_changed()

    def next_layer(self) -> None:
        names = self._layer.options
        self._layer.value = names[(names.index(self._layer.value) + 1) % len(names)]
        self._page.in_background(self._layer_changed)

    def take_field(self, field: FieldScene | Callable[[], FieldScene]) -> None:
        """A field to be looked at, in the scene's world before edits; again whenever it has learned more. A function is asked for it only where somebody looks
        at the field, what was asked before is drawn, and a while has passed."""
        if not isinstance(field, FieldScene):
            now = time.monotonic()
            if not self.of_field or not self._page.browsers() or self._painter.waiting or now < self._next_field:
                return
            field, self._next_field = field(), now + FIELD_INTERVAL
        self._field = field
        if len(self._layer.options) == len(LAYERS):
            self._layer.options = (*LAYERS, *FIELD_LAYERS)
        if self.of_field:
            self._forget_differences()
            self._draw_all(again=True)

    def scene_changed(self, live: bool = False) -> None:
        """Splats were sent. `live`: of a run that goes on; its field comes by itself."""
        if live and self.of_field:
            return
        self._forget_differences()
        if not self.by_browser:
            self._page.in_background(self._draw_all)
        if self._wipe.value > 0:
            self._refresh_wipes()

    def photos_moved(self) -> None:
        self._forget_differences()

    def came(self, client: Any) -> None:
        with self._lock:
            self._wipes[client.client_id] = Wipe(client)
        self.moved(client)

    def left(self, client_id: int) -> None:
        with self._lock:
            self._wipes.pop(client_id, None)
        self._painter.forget(client_id)

    def moved(self, client: Any) -> None:
        """The browser's camera has."""
        if not self.by_browser:
            self._draw(client)
        self._refresh_wipe(client.client_id)

    def close(self) -> None:
        self._painter.close()

    # -- layers --------------------------------------------------------------------------------------------------

    def _layer_changed(self) -> None:
        self._legend.visible, self._finest.visible = self._layer.value == SIGHTINGS, self.of_field
        self._forget_differences()
        self._refresh_wipes()
        self._page.show_splats(self.by_browser)
        if self.by_browser:
            for client_id in self._page.browsers():
                self._painter.forget(client_id)
            self._background_changed()
        else:
            self._draw_all()

    def _draw_all(self, again: bool = False) -> None:
        """`again`: the browsers keep the picture they have until there is one as fine."""
        for client in self._page.browsers().values():
            self._draw(client, again)

    def _draw(self, client: Any, again: bool = False) -> None:
        drawing, camera, layer = self._what(), self._page.camera_of(client), (LAYERS | FIELD_LAYERS)[self._layer.value]
        if drawing is None or camera is None or layer is None:
            return

        def send(picture: UInt8[np.ndarray, "h w 3"], full: bool) -> None:
            if not self.by_browser:
                client.scene.set_background_image(picture, format="jpeg", jpeg_quality=92 if full else 75)
            if self.by_browser:  # chosen meanwhile: the picture must not stay behind the splats
                client.scene.set_background_image(np.full((2, 2, 3), self._background.value, np.uint8), format="png")

        ask = self._painter.then if again else self._painter.wish
        ask(client.client_id, Wish(drawing, camera, layer, self.background, send, coarse=not again))

    def _what(self) -> Drawing | None:
        """What the layer draws."""
        shown = self._page.shown()
        if shown is None or self._layer.value != SIGHTINGS:
            return self._drawing(self._scene())
        with self._lock:
            if (self._painted is None or self._painted[0] is not shown[0]) and self._counting is not shown[0]:
                self._counting = shown[0]
                self._page.in_background(lambda: self._count(*shown))
            return self._drawing(None if self._painted is None else self._painted[1])  # those of before, until they are counted again

    def _scene(self) -> Gaussians | FieldScene | None:
        """The one that is looked at, in its own colours."""
        if self.of_field:
            return self._field
        shown = self._page.shown()
        return None if shown is None else shown[0]

    def _drawing(self, scene: Gaussians | FieldScene | None) -> Drawing | None:
        if isinstance(scene, FieldScene):
            return FieldDrawing(scene, self._page.steps(), FINEST[self._finest.value])
        return None if scene is None else SplatDrawing(scene, self._page.rasterizer())

    def _count(self, gaussians: Gaussians, cameras: Cameras) -> None:
        """By the photos that the scene has learned from; then everybody sees it."""
        learned = [i for i, photo in enumerate(self._page.photos) if photo.kind == "trained"]
        extents = [None if (extent := self._page.photos[i].extent) is None else torch.from_numpy(extent) for i in learned]
        painted = painted_by_sightings(gaussians, count_sightings(gaussians, cameras[learned], self._page.rasterizer(), extents))
        with self._lock:
            self._painted = (gaussians, painted)
        self._draw_all()

    def _background_changed(self) -> None:
        with self._lock:
            self._differences.clear()
        if self.by_browser:
            self._page.scene.set_background_image(np.full((2, 2, 3), self._background.value, np.uint8), format="png")
        else:
            self._page.in_background(self._draw_all)

    # -- against the photos --------------------------------------------------------------------------------------

    def _forget_differences(self) -> None:
        with self._lock:
            self._differences.clear()
            for wipe in self._wipes.values():
                wipe.forget()

    def _refresh_wipes(self) -> None:
        with self._lock:
            for client_id in list(self._wipes):
                self._refresh_wipe(client_id)

    def _refresh_wipe(self, client_id: int) -> None:
        with self._lock:
            wipe = self._wipes.get(client_id)
            if wipe is None:
                return
            photo = wipe.photo_at(self._page.photos) if self._wipe.value > 0 else None
            picture = None if photo is None else self._compared(photo)
            wipe.refresh(photo, self._wipe.value, picture, self._with.value)

    def _compared(self, photo: Photo) -> UInt8[np.ndarray, "h w 3"] | None:
        """The photo, or how the render differs from it; None until that is drawn."""
        if self._with.value == WITH[0]:
            return photo.picture
        if photo.name not in self._differences:
            self._page.in_background(lambda: self._measure(photo))
        return self._differences.get(photo.name)

    def _measure(self, photo: Photo) -> None:
        scene, background = self._scene(), self.background
        drawing = self._drawing(scene)
        if drawing is None or photo.camera is None or photo.name in self._differences:
            return
        h, w = photo.picture.shape[:2]
        render = finished(drawing.draw(photo.camera.resized(w, h), "color", background))
        if self._scene() is not scene or background != self.background:
            return  # of a scene that is no more; the next refresh asks again
        with self._lock:
            self._differences[photo.name] = difference(photo.picture, (render * 255).round().byte().numpy())
        self._refresh_wipes()
