"""Depth maps that travel: from stereo, a sensor or a learned prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["DepthMap"]


@dataclass(frozen=True)
class DepthMap:
    """One z-depth image, pixel-aligned with its view.

    Attributes:
        depth: z-depth in world units (metric), or up to scale and shift (affine, affine_inverse); 0 = none.
        confidence: [0, 1], how far to trust each pixel.
        valid: pixels that passed their prior's own checks (for stereo: seen consistently by two views).
        normal: unit surface normal in the camera frame, facing the camera; None where the prior has none.
        kind: what the numbers mean.
    """

    depth: Float[Tensor, "H W"]
    confidence: Float[Tensor, "H W"]
    valid: Bool[Tensor, "H W"]
    normal: Float[Tensor, "H W 3"] | None = None
    kind: Literal["metric", "affine", "affine_inverse"] = "metric"
