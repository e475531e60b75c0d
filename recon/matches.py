"""Correspondences that travel: sparse matches and dense flow, source pixel to target pixel."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

__all__ = ["FlowField", "Matches"]


@dataclass(frozen=True)
class Matches:
    """M point pairs of two images, continuous pixels (centres at +0.5); score in [0, 1]."""

    uv0: Float[Tensor, "M 2"]
    uv1: Float[Tensor, "M 2"]
    score: Float[Tensor, "M"]

    def __len__(self) -> int:
        return self.uv0.shape[0]


@dataclass(frozen=True)
class FlowField:
    """Dense displacement: the pixel at uv in the source is seen at uv + flow in the target; confidence in [0, 1]."""

    flow: Float[Tensor, "H W 2"]
    confidence: Float[Tensor, "H W"]
