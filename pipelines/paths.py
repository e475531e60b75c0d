"""Camera paths through a reconstructed scene. All stay where the photos were: a handful of photos says nothing about the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.camera_path import check_frames, fit_size, smooth_cameras
from ..recon.errors import ConfigError
from ..recon.framing import Framing, frame_scene, look_at
from ..recon.se3 import rotation_angle

__all__ = ["PATHS", "PathKind", "between_path", "ellipse_path", "make_path", "orbit_path", "spiral_path"]

PathKind = Literal["orbit", "spiral", "between", "ellipse"]
PATHS: tuple[PathKind, ...] = ("orbit", "spiral", "between", "ellipse")
_FULL_CIRCLE_GAP = math.radians(130)  # photos stand all around when no gap between neighbours is wider


def make_path(
    kind: PathKind,
    photos: Cameras,
    frames: int,
    xyz: Float[Tensor, "N 3"] | None = None,
    weights: Float[Tensor, "N"] | None = None,
    size: tuple[int, int] | None = None,
    up: Float[Tensor, "3"] | None = None,
) -> Cameras:
    """`frames` cameras along the path of that name, float32, on the CPU.

    Args:
        kind: orbit, spiral, between or ellipse.
        photos: the cameras of the photos.
        frames: how many, at least one.
        xyz, weights: points of the scene and how much each counts (Gaussian centres and opacities); they tell where the photos look.
        size: (width, height) of the frames; None = the photos' own. Another shape shows a part of what a photo shows, never more.
        up: which way is up; None = as the photos tell.

    Raises ConfigError for an unknown kind, no frames or an impossible size.
    """
    check_frames(frames)
    if kind not in PATHS:
        raise ConfigError(f"There is no camera path {kind!r}; choose one of {', '.join(PATHS)}, or name a path file (.json).")
    photos = photos.to("cpu", torch.float64)
    framing = frame_scene(photos, xyz, weights, up)
    path = {"orbit": orbit_path, "spiral": spiral_path, "between": between_path, "ellipse": ellipse_path}[kind](photos, framing, frames)
    return fit_size(path, *(size or (photos.width, photos.height))).to(dtype=torch.float32)


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


def ellipse_path(photos: Cameras, framing: Framing, frames: int) -> Cameras:
    """The ellipse in the plane of the photos' places that spreads as they do (an ellipse of half axes a, b has standard deviations a / sqrt 2, b / sqrt 2),
    looking at the focus: around it where they stand around it, before it where they stand before it. No narrower than a fifth of its length."""
    centers = photos.centers
    middle = centers.mean(0)
    _, _, axes = torch.linalg.svd(torch.cat([centers - middle, torch.zeros(3, 3, dtype=torch.float64)]), full_matrices=False)
    if float(axes[0] @ torch.linalg.cross(framing.up, framing.focus - middle)) < 0:  # to the right first, as one looks
        axes = -axes
    half = math.sqrt(2) * ((centers - middle) @ axes[:2].T).std(0, correction=0)
    long = max(float(half[0]), 0.02 * framing.depth)
    wide = max(float(half[1]), 0.2 * long)
    t = torch.arange(frames, dtype=torch.float64) / frames * (2 * math.pi)
    eye = middle + long * torch.cos(t)[:, None] * axes[0] + wide * torch.sin(t)[:, None] * axes[1]
    return _looking(photos, eye, framing.focus, framing.up)


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
