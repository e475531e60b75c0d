"""The photo a visitor stands at, laid over the picture up to a line that can be moved: how good is the scene? No viser import here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from ..recon.colormap import rainbow
from .photos import Photo
from .splats import SCENE_DEPTH

__all__ = ["Wipe", "difference"]

NEAR = 4e-3 * SCENE_DEPTH  # in front of everything, behind the browser's near plane
CLOSE = 1e-3 * SCENE_DEPTH  # this far from a photo's place a visitor stands at it
ALIKE = 0.02  # radians, of the direction


def difference(photo: UInt8[np.ndarray, "h w 3"], render: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """How far the colours are apart, as colours: violet = nothing, green = a tenth of full scale, dark red = a fifth and more."""
    error = np.abs(photo.astype(np.int16) - render.astype(np.int16)).mean(-1) / 255
    return (rainbow(torch.from_numpy(error * 5).float()) * 255).round().to(torch.uint8).numpy()


class Wipe:
    """One browser's. `refresh` shows the left part of what is compared with when the visitor stands at a photo, and nothing elsewhere."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._handle: Any = None
        self._shown: tuple[str, float, str] | None = None

    def photo_at(self, photos: list[Photo]) -> Photo | None:
        """The photo whose place and direction the visitor has."""
        try:
            eye, look_at = np.asarray(self._client.camera.position), np.asarray(self._client.camera.look_at)
        except AssertionError:  # no camera message has come yet
            return None
        ahead = look_at - eye
        for photo in photos:
            there = photo.look_at - photo.position
            cosine = float(ahead @ there / max(np.linalg.norm(ahead) * np.linalg.norm(there), 1e-12))
            if np.linalg.norm(eye - photo.position) < CLOSE and cosine > np.cos(ALIKE):
                return photo
        return None

    def refresh(self, photo: Photo | None, share: float, picture: UInt8[np.ndarray, "h w 3"] | None, kind: str) -> None:
        """Shows `picture` (of the photo's shape) from the left up to `share` of its width; nothing without a photo or a share."""
        wanted = None if photo is None or picture is None or share <= 0 else (photo.name, round(share, 3), kind)
        if photo is None or picture is None or wanted is None:
            self._remove()
        elif wanted != self._shown:
            columns = max(1, round(share * picture.shape[1]))
            self._place(photo, picture[:, :columns], columns / picture.shape[1])
        self._shown = wanted

    def forget(self) -> None:
        """What is shown may have changed: the next refresh shows it again."""
        self._shown = None

    def _place(self, photo: Photo, part: UInt8[np.ndarray, "h w 3"], share: float) -> None:
        """A plane just in front of the camera that covers exactly what the photo shows."""
        full_w, full_h = 2 * NEAR * photo.tan_half[0], 2 * NEAR * photo.tan_half[1]
        offset: Float[np.ndarray, "3"] = np.array([(share - 1) / 2 * full_w + NEAR * photo.shift[0], NEAR * photo.shift[1], NEAR])
        position = photo.position + photo.rotation @ offset
        if self._handle is not None:
            self._handle.remove()  # its size is fixed
        self._handle = self._client.scene.add_image(
            "/wipe", part, share * full_w, full_h, format="jpeg", jpeg_quality=92, wxyz=photo.wxyz, position=position,
            cast_shadow=False, receive_shadow=False,
        )  # fmt: skip

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
