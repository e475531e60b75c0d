"""L1 + D-SSIM between render and photo (Kerbl et al. 2023, section 5.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ....recon.losses.fused import fused_l1_dssim
from ..config import TermsConfig
from .protocol import StepContext


def photometric(context: StepContext, config: TermsConfig) -> Tensor | None:
    color, counts = context.out.color[0], context.mask
    carved = config.silhouette > 0 and context.photos.cut_out
    if context.photos.white and not carved:  # the photos show what lies beside the object: white
        counts = context.extent
    beyond = context.extent if context.photos.cut_out else counts
    if beyond is not None:  # D-SSIM's windows reach across the border: else the render would learn along it the padding's black, or the passer-by who is masked
        color = torch.where(beyond[..., None] > 0.5, color, context.image)
    return fused_l1_dssim(color, context.image, counts, config.ssim)
