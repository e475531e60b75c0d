"""Two fields that learn from the same photos should look alike where no photo was taken (Zhang et al. 2024, CoR-GS, section 3.3: pseudo-view co-regularisation)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.losses.fused import fused_l1_dssim
from ..config import TermsConfig
from .protocol import StepContext
from .pseudo_view import pseudo_camera


def field_agreement(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.agreement <= 0 or not context.rivals or context.progress < config.pseudo_from or context.step % config.pseudo_every:
        return None
    camera = pseudo_camera(context.photos, context.index, context.rng)
    mine = context.render(camera).color[0]
    losses = [fused_l1_dssim(mine, rival(camera).color[0], None, config.ssim) for rival in context.rivals]
    return config.agreement * torch.stack(losses).mean()
