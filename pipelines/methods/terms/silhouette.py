"""Outside the masks of an object nothing should be: what reaches beyond them is carved away (the visual hull: Laurentini 1994)."""

from __future__ import annotations

from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext


def silhouette(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.silhouette <= 0 or context.mask is None or not context.photos.cut_out:
        return None
    outside = 1.0 - context.mask
    if context.extent is not None:
        outside = outside * context.extent
    return config.silhouette * (outside * context.out.alpha[0]).mean()
