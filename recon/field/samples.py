"""Rays as straight segments in the unit cube a field lives in, and the samples on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Samples", "Segments"]


@dataclass(frozen=True)
class Segments:
    """What of each ray lies in the cube: start + s span, s in [0, 1].

    Attributes:
        start, span: cube coordinates.
        length: of the whole segment, in the unit that density is measured against; 0 where the ray misses the cube.
        directions: unit view directions, world frame.
        depth: z-depth at s = 0 and at s = 1, world units.
        in_disparity: between the two, whether inverse depth runs evenly with s, or depth does.
    """

    start: Float[Tensor, "R 3"]
    span: Float[Tensor, "R 3"]
    length: Float[Tensor, "R"]
    directions: Float[Tensor, "R 3"]
    depth: Float[Tensor, "R 2"]
    in_disparity: bool = False

    def __len__(self) -> int:
        return self.start.shape[0]

    def select(self, index: Tensor) -> Segments:
        rows = (self.start, self.span, self.length, self.directions, self.depth)
        return Segments(*(t[index] for t in rows), self.in_disparity)

    def depth_at(self, s: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """z-depth of a place on each segment; depth may be infinite at its end."""
        if not self.in_disparity:
            return torch.lerp(self.depth[:, 0], self.depth[:, 1], s)
        near, far = self.depth.reciprocal().unbind(1)
        return torch.lerp(near, far, s).clamp_min(1e-9).reciprocal()

    def place_of(self, depth: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """The other way round; below 0 and above 1 outside the segment."""
        if not self.in_disparity:
            return (depth - self.depth[:, 0]) / (self.depth[:, 1] - self.depth[:, 0]).clamp_min(1e-12)
        near, far = self.depth.reciprocal().unbind(1)
        return (near - depth.reciprocal()) / (near - far).clamp_min(1e-12)


@dataclass(frozen=True)
class Samples:
    """Places on rays, one ray after the other, front to back: those of ray r are starts[r] to starts[r + 1] - 1.

    Attributes:
        xyz: cube coordinates.
        delta: how much of the ray's length each stands for; s: where on the segment it is.
        starts: of each ray, then the number of samples.
    """

    xyz: Float[Tensor, "N 3"]
    delta: Float[Tensor, "N"]
    s: Float[Tensor, "N"]
    starts: Int[Tensor, "R1"]

    def __len__(self) -> int:
        return self.xyz.shape[0]

    @property
    def rays(self) -> Int[Tensor, "N"]:
        """Of each sample, the ray it lies on."""
        return torch.repeat_interleave(torch.arange(len(self.starts) - 1, device=self.starts.device), self.starts.diff())
