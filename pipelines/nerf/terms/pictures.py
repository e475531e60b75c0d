"""Pictures of splats, a finished scene of the same place, should look as they do: less than the photos, and ever less, for what splats got wrong is wrong in them, too."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.field.samples import Segments
from ....recon.field.volume import RayColors
from ..config import FieldTermsConfig
from .protocol import FieldContext, Request, pixels_of

__all__ = ["Pictures"]

SHARE = 0.5  # of a step's rays


class Pictures:
    def draw(self, context: FieldContext, config: FieldTermsConfig) -> Request | None:
        if config.pictures <= 0 or context.pictures is None:
            return None
        v, h, w = context.pictures.images.shape[:3]
        flat = torch.randint(v * h * w, (max(1, round(SHARE * context.rays)),), generator=context.rng).to(context.pictures.images.device)
        return pixels_of(torch.stack([flat // (h * w), flat // w % h, flat % w]), context.pictures.cameras)

    def loss(self, context: FieldContext, config: FieldTermsConfig, request: Request, seen: RayColors, segments: Segments) -> Tensor:
        pictures, (k, y, x) = context.pictures, request.about
        assert pictures is not None, "else nothing was drawn"
        weight = pictures.weights[k, y, x]
        error = ((seen.over(context.background) - pictures.images[k, y, x]).square().mean(1) * weight).sum() / weight.sum().clamp_min(1)
        return config.pictures * config.pictures_final**context.progress * error
