"""A camera that moves: keyframes with times, and the smooth way between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .camera import Cameras
from .errors import ConfigError
from .se3 import matrix_from_quat, quat_from_matrix

__all__ = ["MAX_FRAMES", "CameraPath", "check_frames", "fit_size", "smooth_cameras"]

MAX_PIXELS = 8192 * 8192  # a frame of this size takes about 2 GB while it is drawn
MAX_FRAMES = 108_000  # an hour at 30 frames a second


@dataclass(frozen=True)
class CameraPath:
    """Keyframes of a camera path: cameras (float64), their times in seconds (increasing), and the frame rate it was made for.

    With `loop` the way goes on from the last keyframe to the first, in as long as the others take on average.
    """

    cameras: Cameras
    times: Float[Tensor, "n"]
    fps: float
    loop: bool = False

    @property
    def closed(self) -> bool:
        """Whether it ends where it began: two keyframes at least."""
        return self.loop and len(self.cameras) > 1

    @property
    def seconds(self) -> float:
        span = float(self.times[-1] - self.times[0])
        return span * len(self.cameras) / (len(self.cameras) - 1) if self.closed else span

    def at(self, times: Float[Tensor, "F"]) -> Cameras:
        """Cameras (float64) at `times` seconds after the first keyframe."""
        if len(self.cameras) == 1:
            return self.cameras[[0] * len(times)]
        keys, knots = self.cameras, self.times - self.times[0]
        if self.closed:  # two more on either side, so that the seam is as smooth as the rest
            n, whole = len(keys), self.seconds
            keys = keys[[(i - 2) % n for i in range(n + 4)]]
            knots = torch.cat([knots[[-2, -1]] - whole, knots, torch.stack([knots[0], knots[1]]) + whole])
        return smooth_cameras(keys, knots, times.double())

    def sample(self, frames: int | None = None, size: tuple[int, int] | None = None) -> Cameras:
        """Float32 cameras, evenly spaced in time from the first to the last keyframe (with `loop` back to just before the first); `frames` None = as
        many as fps asks for."""
        if frames is None:
            frames = max(1, round(self.seconds * self.fps)) if self.closed else 1 + round(self.seconds * self.fps)
        check_frames(frames)
        share = torch.arange(frames, dtype=torch.float64) / (frames if self.closed else max(frames - 1, 1))
        cameras = self.at(share * self.seconds)
        return fit_size(cameras, *(size or (cameras.width, cameras.height))).to(dtype=torch.float32)


def check_frames(frames: int) -> None:
    """Raises ConfigError for a number of frames that no video has."""
    if frames < 1:
        raise ConfigError(f"A camera path needs at least one frame, got {frames}.")
    if frames > MAX_FRAMES:
        raise ConfigError(f"A camera path of {frames} frames is too long; {MAX_FRAMES} (an hour) is the most.")


def fit_size(cameras: Cameras, width: int, height: int) -> Cameras:
    """The same viewpoints for frames of another size: square pixels stay square, and nothing beyond the old frame is shown."""
    if width < 2 or height < 2:
        raise ConfigError(f"Frames of {width}x{height} pixels are too small; give a size such as 1280x720.")
    if width * height > MAX_PIXELS:
        raise ConfigError(f"Frames of {width}x{height} pixels are too large; {MAX_PIXELS // 10**6} million pixels are the most.")
    scale = max(width / cameras.width, height / cameras.height)
    K = cameras.K.clone()
    K[:, :2] *= scale
    K[:, 0, 2] += (width - scale * cameras.width) / 2
    K[:, 1, 2] += (height - scale * cameras.height) / 2
    return Cameras(cam_from_world=cameras.cam_from_world, K=K, width=width, height=height)


def smooth_cameras(keys: Cameras, knots: Float[Tensor, "n"], at: Float[Tensor, "F"], focus: Float[Tensor, "3"] | None = None) -> Cameras:
    """Cameras at times `at` on smooth curves through two or more key cameras (float64) at increasing times `knots`.

    Catmull-Rom splines over the positions, the quaternions (signs aligned, normalised after) and the intrinsics. With a `focus`,
    positions are interpolated as distance from it (logarithm) and direction, so that the camera walks round it, never through.
    """
    quats = _aligned(quat_from_matrix(keys.cam_from_world[:, :3, :3]))
    R = matrix_from_quat(_catmull_rom(knots, quats, at))
    if focus is None:
        eye = _catmull_rom(knots, keys.centers, at)
    else:
        offset = keys.centers - focus
        radius = torch.linalg.vector_norm(offset, dim=-1, keepdim=True).clamp(min=1e-9)
        direction = torch.nn.functional.normalize(_catmull_rom(knots, offset / radius, at), dim=-1)
        eye = focus + torch.exp(_catmull_rom(knots, radius.log(), at)) * direction
    T = torch.eye(4, dtype=torch.float64).repeat(len(at), 1, 1)
    T[:, :3, :3] = R
    T[:, :3, 3] = -(R @ eye[..., None])[..., 0]
    K = _catmull_rom(knots, keys.K.flatten(1), at).unflatten(1, (3, 3))
    return Cameras(cam_from_world=T, K=K, width=keys.width, height=keys.height)


def _catmull_rom(knots: Float[Tensor, "n"], values: Float[Tensor, "n c"], at: Float[Tensor, "F"]) -> Float[Tensor, "F c"]:
    """Cubic Hermite spline through `values` at increasing `knots`; tangents from the neighbours, weighted for uneven knots."""
    h = knots.diff()
    slope = values.diff(dim=0) / h[:, None]
    w = (h[:-1] / (h[:-1] + h[1:]))[:, None]
    tangent = torch.cat([slope[:1], (1 - w) * slope[:-1] + w * slope[1:], slope[-1:]])
    i = torch.searchsorted(knots, at, right=True).sub(1).clamp(0, len(knots) - 2)
    s = ((at - knots[i]) / h[i])[:, None]
    p0, p1, m0, m1 = values[i], values[i + 1], tangent[i] * h[i][:, None], tangent[i + 1] * h[i][:, None]
    return (2 * s**3 - 3 * s**2 + 1) * p0 + (s**3 - 2 * s**2 + s) * m0 + (3 * s**2 - 2 * s**3) * p1 + (s**3 - s**2) * m1


def _aligned(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """q and -q are the same rotation: signs along the path so that neighbours are near each other."""
    quats = quats.clone()
    for i in range(1, len(quats)):
        if quats[i] @ quats[i - 1] < 0:
            quats[i] = -quats[i]
    return quats
