"""Patch attention: Point Transformer V3 (Wu et al. 2024, section 4): voxels in the order of a space-filling curve, attention within runs of it.

No search for neighbours and no mask: a run is as near as the curve keeps it, and blocks take turns with several curves. The place of a voxel comes in by a
small convolution before the attention.
"""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor, nn

from .attention import FeedForward, GroupAttention, Groups
from .conv import Rulebooks, SubMConv
from .curves import CURVES, curve_order
from .sets import COARSE
from .tensors import SparseVoxels
from .unet import ResidualBlock, UNet

__all__ = ["PatchBlock", "patch_groups", "patches_unet"]

PATCH_SIZE = 128


def patch_groups(voxels: SparseVoxels, size: int = PATCH_SIZE, curve: str = "hilbert") -> Groups:
    """Runs of `size` voxels of a scene along the curve. A scene's last run reaches back into the one before; a scene of fewer voxels than a run is one run,
    with slots that do not count where another scene has more."""
    order = curve_order(voxels.coords, voxels.shape, curve)
    device = order.device
    n = torch.bincount(voxels.coords[:, 0], minlength=1)
    size = max(1, min(size, int(n.max())))
    begin = n.cumsum(0) - n
    runs = -(-n // size)
    owner = torch.repeat_interleave(torch.arange(len(n), device=device), runs)
    number = torch.arange(len(owner), device=device) - (runs.cumsum(0) - runs)[owner]
    start = torch.minimum(number * size, (n[owner] - size).clamp_min(0))
    local = start[:, None] + torch.arange(size, device=device)
    valid = local < n[owner, None]
    at = begin[owner, None] + torch.minimum(local, n[owner, None] - 1)
    scene = voxels.coords[order, 0]
    rank = torch.arange(len(order), device=device) - begin[scene]
    run = rank // size
    row = (runs.cumsum(0) - runs)[scene] + run
    slot = torch.empty_like(order).index_copy_(0, order, row * size + rank - start[row])
    return Groups(order[at], None if bool(valid.all()) else valid, slot)


class PatchBlock(nn.Module):
    """Convolution for the place, attention within patches of one curve, feed-forward; each added to its input."""

    def __init__(self, channels: int, heads: int = 4, size: int = PATCH_SIZE, curve: str = "hilbert") -> None:
        super().__init__()
        self.size, self.curve = size, curve
        self.conv = SubMConv(channels, channels)
        self.mix = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.attention = GroupAttention(channels, heads)
        self.forward_part = FeedForward(channels)

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        groups = books.keep(("patches", x.stride, self.size, self.curve), lambda: patch_groups(x, self.size, self.curve))
        feats: Tensor = x.feats + self.mix(self.conv(x, books).feats)
        feats = feats + self.attention(self.norms[0](feats), groups)
        return x.with_feats(feats + self.forward_part(self.norms[1](feats)))


def patches_unet(cin: int, cout: int, widths: tuple[int, ...], heads: int = 4) -> UNet:
    """The U-Net with patch attention at stride 4 and coarser; the curves take turns."""
    turn, curves = count(), tuple(CURVES)

    def block(channels: int, stride: int) -> nn.Module:
        return PatchBlock(channels, heads, curve=curves[next(turn) % len(curves)]) if stride >= COARSE else ResidualBlock(channels)

    return UNet(cin, cout, widths, block)
