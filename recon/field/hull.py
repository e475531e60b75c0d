"""Cells of a field's box that an object's outlines allow."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..camera import Cameras
from ..hull import Hull
from .space import BoxSpace

__all__ = ["cells_in_outlines"]


def cells_in_outlines(cameras: Cameras, masks: Float[Tensor, "V H W"], space: BoxSpace, side: int) -> Bool[Tensor, "G G G"]:
    """Of `side`^3 cells of the cube, those that reach into the object's hull, each taken as the ball around it; all where no photo shows the object whole."""
    hull = Hull.of(cameras, masks)
    if hull is None:
        return torch.ones((side,) * 3, dtype=torch.bool, device=masks.device)
    axis = (torch.arange(side, device=masks.device) + 0.5) / side
    centers = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return hull.reached(space.to_world(centers), 0.5 * 3**0.5 * space.size / side).view(side, side, side)
