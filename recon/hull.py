"""Where an object can be that photos show whole: the visual hull of its outlines (Laurentini 1994)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .camera import Cameras

__all__ = ["Hull", "shown_whole"]

SPECK = 0.005  # share of the object, up to which a piece of its outline apart from the rest is a speck that compression left
SLACK = 1.0  # pixels by which an outline may be wrong
BLOCK = 16  # depths that are looked at together


def shown_whole(masks: Float[Tensor, "V H W"], extents: Float[Tensor, "V H W"] | None = None) -> Bool[Tensor, "V"]:
    """Whether a photo shows something, and all of it: but for specks its outline does not reach the border of the picture, nor that of its extent, beyond which there
    is padding or a corner that the lens left out."""
    return torch.tensor([_whole(m, None if extents is None else extents[k]) for k, m in enumerate(masks)], dtype=torch.bool, device=masks.device)


def _whole(mask: Float[Tensor, "H W"], extent: Float[Tensor, "H W"] | None) -> bool:
    import cv2

    held = (mask > 0.5).cpu().numpy()
    seen = np.ones_like(held) if extent is None else (extent > 0.5).cpu().numpy()
    held = held & seen
    inner = cv2.erode(np.pad(seen.astype(np.uint8), 1), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    _, label, pieces, _ = cv2.connectedComponentsWithStats(held.astype(np.uint8), connectivity=8)
    parts = pieces[:, cv2.CC_STAT_AREA] > SPECK * held.sum()
    parts[0] = False  # what is beside the object
    return bool(held.any()) and not bool((parts[label] & ~inner).any())


@dataclass(frozen=True)
class Hull:
    """What lies within the outline in every photo that shows the object whole.

    Attributes:
        cameras: of those photos; away: of each pixel, how far the nearest one of the object is, pixels.
        photos: which of all photos they are.
    """

    cameras: Cameras
    away: Float[Tensor, "V H W"]
    photos: tuple[int, ...]

    @staticmethod
    def of(cameras: Cameras, masks: Float[Tensor, "V H W"], extents: Float[Tensor, "V H W"] | None = None) -> Hull | None:
        """Masks are 1 on the object; extents are 1 where a picture is a photo (None = everywhere). None where no photo shows the object whole."""
        import cv2

        whole = shown_whole(masks, extents)
        if not bool(whole.any()):
            return None
        beside = (masks[whole] <= 0.5).cpu().numpy().astype(np.uint8)
        away = np.stack([cv2.distanceTransform(b, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for b in beside])
        photos = whole.nonzero()[:, 0]
        return Hull(cameras[photos], torch.from_numpy(away).to(masks.device), tuple(photos.tolist()))

    def seen_by(self, cameras: Cameras) -> Hull:
        """The same outlines with all photos' cameras as they are by now."""
        return replace(self, cameras=cameras[list(self.photos)])

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
        first = torch.full_like(x, torch.inf)
        for part in depths.split(BLOCK):
            open_ = first.isinf()
            xyz = camera.centers[0] + part[:, None, None] * rays[open_]
            radius = (part * stride / K[0, 0]).repeat_interleave(xyz.shape[1])
            within = self.reached(xyz.reshape(-1, 3), radius).view(len(part), -1)
            first[open_] = torch.where(within.any(0), part[within.int().argmax(0)], torch.inf)
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
