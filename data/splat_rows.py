"""What all files of splats share: the rows worth writing, piece by piece, and the small encodings that several formats have.

A scene of ten million Gaussians fills gigabytes, so no writer makes a second copy of it: `FiniteRows` hands out pieces of `ROWS`,
and readers fill a scene piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..recon.gaussians import Gaussians
from ..recon.sh import sh_basis

__all__ = [
    "FiniteRows", "Meter", "Progress", "empty_gaussians", "finite_gaussians", "from_smallest_three", "half_turn", "half_turn_in_place", "logits_of_bytes",
    "morton_order", "put", "smallest_three", "spans",
]  # fmt: skip

ROWS = 1 << 16  # of a piece; a multiple of the 256 splats of a chunk of compressed PLY
Progress = Callable[[int, int], None]
"""progress(done, total), in rows (times the passes over them)."""


def spans(n: int, rows: int | None = None) -> Iterator[slice]:
    """0 to n in pieces of `rows` (None: ROWS), the last one shorter."""
    step = ROWS if rows is None else rows
    return (slice(at, min(n, at + step)) for at in range(0, n, step))


class Meter:
    """Counts rows and tells `report` after each piece."""

    def __init__(self, report: Progress | None, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, rows: int) -> None:
        self._done += rows
        if self._report is not None:
            self._report(min(self._done, self._total), self._total)


@dataclass(frozen=True)
class FiniteRows:
    """The rows of `gaussians` that are finite, in the order of `index` (all of them as they are where it is None).

    What it hands out is on the CPU in float32 with unit quaternions (a zero one becomes the identity): most viewers handle nothing else.
    """

    gaussians: Gaussians
    index: Int[Tensor, "M"] | None = None

    @staticmethod
    def of(gaussians: Gaussians) -> FiniteRows:
        g, found = gaussians.detach(), []
        for span in spans(len(g)):
            p = g[span]
            tables = (p.means, p.quats_wxyz, p.log_scales, p.logit_opacities[:, None], p.sh.flatten(1))
            found.append(torch.stack([torch.isfinite(t).all(dim=1) for t in tables]).all(dim=0).cpu())
        ok = torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)
        return FiniteRows(g, None if bool(ok.all()) else ok.nonzero()[:, 0])

    def __len__(self) -> int:
        return len(self.gaussians) if self.index is None else len(self.index)

    @property
    def sh_degree(self) -> int:
        return self.gaussians.sh_degree

    def __getitem__(self, rows: slice) -> Gaussians:
        """These rows, cleaned."""
        g = self.gaussians[rows if self.index is None else self.index[rows].to(self.gaussians.device)].to("cpu", torch.float32)
        norm = g.quats_wxyz.norm(dim=1, keepdim=True)
        unit = torch.where(norm > 1e-12, g.quats_wxyz / norm.clamp_min(1e-12), torch.tensor([1.0, 0.0, 0.0, 0.0]))
        return Gaussians(g.means, unit, g.log_scales, g.logit_opacities, g.sh)

    def pieces(self, meter: Meter | None = None) -> Iterator[Gaussians]:
        for span in spans(len(self)):
            piece = self[span]
            yield piece
            if meter is not None:
                meter.add(len(piece))

    def column(self, what: Callable[[Gaussians], Tensor]) -> Tensor:
        """what(piece) of all pieces, one behind the other: for a column or two that are needed whole."""
        if not len(self):
            return what(self[:])
        out, at = None, 0
        for piece in self.pieces():
            values = what(piece)
            if out is None:
                out = values.new_empty((len(self), *values.shape[1:]))
            out[at : at + len(values)] = values  # copied: kept as they are, the values of a part of a piece would hold all of it
            at += len(values)
        assert out is not None
        return out

    def in_order(self, order: Int[Tensor, "M"]) -> FiniteRows:
        return FiniteRows(self.gaussians, order if self.index is None else self.index[order])


def finite_gaussians(gaussians: Gaussians) -> Gaussians:
    """On the CPU in float32, unit quaternions (a zero one becomes the identity), rows that are not finite left out."""
    return FiniteRows.of(gaussians)[:]


def empty_gaussians(n: int, degree: int) -> Gaussians:
    """n rows to fill by `put`."""
    return Gaussians(torch.empty(n, 3), torch.empty(n, 4), torch.empty(n, 3), torch.empty(n), torch.empty(n, (degree + 1) ** 2, 3))


def put(into: Gaussians, at: int, piece: Gaussians) -> int:
    """Copies `piece` to the rows from `at` on; returns the row behind them."""
    rows = slice(at, at + len(piece))
    into.means[rows], into.quats_wxyz[rows], into.log_scales[rows] = piece.means, piece.quats_wxyz, piece.log_scales
    into.logit_opacities[rows], into.sh[rows] = piece.logit_opacities, piece.sh
    return rows.stop


def half_turn(g: Gaussians, axis: int) -> Gaussians:
    """The scene turned by 180 degrees about x, y or z (axis 0, 1, 2): exact, and its own inverse.

    The quaternions are those of the turned axes up to the signs of the local ones, which a Gaussian does not have.
    """
    keep = torch.full((3,), -1.0)
    keep[axis] = 1.0
    direction = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    signs = torch.sign(sh_basis(direction, 3) * sh_basis(direction * keep.double(), 3)).float()  # each function only changes its sign
    quats = g.quats_wxyz * torch.cat([torch.ones(1), keep])
    return Gaussians(g.means * keep, quats, g.log_scales, g.logit_opacities, g.sh * signs[: g.sh.shape[1], None])


def half_turn_in_place(g: Gaussians, axis: int) -> None:
    """The same piece by piece: a turned copy would be as large as the scene."""
    for span in spans(len(g)):
        piece = g[span]
        turned = half_turn(piece, axis)
        piece.means[:], piece.quats_wxyz[:], piece.sh[:] = turned.means, turned.quats_wxyz, turned.sh


def logits_of_bytes(alpha: np.ndarray) -> Float[Tensor, "N"]:
    """Opacities of 0 to 255 as logits; the two ends stand for the values that round to them, not for infinity."""
    return torch.logit((torch.from_numpy(alpha.astype(np.float32)) / 255).clamp(0.5 / 255, 1 - 0.5 / 255))


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which of the four is the largest, the other three in order) of unit quaternions N,4, their sign such that the largest is positive.

    The three lie within +-sqrt(1/2), and tell the fourth.
    """
    q = quats.astype(np.float64)
    rows = np.arange(len(q))
    largest = np.abs(q).argmax(axis=1)
    q = q * np.where(q[rows, largest] < 0, -1.0, 1.0)[:, None]
    return largest, q[np.arange(4) != largest[:, None]].reshape(len(q), 3)


def from_smallest_three(largest: np.ndarray, three: np.ndarray) -> np.ndarray:
    """The quaternions again, float32 N,4."""
    q = np.empty((len(three), 4), np.float32)
    others = np.arange(4) != np.asarray(largest)[:, None]
    q[others] = three.reshape(-1)
    q[~others] = np.sqrt(np.maximum(0.0, 1 - (three.astype(np.float64) ** 2).sum(axis=1)))
    return q


def morton_order(means: Float[Tensor, "N 3"]) -> Int[Tensor, "N"]:
    """Neighbours in space become neighbours in the file (the Z-order curve on a grid of 2^21 cells an axis): chunks stay small and images smooth."""
    if not len(means):
        return torch.zeros(0, dtype=torch.int64)
    low = means.amin(dim=0)
    cell = (means.amax(dim=0) - low).clamp_min(1e-20) / (2**21 - 1)
    code = torch.zeros(len(means), dtype=torch.int64)
    for axis, span in product(range(3), spans(len(means))):
        x = ((means[span, axis] - low[axis]).double() / cell[axis].double()).clamp(0, 2**21 - 1).to(torch.int64)
        # two zeros between any two bits
        for shift, mask in ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249)):
            x = (x | (x << shift)) & mask
        code[span] |= x << axis
    return code.argsort()


