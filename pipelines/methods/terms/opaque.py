"""What a photo shows is matter: every pixel should be covered, so that no background shines through from new viewpoints."""

from __future__ import annotations

from torch import Tensor

from ..config import TermsConfig
from .protocol import StepContext


def opaque(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.opaque <= 0:
        return None
    gap = 1.0 - context.out.alpha[0]
    return config.opaque * (gap if context.mask is None else gap * context.mask).mean()
