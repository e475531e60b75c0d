"""Of two nearby pixels, the one that the prior says is nearer should be rendered nearer (Wang et al. 2023, SparseNeRF, section 3.2: local depth ranking)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext

PAIRS = 16384  # drawn anew in every step
REACH = 0.05  # of the longer side: how far apart two pixels of a pair may be
CLEAR = 0.01  # relative difference of the prior's values below which their order says nothing
MARGIN = 1e-4  # by which the nearer should be nearer, in median depths


def depth_ranking(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.rank <= 0:
        return None
    guide, depth = context.guide, context.out.depth[0] / context.photos.scene_depth
    h, w = depth.shape
    reach = max(1, round(REACH * max(h, w)))
    draw = torch.rand(4, PAIRS, generator=context.rng).to(depth.device)
    x, y = (draw[0] * w).long().clamp_max(w - 1), (draw[1] * h).long().clamp_max(h - 1)
    dx, dy = (((2 * reach + 1) * draw[2:]).long() - reach).unbind(0)
    a, b = y * w + x, (y + dy).clamp(0, h - 1) * w + (x + dx).clamp(0, w - 1)
    value, trust, rendered = guide.depth.reshape(-1), torch.where(guide.valid, guide.confidence, 0.0).reshape(-1), depth.reshape(-1)
    step = value[b] - value[a]
    known = (step.abs() > CLEAR * torch.minimum(value[a].abs(), value[b].abs())) & (rendered[a] > 0) & (rendered[b] > 0)
    farther = torch.sign(step) * (-1.0 if guide.kind == "affine_inverse" else 1.0)  # +1 where b is
    weight = known * torch.minimum(trust[a], trust[b])
    error = (MARGIN - farther * (rendered[b] - rendered[a])).clamp_min(0)
    return config.rank * (weight * error).sum() / weight.sum().clamp_min(1)
