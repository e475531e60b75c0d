"""Where an object can be that photos show whole: the visual hull of its outlines (Laurentini 1994)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..camera import Cameras
from .space import BoxSpace

__all__ = ["cells_in_outlines", "shown_whole"]

STRAY = 0.005  # share of the border's pixels that may be of the object where it is shown whole: compression leaves specks
SLACK = 1.0  # pixels by which an outline may be wrong


def shown_whole(masks: Float[Tensor, "V H W"]) -> Bool[Tensor, "V"]:
    """Whether a photo shows something, and all of it: its outline does not reach the border."""
    held = masks > 0.5
    border = torch.cat([held[:, 0], held[:, -1], held[:, :, 0], held[:, :, -1]], 1)
    return (border.float().mean(1) <= STRAY) & held.flatten(1).any(1)


def cells_in_outlines(cameras: Cameras, masks: Float[Tensor, "V H W"], space: BoxSpace, side: int) -> Bool[Tensor, "G G G"]:
    """Of `side`^3 cells of the cube, those that reach into the outline in every photo that shows the object whole; all where none does.

    A cell is taken as the ball around it, and an outline SLACK wider than it is, so what is left out holds nothing. Masks are 1 on the object.
    """
    device = cameras.K.device
    axis = (torch.arange(side, device=device) + 0.5) / side
    centers = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    world = space.to_world(centers)
    radius = 0.5 * 3**0.5 * float(space.size) / side
    inside = torch.ones(len(world), dtype=torch.bool, device=device)
    for k in shown_whole(masks).nonzero()[:, 0].tolist():
        at = inside.nonzero()[:, 0]
        inside[at] = _reaches(cameras[k], masks[k], world[at], radius)
    return inside.view(side, side, side)


def _reaches(camera: Cameras, mask: Float[Tensor, "H W"], world: Float[Tensor, "N 3"], radius: float) -> Bool[Tensor, "N"]:
    """Whether balls reach into what the mask holds. Nothing that is behind the camera does."""
    import cv2

    away = torch.from_numpy(cv2.distanceTransform((mask <= 0.5).cpu().numpy().astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)).to(world.device)
    T, K = camera.cam_from_world[0], camera.K[0]
    x, y, z = (world @ T[:3, :3].T + T[:3, 3]).unbind(1)
    near = (z - radius).clamp_min(1e-6)
    u, v = x / z.clamp_min(1e-6) * K[0, 0] + K[0, 2], y / z.clamp_min(1e-6) * K[1, 1] + K[1, 2]
    inner = torch.stack([u.clamp(0.5, camera.width - 0.5), v.clamp(0.5, camera.height - 0.5)])
    beside = torch.linalg.vector_norm(torch.stack([u, v]) - inner, dim=0)
    found = away[inner[1].long(), inner[0].long()]
    distance = torch.maximum(beside, found - beside)  # at least so far, also from beyond the border
    # the ball's outline is an ellipse, wider towards the corners: bounded by the ball's own field of view seen from the side
    wide = torch.sqrt(1 + ((u - K[0, 2]) / K[0, 0]) ** 2 + ((v - K[1, 2]) / K[1, 1]) ** 2)
    reach = torch.maximum(K[0, 0], K[1, 1]) * radius / near * wide + 1 + SLACK
    return (z > -radius) & ((z <= radius) | (distance <= reach))
