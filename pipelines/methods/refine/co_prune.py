"""Drops Gaussians that the other field has nothing near: where two fields disagree, one guessed (Zhang et al. 2024, CoR-GS, section 3.2)."""

from __future__ import annotations

import torch

from ....recon.neighbours import nearest
from ..config import RefineConfig
from .protocol import Edit, RefineContext


def co_prune(context: RefineContext, config: RefineConfig) -> Edit | None:
    every = config.co_prune_every * config.densify_every
    if config.co_prune <= 0 or not context.others or context.step % every or context.step >= config.densify_until * context.steps:
        return None
    keep = torch.ones(len(context.gaussians), dtype=torch.bool, device=context.gaussians.device)
    for other in context.others:
        if len(other):
            _, distance = nearest(other.means, context.gaussians.means, 1)
            keep &= distance[:, 0] <= config.co_prune * context.scene_depth
    return None if bool(keep.all()) else Edit(keep)
