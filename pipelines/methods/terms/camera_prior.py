"""Corrected cameras should stay near where they were placed (Fan et al. 2024, InstantSplat: pose regularisation)."""

from __future__ import annotations

from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext


def camera_prior(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.camera <= 0 or context.correction is None:
        return None
    return config.camera * context.correction.square().sum()
