"""Rendered depth should rise and fall with the prior's, whatever the prior's scale and shift: Pearson's correlation, at the photo and between photos
(Zhu et al. 2024, FSGS, section 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext
from .pseudo_view import carried_depth, pseudo_camera


def depth_correlation(context: StepContext, config: TermsConfig) -> Tensor | None:
    losses: list[Tensor] = []
    if config.correlation > 0:
        losses.append(config.correlation * (1 - _with_prior(context)))
    due = config.pseudo_correlation > 0 and context.progress >= config.pseudo_from and context.step % config.pseudo_every == 0
    if due:
        pair = tuple(dict.fromkeys((context.index, context.photos.nearest[context.index])))
        camera = pseudo_camera(context.photos, context.index, context.rng)
        target, depth = carried_depth(context.photos, pair, camera), context.render(camera).depth[0]
        losses.append(config.pseudo_correlation * (1 - pearson(depth, target, ((target > 0) & (depth > 0)).float())))
    return torch.stack(losses).sum() if losses else None


def pearson(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Weighted correlation in [-1, 1]; 0 where one of them does not vary."""
    weight = weight / weight.sum().clamp_min(1e-9)
    a, b = a - (weight * a).sum(), b - (weight * b).sum()
    spread = ((weight * a * a).sum() * (weight * b * b).sum()).clamp_min(1e-20).sqrt()
    return (weight * a * b).sum() / spread


def _with_prior(context: StepContext) -> Tensor:
    prior, depth = context.guide, context.out.depth[0]
    weight = torch.where(prior.valid & (depth > 0), prior.confidence, 0.0)
    if prior.kind == "affine_inverse":
        depth = 1 / depth.clamp_min(1e-6)
    return pearson(depth, prior.depth, weight)
