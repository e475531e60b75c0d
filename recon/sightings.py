"""How many photos vouch for each Gaussian: what no photo shows is invented, what one shows has a guessed depth, what two show was measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .camera import Cameras
from .gaussians import Gaussians
from .raster.protocol import Rasterizer, RasterOptions
from .sh import rgb_from_sh_dc, sh_dc_from_rgb

__all__ = ["COLORS", "count_sightings", "painted_by_sightings"]

SIDE = 320  # pixels: surfaces are looked for in renders of this longer side
BEHIND = 1.04  # this much behind the surface that a photo shows still counts as that surface
COLORS = ((0.45, 0.15, 0.55), (0.93, 0.45, 0.13), (0.98, 0.85, 0.35), (0.15, 0.65, 0.60))  # seen by none, one, two, three or more photos


@torch.no_grad()
def count_sightings(
    gaussians: Gaussians, cameras: Cameras, rasterizer: Rasterizer, extents: Sequence[Bool[Tensor, "h w"] | None] = ()
) -> Int[Tensor, "N"]:
    """The number of photos in which each Gaussian's centre lies on, or before, the surface that is drawn there. `extents`: of each photo, where it is one, at any
    resolution; None = everywhere."""
    count = torch.zeros(len(gaussians), dtype=torch.long, device=gaussians.device)
    scale = min(1.0, SIDE / max(cameras.width, cameras.height))
    cameras = cameras.to(gaussians.device, gaussians.means.dtype).resized(max(1, round(cameras.width * scale)), max(1, round(cameras.height * scale)))
    for i in range(len(cameras)):
        camera = cameras[i]
        out = rasterizer.render(gaussians, camera, RasterOptions(camera_grads=False))
        surface = torch.where(out.alpha[0] > 0.5, out.depth[0], torch.inf)
        if extents and (extent := extents[i]) is not None:  # padding shows no surface, and nothing before one
            there = torch.nn.functional.interpolate(extent[None, None].to(surface), surface.shape, mode="nearest")[0, 0]
            surface = torch.where(there > 0.5, surface, -torch.inf)
        uv, z = camera.project(gaussians.means)
        u, v = uv[0].nan_to_num(-1).floor().long().unbind(-1)
        inside = (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height) & (z[0] > 0)
        at = surface[v.clamp(0, camera.height - 1), u.clamp(0, camera.width - 1)]
        count += inside & (z[0] <= BEHIND * at)
    return count


def painted_by_sightings(gaussians: Gaussians, sightings: Int[Tensor, "N"]) -> Gaussians:
    """The same Gaussians in the colours of COLORS, with their own brightness, so that shapes can be made out."""
    colors: Float[Tensor, "4 3"] = torch.tensor(COLORS, device=gaussians.device, dtype=gaussians.sh.dtype)
    bright = rgb_from_sh_dc(gaussians.sh[:, 0]).clamp(0, 1).mean(-1, keepdim=True)
    rgb = colors[sightings.clamp(0, len(COLORS) - 1)] * (0.45 + 0.55 * bright)
    return Gaussians(gaussians.means, gaussians.quats_wxyz, gaussians.log_scales, gaussians.logit_opacities, sh_dc_from_rgb(rgb)[:, None])
