"""CP grids: a value at x, y, z is the product of three lines', one to each axis (Chen et al. 2022, TensoRF, section 3.1: the CP decomposition)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CpGrid", "lines_like"]


class CpGrid(nn.Module):
    """Lines that are learned as they are: `channels` to each axis, grid points at the cube's faces, `side` to an edge."""

    def __init__(self, side: int = 160, channels: int = 96, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.side, self.channels, self.features = side, channels, channels
        self.lines = nn.Parameter(lines_like((3, side, channels), rng))

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Places beside the cube are clamped to it."""
        p = xyz.clamp(0, 1) * (self.side - 1)
        lower = p.detach().long().clamp(0, self.side - 2)
        t = p - lower
        ends = [(line.index_select(0, i), line.index_select(0, i + 1)) for line, i in zip(self.lines, lower.unbind(1), strict=True)]
        x, y, z = (torch.lerp(a, b, t[:, k, None]) for k, (a, b) in enumerate(ends))
        return x * y * z


def lines_like(shape: tuple[int, ...], rng: torch.Generator | None) -> Float[Tensor, "*T 3 P C"]:
    """Lines to begin with: the channels take turns in which of their three is small and which two are about 1, so that each learns as those of a VM grid do."""
    noise = 0.1 * torch.randn(shape, generator=rng)
    small = torch.arange(shape[-1]) % 3 == torch.arange(3)[:, None, None]
    return torch.where(small, noise, 1 + noise)
