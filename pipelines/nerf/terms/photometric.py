"""Random pixels of all photos should look as they are (Mildenhall et al. 2020, equation 6), and what their rays see should lie in one place (Barron et al. 2022,
Mip-NeRF 360, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.field.samples import Segments
from ....recon.field.volume import RayColors
from ..config import FieldTermsConfig
from .protocol import FieldContext, Request, pixels_of

__all__ = ["Photometric"]


class Photometric:
    def draw(self, context: FieldContext, config: FieldTermsConfig) -> Request:
        v, h, w = context.photos.images.shape[:3]
        flat = torch.randint(v * h * w, (context.rays,), generator=context.rng).to(context.photos.images.device)
        return pixels_of(torch.stack([flat // (h * w), flat // w % h, flat % w]))

    def loss(self, context: FieldContext, config: FieldTermsConfig, request: Request, seen: RayColors, segments: Segments) -> Tensor:
        photos, (photo, y, x) = context.photos, request.about
        truth = photos.images[photo, y, x]
        weight = torch.ones_like(truth[:, 0])
        if photos.masks is not None:
            mask = photos.masks[photo, y, x]
            if photos.cut_out:  # beside the object there is nothing
                truth = torch.lerp(context.background.expand_as(truth), truth, mask[:, None])
                weight = weight if photos.extents is None else photos.extents[photo, y, x]
            else:
                weight = mask
        total = weight.sum().clamp_min(1)
        error = ((seen.over(context.background) - truth).square().mean(1) * weight).sum() / total
        context.errors.append(error.detach())
        if config.distortion > 0:
            error = error + config.distortion * (seen.distortion * weight).sum() / total
        return error
