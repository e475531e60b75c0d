"""Where an object can be that photos show whole: the visual hull of its outlines (Laurentini 1994)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .camera import Cameras

__all__ = ["Hull", "shown_whole"]

STRAY = 0.005  # share of the border's pixels that may be of the object where it is shown whole: compression leaves specks
SLACK = 1.0  # pixels by which an outline may be wrong


def shown_whole(masks: Float[Tensor, "V H W"]) -> Bool[Tensor, "V"]:
    """Whether a photo shows something, and all of it: its outline does not reach the border."""
    held = masks > 0.5
    border = torch.cat([held[:, 0], held[:, -1], held[:, :, 0], held[:, :, -1]], 1)
    return (border.float().mean(1) <= STRAY) & held.flatten(1).any(1)


@dataclass(frozen=True)
class Hull:
    """What lies within the outline in every photo that shows the object whole.

    Attributes:
        cameras: of those photos; away: of each pixel, how far the nearest one of the object is, pixels.
    """

    cameras: Cameras
    away: Float[Tensor, "V H W"]

    @staticmethod
    def of(cameras: Cameras, masks: Float[Tensor, "V H W"]) -> Hull | None:
        """Masks are 1 on the object. None where no photo shows it whole."""
        import cv2

        whole = shown_whole(masks)
        if not bool(whole.any()):
            return None
        beside = (masks[whole] <= 0.5).cpu().numpy().astype(np.uint8)
        away = np.stack([cv2.distanceTransform(b, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for b in beside])
        return Hull(cameras[whole.nonzero()[:, 0]], torch.from_numpy(away).to(masks.device))

    def reached(self, xyz: Float[Tensor, "N 3"], radius: Float[Tensor, "N"] | float) -> Bool[Tensor, "N"]:
        """Whether balls of the world reach into it. Outlines count as SLACK wider than they are: a ball that is left out holds nothing of the object."""
        radius = torch.as_tensor(radius, dtype=xyz.dtype, device=xyz.device).expand(len(xyz))
        inside = torch.ones(len(xyz), dtype=torch.bool, device=xyz.device)
        for k in range(len(self.cameras)):
            at = inside.nonzero()[:, 0]
            inside[at] = _reached(self.cameras[k], self.away[k], xyz[at], radius[at])
        return inside

    def first_depth(self, camera: Cameras, depths: Float[Tensor, "D"], stride: int = 4) -> Float[Tensor, "H W"]:
        """The first of rising z-depths at which each pixel's ray is within it, looked at once for each `stride` x `stride` pixels; inf where at none."""
        u = torch.arange(0, camera.width, stride, device=depths.device) + stride / 2
        v = torch.arange(0, camera.height, stride, device=depths.device) + stride / 2
        K, T = camera.K[0], camera.cam_from_world[0]
        y, x = torch.meshgrid((v - K[1, 2]) / K[1, 1], (u - K[0, 2]) / K[0, 0], indexing="ij")
        rays = torch.stack([x, y, torch.ones_like(x)], -1) @ T[:3, :3]
        xyz = camera.centers[0] + depths[:, None, None, None] * rays
        within = self.reached(xyz.view(-1, 3), (depths * stride / K[0, 0]).repeat_interleave(x.numel())).view(len(depths), *x.shape)
        first = torch.where(within.any(0), depths[within.int().argmax(0)], torch.inf)
        return first.repeat_interleave(stride, 0).repeat_interleave(stride, 1)[: camera.height, : camera.width]


def _reached(camera: Cameras, away: Float[Tensor, "H W"], xyz: Float[Tensor, "N 3"], radius: Float[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Nothing that is behind the camera does."""
    T, K = camera.cam_from_world[0], camera.K[0]
    x, y, z = (xyz @ T[:3, :3].T + T[:3, 3]).unbind(1)
    a, b = x / z.clamp_min(1e-6), y / z.clamp_min(1e-6)
    uv = torch.stack([a * K[0, 0] + K[0, 2], b * K[1, 1] + K[1, 2]])
    inner = torch.stack([uv[0].clamp(0.5, camera.width - 0.5), uv[1].clamp(0.5, camera.height - 0.5)])
    beside = torch.linalg.vector_norm(uv - inner, dim=0)
    distance = torch.maximum(beside, away[inner[1].long(), inner[0].long()] - beside)  # at least so far, also from beyond the border
    # no point of the ball lies further from where its middle does: the derivative of (x + dx) / (z + dz)
    reach = torch.maximum(K[0, 0], K[1, 1]) * radius / (z - radius).clamp_min(1e-6) * torch.sqrt(1 + a**2 + b**2)
    return (z > -radius) & ((z <= radius) | (distance <= reach + 1 + SLACK))  # 1: distances are from pixel to pixel
