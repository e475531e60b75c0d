"""Point maps that travel: for every pixel of several photos a point in one frame, and where the network says the cameras are."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from .camera import Cameras
from .points import PointCloud

__all__ = ["PointMaps"]


@dataclass(frozen=True)
class PointMaps:
    """Points of V photos, pixel-aligned with their views, all in one frame (up to a similarity, unless the prior says more).

    Attributes:
        xyz: one point per pixel.
        confidence: [0, 1], how far to trust each.
        valid: pixels that have a point.
        cameras: of the same frame and the views' resolution; None where the network tells none.
        metric: the frame's unit is a metre, as far as the network can know.
    """

    xyz: Float[Tensor, "V H W 3"]
    confidence: Float[Tensor, "V H W"]
    valid: Bool[Tensor, "V H W"]
    cameras: Cameras | None = None
    metric: bool = False

    def cloud(self, rgb: Float[Tensor, "V H W 3"] | None = None, least: float = 0.5) -> PointCloud:
        """The points of at least this confidence as one cloud."""
        pick = self.valid & (self.confidence >= least)
        return PointCloud(self.xyz[pick], None if rgb is None else rgb[pick], self.confidence[pick])

    def validate(self) -> PointMaps:
        """Checks what every prior promises; returns itself."""
        assert self.xyz[self.valid].isfinite().all(), "a valid point is not finite"
        assert bool(((self.confidence >= 0) & (self.confidence <= 1)).all()) and bool((self.confidence[~self.valid] == 0).all())
        if self.cameras is not None:
            assert (len(self.cameras), self.cameras.height, self.cameras.width) == tuple(self.confidence.shape)
        return self
