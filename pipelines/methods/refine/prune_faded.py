"""Drops what has faded: it costs time and shows nothing."""

from __future__ import annotations

import torch

from ..config import RefineConfig
from .protocol import Edit, RefineContext


def prune_faded(context: RefineContext, config: RefineConfig) -> Edit | None:
    if context.step % max(1, context.steps // 10):
        return None
    keep = torch.sigmoid(context.gaussians.logit_opacities) > config.prune_opacity
    return None if bool(keep.all()) else Edit(keep)
