"""Depth should be smooth seen from where no photo was taken (Niemeyer et al. 2022, RegNeRF, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.camera import Cameras
from ....recon.field.samples import Segments
from ....recon.field.volume import RayColors
from ...methods.photos import Photos
from ..config import FieldTermsConfig
from .protocol import FieldContext, Request

__all__ = ["SmoothPatches"]

SIDE = 8  # pixels
STRIDE = 2  # pixels of a photo to one of the patch
SHARE = 0.25  # of a step's rays


class SmoothPatches:
    def draw(self, context: FieldContext, config: FieldTermsConfig) -> Request | None:
        if config.smooth_patches <= 0:
            return None
        photos = context.photos
        h, w = photos.images.shape[1:3]
        count = max(1, round(SHARE * context.rays / SIDE**2))
        draw = torch.rand(2, count, generator=context.rng).to(photos.images.device)
        reach = STRIDE * (SIDE - 1)
        corner = draw * torch.tensor([[max(1, w - reach)], [max(1, h - reach)]], device=draw.device)
        axis = STRIDE * torch.arange(SIDE, device=draw.device)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
        uv = (corner.T[:, None] + grid).reshape(-1, 2)
        cameras = _between(photos, count, context.rng)
        return Request(torch.arange(count, device=draw.device).repeat_interleave(SIDE**2), uv, cameras=cameras)

    def loss(self, context: FieldContext, config: FieldTermsConfig, request: Request, seen: RayColors, segments: Segments) -> Tensor:
        depth = (seen.place / seen.alpha.clamp_min(1e-3)).view(-1, SIDE, SIDE)  # as RegNeRF, where the field lives: in disparity before photos that look one way
        alpha = seen.alpha.detach().view(-1, SIDE, SIDE)
        dx, dy = (depth[:, :, 1:] - depth[:, :, :-1]).square() * alpha[:, :, 1:], (depth[:, 1:] - depth[:, :-1]).square() * alpha[:, 1:]
        fade = 1 - context.progress  # strong at first, when it decides where things are
        return config.smooth_patches * fade * (dx.mean() + dy.mean())


def _between(photos: Photos, count: int, rng: torch.Generator) -> Cameras:
    """Photos' cameras on a random part of the way to the nearest other photo, looking as before."""
    draw = torch.rand(2, count, generator=rng).to(photos.images.device)
    cameras, a = photos.cameras, (draw[0] * len(photos)).long().clamp_max(len(photos) - 1)
    b = torch.tensor(photos.nearest, device=a.device)[a]
    centers = torch.lerp(cameras.centers[a], cameras.centers[b], draw[1][:, None])
    poses = cameras.cam_from_world[a].clone()
    poses[:, :3, 3] = -(poses[:, :3, :3] @ centers[:, :, None])[:, :, 0]
    return Cameras(poses, cameras.K[a], cameras.width, cameras.height)
