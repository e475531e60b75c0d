"""Selective kernels on sparse voxels: VoxelKP (Shi and Wonka 2023, section 3: sparse selective kernels), after Li et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .conv import Rulebooks, SubMConv
from .tensors import SparseVoxels

__all__ = ["SelectiveBlock"]


class SelectiveBlock(nn.Module):
    """x plus a mix of submanifold convolutions of different reach. How much of each is told by a softmax over the branches, for each channel of each scene, from the
    mean over the scene's occupied voxels of all branches' sum."""

    def __init__(self, channels: int, kernels: Sequence[int] = (3, 5), squeeze: int = 4) -> None:
        """`kernels`: cells along each axis, odd, one a branch; `squeeze`: how many times fewer numbers the gates are told from."""
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.branches = nn.ModuleList(SubMConv(channels, channels, k) for k in kernels)
        narrow = max(4, channels // squeeze)
        self.gates = nn.Sequential(nn.Linear(channels, narrow), nn.GELU(), nn.Linear(narrow, channels * len(kernels)))

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        y = x.with_feats(nn.functional.gelu(self.norm(x.feats)))
        parts = torch.stack([branch(y, books).feats for branch in self.branches], 1)
        weight = self.weights(parts.sum(1), x)
        return x.with_feats(x.feats + (parts * weight.index_select(0, x.coords[:, 0])).sum(1))

    def weights(self, feats: Float[Tensor, "M C"], x: SparseVoxels) -> Float[Tensor, "B R C"]:
        """Of each branch, for each scene and channel; they sum to one over branches."""
        scene = x.coords[:, 0]
        n = torch.bincount(scene, minlength=x.scenes).clamp_min(1).to(feats.dtype)
        mean = feats.new_zeros(x.scenes, feats.shape[1]).index_add(0, scene, feats) / n[:, None]
        return self.gates(mean).unflatten(1, (len(self.branches), -1)).softmax(1)
