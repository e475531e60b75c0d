"""Where a scene is and which way is up, told from its photos: for viewers and camera paths. Deterministic and cheap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .camera import Cameras
from .errors import ShapeError

__all__ = ["Framing", "frame_scene", "look_at"]

_MAX_POINTS = 20_000  # medians do not get better with more


@dataclass(frozen=True)
class Framing:
    """How a photographer would describe the set.

    Attributes:
        up: unit vector, world frame.
        focus: the point the photos look at, world frame.
        depth: typical z-depth of what the photos show, world units (> 0).
        depths: the same per photo.
    """

    up: Float[Tensor, "3"]
    focus: Float[Tensor, "3"]
    depth: float
    depths: Float[Tensor, "V"]


def frame_scene(
    cameras: Cameras, xyz: Float[Tensor, "N 3"] | None = None, weights: Float[Tensor, "N"] | None = None, up: Float[Tensor, "3"] | None = None
) -> Framing:
    """Up, focus and depth of a scene.

    Args:
        cameras: the photos' cameras, at least one.
        xyz: points of the scene (Gaussian centres will do); None = only the cameras are known.
        weights: how much each point counts (opacities); None = all the same.
        up: where it is known; None = as the photos tell.
    """
    if len(cameras) == 0:
        raise ShapeError("A scene without a single placed photo has no viewpoint to start from.")
    cameras = cameras.to("cpu", torch.float64)
    if xyz is not None:
        step = max(1, xyz.shape[0] // _MAX_POINTS)
        xyz = xyz.detach()[::step].to("cpu", torch.float64)
        weights = torch.ones(xyz.shape[0], dtype=torch.float64) if weights is None else weights.detach()[::step].to("cpu", torch.float64)
        keep = torch.isfinite(xyz).all(-1) & torch.isfinite(weights) & (weights > 0)
        xyz, weights = xyz[keep], weights[keep]
    depths = _central_depths(cameras, xyz, weights)
    focus = _focus(cameras, depths)
    ahead = ((focus - cameras.centers) * _forward(cameras)).sum(-1)
    if (ahead <= 0).sum() * 2 >= len(cameras):  # the axes meet behind the photographer: looking outwards from one spot
        focus = (cameras.centers + depths[:, None] * _forward(cameras)).mean(0)
    return Framing(up=_up(cameras) if up is None else up.to(cameras.K), focus=focus, depth=float(depths.median()), depths=depths)


def look_at(eye: Float[Tensor, "V 3"], target: Float[Tensor, "V 3"], up: Float[Tensor, "3"]) -> Float[Tensor, "V 4 4"]:
    """cam_from_world of cameras at `eye` that look at `target` (OpenCV axes), `up` as far up in the picture as it can be."""
    z = torch.nn.functional.normalize(target - eye, dim=-1)
    x = torch.linalg.cross(z, up.to(z).expand_as(z))
    # looking straight along `up`: any horizontal axis will do, the same one for every camera
    spare = torch.eye(3, dtype=z.dtype, device=z.device)[int(up.abs().argmin())]
    x = torch.where(torch.linalg.vector_norm(x, dim=-1, keepdim=True) < 1e-6, torch.linalg.cross(z, spare.expand_as(z)), x)
    x = torch.nn.functional.normalize(x, dim=-1)
    y = torch.linalg.cross(z, x)
    R = torch.stack([x, y, z], dim=-2)
    T = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(eye.shape[0], 1, 1)
    T[:, :3, :3] = R
    T[:, :3, 3] = -(R @ eye[..., None])[..., 0]
    return T


def _forward(cameras: Cameras) -> Float[Tensor, "V 3"]:
    return cameras.cam_from_world[:, 2, :3]


def _up(cameras: Cameras) -> Float[Tensor, "3"]:
    """People hold cameras level: up is at right angles to every camera's x axis. Where those hardly differ (photos from one side)
    it is not determined, and the pictures' own up (-y) decides: the ridge regression of one towards the other."""
    x, up = cameras.cam_from_world[:, 0, :3], -cameras.cam_from_world[:, 1, :3].mean(0)
    if torch.linalg.vector_norm(up) < 1e-3:
        up = -cameras.cam_from_world[0, 1, :3]
    A = x.T @ x / len(cameras) + 0.05 * torch.eye(3, dtype=x.dtype)
    return torch.nn.functional.normalize(torch.linalg.solve(A, up), dim=0)


def _central_depths(cameras: Cameras, xyz: Tensor | None, weights: Tensor | None) -> Float[Tensor, "V"]:
    """Weighted median depth of the points in the middle half of each photo."""
    fallback = _depth_without_points(cameras)
    depths = torch.full((len(cameras),), float("nan"), dtype=torch.float64)
    if xyz is not None and weights is not None and len(xyz):
        uv, z = cameras.project(xyz)
        half = torch.tensor([cameras.width, cameras.height], dtype=torch.float64) / 2
        central = ((uv - half).abs() < half / 2).all(-1) & (z > 1e-6 * fallback)
        for v in range(len(cameras)):
            zv, order = z[v, central[v]].sort()
            if len(zv) >= 8:
                w = weights[central[v]][order].cumsum(0)
                depths[v] = zv[int(torch.searchsorted(w, w[-1] / 2).clamp(max=len(zv) - 1))]
    known = depths[torch.isfinite(depths)]
    return torch.where(torch.isfinite(depths), depths, known.median() if len(known) else torch.tensor(fallback, dtype=torch.float64))


def _depth_without_points(cameras: Cameras) -> float:
    """The extent of the photographer's positions is all there is to go by: stand back as far as they are apart."""
    centers = cameras.centers
    extent = float(torch.linalg.vector_norm(centers - centers.mean(0), dim=-1).max())
    return 2 * extent if extent > 0 else 1.0


def _focus(cameras: Cameras, depths: Float[Tensor, "V"]) -> Float[Tensor, "3"]:
    """The point nearest to all optical axes, where they meet; held along them by the depth of what is seen, so that parallel axes
    (photos from one side) give a point too. Least squares with weight 1 across and 0.05 along each axis."""
    d, c = _forward(cameras), cameras.centers
    along = d[:, :, None] * d[:, None, :]
    A = torch.eye(3, dtype=d.dtype) - 0.95 * along
    b = (A @ c[..., None])[..., 0] + 0.05 * depths[:, None] * d
    return torch.linalg.solve(A.sum(0), b.sum(0))
