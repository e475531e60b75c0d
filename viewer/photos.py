"""Photos in the scene: where they stand, and their frustums in one browser. Handles come from the caller; no viser here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.se3 import matrix_from_quat, quat_from_matrix
from .splats import ViewFrame

__all__ = ["Photo", "PhotoLayer", "fit_fov"]

THUMBNAIL = 320  # pixels, longer side
FULL = 1600  # the same of the picture that is laid over the scene
COLORS = {"trained": (235, 140, 60), "held out": (80, 150, 240)}


@dataclass
class Photo:
    """One photo in the viewer's frame (OpenCV camera axes, as viser's). Filled by `stand`."""

    name: str
    thumbnail: UInt8[np.ndarray, "h w 3"]
    picture: UInt8[np.ndarray, "H W 3"]
    kind: str = "trained"  # or "held out": the scene has not learned from it
    position: Float[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))
    wxyz: Float[np.ndarray, "4"] = field(default_factory=lambda: np.array([1.0, 0, 0, 0]))
    look_at: Float[np.ndarray, "3"] = field(default_factory=lambda: np.array([0.0, 0, 1]))
    up: Float[np.ndarray, "3"] = field(default_factory=lambda: np.array([0.0, -1, 0]))
    tan_half: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)  # of the picture's middle from the optical axis, at distance 1
    camera: Cameras | None = None  # world frame
    extent: Bool[np.ndarray, "H W"] | None = None  # where `picture` is a photo, not padding or a corner that the lens left out; None = everywhere

    @staticmethod
    def of(image: Float[Tensor, "H W 3"], name: str, kind: str = "trained", extent: Float[Tensor, "H W"] | None = None) -> Photo:
        there = None
        if extent is not None and bool((extent < 0.5).any()):
            there = _reduced(extent[..., None].expand(-1, -1, 3), FULL)[..., 0] > 127
        return Photo(name, _reduced(image, THUMBNAIL), _reduced(image, FULL), kind, extent=there)

    @property
    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """Viewer frame from camera."""
        return matrix_from_quat(torch.as_tensor(self.wxyz)).numpy()

    def stand(self, camera: Cameras, depth: float, frame: ViewFrame, scene_up: Float[Tensor, "3"]) -> None:
        """Takes its place: one camera, the depth of what it shows (world units), the viewer's frame."""
        camera = camera.to("cpu", torch.float64)
        R = camera.cam_from_world[0, :3, :3]
        self.position = frame.apply(camera.centers)[0].numpy()
        self.wxyz = quat_from_matrix(R.T.contiguous()).numpy()
        self.look_at = self.position + (R[2] * depth * frame.scale).numpy()
        # the part of the scene's up that keeps the photo's own right: same picture, and orbiting still goes round the scene's up
        up = scene_up.double() - (scene_up.double() @ R[0]) * R[0]
        upright = float(up @ -R[1]) > 0.05
        self.up = (up if upright else -R[1]).numpy()
        K = camera.K[0]
        self.tan_half = (float(camera.width / (2 * K[0, 0])), float(camera.height / (2 * K[1, 1])))
        self.shift = (float((camera.width / 2 - K[0, 2]) / K[0, 0]), float((camera.height / 2 - K[1, 2]) / K[1, 1]))
        self.camera = camera


def _reduced(image: Float[Tensor, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    h, w = image.shape[:2]
    scale = min(1.0, side / max(h, w))
    small = torch.nn.functional.interpolate(
        image.detach().cpu().float().permute(2, 0, 1)[None], (max(1, round(h * scale)), max(1, round(w * scale))), mode="area"
    )[0].permute(1, 2, 0)
    return (small.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def fit_fov(photo: Photo, aspect: float) -> float:
    """Vertical field of view (radians) of a window of that aspect (width / height) in which the whole photo can be seen."""
    tan_x, tan_y = photo.tan_half
    return 2 * math.atan(max(tan_y, tan_x / max(aspect, 1e-3)))


class PhotoLayer:
    """The frustums of all photos in one browser."""

    def __init__(self, client: Any, photos: list[Photo], length: float, on_click: Callable[[Any, Photo], None]) -> None:
        self._client, self._photos, self._length = client, photos, length
        self._handles: list[Any] = []
        self._shown: list[bool] = []
        self._size = 1.0
        for i, photo in enumerate(photos):
            handle = client.scene.add_camera_frustum(
                f"/photos/{i:03d}",
                fov=2 * math.atan(photo.tan_half[1]),
                aspect=photo.tan_half[0] / photo.tan_half[1],
                scale=self._scale(photo, 1.0),
                thickness=1.5,
                thickness_units="screen",
                color=COLORS[photo.kind],
                image=photo.thumbnail,
                jpeg_quality=85,
                wxyz=photo.wxyz,
                position=photo.position,
                cast_shadow=False,
                receive_shadow=False,
                visible=False,
            )
            handle.on_click(lambda event, photo=photo: on_click(event.client, photo))
            self._handles.append(handle)
            self._shown.append(False)

    def _scale(self, photo: Photo, size: float) -> float:
        """viser normalises a frustum by its volume; ours have one length."""
        return self._length * size * (photo.tan_half[0] * photo.tan_half[1] / 3) ** (1 / 3)

    def refresh(self, show: bool, size: float) -> None:
        """Shows what is wanted, but not the photo in whose place the visitor stands: it would hide the scene behind it."""
        try:
            eye = np.asarray(self._client.camera.position)
        except AssertionError:  # no camera message has come yet
            eye = np.full(3, np.inf)
        for i, (photo, handle) in enumerate(zip(self._photos, self._handles, strict=True)):
            if size != self._size:
                handle.scale = self._scale(photo, size)
            visible = show and bool(np.linalg.norm(eye - photo.position) > 1.2 * self._length * size)
            if visible != self._shown[i]:
                handle.visible = self._shown[i] = visible
        self._size = size

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
