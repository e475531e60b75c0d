"""Camera paths through a reconstructed scene. All stay where the photos were: a handful of photos says nothing about the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.errors import ConfigError
from ..recon.framing import Framing, frame_scene, look_at
from ..recon.se3 import matrix_from_quat, quat_from_matrix, rotation_angle

__all__ = ["MAX_FRAMES", "PATHS", "PathKind", "between_path", "check_frames", "fit_size", "make_path", "orbit_path", "smooth_cameras", "spiral_path"]

PathKind = Literal["orbit", "spiral", "between"]
PATHS: tuple[PathKind, ...] = ("orbit", "spiral", "between")
MAX_PIXELS = 8192 * 8192  # a frame of this size takes about 2 GB while it is drawn
MAX_FRAMES = 108_000  # an hour at 30 frames a second
_FULL_CIRCLE_GAP = math.radians(130)  # photos stand all around when no gap between neighbours is wider


def check_frames(frames: int) -> None:
    """Raises ConfigError for a number of frames that no video has."""
    if frames < 1:
        raise ConfigError(f"A camera path needs at least one frame, got {frames}.")
    if frames > MAX_FRAMES:
        raise ConfigError(f"A camera path of {frames} frames is too long; {MAX_FRAMES} (an hour) is the most.")


def make_path(
    kind: PathKind,
    photos: Cameras,
    frames: int,
    xyz: Float[Tensor, "N 3"] | None = None,
    weights: Float[Tensor, "N"] | None = None,
    size: tuple[int, int] | None = None,
) -> Cameras:
    """`frames` cameras along the path of that name, float32, on the CPU.

    Args:
        kind: orbit, spiral or between.
        photos: the cameras of the photos.
        frames: how many, at least one.
        xyz, weights: points of the scene and how much each counts (Gaussian centres and opacities); they tell where the photos look.
        size: (width, height) of the frames; None = the photos' own. Another shape shows a part of what a photo shows, never more.

    Raises ConfigError for an unknown kind, no frames or an impossible size.
    """
    check_frames(frames)
    if kind not in PATHS:
        raise ConfigError(f"There is no camera path {kind!r}; choose one of {', '.join(PATHS)}, or name a path file (.json).")
    photos = photos.to("cpu", torch.float64)
    framing = frame_scene(photos, xyz, weights)
    path = {"orbit": orbit_path, "spiral": spiral_path, "between": between_path}[kind](photos, framing, frames)
    return fit_size(path, *(size or (photos.width, photos.height))).to(dtype=torch.float32)


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


def orbit_path(photos: Cameras, framing: Framing, frames: int) -> Cameras:
    """Around the focus: a full circle where the photos stand all around, else an ellipse inside the arc they cover, there and back."""
    polar = _polar(photos, framing)
    t = torch.arange(frames, dtype=torch.float64) / frames * (2 * math.pi)
    if polar.around:
        azimuth = polar.azimuth[0] + t
        near = _circular_weights(azimuth, polar.azimuth)
        elevation, radius = near @ polar.elevation, near @ polar.radius
    else:
        middle = (polar.azimuth.max() + polar.azimuth.min()) / 2
        swing = (polar.azimuth.max() - polar.azimuth.min()).clamp(min=0.1) / 2  # one photo, or all from one spot: a look round its corner
        tilt = ((polar.elevation.max() - polar.elevation.min()) / 2).clamp(min=0.25 * float(swing), max=float(swing))
        azimuth = middle + swing * torch.sin(t)
        elevation = (polar.elevation.max() + polar.elevation.min()) / 2 + 0.8 * tilt * torch.cos(t)
        radius = polar.radius.median().expand(frames)
    flat = torch.cos(elevation)[:, None] * (torch.cos(azimuth)[:, None] * polar.right + torch.sin(azimuth)[:, None] * polar.front)
    eye = framing.focus + radius[:, None] * (flat + torch.sin(elevation)[:, None] * framing.up)
    return _looking(photos, eye, framing.focus, framing.up)


def spiral_path(photos: Cameras, framing: Framing, frames: int, turns: int = 2) -> Cameras:
    """The spiral known from light-field photography (Mildenhall et al. 2019, LLFF): circles in the picture plane of the average
    photo, as wide as the photos stand apart, moving in and out, all frames looking at the focus."""
    group = _largest_group(photos)
    centers, rotations = photos.centers[group], photos.cam_from_world[group, :3, :3]
    middle = centers.mean(0)
    up = _group_up(rotations, framing)
    axes = look_at(middle[None], framing.focus[None], up)[0, :3, :3]  # rows: right, down, forward
    spread = ((centers - middle) @ axes.T).abs().amax(0)
    floor = 0.02 * framing.depth
    wide = max(0.8 * float(spread[0]), floor)
    tall = max(0.8 * float(spread[1]), 0.3 * wide, floor)
    deep = min(max(0.5 * float(spread[2]), floor), 0.1 * framing.depth)
    t = torch.arange(frames, dtype=torch.float64) / frames * (2 * math.pi)
    offsets = torch.stack([wide * torch.cos(turns * t), tall * torch.sin(turns * t), deep * torch.sin(t)], -1)
    return _looking(photos, middle + offsets @ axes, framing.focus, up)


def between_path(photos: Cameras, framing: Framing, frames: int) -> Cameras:
    """Through every photo, smoothly, in the order of the shortest walk: the first and last frame are photos, and each photo between
    is passed exactly (at the nearest frame). Positions turn around the focus, so that photos far apart are not joined through it."""
    n = len(photos)
    if n == 1:
        return orbit_path(photos, framing, frames)
    order = _shortest_walk(photos.centers, photos.cam_from_world[:, 2, :3], framing.depth)
    photos = photos[order]
    step = torch.linalg.vector_norm(photos.centers.diff(dim=0), dim=-1) / framing.depth
    R = photos.cam_from_world[:, :3, :3]
    pace = (step + rotation_angle(R[1:] @ R[:-1].transpose(1, 2))).clamp(min=1e-3)  # even speed to the eye: walking and turning
    knots = torch.cat([torch.zeros(1, dtype=torch.float64), pace.cumsum(0)])
    at = knots[-1] * (torch.arange(frames, dtype=torch.float64) / max(frames - 1, 1))
    return smooth_cameras(photos, knots, at, framing.focus)


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


# -- where the photos stand ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Polar:
    """Photos around the focus. Azimuths are unwrapped so that the widest gap lies outside [min, max]."""

    azimuth: Float[Tensor, "V"]
    elevation: Float[Tensor, "V"]
    radius: Float[Tensor, "V"]
    right: Float[Tensor, "3"]
    front: Float[Tensor, "3"]
    around: bool


def _polar(photos: Cameras, framing: Framing) -> _Polar:
    offset = photos.centers - framing.focus
    radius = torch.linalg.vector_norm(offset, dim=-1).clamp(min=1e-9)
    height = offset @ framing.up
    flat = offset - height[:, None] * framing.up
    front = flat[0] if torch.linalg.vector_norm(flat[0]) > 1e-6 * radius[0] else photos.cam_from_world[0, 1, :3]
    front = torch.nn.functional.normalize(front - (front @ framing.up) * framing.up, dim=0)
    right = torch.linalg.cross(front, framing.up)
    azimuth = torch.atan2(flat @ front, flat @ right)
    ordered = azimuth.sort().values
    gaps = torch.cat([ordered[1:] - ordered[:-1], ordered[:1] + 2 * math.pi - ordered[-1:]])
    widest = int(gaps.argmax())
    if widest < len(ordered) - 1:  # start counting after the widest gap
        azimuth = torch.where(azimuth <= ordered[widest] + 1e-12, azimuth + 2 * math.pi, azimuth)
    around = len(photos) >= 3 and float(gaps.max()) <= _FULL_CIRCLE_GAP
    return _Polar(azimuth, torch.asin((height / radius).clamp(-1, 1)), radius, right, front, around)


def _circular_weights(at: Float[Tensor, "F"], azimuth: Float[Tensor, "V"]) -> Float[Tensor, "F V"]:
    """Smooth weights of the photos for each azimuth (von Mises kernel, about 40 degrees wide)."""
    return torch.softmax(2.0 * torch.cos(at[:, None] - azimuth[None]), dim=1)


def _largest_group(photos: Cameras) -> list[int]:
    """The photos that look within 45 degrees of the one with most such neighbours."""
    forward = photos.cam_from_world[:, 2, :3]
    alike = forward @ forward.T > math.cos(math.radians(45))
    return alike[int(alike.sum(1).argmax())].nonzero()[:, 0].tolist()


def _group_up(rotations: Float[Tensor, "G 3 3"], framing: Framing) -> Float[Tensor, "3"]:
    """The group's own picture-up: a spiral must not roll against its photos."""
    up = -rotations[:, 1].mean(0)
    return torch.nn.functional.normalize(up, dim=0) if torch.linalg.vector_norm(up) > 1e-3 else framing.up


def _looking(photos: Cameras, eye: Float[Tensor, "F 3"], focus: Float[Tensor, "3"], up: Float[Tensor, "3"]) -> Cameras:
    """Cameras at `eye` that look at the focus, with the photos' middle intrinsics."""
    K = photos.K[int(photos.K[:, 0, 0].argsort()[len(photos) // 2])]
    T = look_at(eye, focus.expand_as(eye), up)
    return Cameras(cam_from_world=T, K=K.expand(len(eye), 3, 3).clone(), width=photos.width, height=photos.height)


def _shortest_walk(centers: Float[Tensor, "V 3"], forward: Float[Tensor, "V 3"], depth: float) -> list[int]:
    """An open path through all photos: nearest neighbour from several starts, improved by 2-opt. Turning counts like walking `depth`.
    The given order is kept when it is no longer than the best found."""
    D = (torch.cdist(centers, centers) / depth + torch.cdist(forward, forward)).tolist()
    n = len(centers)

    def length(path: list[int]) -> float:
        return sum(D[a][b] for a, b in zip(path, path[1:], strict=False))

    best = list(range(n))
    for start in range(0, n, max(1, n // 16)):
        path, left = [start], set(range(n)) - {start}
        while left:
            path.append(min(left, key=lambda j: (D[path[-1]][j], j)))
            left.remove(path[-1])
        path = _two_opt(path, D)
        if length(path) < length(best) - 1e-9:
            best = path
    return best if best[0] <= best[-1] else best[::-1]


def _two_opt(path: list[int], D: list[list[float]]) -> list[int]:
    """Turns stretches of an open path round while that makes it shorter (Croes 1958)."""
    n, improved = len(path), True
    while improved:
        improved = False
        for i in range(n - 1):
            for j in range(i + 2, n + 1):  # the stretch path[i:j]
                old = (D[path[i - 1]][path[i]] if i else 0.0) + (D[path[j - 1]][path[j]] if j < n else 0.0)
                new = (D[path[i - 1]][path[j - 1]] if i else 0.0) + (D[path[i]][path[j]] if j < n else 0.0)
                if new < old - 1e-9:
                    path, improved = path[:i] + path[i:j][::-1] + path[j:], True
    return path


# -- interpolation ---------------------------------------------------------------------------------------------------------------


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
