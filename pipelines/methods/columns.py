"""What each Gaussian of a method carries beside what makes the picture."""

from __future__ import annotations

from .config import SplatConfig
from .field import PACE, Column
from .motion.decoder import PIXEL, bound_pixels
from .photos import Photos
from .trust import pace_of, trust

__all__ = ["columns_of"]


def columns_of(config: SplatConfig, photos: Photos) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    if config.motion.kind == "decoder":
        columns[PIXEL] = Column(lambda g: bound_pixels(g.means, photos.cameras))
    if config.optim.pace > 1:
        columns[PACE] = Column(lambda g: pace_of(trust(g.means, photos), config.optim.pace))
    return columns
