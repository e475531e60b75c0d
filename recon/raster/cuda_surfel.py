"""gsplat's 2DGS kernel for surfels (called by cuda_gsplat.py). Projection is the judge's own torch code, a few launches per camera, so that gradients reach cameras
and intrinsics, too; tiles and compositing are gsplat's.

The kernel composites numbers that each surfel has once, not a depth per pixel. Over most surfels depth is nearly linear in the pixel, z (1 - wx dx - wy dy), and three such
numbers give its sum exactly; where a surfel is so oblique that it is not, the slope is held down. Distortion is that of the centres' depths.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..camera import Cameras
from ..gaussians import Gaussians
from .constants import ALPHA_MIN, TILE_SIZE
from .cuda_kernels import Kernels
from .protocol import RasterOptions, RenderAux, RenderOutput
from .reference_surfel import Surfels, project_surfels

__all__ = ["SURFEL_DEVIATIONS", "render_surfels"]

STEEPEST = 0.2  # change of depth over half a surfel's box, relative, up to which depth is taken as linear

SURFEL_DEVIATIONS = {
    "surfels": "depth is linear in the pixel over each surfel, its slope bounded; distortion is that of the centres' depths; what a ray meets behind the camera is not left "
    "out; means2d gets no gradient",
}


def render_surfels(kernels: Kernels, g: Gaussians, usable: Bool[Tensor, "N"], cameras: Cameras, options: RasterOptions) -> RenderOutput:
    """Draws every camera; `g` holds no poison, `usable` says which rows count."""
    each = [_one(kernels, g, usable, cameras[i], options) for i in range(len(cameras))]
    images = [torch.cat([one[k] for one in each]) for k in range(5)]
    means2d, radii = (torch.stack([one[k] for one in each]) for k in (5, 6))
    return RenderOutput(images[0], images[1], images[2], images[3], RenderAux(means2d, radii, radii > 0), images[4])


def _one(kernels: Kernels, g: Gaussians, usable: Tensor, camera: Cameras, options: RasterOptions) -> tuple[Tensor, ...]:
    size = (camera.width, camera.height)
    s = project_surfels(g, camera.cam_from_world[0], camera.K[0], options)
    seen, centre, half = _bounds(s, usable, size, options.near)
    tiles = [-(-n // TILE_SIZE) for n in size]
    _, ids, flat = kernels.isect_tiles(centre[None], half.int()[None], s.depth.detach()[None], TILE_SIZE, *tiles)
    offsets = kernels.isect_offset_encode(ids, 1, *tiles).reshape(1, tiles[1], tiles[0])
    opacity = torch.where(seen, s.opacity, 0.0)
    tilt = _tilt(s, camera.K[0])
    tilt = tilt * (STEEPEST / (tilt.detach().abs() * half).sum(-1, keepdim=True).clamp_min(STEEPEST))
    middle = s.depth.detach()[seen].median() if bool(seen.any()) else s.depth.detach().sum() * 0
    off = s.depth - middle
    columns = [s.rgb, (s.depth * (1 + (tilt * s.mean2d).sum(-1)))[:, None], -s.depth[:, None] * tilt, off[:, None], (off * off)[:, None]]
    clean = torch.where(seen[:, None], torch.cat(columns, -1), 0.0)
    image, alpha, normal = kernels.rasterize_to_pixels_2dgs(
        torch.where(seen[:, None], s.mean2d, 0.0)[None], torch.where(seen[:, None, None], s.pixel_from_uv, torch.eye(3).to(clean))[None], clean[None],
        opacity[None], torch.where(seen[:, None], s.normal, 0.0)[None], torch.zeros_like(s.mean2d)[None], *size, TILE_SIZE, offsets, flat,
    )[:3]  # fmt: skip
    alpha = alpha[..., 0]
    some = alpha > 0
    x, y = (torch.arange(n, device=clean.device, dtype=clean.dtype) + 0.5 for n in size)
    wz = image[..., 3] + image[..., 4] * x + image[..., 5] * y[:, None]
    depth = torch.where(some, wz / torch.where(some, alpha, 1.0), 0.0)
    distortion = (2 * (alpha * image[..., 7] - image[..., 6] ** 2)).clamp_min(0)
    color = image[..., :3] + (1 - alpha)[..., None] * torch.tensor(options.background, dtype=clean.dtype, device=clean.device)
    return color, alpha, depth, normal, distortion, torch.where(seen[:, None], s.mean2d.detach(), 0.0), half.amax(-1)


@torch.no_grad()
def _bounds(s: Surfels, usable: Tensor, size: tuple[int, int], near: float) -> tuple[Bool[Tensor, "N"], Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    """Which surfels are drawn, and centres and half sizes of their boxes, pixels, whole; 0 for the others."""
    limit = torch.tensor(size, dtype=s.depth.dtype, device=s.depth.device)
    lo, hi = (corner.clamp_min(-1e6).clamp_max(1e6) for corner in s.box())
    seen = usable & s.finite() & (s.depth > near) & (s.opacity >= ALPHA_MIN) & (hi > 0).all(-1) & (lo < limit).all(-1)
    lo, hi = torch.maximum(lo, -limit), torch.minimum(hi, 2 * limit)  # a box that does not end still fits into its integers
    centre = torch.where(seen[:, None], 0.5 * (lo + hi), 0.0)
    return seen, centre, torch.where(seen[:, None], (0.5 * (hi - lo)).ceil().clamp_min(1), 0.0)


def _tilt(s: Surfels, K: Float[Tensor, "3 3"]) -> Float[Tensor, "N 2"]:
    """Change of z(centre) / z(pixel) by pixel in x and y: that of a plane's inverse depth."""
    ray = torch.stack([(s.mean2d[:, 0] - K[0, 2]) / K[0, 0], (s.mean2d[:, 1] - K[1, 2]) / K[1, 1], torch.ones_like(s.depth)], -1)
    return torch.stack([s.normal[:, 0] / K[0, 0], s.normal[:, 1] / K[1, 1]], -1) / (s.normal * ray).sum(-1, keepdim=True).clamp_max(-1e-6)
