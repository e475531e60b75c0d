"""Rendered inverse depth should be smooth where the photo is (Godard et al. 2017, section 3.3, edge-aware smoothness)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext

EDGE_SHARPNESS = 8.0  # how fast a colour edge (mean absolute difference, [0, 1]) frees the depth


def smoothness(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.smooth <= 0:
        return None
    depth, alpha = context.out.depth[0], context.out.alpha[0]
    inverse = alpha.detach() / depth.clamp_min(1e-6)
    inverse = torch.where(depth > 0, inverse, 0.0)
    inverse = inverse / inverse.mean().detach().clamp_min(1e-9)
    image = context.image
    wx = torch.exp(-EDGE_SHARPNESS * (image[:, 1:] - image[:, :-1]).abs().mean(-1))
    wy = torch.exp(-EDGE_SHARPNESS * (image[1:] - image[:-1]).abs().mean(-1))
    dx = (inverse[:, 1:] - inverse[:, :-1]).abs()
    dy = (inverse[1:] - inverse[:-1]).abs()
    return config.smooth * ((wx * dx).mean() + (wy * dy).mean())
