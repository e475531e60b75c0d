"""Neighbouring pixels that lie on one surface in the prior should do so in the render (Wang et al. 2023, SparseNeRF, section 3.3: spatial continuity)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.depth import DepthMap
from ..config import TermsConfig
from .protocol import StepContext

SAME = 0.01  # relative difference of the prior's values of neighbours on one surface
MARGIN = 1e-4  # rendered difference that is free, in median depths


def depth_continuity(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.continuity <= 0:
        return None
    depth = context.out.depth[0] / context.photos.scene_depth
    total, count = depth.new_zeros(()), depth.new_zeros(())
    for dim in (0, 1):
        weight = _same_surface(context.guide, dim) * (_first(depth, dim) > 0) * (_second(depth, dim) > 0)
        error = ((_second(depth, dim) - _first(depth, dim)).abs() - MARGIN).clamp_min(0)
        total, count = total + (weight * error).sum(), count + weight.sum()
    return config.continuity * total / count.clamp_min(1)


def _same_surface(guide: DepthMap, dim: int) -> Tensor:
    """Trust that two neighbours along `dim` are one surface; 0 where the prior says they are not."""
    a, b = _first(guide.depth, dim), _second(guide.depth, dim)
    trust = torch.where(guide.valid, guide.confidence, 0.0)
    same = (b - a).abs() < SAME * torch.minimum(a.abs(), b.abs())
    return same * torch.minimum(_first(trust, dim), _second(trust, dim))


def _first(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 0, x.shape[dim] - 1)


def _second(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 1, x.shape[dim] - 1)
