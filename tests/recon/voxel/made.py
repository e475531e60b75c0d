"""Voxels made at random, and their dense grid."""

from __future__ import annotations

import torch
from handful.recon.voxel import SparseVoxels
from torch import Tensor


def some_voxels(
    shape: tuple[int, int, int] = (6, 5, 7),
    scenes: int = 2,
    channels: int = 4,
    share: float = 0.3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SparseVoxels:
    """About `share` of all cells, corners of the grid among them."""
    g = torch.Generator().manual_seed(seed)
    full = torch.rand(scenes, *shape, generator=g) < share
    full[0, 0, 0, 0] = full[-1, -1, -1, -1] = True
    coords = full.nonzero()
    feats = torch.randn(len(coords), channels, generator=g, dtype=torch.float64).to(dtype)
    return SparseVoxels(coords, feats, torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype), shape).to(device).validate()


def dense(x: SparseVoxels, shape: tuple[int, int, int] | None = None, scenes: int | None = None) -> Tensor:
    """B,C and three axes; zero where there is no voxel; differentiable in the features."""
    b, i, j, k = x.coords.T
    grid = x.feats.new_zeros(scenes or x.scenes, *(shape or x.shape), x.channels)
    return grid.index_put((b, i, j, k), x.feats).permute(0, 4, 1, 2, 3)


def read(grid: Tensor, coords: Tensor) -> Tensor:
    b, i, j, k = coords.T
    return grid[b, :, i, j, k]
