"""Set attention: DSVT (Wang et al. 2023, "Dynamic Sparse Voxel Transformer with Rotated Sets", sections 3.2 and 3.3).

Windows are cut into sets of one size, so that attention is a dense batch; sets are formed along one axis and then along another, so that a voxel meets both
neighbourhoods. Norms come before the attention; the paper's come after it.
"""

from __future__ import annotations

from itertools import count

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .attention import FeedForward, GroupAttention, Groups, attend, check_heads
from .conv import DownConv, Rulebooks
from .protocol import Shape3
from .tensors import SparseVoxels
from .unet import ResidualBlock, UNet

__all__ = ["AttentionPool", "SetBlock", "choose_window", "set_groups", "sets_unet"]

SET_SIZE = 48
FIRST_WINDOW = 4
FILL = 0.8
COARSE = 4  # attention from this stride on: finer levels have too many voxels for it


def set_groups(voxels: SparseVoxels, window: Shape3, size: int = SET_SIZE, axis: int = 0, shifted: bool = False) -> Groups:
    """Sets of `size` voxels within windows of `window` cells; along `axis` first. `shifted`: windows begin half a window earlier.

    A window of N voxels gives S = ceil(N / size) sets; slot k of set j holds voxel floor((j size + k) N / (S size)) of the window's order (eq. 3), so that sets
    are equally full; a voxel that fills several slots of a set is valid in the first alone.
    """
    device = voxels.coords.device
    start, order = _window_order(voxels, window, axis, shifted)
    n = torch.diff(start)
    sets = -(-n // size)
    owner = torch.repeat_interleave(torch.arange(len(n), device=device), sets)
    number = torch.arange(len(owner), device=device) - (sets.cumsum(0) - sets)[owner]
    slots = number[:, None] * size + torch.arange(size, device=device)
    at = start[owner, None] + slots * n[owner, None] // (sets[owner, None] * size)  # ascends through all sets
    valid = torch.ones_like(at, dtype=torch.bool)
    valid[:, 1:] = at[:, 1:] != at[:, :-1]
    flat = at.flatten()
    first = torch.searchsorted(flat, torch.arange(len(order), device=device))
    slot = torch.empty_like(order).index_copy_(0, order, first)
    return Groups(order[flat].view_as(at), valid, slot)


def _window_order(voxels: SparseVoxels, window: Shape3, axis: int, shifted: bool) -> tuple[Int[Tensor, "W+1"], Int[Tensor, "M"]]:
    """Where each window begins in an order of rows by window, and within it with `axis` slowest: one argsort for both."""
    edge = voxels.coords.new_tensor(window)
    ijk = voxels.coords[:, 1:] + (edge // 2 if shifted else 0)
    cell, inside = ijk // edge, ijk % edge
    across = [(s + w // 2) // w + 1 for s, w in zip(voxels.shape, window, strict=True)]
    place = ((voxels.coords[:, 0] * across[0] + cell[:, 0]) * across[1] + cell[:, 1]) * across[2] + cell[:, 2]
    turns = [axis, *(a for a in range(3) if a != axis)]
    local = (inside[:, turns[0]] * window[turns[1]] + inside[:, turns[1]]) * window[turns[2]] + inside[:, turns[2]]
    order = (place * (window[0] * window[1] * window[2]) + local).argsort()
    counts = torch.unique_consecutive(place[order], return_counts=True)[1]
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), order


def choose_window(voxels: SparseVoxels, size: int = SET_SIZE, fill: float = FILL) -> Shape3:
    """The smallest cube of cells, doubling from 4, at which at least this share of the sets' slots hold a voxel of their own; at most the whole grid."""
    edge = FIRST_WINDOW
    while edge < max(voxels.shape) and set_groups(voxels, (edge, edge, edge), size).fill() < fill:
        edge *= 2
    return (edge, edge, edge)


class _SetLayer(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.attention = GroupAttention(channels, heads)
        self.forward_part = FeedForward(channels)
        self.place = nn.Sequential(nn.Linear(3, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, feats: Tensor, groups: Groups, place: Float[Tensor, "M 3"]) -> Tensor:
        feats = feats + self.attention(self.norms[0](feats), groups, self.place(place))
        return feats + self.forward_part(self.norms[1](feats))


class SetBlock(nn.Module):
    """Attention in sets along the first axis, then along the second (section 3.2: rotated sets); windows shifted in every other block."""

    def __init__(self, channels: int, heads: int = 4, size: int = SET_SIZE, shifted: bool = False) -> None:
        super().__init__()
        self.size, self.shifted = size, shifted
        self.layers = nn.ModuleList(_SetLayer(channels, heads) for _ in range(2))

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        books.check(x)
        feats = x.feats
        window = books.keep(("window", x.stride, self.size), lambda: choose_window(x, self.size))
        place = self._place(x, window)
        for axis, layer in enumerate(self.layers):
            groups = books.keep(
                ("sets", x.stride, window, self.size, axis, self.shifted),
                lambda axis=axis: set_groups(x, window, self.size, axis, self.shifted),
            )
            feats = layer(feats, groups, place)
        return x.with_feats(feats)

    def _place(self, x: SparseVoxels, window: Shape3) -> Float[Tensor, "M 3"]:
        """Where a voxel lies in its window, in half windows from the middle."""
        edge = x.coords.new_tensor(window)
        inside = (x.coords[:, 1:] + (edge // 2 if self.shifted else 0)) % edge
        return ((inside + 0.5) / edge * 2 - 1).to(x.feats.dtype)


class AttentionPool(nn.Module):
    """From a level to the next coarser one (section 3.3): a cell's children, up to eight, answer the largest of their features by attention.

    Places without a child get no weight; the paper's own code lets them have some.
    """

    def __init__(self, cin: int, cout: int, heads: int = 4) -> None:
        super().__init__()
        check_heads(cin, heads)
        self.heads = heads
        self.norm = nn.LayerNorm(cin)
        self.place = nn.Parameter(torch.randn(8, cin) * 0.02)
        self.query, self.key, self.value = (nn.Linear(cin, cin) for _ in range(3))
        self.out = nn.Linear(cin, cout)

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        books.check(x)
        table = books.keep(("children", x.stride), lambda: _children(books, x.stride))
        coarse = books.level(2 * x.stride)
        if not len(x):
            return coarse.with_feats(x.feats.new_zeros(0, self.out.out_features))
        feats, valid = self.norm(x.feats), table >= 0
        child = feats.index_select(0, table.clamp_min(0).flatten()).view(*table.shape, -1)
        best = child.masked_fill(~valid[..., None], -torch.inf).amax(1)
        mixed = attend(self.query(best)[:, None], self.key(child + self.place), self.value(child), valid, self.heads)[:, 0]
        return coarse.with_feats(self.out(best + mixed))


def _children(books: Rulebooks, stride: int) -> Int[Tensor, "L 8"]:
    """Row of the child in each of a coarse voxel's eight places, -1 where there is none."""
    book = books.down(stride)
    table = books.level(stride).coords.new_full((book.outputs, 8), -1)
    for place, (src, dst) in enumerate(zip(book.src, book.dst, strict=True)):
        table[dst, place] = src
    return table


def sets_unet(cin: int, cout: int, widths: tuple[int, ...], heads: int = 4) -> UNet:
    """The U-Net with set attention and attention pooling at stride 4 and coarser."""
    turn = count()

    def block(channels: int, stride: int) -> nn.Module:
        return SetBlock(channels, heads, shifted=bool(next(turn) % 2)) if stride >= COARSE else ResidualBlock(channels)

    def down(cin: int, cout: int, stride: int) -> nn.Module:
        return AttentionPool(cin, cout, heads) if stride >= COARSE else DownConv(cin, cout)

    return UNet(cin, cout, widths, block, down)
