"""Rays as straight segments, or straight pieces of bent ones, in the unit cube a field lives in, and the samples on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Samples", "Segments"]


@dataclass(frozen=True)
class Segments:
    """What of each ray lies in the cube: start + s span, s in [0, 1]. Where rays bend there, `pieces` of them one after the other for each ray, rays and pieces in
    order (RP = rays x pieces); a place on such a ray is the share of its length, all pieces together, that lies before it.

    Attributes:
        start, span: cube coordinates.
        length: of the whole segment, in the unit that density is measured against; 0 where the ray misses the cube.
        directions: unit view directions, world frame.
        ends: a depth at s = 0 and at s = 1, between which it runs evenly with s, or its inverse does (`in_disparity`: of all segments, or of each).
        shift, rate: z-depth of the ray's own camera, world units, is (that depth - shift) rate.
    """

    start: Float[Tensor, "RP 3"]
    span: Float[Tensor, "RP 3"]
    length: Float[Tensor, "RP"]
    directions: Float[Tensor, "R 3"]
    ends: Float[Tensor, "RP 2"]
    shift: Float[Tensor, "RP"]
    rate: Float[Tensor, "RP"]
    in_disparity: bool | Bool[Tensor, "RP"] = False
    pieces: int = 1

    def __len__(self) -> int:
        """Rays."""
        return self.directions.shape[0]

    def select(self, index: slice | Tensor) -> Segments:
        """Some of the rays."""
        if self.pieces == 1:
            return self._rows(index, index)
        rows = torch.arange(self.start.shape[0], device=self.start.device).view(-1, self.pieces)[index].flatten()
        return replace(self._rows(rows, index), pieces=self.pieces)

    def _rows(self, rows: slice | Tensor, rays: slice | Tensor) -> Segments:
        """Those pieces, each as a segment of its own."""
        kind = self.in_disparity if isinstance(self.in_disparity, bool) else self.in_disparity[rows]
        return Segments(
            self.start[rows], self.span[rows], self.length[rows], self.directions[rays], self.ends[rows], self.shift[rows], self.rate[rows], kind,
        )  # fmt: skip

    @staticmethod
    def joined(parts: Sequence[Segments]) -> Segments:
        """One after the other; all of one space."""
        names = ("start", "span", "length", "directions", "ends", "shift", "rate")
        kinds = [p.in_disparity for p in parts if not isinstance(p.in_disparity, bool)]
        kind = torch.cat(kinds) if kinds else parts[0].in_disparity
        return Segments(*(torch.cat([getattr(p, n) for p in parts]) for n in names), kind, parts[0].pieces)  # pyright: ignore[reportCallIssue]

    def cut(self, share: float) -> Segments:
        """The first `share` of each."""
        part = share
        if self.pieces > 1:
            before, total = self.before
            left = share * total.repeat_interleave(self.pieces) - before
            part = (left / torch.where(self.length > 0, self.length, torch.ones_like(left))).clamp(0, 1)
        near, far = self._turned(self.ends).unbind(1)
        ends = self._turned(torch.stack([near, torch.lerp(near, far, part)], 1))
        return replace(self, span=self.span * (part[:, None] if isinstance(part, Tensor) else part), length=self.length * part, ends=ends)

    @property
    def before(self) -> tuple[Float[Tensor, "RP"], Float[Tensor, "R"]]:
        """Length of each ray before each of its pieces, and of the whole ray."""
        upto = self.length.view(-1, self.pieces).cumsum(1)
        return torch.nn.functional.pad(upto[:, :-1], (1, 0)).flatten(), upto[:, -1]

    def piece_at(self, place: Float[Tensor, "R"]) -> tuple[Segments, Float[Tensor, "R"]]:
        """Of each ray, the piece that holds a place on it, as a segment of its own, and where on that."""
        if self.pieces == 1:
            return self, place
        before, total = self.before
        at = torch.minimum(place * total, total)
        rays = torch.arange(len(self), device=place.device)
        rows = rays * self.pieces + (before.view(-1, self.pieces)[:, 1:] < at[:, None]).sum(1)
        piece = self._rows(rows, rays)
        return piece, (at - before[rows]) / torch.where(piece.length > 0, piece.length, torch.ones_like(at))

    def _turned(self, depth: Tensor) -> Tensor:
        """What runs evenly with s, of a depth (a row for each segment); and back."""
        if isinstance(self.in_disparity, bool):
            return depth.reciprocal() if self.in_disparity else depth
        return torch.where(self.in_disparity.view(-1, *[1] * (depth.dim() - 1)), depth.reciprocal(), depth)

    def depth_at(self, s: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """z-depth of a place on each ray."""
        piece, s = self.piece_at(s)
        near, far = piece._turned(piece.ends).unbind(1)
        between = torch.lerp(near, far, s)
        depth = between if piece.in_disparity is False else piece._turned(between.clamp_min(1e-9))
        return (depth - piece.shift) * piece.rate

    def place_of(self, depth: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """The other way round; below 0 and above 1 outside the segment."""
        if self.pieces > 1:
            stops = ((self.ends[:, 1] - self.shift) * self.rate).view(-1, self.pieces)
            rays = torch.arange(len(self), device=depth.device)
            rows = rays * self.pieces + (stops[:, :-1] < depth[:, None]).sum(1)
            piece, (before, total) = self._rows(rows, rays), self.before
            return (before[rows] + piece.place_of(depth) * piece.length) / total
        at = depth / self.rate + self.shift
        near, far = self._turned(self.ends).unbind(1)
        away = far - near
        return (self._turned(at if self.in_disparity is False else at.clamp_min(1e-9)) - near) / torch.where(away == 0, torch.ones_like(away), away)


@dataclass(frozen=True)
class Samples:
    """Places on rays, one ray after the other, front to back: those of ray r are starts[r] to starts[r + 1] - 1.

    Attributes:
        xyz: cube coordinates.
        delta: how much of the ray's length each stands for; s: its place on the ray.
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
