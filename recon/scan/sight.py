"""What a camera sees of scans: returns as sparse depth, without those that something nearer hides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..camera import Cameras

__all__ = ["Returns", "in_front", "sampled", "seen_returns"]

HIDDEN = 0.1  # of its depth: what lies so far behind its neighbours is hidden by them


@dataclass(frozen=True)
class Returns:
    """Returns in one camera's picture.

    Attributes:
        index: of each in the cloud it was taken from. uv: where, continuous pixels. z: z-depth, world units.
    """

    index: Int[Tensor, "M"]
    uv: Float[Tensor, "M 2"]
    z: Float[Tensor, "M"]

    def __len__(self) -> int:
        return self.index.shape[0]

    def kept(self, which: Tensor) -> Returns:
        return Returns(self.index[which], self.uv[which], self.z[which])

    def pixels(self, width: int) -> Int[Tensor, "M"]:
        """The pixel each falls in, as row * width + column."""
        return self.uv[:, 1].long() * width + self.uv[:, 0].long()

    def depth_map(self, width: int, height: int) -> Float[Tensor, "H W"]:
        """The nearest return of each pixel; 0 = none."""
        nearest = torch.full((height * width,), torch.inf, device=self.z.device)
        nearest.scatter_reduce_(0, self.pixels(width), self.z, "amin")
        return torch.where(nearest.isinf(), 0.0, nearest).reshape(height, width)


def seen_returns(camera: Cameras, xyz: Float[Tensor, "N 3"], cell: int = 0, tolerance: float = HIDDEN, near: float = 0.1) -> Returns:
    """World points in the picture of one camera.

    Args:
        cell: with more than 0, a return is left out where another within about so many pixels is nearer by more than `tolerance` of its depth: the
            scanner looked from elsewhere, over what hides it here. That also takes the farther side along edges, by so many pixels.
        near: least depth, world units.
    """
    uv, z = camera.project(xyz)
    uv, z = uv[0], z[0]
    inside = (z > near) & (uv >= 0).all(1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
    index = inside.nonzero()[:, 0]
    found = Returns(index, uv[index], z[index])
    return found.kept(in_front(found, camera.width, camera.height, cell, tolerance)) if cell > 0 and len(found) else found


def in_front(found: Returns, width: int, height: int, cell: int, tolerance: float = HIDDEN) -> Bool[Tensor, "M"]:
    """Which returns nothing nearer hides (see seen_returns), by a coarse z-buffer: the nearest inverse depth of each cell and its neighbours."""
    columns, rows = -(-width // cell), -(-height // cell)
    at = (found.uv[:, 1] / cell).long().clamp_max(rows - 1) * columns + (found.uv[:, 0] / cell).long().clamp_max(columns - 1)
    inverse = torch.zeros(rows * columns, device=found.z.device).scatter_reduce_(0, at, 1 / found.z, "amax").reshape(1, 1, rows, columns)
    nearest = max_pool2d(inverse, 3, 1, 1).reshape(-1)[at]
    return found.z * nearest <= 1 + tolerance


def sampled(image: Float[Tensor, "H W C"], uv: Float[Tensor, "M 2"]) -> Float[Tensor, "M C"]:
    """Bilinear values of the picture at continuous pixels, the border's beyond it."""
    h, w = image.shape[:2]
    grid = (uv / torch.tensor([w, h], device=uv.device) * 2 - 1)[None, None]
    moved = image.permute(2, 0, 1)[None]
    return torch.nn.functional.grid_sample(moved, grid.to(moved), "bilinear", "border", align_corners=False)[0, :, 0].T
