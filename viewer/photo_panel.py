"""The photos on the page: as frustums in every browser, to stand at, and what is to be said of them. No viser import here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from .page import Page
from .photos import Photo, PhotoLayer, fit_fov
from .plain import plain
from .splats import SCENE_DEPTH

__all__ = ["PhotoPanel"]

NOWHERE = "-"
THERE = 1e-3 * SCENE_DEPTH  # who is this near to a photo's place stands at it


class PhotoPanel:
    def __init__(self, page: Page) -> None:
        self._page = page
        self._lock = threading.RLock()
        self._layers: dict[int, PhotoLayer] = {}
        self.photos: list[Photo] = []
        gui = page.gui
        with gui.add_folder("Photos"):
            self.show = gui.add_checkbox("Show photos", True, hint="Click a photo in the scene to stand where it was taken.")
            self._size = gui.add_slider("Photo size", 0.1, 5.0, 0.1, 1.0)
            self._goto = gui.add_dropdown("Stand at", (NOWHERE,), hint="Look from where this photo was taken.")
            self._about = gui.add_markdown("", visible=False)
        self.show.on_update(lambda _: self._refresh_all())
        self._size.on_update(lambda _: self._refresh_all())
        self._goto.on_update(lambda event: self.go(event.client, self._goto.value))

    def tell(self, left_out: Sequence[str]) -> None:
        """What is to be known about them: which the scene has not learned from, and which have no place."""
        held = sum(photo.kind == "held out" for photo in self.photos)
        held_text = [f"{held} of {len(self.photos)} photos are held out (blue): the scene has not learned from them."] if held else []
        self._about.content = "\n\n".join([*held_text, *(f"Left out: {plain(text)}" for text in left_out)])
        self._about.visible = bool(self._about.content)

    def placed(self) -> None:
        """They have taken their places, or others: every browser gets them anew."""
        self._goto.options = (NOWHERE, *(p.name for p in self.photos))
        for client in self._page.browsers().values():
            self._give(client)

    # -- browsers ------------------------------------------------------------------------------------------------

    def came(self, client: Any) -> None:
        with self._lock:
            self._give(client)
            first = self.photos[0] if self.photos else None
            if first is not None and np.linalg.norm(client.camera.position - first.position) < THERE:  # not by a link to another view
                client.camera.fov = fit_fov(first, client.camera.aspect)

    def left(self, client_id: int) -> None:
        with self._lock:
            self._layers.pop(client_id, None)

    def moved(self, client_id: int) -> None:
        """The browser's camera has."""
        with self._lock:
            layer = self._layers.get(client_id)
            if layer is not None:
                layer.refresh(self.show.value, self._size.value)

    def known(self) -> tuple[int, ...]:
        """Numbers of the browsers that have been given the photos."""
        return tuple(self._layers)

    def _refresh_all(self) -> None:
        for client_id in list(self._layers):
            self.moved(client_id)

    def _give(self, client: Any) -> None:
        """Frustums belong to each browser by itself: the photo one stands at must not stand in one's own view only."""
        with self._lock:
            old = self._layers.pop(client.client_id, None)
            if old is not None:
                old.remove()
            layer = PhotoLayer(client, self.photos, self.spacing(), self.stand)
            self._layers[client.client_id] = layer
            layer.refresh(self.show.value, self._size.value)

    def spacing(self) -> float:
        """Length of a frustum in viewer units: a third of the way to the next photo, within reason."""
        places = np.array([p.position for p in self.photos])
        if len(places) == 0:
            return 1.0
        d = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.where(np.eye(len(places)) > 0, np.inf, 0.0)
        near = float(np.median(d.min(1))) if len(places) > 1 else SCENE_DEPTH
        return min(max(near / 3, 0.03 * SCENE_DEPTH), 0.08 * SCENE_DEPTH)

    # -- standing at one -----------------------------------------------------------------------------------------

    def go(self, client: Any, name: str) -> None:
        photo = next((p for p in self.photos if p.name == name), None)
        if photo is not None and client is not None:
            self.stand(client, photo)
            if self._goto.value != NOWHERE:  # so that the same one can be chosen again
                self._goto.value = NOWHERE

    def next(self, client: Any) -> None:
        if self.photos and client is not None:
            at = next((i for i, p in enumerate(self.photos) if np.linalg.norm(client.camera.position - p.position) < THERE), -1)
            self.stand(client, self.photos[(at + 1) % len(self.photos)])

    def stand(self, client: Any, photo: Photo) -> None:
        """Moves one browser's camera to where a photo was taken."""
        with client.atomic():
            client.camera.up_direction = photo.up
            client.camera.position = photo.position
            client.camera.look_at = photo.look_at
            client.camera.fov = fit_fov(photo, client.camera.aspect)
