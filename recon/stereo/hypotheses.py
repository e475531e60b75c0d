"""Planes worth trying that no neighbouring pixel would suggest: the scene's large planes, and the sparse points."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..camera import Cameras

__all__ = ["large_planes", "plane_maps", "point_maps"]

_TRIES = 256
_NEAR = 0.008  # a point lies on a plane when it is off by less than this share of its depth


def large_planes(
    xyz: Float[Tensor, "V H W 3"], depth: Float[Tensor, "V H W"], sure: Bool[Tensor, "V H W"], most: int, sample: int = 6000
) -> Float[Tensor, "P 4"]:
    """Up to `most` planes (unit normal n, offset d: n.x = d) that hold the most of the sure pixels' points, one after the other.

    RANSAC (Fischler and Bolles 1981) with a fixed seed: three points from one neighbourhood of one photo, then least squares on the inliers.
    """
    g = torch.Generator().manual_seed(0)
    v, h, w = sure.shape
    at = sure.reshape(-1).nonzero()[:, 0]
    out: list[Tensor] = []
    if len(at) < 200:
        return torch.zeros(0, 4)
    flat, z = xyz.reshape(-1, 3), depth.reshape(-1)
    pick = at[torch.randint(len(at), (sample,), generator=g)]
    points, scale = flat[pick], z[pick]
    center = points.median(dim=0).values
    for _ in range(most):
        if len(points) < 0.04 * sample:
            break
        first = pick[torch.randint(len(pick), (_TRIES,), generator=g)]
        reach = max(4, min(h, w) // 6)
        others = [_near_pixel(first, v, h, w, reach, g) for _ in range(2)]
        good = sure.reshape(-1)[others[0]] & sure.reshape(-1)[others[1]]
        a, b, c = flat[first[good]] - center, flat[others[0][good]] - center, flat[others[1][good]] - center
        n = torch.linalg.cross(b - a, c - a)
        length = n.norm(dim=1)
        n = n[length > 1e-12] / length[length > 1e-12, None]
        d = (n * a[length > 1e-12]).sum(1)
        if not len(n):
            break
        local = points - center
        inside = ((local @ n.T - d).abs() < _NEAR * scale[:, None]).sum(0)
        best = int(inside.argmax())
        plane_n, plane_d = n[best], d[best]
        for _ in range(3):
            on = (local @ plane_n - plane_d).abs() < _NEAR * scale
            plane_n, plane_d = _fit(local[on], scale[on])
        on = (local @ plane_n - plane_d).abs() < 1.5 * _NEAR * scale
        if int(on.sum()) < 0.03 * sample:
            break
        out.append(torch.cat([plane_n, (plane_d + plane_n @ center)[None]]))
        points, scale, pick = points[~on], scale[~on], pick[~on]
    return torch.stack(out) if out else torch.zeros(0, 4)


def _near_pixel(index: Tensor, v: int, h: int, w: int, reach: int, g: torch.Generator) -> Tensor:
    view, y, x = index // (h * w), (index // w) % h, index % w
    y = (y + torch.randint(-reach, reach + 1, (len(index),), generator=g)).clamp(0, h - 1)
    x = (x + torch.randint(-reach, reach + 1, (len(index),), generator=g)).clamp(0, w - 1)
    return (view * h + y) * w + x


def _fit(points: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    weight = 1.0 / scale.clamp(min=1e-9) ** 2
    mean = (points * weight[:, None]).sum(0) / weight.sum()
    q = (points - mean) * weight.sqrt()[:, None]
    n = torch.linalg.eigh((q.T @ q).double()).eigenvectors[:, 0].to(points)
    return n, n @ mean


def plane_maps(planes: Float[Tensor, "P 4"], cameras: Cameras, i: int) -> Float[Tensor, "P H W 3"]:
    """Inverse depth and slopes of world planes in view i; 0 where a plane is behind the camera."""
    R, t = cameras.cam_from_world[i, :3, :3], cameras.cam_from_world[i, :3, 3]
    n = planes[:, :3] @ R.T
    d = planes[:, 3] + n @ t
    d = torch.where(d.abs() < 1e-12, torch.full_like(d, 1e-12), d)
    k = (n @ torch.linalg.inv(cameras.K[i])) / d[:, None]  # inverse depth = k . (u, v, 1)
    u = torch.arange(cameras.width, dtype=torch.float32) + 0.5
    v = torch.arange(cameras.height, dtype=torch.float32)[:, None] + 0.5
    inv = k[:, 0, None, None] * u + k[:, 1, None, None] * v + k[:, 2, None, None]
    slopes = k[:, None, None, :2].expand(-1, cameras.height, cameras.width, -1)
    return torch.where((inv > 0)[..., None], torch.cat([inv[..., None], slopes], -1), torch.zeros(1)).contiguous()


def point_maps(xyz: Float[Tensor, "N 3"], cameras: Cameras, i: int, reach: int = 3) -> Float[Tensor, "H W 3"]:
    """The points' inverse depths (facing the camera, no slope) on squares of 2 reach + 1 pixels around where view i sees them; the nearest wins."""
    uv, z = (t[0] for t in cameras[i].project(xyz.to(cameras.K)))
    w, h = cameras.width, cameras.height
    seen = (z > 1e-9) & (uv >= 0).all(-1) & (uv[:, 0] < w) & (uv[:, 1] < h)
    x, y, inv = uv[seen, 0].long(), uv[seen, 1].long(), 1.0 / z[seen]
    out = torch.zeros(h * w)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            ok = (x + dx >= 0) & (x + dx < w) & (y + dy >= 0) & (y + dy < h)
            out.scatter_reduce_(0, ((y + dy) * w + x + dx)[ok], inv[ok], "amax")
    return torch.cat([out.reshape(h, w, 1), torch.zeros(h, w, 2)], -1).contiguous()
