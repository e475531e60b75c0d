"""Surface that a depth map shows: which way it faces, and how obliquely the photo sees it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, one_hot, pad

from ...recon.camera import Cameras
from ...recon.gaussians import Gaussians
from ...recon.se3 import quat_from_matrix

__all__ = ["facing", "surface_discs"]

REACH = 2  # pixels around a pixel in which its surface is measured
BROKEN = 0.03  # relative step of the inverse depth, beyond a plane's, from which there is an edge, not a surface


def surface_discs(camera: Cameras, depth: Float[Tensor, "H W"], thickness: float, tilt: float) -> tuple[Float[Tensor, "H W 4"], Float[Tensor, "H W 3"]]:
    """A disc per pixel that lies in its surface and looks round from the camera: orientation (wxyz, world) and standard deviations in units of the
    pixel's own size at its depth.

    Along the slope a pixel covers 1 / cos(angle between normal and ray) of its size, at most `tilt`; across the surface it is `thickness` thick.
    At depth edges, where neighbouring pixels span no surface, the disc faces the camera.
    """
    xyz = camera.unproject_depth(depth[None])[0]
    ray = normalize(xyz - camera.centers[0], dim=-1)
    smooth = avg_pool2d(pad(xyz.permute(2, 0, 1)[None], (REACH,) * 4, mode="replicate"), 3, 1)[0].permute(1, 2, 0)
    across, down = smooth[1:-1, 2:] - smooth[1:-1, :-2], smooth[2:, 1:-1] - smooth[:-2, 1:-1]
    normal = normalize(torch.linalg.cross(across, down), dim=-1, eps=1e-20)
    cosine = (normal * ray).sum(-1).abs()
    surface = (depth > 0) & ~_broken(depth) & (cosine > 0)
    normal = torch.where(surface[..., None], normal, ray)
    cosine = torch.where(surface, cosine, torch.ones_like(cosine))
    turn = _frames(normal, ray)
    stretch = torch.stack([1 / cosine.clamp_min(1 / tilt), torch.ones_like(cosine), torch.full_like(cosine, thickness)], -1)
    return quat_from_matrix(turn), stretch


def facing(gaussians: Gaussians, cameras: Cameras) -> Gaussians:
    """The same, but what is round and so has no direction of its own turns its third axis to the nearest camera: as a surfel, it would be a disc that faces anywhere."""
    s = gaussians.log_scales
    unturned = (gaussians.quats_wxyz == torch.tensor([1.0, 0, 0, 0], device=s.device)).all(1)
    round_ = unturned & ((s.amax(1) - s.amin(1)) < 1e-3)
    way = gaussians.means[round_][:, None] - cameras.centers.to(gaussians.means)
    ray = normalize(way[torch.arange(len(way)), way.norm(dim=-1).argmin(1)], dim=-1)
    quats = gaussians.quats_wxyz.clone()
    quats[round_] = quat_from_matrix(_frames(ray[None], ray[None])[0])
    return replace(gaussians, quats_wxyz=quats)


def _broken(depth: Float[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """Where neighbouring depths bend or jump too much for one surface. The inverse depth of a plane is linear in the pixel, however steep it is."""
    inverse = 1 / depth.clamp_min(1e-9)
    p = pad(inverse[None, None], (REACH,) * 4, mode="replicate")[0, 0]
    h, w = depth.shape
    bend = torch.zeros_like(depth)
    for du, dv in ((0, REACH), (REACH, 0), (REACH, REACH), (REACH, -REACH)):
        before = p[REACH - dv : REACH - dv + h, REACH - du : REACH - du + w]
        after = p[REACH + dv : REACH + dv + h, REACH + du : REACH + du + w]
        bend = torch.maximum(bend, (before + after - 2 * inverse).abs())
    return bend > BROKEN * inverse


def _frames(normal: Float[Tensor, "H W 3"], ray: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3 3"]:
    """Rotations whose columns are the direction of the slope, the one across it, and the normal; where the ray meets the surface squarely, any two."""
    level = torch.linalg.cross(normal, ray)
    # an axis that no unit vector comes near all through: the one along which the normal is shortest
    axis = one_hot(normal.abs().argmin(-1), 3).to(normal)
    level = torch.where((level.norm(dim=-1, keepdim=True) > 1e-3), level, torch.linalg.cross(normal, axis))
    level = normalize(level, dim=-1)
    return torch.stack([torch.linalg.cross(level, normal), level, normal], -1)
