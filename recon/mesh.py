"""A triangle mesh, as it travels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

__all__ = ["Mesh"]


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour per vertex, or a texture.

    Attributes:
        vertices: world units; triangles: indices, counter-clockwise as seen from outside.
        colors: sRGB in [0, 1] per vertex.
        uvs: per corner of each triangle, [0, 1], v upwards; texture: sRGB. Both or neither.
    """

    vertices: Float[np.ndarray, "N 3"]
    triangles: Int[np.ndarray, "M 3"]
    colors: Float[np.ndarray, "N 3"]
    uvs: Float[np.ndarray, "M 3 2"] | None = None
    texture: UInt8[np.ndarray, "T T 3"] | None = None

    def __len__(self) -> int:
        return self.triangles.shape[0]
