"""Occupied voxels with features, and the way from points to voxels and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ShapeError

__all__ = ["SparseVoxels", "devoxelize", "find_rows", "sample_trilinear", "voxel_keys", "voxelize"]

MAX_KEY = 2**62  # one int64 holds scene and place of a voxel


@dataclass(frozen=True)
class SparseVoxels:
    """M occupied voxels of one or several scenes, with C features each.

    `coords` (int64) are (b, i, j, k): scene, and cell along the three axes, in cells of this stride; unique and in ascending order. A cell is
    `stride` times `size` long (world units, may differ by axis); its centre lies at `origin + (ijk + 0.5) * size * stride`. `shape` is the number of
    cells of this stride along each axis.
    """

    coords: Int[Tensor, "M 4"]
    feats: Float[Tensor, "M C"]
    origin: Float[Tensor, "3"]
    size: Float[Tensor, "3"]
    shape: tuple[int, int, int]
    stride: int = 1

    def __len__(self) -> int:
        return self.coords.shape[0]

    @property
    def channels(self) -> int:
        return self.feats.shape[1]

    @property
    def scenes(self) -> int:
        """How many scenes there are, as far as the voxels tell (an empty last one does not)."""
        return int(self.coords[-1, 0]) + 1 if len(self) else 0

    def with_feats(self, feats: Float[Tensor, "M D"]) -> SparseVoxels:
        """The same voxels with other features. Raises ShapeError for another number of rows."""
        if feats.ndim != 2 or feats.shape[0] != len(self):
            raise ShapeError(f"feats must be ({len(self)}, C), one row a voxel; got {tuple(feats.shape)}.")
        return replace(self, feats=feats)

    def centers(self) -> Float[Tensor, "M 3"]:
        """World places of the voxels' centres."""
        return self.origin + (self.coords[:, 1:] + 0.5) * (self.size * self.stride)

    def to(self, device: torch.device | str) -> SparseVoxels:
        return replace(self, **{k: getattr(self, k).to(device) for k in ("coords", "feats", "origin", "size")})

    def validate(self) -> SparseVoxels:
        """Itself. Raises ShapeError that names what is wrong: shapes, types, devices, cells outside the grid, order, repeats, sizes."""
        if self.coords.ndim != 2 or self.coords.shape[1] != 4 or self.coords.dtype != torch.int64:
            raise ShapeError(f"coords must be (M, 4) of int64; got {tuple(self.coords.shape)} of {self.coords.dtype}.")
        if self.feats.ndim != 2 or self.feats.shape[0] != len(self) or not self.feats.is_floating_point():
            raise ShapeError(f"feats must be ({len(self)}, C) of floats; got {tuple(self.feats.shape)} of {self.feats.dtype}.")
        if self.coords.device != self.feats.device:
            raise ShapeError(f"coords are on {self.coords.device} and feats on {self.feats.device}; they must be on one device.")
        if self.origin.shape != (3,) or self.size.shape != (3,) or not bool(((self.size > 0) & self.size.isfinite()).all()):
            raise ShapeError(
                f"origin and size must be three numbers each, sizes above zero; got {self.origin.tolist()} and {self.size.tolist()}."
            )
        if len(self.shape) != 3 or min(self.shape) < 1 or self.stride < 1:
            raise ShapeError(f"shape must be three whole numbers above zero and stride at least 1; got {self.shape} and {self.stride}.")
        _check_inside(self.coords, self.shape)
        keys = voxel_keys(self.coords, self.shape)
        if not bool((keys[1:] > keys[:-1]).all()):
            raise ShapeError("coords must be unique and in ascending order of (b, i, j, k); voxelize makes them so.")
        return self


def voxel_keys(coords: Int[Tensor, "... 4"], shape: tuple[int, int, int], margin: int = 0) -> Int[Tensor, "..."]:
    """One whole number a cell, ascending with (b, i, j, k). With a margin, cells up to `margin` outside the grid have keys of their own.

    Raises ShapeError where a grid is so large that the numbers do not fit.
    """
    ni, nj, nk = (n + 2 * margin for n in shape)
    last = int(coords[..., 0].max()) + 1 if coords.numel() else 1
    if last * ni * nj * nk > MAX_KEY:
        raise ShapeError(f"{last} grids of {shape[0]} x {shape[1]} x {shape[2]} cells are more than can be numbered; use larger voxels.")
    b, i, j, k = coords.unbind(-1)
    return ((b * ni + (i + margin)) * nj + (j + margin)) * nk + (k + margin)


def find_rows(voxels: SparseVoxels, coords: Int[Tensor, "Q 4"]) -> Int[Tensor, "Q"]:
    """Row of the voxel at each of `coords` (cells of the voxels' stride), -1 where there is none."""
    if len(voxels) == 0:
        return torch.full(coords.shape[:1], -1, dtype=torch.long, device=coords.device)
    limits = torch.tensor((voxels.scenes, *voxels.shape), device=coords.device)
    inside = ((coords >= 0) & (coords < limits)).all(1)
    keys = voxel_keys(voxels.coords, voxels.shape)
    ask = voxel_keys(torch.where(inside[:, None], coords, 0), voxels.shape)
    row = torch.searchsorted(keys, ask).clamp_max(len(keys) - 1)
    return torch.where(inside & (keys[row] == ask), row, -1)


def voxelize(
    xyz: Float[Tensor, "N 3"],
    feats: Float[Tensor, "N C"],
    size: float | Sequence[float] | Float[Tensor, "3"],
    origin: Float[Tensor, "3"] | None = None,
    shape: tuple[int, int, int] | None = None,
    batch: Int[Tensor, "N"] | None = None,
) -> tuple[SparseVoxels, Int[Tensor, "N"]]:
    """Voxels with the mean of their points' features (differentiable), and the row of each point's voxel.

    `size` is a voxel's edge in world units, one number or one an axis. Without `origin` the grid is aligned to whole multiples of `size`, and without
    `shape` it ends at the last point. `batch` tells which scene each point belongs to (all of scene 0 where it is None). Raises ShapeError for points
    that are not finite or outside a given grid.
    """
    _check_points(xyz, feats, batch)
    edge = torch.as_tensor(size, dtype=xyz.dtype, device=xyz.device).expand(3).contiguous()
    if not bool(((edge > 0) & edge.isfinite()).all()):
        raise ShapeError(f"size must be above zero; got {edge.tolist()}.")
    if origin is None:
        cell = (xyz / edge).floor()
        first = cell.amin(0) if len(xyz) else torch.zeros_like(edge)
        origin, ijk = first * edge, (cell - first).long()  # whole numbers, so that rounding puts no point before the first cell
    else:
        ijk = ((xyz - origin) / edge).floor().long()
    if shape is None:
        ni, nj, nk = (ijk.amax(0) + 1).clamp_min(1).tolist() if len(xyz) else (1, 1, 1)
        shape = (ni, nj, nk)
    b = torch.zeros_like(ijk[:, 0]) if batch is None else batch.long()
    coords = torch.cat([b[:, None], ijk], 1)
    _check_inside(coords, shape)
    keys, index = torch.unique(voxel_keys(coords, shape), return_inverse=True)
    voxels = SparseVoxels(_coords_of_keys(keys, shape), _means(feats, index, len(keys)), origin.to(edge), edge, shape)
    return voxels, index


def devoxelize(voxels: SparseVoxels, index: Int[Tensor, "N"]) -> Float[Tensor, "N C"]:
    """Features of the voxel in which each point lies; `index` as voxelize gave it."""
    return voxels.feats.index_select(0, index)


def sample_trilinear(voxels: SparseVoxels, xyz: Float[Tensor, "N 3"], batch: Int[Tensor, "N"] | None = None) -> Float[Tensor, "N C"]:
    """Features at world points, mixed from those of the eight voxels around that exist; their weights are scaled to sum to one. Zero where none exists.

    Differentiable with respect to the features and, where all is smooth, the points.
    """
    at = (xyz - voxels.origin) / (voxels.size * voxels.stride) - 0.5
    low = at.detach().floor()
    part = at - low
    b = torch.zeros(len(xyz), 1, dtype=torch.long, device=xyz.device) if batch is None else batch.long()[:, None]
    corner = torch.cartesian_prod(*[torch.arange(2, device=xyz.device)] * 3)
    rows = torch.stack([find_rows(voxels, torch.cat([b, low.long() + c], 1)) for c in corner], 1)
    weight = torch.where(corner.bool(), part[:, None], 1 - part[:, None]).prod(-1) * (rows >= 0)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    if len(voxels) == 0:
        return voxels.feats.new_zeros(len(xyz), voxels.channels)
    taken = voxels.feats.index_select(0, rows.clamp_min(0).flatten()).view(len(xyz), 8, -1)
    return (taken * weight[..., None].to(taken.dtype)).sum(1)


def _coords_of_keys(keys: Int[Tensor, "M"], shape: tuple[int, int, int]) -> Int[Tensor, "M 4"]:
    ni, nj, nk = shape
    return torch.stack([keys // (ni * nj * nk), keys // (nj * nk) % ni, keys // nk % nj, keys % nk], 1)


def _means(feats: Float[Tensor, "N C"], index: Int[Tensor, "N"], rows: int) -> Float[Tensor, "M C"]:
    count = torch.bincount(index, minlength=rows).to(feats.dtype)
    return feats.new_zeros(rows, feats.shape[1]).index_add(0, index, feats) / count[:, None]


def _check_points(xyz: Tensor, feats: Tensor, batch: Tensor | None) -> None:
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not xyz.is_floating_point():
        raise ShapeError(f"xyz must be (N, 3) of floats; got {tuple(xyz.shape)} of {xyz.dtype}.")
    if feats.ndim != 2 or feats.shape[0] != len(xyz) or not feats.is_floating_point():
        raise ShapeError(f"feats must be ({len(xyz)}, C) of floats, one row a point; got {tuple(feats.shape)} of {feats.dtype}.")
    if batch is not None and (batch.shape != (len(xyz),) or batch.is_floating_point()):
        raise ShapeError(f"batch must be ({len(xyz)},) of whole numbers, one a point; got {tuple(batch.shape)} of {batch.dtype}.")
    bad = int((~xyz.isfinite()).any(1).sum())
    if bad:
        raise ShapeError(f"xyz has {bad} points of {len(xyz)} that are not finite; leave them out first.")


def _check_inside(coords: Int[Tensor, "M 4"], shape: tuple[int, int, int]) -> None:
    if bool((coords[:, 0] < 0).any()):
        raise ShapeError("The number of a scene must not be negative.")
    bad = int(((coords[:, 1:] < 0) | (coords[:, 1:] >= torch.tensor(shape, device=coords.device))).any(1).sum())
    if bad:
        raise ShapeError(
            f"{bad} of {len(coords)} cells lie outside the grid of {shape[0]} x {shape[1]} x {shape[2]}; leave those points out or give a larger grid."
        )
