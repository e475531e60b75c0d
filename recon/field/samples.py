"""Rays as straight segments in the unit cube a field lives in, and the samples on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        ends: a depth at s = 0 and at s = 1, between which it runs evenly with s, or its inverse does (`in_disparity`).
        shift, rate: z-depth of the ray's own camera, world units, is (that depth - shift) rate.
    """

    start: Float[Tensor, "R 3"]
    span: Float[Tensor, "R 3"]
    length: Float[Tensor, "R"]
    directions: Float[Tensor, "R 3"]
    ends: Float[Tensor, "R 2"]
    shift: Float[Tensor, "R"]
    rate: Float[Tensor, "R"]
    in_disparity: bool = False

    def __len__(self) -> int:
        return self.start.shape[0]

    def select(self, index: slice | Tensor) -> Segments:
        return Segments(
            self.start[index], self.span[index], self.length[index], self.directions[index], self.ends[index], self.shift[index], self.rate[index],
            self.in_disparity,
        )  # fmt: skip

    @staticmethod
    def joined(parts: Sequence[Segments]) -> Segments:
        """One after the other; all of one space."""
        names = ("start", "span", "length", "directions", "ends", "shift", "rate")
        return Segments(*(torch.cat([getattr(p, n) for p in parts]) for n in names), parts[0].in_disparity)  # pyright: ignore[reportCallIssue]

    def cut(self, share: float) -> Segments:
        """The first `share` of each."""
        ends = self.ends.reciprocal() if self.in_disparity else self.ends
        ends = torch.stack([ends[:, 0], torch.lerp(ends[:, 0], ends[:, 1], share)], 1)
        return replace(self, span=self.span * share, length=self.length * share, ends=ends.reciprocal() if self.in_disparity else ends)

    def depth_at(self, s: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """z-depth of a place on each segment."""
        near, far = (self.ends.reciprocal() if self.in_disparity else self.ends).unbind(1)
        between = torch.lerp(near, far, s)
        return ((between.clamp_min(1e-9).reciprocal() if self.in_disparity else between) - self.shift) * self.rate

    def place_of(self, depth: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """The other way round; below 0 and above 1 outside the segment."""
        at = depth / self.rate + self.shift
        near, far = (self.ends.reciprocal() if self.in_disparity else self.ends).unbind(1)
        away = far - near
        return ((at.reciprocal() if self.in_disparity else at) - near) / torch.where(away == 0, torch.ones_like(away), away)


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
