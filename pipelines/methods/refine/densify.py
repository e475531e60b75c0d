"""Adaptive density control: small Gaussians that are pulled hard are cloned, large ones split (Kerbl et al. 2023, section 5.2)."""

from __future__ import annotations

from dataclasses import fields

import torch

from ....recon.gaussians import Gaussians
from ....recon.se3 import matrix_from_quat
from ..config import RefineConfig
from .protocol import Edit, RefineContext

CHILDREN, SHRINK = 2, 1.6  # of a split


def densify(context: RefineContext, config: RefineConfig) -> Edit | None:
    if config.densify_pull <= 0 or context.step % config.densify_every or context.step >= config.densify_until * context.steps:
        return None
    g = context.gaussians
    room = context.room(config.densify_most)
    pull = context.pull / context.seen.clamp_min(1)
    pulled = pull > config.densify_pull
    if int(pulled.sum()) > room:  # the most pulled first
        pulled = torch.zeros_like(pulled).index_fill_(0, pull.topk(room).indices, True) & pulled
    if not bool(pulled.any()):
        return None
    large = pulled & (g.log_scales.exp().amax(1) > config.split_above * context.scene_depth)
    return Edit(~large, Gaussians.concatenate([g[pulled & ~large], _split(g[large], context.rng)]))


def _split(parents: Gaussians, rng: torch.Generator) -> Gaussians:
    """Each parent becomes CHILDREN smaller ones at random places of its own density."""
    child = Gaussians(*(getattr(parents, f.name).repeat_interleave(CHILDREN, 0) for f in fields(Gaussians)))
    noise = torch.randn(len(child), 3, generator=rng).to(child.means) * child.log_scales.exp()
    means = child.means + torch.einsum("nij,nj->ni", matrix_from_quat(child.quats_wxyz), noise)
    log_scales = child.log_scales - torch.log(torch.tensor(SHRINK))
    return Gaussians(means, child.quats_wxyz, log_scales, child.logit_opacities, child.sh)
