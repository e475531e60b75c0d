"""The sparse U-Net: residual blocks, down by two along each axis, up again by the same pairs, with skips."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .conv import DownConv, Rulebooks, SubMConv, UpConv
from .tensors import SparseVoxels

__all__ = ["ResidualBlock", "UNet"]

WIDTHS = (24, 48, 64, 96)


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))). LayerNorm, since a coarse level may hold a single voxel, of which a batch norm can make nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.convs = nn.ModuleList(SubMConv(channels, channels) for _ in range(2))

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(y.with_feats(nn.functional.gelu(norm(y.feats))), books)
        return x.with_feats(x.feats + y.feats)


def residual_block(channels: int, stride: int) -> nn.Module:
    return ResidualBlock(channels)


class UNet(nn.Module):
    """cin features a voxel to cout, on the same voxels. Level l has stride 2^l and widths[l] channels."""

    def __init__(
        self,
        cin: int,
        cout: int,
        widths: Sequence[int] = WIDTHS,
        block: Callable[[int, int], nn.Module] = residual_block,
        down: Callable[[int, int, int], nn.Module] = lambda cin, cout, stride: DownConv(cin, cout),
    ) -> None:
        """`block(channels, stride)` makes what works on a level (twice on the way down, once on the way up), `down(cin, cout, stride)` what leads from there to
        the next; both are called with (voxels, rulebooks)."""
        super().__init__()
        self.stem = SubMConv(cin, widths[0])
        self.before = nn.ModuleList(nn.ModuleList(block(w, 2**i) for _ in range(2)) for i, w in enumerate(widths))
        self.downs = nn.ModuleList(down(a, b, 2**i) for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)))
        self.ups = nn.ModuleList(UpConv(b, a) for a, b in zip(widths, widths[1:], strict=False))
        self.merge = nn.ModuleList(nn.Linear(2 * w, w) for w in widths[:-1])
        self.after = nn.ModuleList(block(w, 2**i) for i, w in enumerate(widths[:-1]))
        self.norm = nn.LayerNorm(widths[0])
        self.head = nn.Linear(widths[0], cout)

    def forward(self, x: SparseVoxels, books: Rulebooks | None = None) -> SparseVoxels:
        """Voxels of stride 1 with cin features; rulebooks are made where none are given."""
        books = Rulebooks(x) if books is None else books
        x = self.stem(x, books)
        skips: list[SparseVoxels] = []
        for level, blocks in enumerate(self.before):
            if level:
                skips.append(x)
                x = self.downs[level - 1](x, books)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, books)
        for level in reversed(range(len(skips))):
            x = self.climb(level, x, skips[level], books)
        return x.with_feats(self.out(x.feats))

    def climb(self, level: int, x: SparseVoxels, skip: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        up = self.ups[level](x, books)
        x = skip.with_feats(self.merge[level](torch.cat([up.feats, skip.feats], 1)))
        return self.after[level](x, books)

    def out(self, feats: Tensor) -> Tensor:
        return self.head(nn.functional.gelu(self.norm(feats)))
