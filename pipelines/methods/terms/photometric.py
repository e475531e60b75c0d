"""L1 + D-SSIM between render and photo (Kerbl et al. 2023, section 5.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.losses.fused import fused_l1_dssim
from ..config import TermsConfig
from .protocol import StepContext


def photometric(context: StepContext, config: TermsConfig) -> Tensor | None:
    color = context.out.color[0]
    if context.extent is not None:  # D-SSIM's windows reach across the border: else the render would learn the padding's black along it
        color = torch.where(context.extent[..., None] > 0.5, color, context.image)
    return fused_l1_dssim(color, context.image, context.mask, config.ssim)
