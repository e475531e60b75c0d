"""Depth by order and by neighbourhood, against a coarse depth map (Wang et al. 2023, SparseNeRF, sections 3.2 and 3.3): of two nearby pixels the one that the map
says is nearer should be nearer, and neighbours on one surface should stay together. How far things are is not held."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.field.samples import Segments
from ....recon.field.volume import RayColors
from ..config import FieldTermsConfig
from .protocol import FieldContext, Request, pixels_of

__all__ = ["Continuity", "Ranking"]

PAIRS = 0.25  # of a step's rays, in each of the two terms
REACH = 0.05  # of the longer side: how far apart two pixels of a pair may be
CLEAR = 0.01  # relative difference of the map's values below which their order says nothing, and two neighbours are one surface
FAR = 20.0  # median depths beyond which differences mean nothing
MARGIN = 1e-4  # by which the nearer should be nearer, or which is free, in median depths


class _Pairs:
    """Pairs of pixels of one photo, the second within `reach` pixels of the first."""

    def pairs(self, context: FieldContext, reach: int) -> Request:
        v, h, w = context.photos.images.shape[:3]
        count = max(1, round(PAIRS * context.rays))
        draw = torch.rand(5, count, generator=context.rng).to(context.photos.images.device)
        photo = (draw[0] * v).long().clamp_max(v - 1)
        x, y = (draw[1] * w).long().clamp_max(w - 1), (draw[2] * h).long().clamp_max(h - 1)
        dx, dy = (((2 * reach + 1) * draw[3:]).long() - reach).unbind(0)
        near = torch.stack([photo, (y + dy).clamp(0, h - 1), (x + dx).clamp(0, w - 1)])
        return pixels_of(torch.cat([torch.stack([photo, y, x]), near], 1))

    def known(self, context: FieldContext, request: Request) -> tuple[Tensor, Tensor, Tensor, float]:
        """The map's values at both pixels of each pair, how far it is to be trusted there, and -1 where larger values are nearer."""
        photo, y, x = request.about
        assert context.guide is not None, "the run makes it where a weight is above 0"
        values, trust, sign = context.guide
        first, second = values[photo, y, x].chunk(2)
        here, beside = trust[photo, y, x].chunk(2)
        return first, second, torch.minimum(here, beside), sign

    def depths(self, context: FieldContext, seen: RayColors, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
        """Rendered, in median depths, and where both pixels show something."""
        depth = segments.depth_at(seen.place / seen.alpha.clamp_min(1e-3)) / context.photos.scene_depth
        there = (seen.alpha > 0.1) & (depth < FAR)
        (a, b), (here, beside) = depth.clamp(0, FAR).chunk(2), there.chunk(2)
        return a, b, here & beside


class Ranking(_Pairs):
    def draw(self, context: FieldContext, config: FieldTermsConfig) -> Request | None:
        return self.pairs(context, max(1, round(REACH * max(context.photos.images.shape[1:3])))) if config.rank > 0 else None

    def loss(self, context: FieldContext, config: FieldTermsConfig, request: Request, seen: RayColors, segments: Segments) -> Tensor:
        first, second, trust, sign = self.known(context, request)
        a, b, there = self.depths(context, seen, segments)
        farther = torch.sign(second - first) * sign  # +1 where the second is
        weight = trust * there * ((second - first).abs() > CLEAR * torch.minimum(first.abs(), second.abs()))
        return config.rank * (weight * (MARGIN - farther * (b - a)).clamp_min(0)).sum() / weight.sum().clamp_min(1)


class Continuity(_Pairs):
    def draw(self, context: FieldContext, config: FieldTermsConfig) -> Request | None:
        return self.pairs(context, 1) if config.continuity > 0 else None

    def loss(self, context: FieldContext, config: FieldTermsConfig, request: Request, seen: RayColors, segments: Segments) -> Tensor:
        first, second, trust, _ = self.known(context, request)
        a, b, there = self.depths(context, seen, segments)
        weight = trust * there * ((second - first).abs() < CLEAR * torch.minimum(first.abs(), second.abs()))
        return config.continuity * (weight * ((b - a).abs() - MARGIN).clamp_min(0)).sum() / weight.sum().clamp_min(1)
