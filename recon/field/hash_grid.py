"""Grids of many resolutions whose points share the entries of a table (Mueller et al. 2022, Instant NGP, section 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["HashGrid"]

PRIMES = (1, 2654435761, 805459861)  # of equation 4


class HashGrid(nn.Module):
    """Trilinear features of each level, one after the other. A level whose points fit into the table has an entry to each of them; in a finer one the
    entry is a hash of the point, and what collides is shared.

    Args:
        levels: grids, whose sides grow evenly by a factor; entries: at most, of each level's table; per_level: features of each.
        coarsest, finest: grid points along an edge at the first level and at the last, the outermost at the cube's faces.
    """

    def __init__(
        self, levels: int = 16, entries: int = 2**17, per_level: int = 2, coarsest: int = 16, finest: int = 512, rng: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.levels, self.entries, self.per_level, self.coarsest, self.finest = levels, entries, per_level, coarsest, finest
        self.features = levels * per_level
        self.sides = tuple(round(coarsest * (finest / coarsest) ** (k / max(1, levels - 1))) for k in range(levels))
        self.table = nn.Parameter((torch.rand(sum(self._sizes), per_level, generator=rng) * 2 - 1) * 1e-4)

    @property
    def _sizes(self) -> list[int]:
        return [min(side**3, self.entries) for side in self.sides]

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Places beside the cube are clamped to it."""
        out = []
        for side, part in zip(self.sides, self.table.split(self._sizes), strict=True):
            p = xyz.clamp(0, 1) * (side - 1)
            lower = p.detach().long().clamp(0, side - 2)
            t = p - lower
            u, v, w = torch.stack([1 - t, t], 2).unbind(1)
            weight = (u[:, :, None, None] * v[:, None, :, None] * w[:, None, None]).reshape(-1, 8, 1)
            corners = part.index_select(0, self._rows(lower, side).view(-1)).view(-1, 8, self.per_level)
            out.append((corners * weight).sum(1))
        return torch.cat(out, 1)

    def _rows(self, lower: Int[Tensor, "N 3"], side: int) -> Int[Tensor, "N 8"]:
        """Entries of the corners of cells whose lowest corner is given; the last axis runs fastest."""
        ends = lower[:, :, None] + torch.arange(2, device=lower.device)
        dense = side**3 <= self.entries
        factors = (side * side, side, 1) if dense else PRIMES
        x, y, z = (ends[:, k] * factors[k] for k in range(3))
        x, y, z = x[:, :, None, None], y[:, None, :, None], z[:, None, None]
        return (x + y + z if dense else (x ^ y ^ z) % self.entries).reshape(-1, 8)
