"""Rendered depth should agree with the prior's, as far as the prior is confident; relative error of inverse depth, robust."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext


def depth_agreement(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.depth <= 0:
        return None
    prior, depth = context.depth, context.out.depth[0]
    weight = torch.where((prior.depth > 0) & (depth > 0), prior.confidence, 0.0)
    error = (prior.depth / depth.clamp_min(1e-6) - 1.0).abs().clamp_max(0.5)
    fade = 1.0 + (config.depth_final - 1.0) * context.progress
    return config.depth * fade * (weight * error).mean()
