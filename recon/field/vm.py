"""Vector-matrix grids: a value at x, y, z is the product of a plane's and a line's, for three ways to split the axes (Chen et al. 2022, TensoRF, section 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LINE_AXIS", "PLANE_AXES", "VmGrid", "resized_vm", "vm_features"]

PLANE_AXES = ((1, 0), (2, 0), (2, 1))  # (rows, columns) of each plane: indices into x, y, z
LINE_AXIS = (2, 1, 0)


class VmGrid(nn.Module):
    """Planes and lines that are learned as they are. `channels` (a multiple of 16) for each of the three splits; grid points at the cube's faces, `side` to an edge."""

    def __init__(self, side: int = 160, channels: int = 16, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.side, self.channels, self.features = side, channels, 3 * channels
        self.planes = nn.Parameter(torch.randn(3, side, side, channels, generator=rng) * 0.1)
        self.lines = nn.Parameter(torch.ones(3, side, channels) + torch.randn(3, side, channels, generator=rng) * 0.1)

    def grids(self) -> tuple[Float[Tensor, "3 S S C"], Float[Tensor, "3 S C"]]:
        return self.planes, self.lines

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        return vm_features(self.planes, self.lines, xyz)


def vm_features(planes: Float[Tensor, "3 S S C"], lines: Float[Tensor, "3 S C"], xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
    """Products at places in the unit cube (clamped to it), bilinear on the planes, linear on the lines. The slow twin of the kernels, and of grid_sample's use."""
    side = planes.shape[1]
    p = xyz.clamp(0, 1) * (side - 1)
    lower = p.detach().long().clamp(0, side - 2)
    t = p - lower
    out = []
    for k, ((row, column), axis) in enumerate(zip(PLANE_AXES, LINE_AXIS, strict=True)):
        i, j, n = lower[:, row], lower[:, column], lower[:, axis]
        u, v, w = t[:, row, None], t[:, column, None], t[:, axis, None]
        plane = (1 - u) * ((1 - v) * planes[k, i, j] + v * planes[k, i, j + 1]) + u * ((1 - v) * planes[k, i + 1, j] + v * planes[k, i + 1, j + 1])
        out.append(plane * ((1 - w) * lines[k, n] + w * lines[k, n + 1]))
    return torch.cat(out, 1)


def resized_vm(
    planes: Float[Tensor, "3 S S C"], lines: Float[Tensor, "3 S C"], side: int
) -> tuple[Float[Tensor, "3 T T C"], Float[Tensor, "3 T C"]]:
    """The same on a grid of another resolution; a coarser one holds means, so that every grid point has its part in it."""
    weights = _tents(planes.shape[1], side).to(planes)
    rows = torch.einsum("ai,kijc->kajc", weights, planes)
    return torch.einsum("bj,kajc->kabc", weights, rows).contiguous(), torch.einsum("ai,kic->kac", weights, lines).contiguous()


def _tents(old: int, new: int) -> Float[Tensor, "new old"]:
    """Of each new grid point, its weights of the old ones: tents as wide as the coarser grid's steps, grid points of both at the ends."""
    at = torch.arange(new) * ((old - 1) / (new - 1))
    width = max(1.0, (old - 1) / (new - 1))
    tent = (1 - (torch.arange(old) - at[:, None]).abs() / width).clamp_min(0)
    return tent / tent.sum(1, keepdim=True)
