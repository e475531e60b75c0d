"""A cloud of small tensors near the surface, each the product of three lines in a box of its own, at several scales (Gao et al. 2023, Strivec, section 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import ShapeError
from .cp import lines_like

__all__ = ["CloudArrays", "TriVectorScale", "TriVectors", "trivec_centers"]

MOST_CELLS = 128  # of the grid in which the tensors of a place are looked up, along an edge
LISTED = 64  # tensors of a cell at most: those nearest to its middle
CLOSE = 1e-3  # of a box: tensors nearer than this count alike


@dataclass(frozen=True)
class CloudArrays:
    """A cloud as the kernels take it: of all scales, one after the other.

    Attributes:
        lines: T,3,P,C of each; layout: of each its tensors, points of a line, and cells along an edge; sizes: edges of the boxes.
        starts, listed: see TriVectorScale.
    """

    lines: Float[Tensor, "L"]
    centers: Float[Tensor, "T 3"]
    starts: Int[Tensor, "G"]
    listed: Int[Tensor, "E"]
    layout: Int[Tensor, "K3"]
    sizes: Float[Tensor, "K"]
    channels: int
    nearest: int


class TriVectors(nn.Module):
    """Features of each scale, one after the other.

    Args:
        centers: in the cube, of each scale's boxes; sizes: of their edges; points: of their lines, the outermost at the faces.
        channels: of each line; nearest: tensors of a scale that a place asks at most.
    """

    def __init__(
        self,
        centers: Sequence[Float[Tensor, "T 3"]],
        sizes: Sequence[float],
        points: Sequence[int],
        channels: int = 16,
        nearest: int = 4,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not len(centers) == len(sizes) == len(points):
            raise ShapeError(f"TriVectors: {len(sizes)} scales need as many sets of centers and of points, got {len(centers)} and {len(points)}.")
        self.sizes, self.channels, self.nearest, self.features = tuple(sizes), channels, nearest, channels * len(sizes)
        scales = zip(centers, sizes, points, strict=True)
        self.scales = nn.ModuleList(TriVectorScale(at, size, count, channels, nearest, rng) for at, size, count in scales)

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        return torch.cat([scale(xyz) for scale in self.scales], 1)

    @torch.no_grad()
    def holds(self, xyz: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
        """Whether a place lies in any box."""
        held = torch.zeros(len(xyz), dtype=torch.bool, device=xyz.device)
        for scale in self._each():
            held[scale.held(xyz.clamp(0, 1))[0]] = True
        return held

    @torch.no_grad()
    def reached(self, side: int) -> Bool[Tensor, "G G G"]:
        """Which of `side`^3 cells of the cube any box reaches into."""
        reached = None
        for scale in self._each():
            each = _reached(scale.centers, scale.size, side)
            reached = each if reached is None else reached | each
        assert reached is not None, "a cloud has a scale"
        return reached

    def arrays(self) -> CloudArrays:
        """Lines with their gradients."""
        scales = self._each()
        layout = torch.tensor([n for s in scales for n in (len(s.centers), s.points, s.cells)])
        return CloudArrays(
            torch.cat([s.lines.reshape(-1) for s in scales]), torch.cat([s.centers for s in scales]), torch.cat([s.starts for s in scales]),
            torch.cat([s.listed for s in scales]), layout, torch.tensor(self.sizes), self.channels, self.nearest,
        )  # fmt: skip

    def _each(self) -> list[TriVectorScale]:
        return [scale for scale in self.scales if isinstance(scale, TriVectorScale)]


class TriVectorScale(nn.Module):
    """Tensors of one size. A place's features are the mean of what the tensors whose box holds it say there, at most the `nearest` of them, by inverse
    distance to their centers; 0 where no box is. Places beside the cube are clamped to it."""

    centers: Float[Tensor, "T 3"]
    starts: Int[Tensor, "G31"]
    listed: Int[Tensor, "E"]

    def __init__(
        self, centers: Float[Tensor, "T 3"], size: float, points: int, channels: int = 16, nearest: int = 4, rng: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if centers.ndim != 2 or centers.shape[1] != 3 or points < 2:
            raise ShapeError(f"TriVectorScale: centers must be T x 3 and lines have at least 2 points, got {tuple(centers.shape)} and {points}.")
        self.size, self.points, self.channels, self.nearest, self.features = size, points, channels, nearest, channels
        self.cells = min(MOST_CELLS, max(1, int(2 / size)))
        self.lines = nn.Parameter(lines_like((len(centers), 3, points, channels), rng))
        self.register_buffer("centers", centers.detach().clone())
        for name in ("starts", "listed"):
            self.register_buffer(name, None, persistent=False)
        self._list()
        self.register_load_state_dict_post_hook(lambda scale, _: scale._list())

    @torch.no_grad()
    def _list(self) -> None:
        """Which boxes reach into each cell: those of cell c are listed[starts[c]] to listed[starts[c + 1] - 1]."""
        lower = ((self.centers - self.size / 2) * self.cells).floor().long()
        upper = ((self.centers + self.size / 2) * self.cells).floor().long()
        reach = torch.arange(math.ceil(self.size * self.cells) + 1, device=lower.device)
        cell = lower[:, None] + torch.cartesian_prod(reach, reach, reach)
        tensor, k = ((cell <= upper[:, None]) & (cell >= 0) & (cell < self.cells)).all(2).nonzero(as_tuple=True)
        cell = cell[tensor, k]
        away = torch.linalg.vector_norm((cell + 0.5) / self.cells - self.centers[tensor], dim=1)
        flat = self._flat(cell)
        order = away.argsort(stable=True)
        order = order[flat[order].argsort(stable=True)]  # by cell, then from its middle outwards
        flat, tensor = flat[order], tensor[order]
        counts = torch.bincount(flat, minlength=self.cells**3)
        kept = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[flat] < LISTED
        self.listed = tensor[kept]
        self.starts = torch.cat([counts.new_zeros(1), counts.clamp_max(LISTED).cumsum(0)])

    def _flat(self, cell: Int[Tensor, "N 3"]) -> Int[Tensor, "N"]:
        return (cell[:, 0] * self.cells + cell[:, 1]) * self.cells + cell[:, 2]

    @torch.no_grad()
    def held(self, xyz: Float[Tensor, "N 3"]) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
        """Pairs of a place and a tensor that it asks."""
        cell = self._flat((xyz * self.cells).long().clamp(0, self.cells - 1))
        first, count = self.starts[cell], self.starts[cell + 1] - self.starts[cell]
        place = count.nonzero()[:, 0]
        first, count = first[place, None], count[place, None]
        slot = torch.arange(int(count.max()) if len(place) else 0, device=xyz.device)
        tensor = self.listed[(first + slot).clamp_max(len(self.listed) - 1)]
        offset = xyz[place, None] - self.centers.index_select(0, tensor.view(-1)).view(*tensor.shape, 3)
        inside = (slot < count) & (offset.abs().amax(2) <= self.size / 2)
        away = torch.where(inside, offset.square().sum(2), torch.inf)
        if len(slot) > self.nearest:
            away, best = away.topk(self.nearest, 1, largest=False)
            tensor = tensor.gather(1, best)
        row, k = away.isfinite().nonzero(as_tuple=True)
        return place[row], tensor[row, k]

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        xyz = xyz.clamp(0, 1)
        place, tensor = self.held(xyz)
        offset = xyz[place] - self.centers[tensor]
        p = (offset / self.size + 0.5) * (self.points - 1)
        lower = p.detach().long().clamp(0, self.points - 2)
        t = p - lower
        lines = self.lines.view(-1, self.channels)
        rows = [(3 * tensor + k) * self.points + lower[:, k] for k in range(3)]
        x, y, z = (torch.lerp(lines.index_select(0, row), lines.index_select(0, row + 1), t[:, k, None]) for k, row in enumerate(rows))
        near = offset.square().sum(1).clamp_min((CLOSE * self.size) ** 2).rsqrt()
        share = near / near.new_zeros(len(xyz)).index_add(0, place, near)[place]
        return x.new_zeros(len(xyz), self.channels).index_add(0, place, share[:, None] * (x * y * z))


def _reached(centers: Float[Tensor, "T 3"], size: float, side: int) -> Bool[Tensor, "G G G"]:
    """By adding 1 and taking it away at the corners of each box, and summing along the axes."""
    ends = torch.stack([centers - size / 2, centers + size / 2])
    lower, upper = (ends * side).floor().long().clamp(0, side - 1)
    there = ((ends[1] >= 0) & (ends[0] <= 1)).all(1)
    lower, upper = lower[there], upper[there] + 1
    count = torch.zeros(side + 1, side + 1, side + 1, dtype=torch.int64, device=centers.device)
    for corner in itertools.product((0, 1), repeat=3):
        at = [upper[:, k] if c else lower[:, k] for k, c in enumerate(corner)]
        count.index_put_(tuple(at), count.new_full((len(lower),), (-1) ** sum(corner)), accumulate=True)
    return (count.cumsum(0).cumsum(1).cumsum(2) > 0)[:side, :side, :side]


def trivec_centers(points: Float[Tensor, "N 3"], edge: float, most: int) -> Float[Tensor, "T 3"]:
    """Middles of the voxels of that edge that hold points; of more than `most`, those of the most points. Boxes no smaller than the voxels, there, hold all points."""
    voxel = (points / edge).floor().long()
    low = voxel.amin(0) if len(voxel) else voxel.new_zeros(3)
    extent = (voxel - low).amax(0) + 1 if len(voxel) else voxel.new_ones(3)
    x, y, z = (voxel - low).unbind(1)
    flat, count = ((x * extent[1] + y) * extent[2] + z).unique(return_counts=True)
    fullest = count.argsort(descending=True, stable=True)[:most].sort().values
    flat = flat[fullest]
    found = torch.stack([flat // (extent[1] * extent[2]), flat // extent[2] % extent[1], flat % extent[2]], 1) + low
    return (found + 0.5).to(points.dtype) * edge
