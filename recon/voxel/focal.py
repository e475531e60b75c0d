"""Focal sparse convolution (Chen et al. 2022, "Focal Sparse Convolutional Networks for 3D Object Detection", section 3): learned importance decides where
voxels spread into empty neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .conv import Rulebooks, SubMConv
from .tensors import SparseVoxels, find_rows, voxel_keys
from .unet import UNet

__all__ = ["Focal", "FocalConv", "FocalUNet", "offsets"]

THRESHOLD = 0.5
REACH = 3  # cells along each axis of the cube that importance is predicted for
START = -1.0  # of the importances' logits: some voxels spread from the beginning, or no gradient would tell where to


@dataclass(frozen=True)
class Focal:
    """What a focal convolution gives: L >= M voxels with rulebooks of their own; the row of each of the M inputs among them; and the importance of each input's
    3^3 places, in (0, 1), for a loss of the caller's (places in the order of `offsets`)."""

    voxels: SparseVoxels
    books: Rulebooks
    rows: Int[Tensor, "M"]
    importance: Float[Tensor, "M 27"]


def offsets(device: torch.device | str = "cpu") -> Int[Tensor, "27 3"]:
    """The places of a cube around a voxel, in cells, in the order of a weight's three middle axes; the middle one is the voxel itself."""
    return torch.cartesian_prod(*[torch.arange(REACH, device=device) - REACH // 2] * 3)


class FocalConv(nn.Module):
    """Predicts importances, spreads, convolves.

    A voxel whose own importance is at least 0.5 is foreground and spreads to each neighbour whose importance it puts at 0.5 or more (section 3.2); the others stay
    as they are. The output at a voxel is a submanifold convolution over old and new voxels (new ones bring zeros), times its importance: its own for an old
    voxel, the largest that a foreground neighbour gave it for a new one; by that factor importances learn. Of new voxels at most `limit` times as many as old
    ones are kept, the most important.
    """

    def __init__(self, cin: int, cout: int, limit: float = 1.0) -> None:
        super().__init__()
        self.limit = limit
        self.norm = nn.LayerNorm(cin)
        self.importance = SubMConv(cin, REACH**3)
        self.conv = SubMConv(cin, cout)
        if self.importance.bias is not None:
            nn.init.constant_(self.importance.bias, START)

    def forward(self, x: SparseVoxels, books: Rulebooks) -> Focal:
        logits = self.importance(x.with_feats(self.norm(x.feats)), books).feats
        importance = torch.sigmoid(logits)
        coords, factor = self._spread(x, importance)
        keys = voxel_keys(torch.cat([x.coords, coords]), x.shape)
        order = keys.argsort()
        feats = torch.cat([x.feats, x.feats.new_zeros(len(coords), x.channels)])[order]
        voxels = replace(x, coords=torch.cat([x.coords, coords])[order], feats=feats)
        wider = Rulebooks(voxels, books.backend)
        out = self.conv(voxels, wider)
        factor = torch.cat([importance[:, REACH**3 // 2], factor])[order]
        rows = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))[: len(x)]
        return Focal(out.with_feats(out.feats * factor[:, None]), wider, rows, importance)

    def _spread(self, x: SparseVoxels, importance: Tensor) -> tuple[Int[Tensor, "E 4"], Float[Tensor, "E"]]:
        """Coordinates of new voxels, ascending, and their importance."""
        asked = (importance >= THRESHOLD) & (importance[:, REACH**3 // 2, None] >= THRESHOLD)
        who, place = asked.nonzero().unbind(1)
        to = torch.cat([x.coords[who, :1], x.coords[who, 1:] + offsets(x.coords.device)[place]], 1)
        limits = to.new_tensor(x.shape)
        new = ((to[:, 1:] >= 0) & (to[:, 1:] < limits)).all(1)
        new &= find_rows(x, to) < 0
        who, place, to = who[new], place[new], to[new]
        keys, index = torch.unique(voxel_keys(to, x.shape), return_inverse=True)
        coords = to.new_zeros(len(keys), 4).index_copy_(0, index, to)  # repeats write the same row
        given = importance[who, place]
        factor = given.new_zeros(len(keys)).scatter_reduce(0, index, given, "amax")
        most = int(self.limit * len(x))
        if len(keys) > most:
            kept = factor.detach().argsort(descending=True, stable=True)[:most].sort().values
            coords, factor = coords[kept], factor[kept]
        return coords, factor


class FocalUNet(UNet):
    """The U-Net whose two finest levels spread, before they are passed on, by a focal convolution. Outputs are read at the input's voxels."""

    def __init__(self, cin: int, cout: int, widths: tuple[int, ...], limit: float = 1.0) -> None:
        super().__init__(cin, cout, widths)
        self.focal = nn.ModuleList(FocalConv(w, w, limit) for w in widths[: min(2, len(widths) - 1)])

    def forward(self, x: SparseVoxels, books: Rulebooks | None = None) -> SparseVoxels:
        return self.forward_focal(x, books)[0]

    def forward_focal(self, x: SparseVoxels, books: Rulebooks | None = None) -> tuple[SparseVoxels, list[Focal]]:
        """Also what each focal convolution gave, finest first: its importances may have a loss."""
        books = Rulebooks(x) if books is None else books
        given = x
        x = self.stem(x, books)
        levels: list[tuple[SparseVoxels, Rulebooks]] = []  # as passed on
        spread: list[Focal] = []
        for level, blocks in enumerate(self.before):
            if level:
                levels.append((x, books))
                x = self.downs[level - 1](x, books)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, books)
            if level < len(self.focal):
                spread.append(self.focal[level](x, books))
                x, books = spread[level].voxels.with_feats(self._skip(x, spread[level])), spread[level].books
        for level in reversed(range(len(levels))):
            skip, books = levels[level]
            if level + 1 < len(spread):
                x = books.level(x.stride).with_feats(x.feats[spread[level + 1].rows])
            x = self.climb(level, x, skip, books)
        return given.with_feats(self.out(x.feats[spread[0].rows] if spread else x.feats)), spread

    @staticmethod
    def _skip(x: SparseVoxels, focal: Focal) -> Tensor:
        """Old voxels keep what they had beside the convolution's result, so that an unimportant one is not lost."""
        return focal.voxels.feats.index_add(0, focal.rows, x.feats)
