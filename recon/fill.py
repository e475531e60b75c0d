"""Filling holes in images by push-pull: averages of what is known, coarse to fine (Gortler et al. 1996, section 3.4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

__all__ = ["push_pull"]


def push_pull(values: Float[Tensor, "H W C"], weight: Float[Tensor, "H W"]) -> Float[Tensor, "H W C"]:
    """Keeps `values` where weight is 1, fills smoothly where it is 0, blends in between. All zero where nothing is known."""
    channels = (values * weight[..., None]).permute(2, 0, 1)[None]
    return _fill(channels, weight.clamp(0, 1)[None, None])[0].permute(1, 2, 0)


def _fill(premultiplied: Tensor, weight: Tensor) -> Tensor:
    h, w = weight.shape[2:]
    known = premultiplied / weight.clamp_min(1e-8)
    if (h <= 1 and w <= 1) or bool((weight >= 1).all()):
        return known
    grow = (0, w % 2, 0, h % 2)
    coarse_value = avg_pool2d(pad(premultiplied, grow), 2) * 4
    coarse_weight = avg_pool2d(pad(weight, grow), 2) * 4
    # a coarse pixel counts in full once it has seen one full fine pixel
    norm = coarse_weight.clamp_min(1.0)
    coarse = _fill(coarse_value / norm, coarse_weight / norm)
    up = interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :h, :w]
    return torch.where(weight > 0, known * weight, 0.0) + up * (1 - weight)
