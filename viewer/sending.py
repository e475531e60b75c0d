"""Splats on their way to the browsers: the newest wins, whichever was packed first. No viser import here."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .splats import PackedSplats

__all__ = ["SplatSender"]


class SplatSender:
    def __init__(self, scene: Any) -> None:
        self._scene = scene  # viser's, that every browser shows
        self._handle: Any = None
        self._lock = threading.RLock()
        self._begun = self._sent = 0  # the last pack that was begun, and that went out

    @property
    def any(self) -> bool:
        """Whether some have been sent."""
        return self._handle is not None

    @property
    def buffer(self) -> np.ndarray:
        """What the browsers have."""
        return self._handle.buffer

    def begin(self) -> int:
        """The number of a pack, to be taken together with what is packed."""
        with self._lock:
            self._begun += 1
            return self._begun

    def send(self, number: int, packed: PackedSplats, visible: bool) -> bool:
        """False where a newer one was quicker."""
        with self._lock:
            if number < self._sent:
                return False
            self._sent = number
            content = (packed.centers, packed.covariances, packed.rgbs, packed.opacities)
            if self._handle is None or not hasattr(self._handle, "set_gaussians"):
                self._handle = self._scene.add_gaussian_splats("/splats", *content, visible=visible)
            else:
                self._handle.set_gaussians(*content)
            return True

    def show(self, visible: bool) -> None:
        if self._handle is not None:
            self._handle.visible = visible
