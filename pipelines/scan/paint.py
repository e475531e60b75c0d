"""Colours for splats that have none, from the photos that see them."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.gaussians import Gaussians
from ...recon.neighbours import nearest
from ...recon.raster.protocol import Rasterizer, RasterOptions
from ...recon.scan.sight import sampled, seen_returns
from ...recon.sh import sh_dc_from_rgb

__all__ = ["painted"]

HIDDEN = 0.1  # of its depth behind what the photo shows there


def painted(gaussians: Gaussians, cameras: Cameras, images: Float[Tensor, "V H W 3"], rasterizer: Rasterizer) -> Gaussians:
    """Each splat gets the mean colour of the photos that see its centre; one that none sees (outside, or behind something) that of the nearest that is seen."""
    total, count = torch.zeros(len(gaussians), 3), torch.zeros(len(gaussians))
    for i in range(len(cameras)):
        found = seen_returns(cameras[i], gaussians.means)
        if not len(found):
            continue
        with torch.no_grad():
            drawn = rasterizer.render(gaussians, cameras[i], RasterOptions(camera_grads=False))
        front = drawn.depth[0].reshape(-1)[found.pixels(cameras.width)]
        found = found.kept(found.z < front * (1 + HIDDEN) + 0.1)
        total[found.index] += sampled(images[i], found.uv)
        count[found.index] += 1
    seen = count > 0
    rgb = total / count.clamp_min(1)[:, None]
    if bool(seen.any()) and not bool(seen.all()):
        index, _ = nearest(gaussians.means[seen], gaussians.means[~seen], 1)
        rgb[~seen] = rgb[seen][index[:, 0]]
    elif not bool(seen.any()):
        rgb[:] = 0.5
    return replace(gaussians, sh=sh_dc_from_rgb(rgb)[:, None])
