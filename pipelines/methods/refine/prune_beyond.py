"""Drops what has strayed out of the hull of an object that masks cut out: no photo that shows the object whole has anything there."""

from __future__ import annotations

from ..config import RefineConfig
from .protocol import Edit, RefineContext

LEAST_KEPT = 0.5  # share of all Gaussians: where more would go, a photo lies wrong or an outline misses most of the object, and the hull is not to be believed


def prune_beyond(context: RefineContext, config: RefineConfig) -> Edit | None:
    if context.hull is None or config.hull_every <= 0 or context.step % config.hull_every:
        return None
    keep = context.hull.reached(context.gaussians.means, 0.0)
    share = float(keep.float().mean())
    return Edit(keep) if LEAST_KEPT <= share < 1 else None
