"""Rendered depth should be what a range sensor measured, during the whole run: logarithm of their ratio at the pixels that hold a return, without the worst
of them (things that moved, returns that another place hides): trimmed as Tonderski et al. 2024, NeuRAD, 3.4 do for lidar."""

from __future__ import annotations

from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext


def scan_depth(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.scan <= 0 or context.photos.scan is None:
        return None
    measured, depth = context.photos.scan[context.index], context.out.depth[0]
    pick = (measured > 0) & (depth > 0)
    if not bool(pick.any()):
        return None
    error = (depth[pick] / measured[pick]).log().abs()
    kept = max(1, round(len(error) * (1 - config.scan_trim)))
    limit = error.detach().kthvalue(kept).values
    return config.scan * error[error <= limit].sum() / len(error)
