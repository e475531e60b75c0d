"""Proximity-guided unpooling: where Gaussians stand far from their neighbours, new ones are put half way (Zhu et al. 2024, FSGS, section 3.2)."""

from __future__ import annotations

import torch

from ....recon.gaussians import Gaussians
from ....recon.neighbours import nearest
from ..config import RefineConfig
from .protocol import Edit, RefineContext


def unpool(context: RefineContext, config: RefineConfig) -> Edit | None:
    if config.unpool_gap <= 0 or context.step % config.densify_every or context.step >= config.densify_until * context.steps:
        return None
    g = context.gaussians
    room = context.room(config.densify_most)
    if len(g) < 2 or room == 0:
        return None
    index, distance = nearest(g.means, g.means, config.unpool_neighbours + 1)
    source = torch.arange(len(g), device=g.device)[:, None].expand_as(index)
    other = index != source  # of several at one place, any may be named first
    proximity = (distance * other).sum(1) / other.sum(1).clamp_min(1)
    lonely = (proximity > config.unpool_gap * context.scene_depth) & torch.isfinite(g.means).all(1)
    edges = other & lonely[:, None]
    pairs = torch.stack([source[edges], index[edges]], -1)
    pairs = pairs[torch.isfinite(g.means[pairs[:, 1]]).all(1)]
    if not len(pairs):
        return None
    order = proximity[pairs[:, 0]].argsort(descending=True, stable=True)  # the widest gaps first
    pairs = _once(pairs[order])[:room]
    return Edit(torch.ones(len(g), dtype=torch.bool, device=g.device), _between(g[pairs[:, 0]], g[pairs[:, 1]]))


def _once(pairs: torch.Tensor) -> torch.Tensor:
    """Each unordered pair where it stands first."""
    low, high = pairs.amin(1), pairs.amax(1)
    _, inverse = torch.unique(torch.stack([low, high], -1), dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(pairs), device=pairs.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(pairs), device=pairs.device), "amin")
    return pairs[first.sort().values]


def _between(source: Gaussians, destination: Gaussians) -> Gaussians:
    """Half way, of the destination's size and opacity, of the mean colour, not turned."""
    quats = torch.zeros_like(destination.quats_wxyz)
    quats[:, 0] = 1
    means, sh = (source.means + destination.means) / 2, (source.sh + destination.sh) / 2
    return Gaussians(means, quats, destination.log_scales.clone(), destination.logit_opacities.clone(), sh)
