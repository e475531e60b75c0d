"""Surfels make a surface: those of a pixel lie together along its ray, and their normals are those of the depth (Huang et al. 2024, 2D Gaussian splatting, section 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..config import TermsConfig
from .protocol import StepContext
from .uncertain_surface import normals_from_depth

__all__ = ["depth_distortion", "normal_agreement"]


def depth_distortion(context: StepContext, config: TermsConfig) -> Tensor | None:
    """The root of what the rasterizer calls distortion, as a share of the depth: how far apart the surfels of a pixel lie. The root keeps a floater in front of a wall, whose
    square outweighs a picture of small ones, from being all that counts."""
    distortion = context.out.distortion
    if config.distortion <= 0 or distortion is None or context.progress < config.surface_from:
        return None
    depth = context.out.depth[0].detach()
    spread = (distortion[0].clamp_min(0) / depth.clamp_min(1e-6) ** 2 + 1e-8).sqrt() - 1e-4
    return config.distortion * _mean(spread, depth > 0, context.mask)


def normal_agreement(context: StepContext, config: TermsConfig) -> Tensor | None:
    """1 - cosine between the rendered normal and that of the rendered depth, over what is covered."""
    if config.normals <= 0 or context.out.normal is None or context.progress < config.surface_from:
        return None
    depth = context.out.depth[0]
    expected, there = normals_from_depth(depth, torch.ones_like(depth), context.camera)
    error = 1 - (normalize(context.out.normal[0], dim=-1, eps=1e-6) * expected).sum(-1)
    return config.normals * _mean(error, there & (context.out.alpha[0].detach() > 0.5), context.mask)


def _mean(values: Tensor, where: Tensor, mask: Tensor | None) -> Tensor:
    counts = where if mask is None else where & (mask > 0.5)
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp_min(1)
