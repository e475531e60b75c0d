"""Between display colours (sRGB, IEC 61966-2-1) and linear light."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["linear_from_srgb", "srgb_from_linear"]


def linear_from_srgb(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """What is beyond 0 to 1 is cut off, here and below."""
    x = x.clamp(0, 1)
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    x = x.clamp(0, 1)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp_min(1e-8) ** (1 / 2.4) - 0.055)
