"""gsplat's 2DGS kernel for surfels (called by cuda_gsplat.py). Projection is the judge's own torch code, a few launches per camera, so that gradients reach cameras
and intrinsics, too; tiles and compositing are gsplat's.

The kernel composites numbers that each surfel has once, not a depth per pixel. Over most surfels depth is nearly linear in the pixel, z (1 - wx dx - wy dy), and three such
numbers give its sum exactly; where a surfel is so oblique that it is not, the slope is held down. Distortion is that of the centres' depths.
"""

from __future__ import annotations

from dataclasses import replace

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
    "surfels": "depth is linear in the pixel over each surfel, its slope bounded; distortion is that of the centres' depths; what a ray meets behind the camera is not left out",
}


def render_surfels(kernels: Kernels, g: Gaussians, usable: Bool[Tensor, "N"], cameras: Cameras, options: RasterOptions) -> RenderOutput:
    """Draws every camera; `usable` says which rows of `g` count."""
    n, size = len(g), (cameras.width, cameras.height)
    kept: list[tuple[Tensor, Surfels, Tensor, Tensor]] = []
    for camera in (cameras[i] for i in range(len(cameras))):
        # Twice: what is not drawn must not enter the graph, for 0 * NaN is NaN in its backward pass too.
        with torch.no_grad():
            everything = project_surfels(g, camera.cam_from_world[0], camera.K[0], options)
            seen, centre, half = _bounds(everything, usable, size, options.near)
            ids = seen.nonzero()[:, 0]
        one = options if options.opacity_scale is None else replace(options, opacity_scale=options.opacity_scale[ids])
        kept.append((ids, project_surfels(g[ids], camera.cam_from_world[0], camera.K[0], one), centre[ids], half[ids]))
    # compositing reads the centres from this tensor, so that its gradient is that of the images
    means2d = torch.stack([g.means.new_zeros(n, 2).index_copy(0, ids, s.mean2d) for ids, s, _, _ in kept])
    if means2d.requires_grad:
        means2d.retain_grad()
    each = [
        _image(kernels, s.drawn_at(means2d[i, ids]), centre, half, cameras[i], options) for i, (ids, s, centre, half) in enumerate(kept)
    ]
    color, alpha, depth, normal, distortion = (torch.cat(images) for images in zip(*each, strict=True))
    radii = torch.stack([g.means.new_zeros(n).index_copy(0, ids, half.amax(-1)) for ids, _, _, half in kept])
    return RenderOutput(color, alpha, depth, normal, RenderAux(means2d, radii, radii > 0), distortion)


def _image(kernels: Kernels, s: Surfels, centre: Tensor, half: Tensor, camera: Cameras, options: RasterOptions) -> tuple[Tensor, ...]:
    size = (camera.width, camera.height)
    tiles = [-(-n // TILE_SIZE) for n in size]
    _, ids, flat = kernels.isect_tiles(centre[None], half.int()[None], s.depth.detach()[None], TILE_SIZE, *tiles)
    offsets = kernels.isect_offset_encode(ids, 1, *tiles).reshape(1, tiles[1], tiles[0])
    tilt = _tilt(s, camera.K[0])
    tilt = tilt * (STEEPEST / (tilt.detach().abs() * half).sum(-1, keepdim=True).clamp_min(STEEPEST))
    off = s.depth - (s.depth.detach().median() if len(s.depth) else 0)
    columns = [s.rgb, (s.depth * (1 + (tilt * s.mean2d).sum(-1)))[:, None], -s.depth[:, None] * tilt, off[:, None], (off * off)[:, None]]
    image, alpha, normal = kernels.rasterize_to_pixels_2dgs(
        s.mean2d[None], s.pixel_from_uv[None], torch.cat(columns, -1)[None], s.opacity[None], s.normal[None], torch.zeros_like(s.mean2d)[None],
        *size, TILE_SIZE, offsets, flat,
    )[:3]  # fmt: skip
    alpha = alpha[..., 0]
    some = alpha > 0
    x, y = (torch.arange(n, device=alpha.device, dtype=alpha.dtype) + 0.5 for n in size)
    wz = image[..., 3] + image[..., 4] * x + image[..., 5] * y[:, None]
    depth = torch.where(some, wz / torch.where(some, alpha, 1.0), 0.0)
    distortion = (2 * (alpha * image[..., 7] - image[..., 6] ** 2)).clamp_min(0)
    color = image[..., :3] + (1 - alpha)[..., None] * torch.tensor(options.background, dtype=alpha.dtype, device=alpha.device)
    return color, alpha, depth, normal, distortion


def _bounds(s: Surfels, usable: Tensor, size: tuple[int, int], near: float) -> tuple[Bool[Tensor, "N"], Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    """Which surfels are drawn, and centres and half sizes of their boxes, pixels, whole; of the others anything."""
    limit = torch.tensor(size, dtype=s.depth.dtype, device=s.depth.device)
    lo, hi = s.box()
    seen = usable & s.finite() & (s.depth > near) & (s.opacity >= ALPHA_MIN) & (hi > 0).all(-1) & (lo < limit).all(-1)
    lo, hi = torch.maximum(lo, -limit), torch.minimum(hi, 2 * limit)  # a box that does not end still fits into its integers
    return seen, 0.5 * (lo + hi), (0.5 * (hi - lo)).ceil().clamp_min(1)


def _tilt(s: Surfels, K: Float[Tensor, "3 3"]) -> Float[Tensor, "N 2"]:
    """Change of z(centre) / z(pixel) by pixel in x and y: that of a plane's inverse depth."""
    ray = torch.stack([(s.mean2d[:, 0] - K[0, 2]) / K[0, 0], (s.mean2d[:, 1] - K[1, 2]) / K[1, 1], torch.ones_like(s.depth)], -1)
    return torch.stack([s.normal[:, 0] / K[0, 0], s.normal[:, 1] / K[1, 1]], -1) / (s.normal * ray).sum(-1, keepdim=True).clamp_max(-1e-6)
