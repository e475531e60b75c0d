"""Right before the cameras there should be nothing (Yang et al. 2023, FreeNeRF, section 3.4). Only in a frustum: a box leaves out what lies before the cameras, and in
a contracted space a share of the way through it reaches into the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.field.samples import Segments
from ....recon.field.volume import RayColors
from ..config import FieldTermsConfig
from .protocol import FieldContext, Request

__all__ = ["Occlusion"]

SHARE = 0.25  # of a step's rays


class Occlusion:
    def draw(self, context: FieldContext, config: FieldTermsConfig) -> Request | None:
        if config.occlusion <= 0 or not context.frustum:
            return None
        v, h, w = context.photos.images.shape[:3]
        draw = torch.rand(3, max(1, round(SHARE * context.rays)), generator=context.rng).to(context.photos.images.device)
        return Request((draw[0] * v).long().clamp_max(v - 1), draw[1:].T * torch.tensor([w, h], device=draw.device), reach=config.occlusion_reach)

    def loss(self, context: FieldContext, config: FieldTermsConfig, request: Request, seen: RayColors, segments: Segments) -> Tensor:
        return config.occlusion * seen.alpha.mean()
