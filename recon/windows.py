"""Filters over square windows of maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d

__all__ = ["window_max"]


def window_max(values: Float[Tensor, "H W"], radius: int) -> Float[Tensor, "H W"]:
    """The largest value within `radius` rows and columns of each pixel: along the rows first, so 2 (2 radius + 1) comparisons instead of their square."""
    size = 2 * radius + 1
    along = max_pool2d(values[None, None], (1, size), 1, (0, radius))
    return max_pool2d(along, (size, 1), 1, (radius, 0))[0, 0]
