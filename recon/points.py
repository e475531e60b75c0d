"""Coloured points that travel between rooms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PointCloud"]


@dataclass(frozen=True)
class PointCloud:
    """N world points; rgb is sRGB in [0, 1]; confidence in [0, 1]; intensity as the sensor gave it; normals are unit vectors out of the surface."""

    xyz: Float[Tensor, "N 3"]
    rgb: Float[Tensor, "N 3"] | None = None
    confidence: Float[Tensor, "N"] | None = None
    intensity: Float[Tensor, "N"] | None = None
    normals: Float[Tensor, "N 3"] | None = None

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def to(self, device: torch.device | str) -> PointCloud:
        rest = (None if t is None else t.to(device) for t in (self.rgb, self.confidence, self.intensity, self.normals))
        return PointCloud(self.xyz.to(device), *rest)
