"""Cells of a field's cube that an object's outlines allow."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from ..hull import Hull
from .occupancy import cell_centers
from .space import BoxSpace

__all__ = ["cells_in_hull"]


def cells_in_hull(hull: Hull, space: BoxSpace, side: int) -> Bool[Tensor, "G G G"]:
    """Of `side`^3 cells, those that reach into the hull, each taken as the ball around it."""
    world = space.to_world(cell_centers(side, hull.away.device))
    return hull.reached(world, 0.5 * 3**0.5 * space.size / side).view(side, side, side)
