"""A chart keeps the structure of the measured depth: its normals and its bends (Guédon et al. 2025, MAtCha, section 4.2, structure loss)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..config import TermsConfig
from ..motion.charts import FINE, Charts
from .protocol import StepContext

BENDS = 10.0  # weight of the change of bend, relative inverse depth per pixel, against 1 - cosine of the normals


def chart_structure(context: StepContext, config: TermsConfig) -> Tensor | None:
    charts = context.field.motion
    if config.structure <= 0 or not isinstance(charts, Charts):
        return None
    turned, curved, whole = charts.bends(context.index)
    if context.mask is not None:
        whole = whole * (avg_pool2d(context.mask[None, None], FINE, ceil_mode=True)[0, 0] > 0.5)
    return config.structure * (whole * (turned + BENDS * curved)).sum() / whole.sum().clamp_min(1)
