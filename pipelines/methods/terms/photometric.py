"""L1 + D-SSIM between render and photo (Kerbl et al. 2023, section 5.1)."""

from __future__ import annotations

from torch import Tensor

from ....recon.losses.fused import fused_l1_dssim
from ..config import TermsConfig
from .protocol import StepContext


def photometric(context: StepContext, config: TermsConfig) -> Tensor | None:
    return fused_l1_dssim(context.out.color[0], context.image, context.mask, config.ssim)
