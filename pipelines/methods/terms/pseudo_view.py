"""Cameras where no photo was taken, and what the photos' depth says there."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ....recon.camera import Cameras
from ....recon.se3 import se3_exp, se3_log
from ..photos import Photos

__all__ = ["between", "carried_depth", "pseudo_camera"]


def between(a: Cameras, b: Cameras, share: float) -> Cameras:
    """On the screw motion from camera a (share 0) to camera b (share 1); intrinsics of a."""
    b_from_a = b.cam_from_world.detach() @ torch.linalg.inv(a.cam_from_world.detach())
    return replace(a, cam_from_world=se3_exp(share * se3_log(b_from_a)) @ a.cam_from_world.detach(), K=a.K.detach())


def pseudo_camera(photos: Photos, index: int, rng: torch.Generator) -> Cameras:
    """Somewhere between photo `index` and its nearest neighbour."""
    share = torch.rand(1, generator=rng).item()
    return between(photos.cameras[index], photos.cameras[photos.nearest[index]], share)


def carried_depth(photos: Photos, indices: tuple[int, ...], camera: Cameras) -> Float[Tensor, "H W"]:
    """Prior depth of these photos seen from `camera`, the nearest surface of each pixel; 0 where none falls."""
    h, w = camera.height, camera.width
    nearest = torch.full((h * w,), torch.inf, device=camera.device)
    for i in indices:
        prior = photos.depth[i]
        known = (prior.depth > 0) & (prior.confidence > 0)
        uv, z = (x[0] for x in camera.project(photos.cameras[i].unproject_depth(prior.depth[None])[0][known]))
        x, y = uv[:, 0].floor().long(), uv[:, 1].floor().long()
        inside = (z > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
        nearest.scatter_reduce_(0, (y * w + x)[inside], z[inside], "amin")
    return torch.where(torch.isfinite(nearest), nearest, 0.0).reshape(h, w)
