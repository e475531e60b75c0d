"""How far the measured depth vouches for a Gaussian."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .photos import Photos

__all__ = ["pace_of", "trust"]

SAME = 0.02  # relative difference of depth within which a Gaussian is what the pixel shows


@torch.no_grad()
def trust(means: Float[Tensor, "N 3"], photos: Photos) -> Float[Tensor, "N"]:
    """The largest confidence among the pixels whose depth puts their surface here; 0 where no photo's does."""
    uv, z = photos.cameras.project(means)
    h, w = photos.images.shape[1:3]
    best = torch.zeros(len(means), device=means.device)
    for i, prior in enumerate(photos.depth):
        x, y = (uv[i].nan_to_num(-1).floor().clamp(-1, max(h, w)).long()).unbind(-1)
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h) & (z[i] > 0)
        x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
        there = prior.depth[y, x]
        shown = inside & prior.valid[y, x] & ((z[i] - there).abs() < SAME * there)
        best = torch.maximum(best, torch.where(shown, prior.confidence[y, x], 0.0))
    return best


def pace_of(trust: Float[Tensor, "N"], most: float) -> Float[Tensor, "N"]:
    """Factor on the learning rates: `most` for what nothing vouches for, 1 in the middle, 1 / most for what is certain."""
    return most ** (1 - 2 * trust)
