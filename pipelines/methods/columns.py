"""What each Gaussian of a method carries beside what makes the picture."""

from __future__ import annotations

import torch

from .config import SplatConfig
from .field import PACE, Column
from .motion.bound import PIXEL, bound_pixels
from .photos import Photos
from .terms.uncertain_surface import START, UNCERTAINTY
from .trust import pace_of, trust

__all__ = ["columns_of"]


def columns_of(config: SplatConfig, photos: Photos) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    if config.motion.kind == "decoder":
        columns[PIXEL] = Column(lambda g: bound_pixels(g.means, photos.cameras))
    if config.motion.kind == "charts":
        columns[PIXEL] = Column(lambda g: bound_pixels(g.means, photos.cameras, photos.completed, photos.extents))
    if config.optim.pace > 1:
        columns[PACE] = Column(lambda g: pace_of(trust(g.means, photos), config.optim.pace))
    if config.terms.surface > 0:
        columns[UNCERTAINTY] = Column(lambda g: torch.full_like(g.means[:, 0], START), lr=config.optim.lr_uncertainty)
    return columns
