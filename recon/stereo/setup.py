"""What the sweep needs to know before it starts: which photos to compare, and over which depths."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..camera import Cameras
from .config import StereoConfig

__all__ = ["back_maps", "choose_sources", "inverse_depths", "range_from_geometry", "range_from_points", "source_maps"]


def range_from_points(cameras: Cameras, xyz: Float[Tensor, "N 3"], least: int = 20) -> Float[Tensor, "V 2"]:
    """Inverse depths (far, near) per view: 0.5 and 99.5 percentile of the points in its image, widened on both sides because sparse points
    miss what has no texture. NaN where fewer than `least` points are seen."""
    uv, z = cameras.project(xyz.to(cameras.K))
    inside = (z > 1e-9) & (uv[..., 0] >= 0) & (uv[..., 1] >= 0) & (uv[..., 0] <= cameras.width) & (uv[..., 1] <= cameras.height)
    out = torch.full((len(cameras), 2), float("nan"), dtype=cameras.K.dtype)
    for i in range(len(cameras)):
        w = 1.0 / z[i][inside[i]]
        if len(w) < least:
            continue
        lo, hi = (float(torch.quantile(w, q)) for q in (0.005, 0.995))
        out[i] = torch.tensor([max(0.0, min(0.6 * lo, lo - 0.15 * (hi - lo))), 1.25 * hi + 0.15 * (hi - lo)])
    return out


def range_from_geometry(cameras: Cameras) -> Float[Tensor, "V 2"]:
    """Inverse depths from 0 (the horizon) to where the nearest neighbouring camera sees a shift of 1.5 image widths."""
    dist = cameras.distances
    positive = dist[dist > 0]
    tiny = 1e-3 * float(positive.median()) if len(positive) else 1.0
    dist = torch.where(dist > tiny, dist, torch.full_like(dist, float("inf")))
    base = dist.min(dim=1).values
    base = torch.where(torch.isfinite(base), base, torch.ones_like(base))
    near = 1.5 * cameras.width / (cameras.K[:, 0, 0] * base)
    return torch.stack([torch.zeros_like(near), near], dim=1)


def _samples(cameras: Cameras, i: int, limits: Float[Tensor, "2"], n: int = 9) -> Float[Tensor, "M 3"]:
    u = (torch.arange(n) + 0.5) / n * cameras.width
    v = (torch.arange(n) + 0.5) / n * cameras.height
    grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(1, -1, 2).to(cameras.K)
    far, near = float(limits[0]), float(limits[1])
    ws = [max(far + t * (near - far), 1e-3 * near) for t in (0.1, 0.35, 0.65, 0.9)]
    one = cameras[i]
    return torch.cat([one.unproject(grid, torch.full(grid.shape[:2], 1.0 / w).to(grid))[0] for w in ws])


def choose_sources(
    cameras: Cameras, limits: Float[Tensor, "V 2"], max_sources: int, xyz: Float[Tensor, "N 3"] | None = None
) -> list[list[int]]:
    """For every view the others worth comparing, best first: much shared ground, seen under an angle that is neither tiny nor wide.

    Shared ground is counted on `xyz` where a view sees enough of them, else on a grid through its viewing volume.
    """
    out: list[list[int]] = []
    centers = cameras.centers
    for i in range(len(cameras)):
        pts = _samples(cameras, i, limits[i])
        if xyz is not None and len(xyz):
            uv, z = cameras[i].project(xyz.to(cameras.K))
            seen = (z[0] > 0) & (uv[0] >= 0).all(-1) & (uv[0, :, 0] <= cameras.width) & (uv[0, :, 1] <= cameras.height)
            if int(seen.sum()) >= 50:
                pts = xyz.to(cameras.K)[seen]
        uv, z = cameras.project(pts)
        inside = (z > 0) & (uv >= 0).all(-1) & (uv[..., 0] <= cameras.width) & (uv[..., 1] <= cameras.height)
        rays = torch.nn.functional.normalize(pts[None] - centers[:, None], dim=-1)
        angle = torch.rad2deg(torch.arccos((rays * rays[i : i + 1]).sum(-1).clamp(-1, 1)))
        scores: list[tuple[float, int]] = []
        for j in range(len(cameras)):
            if j == i or not bool(inside[j].any()):
                continue
            a = float(angle[j][inside[j]].median())
            overlap = float(inside[j].float().mean())
            fit = min(a / 2.0, 1.0) * (1.0 if a < 12 else float(torch.exp(torch.tensor(-(((a - 12) / 22) ** 2)))))
            if overlap > 0.03 and a < 75 and float((centers[j] - centers[i]).norm()) > 0:
                scores.append((overlap * max(fit, 1e-4), j))
        scores.sort(key=lambda t: (-t[0], t[1]))
        best = scores[0][0] if scores else 0.0
        out.append([j for s, j in scores[:max_sources] if s > 0.05 * best])
    return out


def source_maps(cameras: Cameras, i: int, sources: list[int]) -> Float[Tensor, "S 12"]:
    """A (9, row by row) and b (3) with source pixel ~ A p + b w for the reference pixel p = (u, v, 1) at inverse z-depth w."""
    ref = cameras[i].to(dtype=torch.float64)
    src = cameras[sources].to(dtype=torch.float64)
    rel = src.cam_from_world @ torch.linalg.inv(ref.cam_from_world)
    A = src.K @ rel[:, :3, :3] @ torch.linalg.inv(ref.K)
    b = (src.K @ rel[:, :3, 3:])[..., 0]
    return torch.cat([A.reshape(-1, 9), b], dim=1).float().contiguous()


def back_maps(cameras: Cameras, i: int, sources: list[int]) -> Float[Tensor, "S 12"]:
    """The maps the other way: from each source to the reference."""
    return torch.cat([source_maps(cameras, j, [i]) for j in sources])


def inverse_depths(cameras: Cameras, maps: Float[Tensor, "S 12"], limits: Float[Tensor, "2"], config: StereoConfig) -> Float[Tensor, "D"]:
    """Equal steps of inverse depth, as many as the largest disparity asks for; always a multiple of 16."""
    far, near = float(limits[0]), float(limits[1])
    uv = torch.tensor([[x * cameras.width, y * cameras.height, 1.0] for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)], dtype=torch.float64)
    longest = 0.0
    for m in maps.double():
        A, b = m[:9].reshape(3, 3), m[9:]
        ws = torch.linspace(far, near, 33, dtype=torch.float64)
        path = uv @ A.T + ws[:, None, None] * b
        ends = path[..., :2] / path[..., 2:].clamp(min=1e-9)
        inside = (path[..., 2] > 0) & (ends >= 0).all(-1) & (ends[..., 0] <= cameras.width) & (ends[..., 1] <= cameras.height)
        step = (ends[1:] - ends[:-1]).norm(dim=-1)
        both = inside[1:] & inside[:-1]
        if bool(both.any()):
            longest = max(longest, 32.0 * float(step[both].max()))
    wanted = longest / config.plane_step_px
    count = int(min(max(wanted, config.planes_min), config.planes_max) / 16 + 0.999) * 16
    return torch.linspace(far, near, count, dtype=torch.float32)
