"""What holds a photo's Gaussians together when they move along their rays: total variation of the movement, and the flow between photos
(Paliwal et al. 2024, CoherentGS, sections 3.2 and 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.camera import pixel_centers
from ..config import TermsConfig
from ..motion.bound import PixelMotion
from .protocol import StepContext

FARTHEST = 0.5  # median depths: an error beyond is an outlier, and pulls no more


def coherent_motion(context: StepContext, config: TermsConfig) -> Tensor | None:
    motion = context.field.motion
    if config.motion_variation <= 0 or not isinstance(motion, PixelMotion):
        return None
    r = motion.residual[context.index]
    return config.motion_variation * ((r[:, 1:] - r[:, :-1]).abs().mean() + (r[1:] - r[:-1]).abs().mean())


def flow_agreement(context: StepContext, config: TermsConfig) -> Tensor | None:
    """Pixels that show one thing, by the flow, are one point: distance between the two Gaussians', in median depths."""
    motion, photos, i = context.field.motion, context.photos, context.index
    others = [j for (source, j) in photos.flow if source == i]
    if config.flow <= 0 or not others or not isinstance(motion, PixelMotion):
        return None
    j = others[int(torch.randint(len(others), (1,), generator=context.rng))]
    flow, depth = photos.flow[i, j], motion.pixel_depth(context.field.rows)
    h, w = depth.shape[1:]
    end = pixel_centers(w, h, depth.device) + flow.flow
    x, y = end[..., 0].floor().long(), end[..., 1].floor().long()
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    z = depth[j].flatten().gather(0, (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).flatten()).view(h, w)  # indexing by two would add its gradients in any order
    here = photos.cameras[i].unproject_depth(depth[i][None])[0].reshape(-1, 3)
    there = photos.cameras[j].unproject(end.reshape(1, -1, 2), z.reshape(1, -1))[0]
    weight = torch.where(inside & (z > 0) & (depth[i] > 0), flow.confidence, 0.0).reshape(-1)
    error = ((here - there).norm(dim=-1) / photos.scene_depth).clamp_max(FARTHEST)
    return config.flow * (weight * error).sum() / weight.sum().clamp_min(1)
