"""Drops what has strayed out of the hull of an object that masks cut out: no photo that shows the object whole has anything there."""

from __future__ import annotations

from ..config import RefineConfig
from .protocol import Edit, RefineContext


def prune_beyond(context: RefineContext, config: RefineConfig) -> Edit | None:
    if context.hull is None or config.hull_every <= 0 or context.step % config.hull_every:
        return None
    keep = context.hull.reached(context.gaussians.means, 0.0)
    return None if bool(keep.all()) else Edit(keep)
